"""Pacemaker as crm_mon(8) shows it: its XML -> what is asked of it here."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

from hapx.errors import NodeError

ARGV = ("crm_mon", "--one-shot", "--inactive", "--output-as=xml")
_ACTIVE = {"Started", "Promoted", "Unpromoted", "Master", "Slave"}
INFINITY = 1_000_000  # Pacemaker's own


@dataclass(frozen=True, slots=True)
class Member:
    """A node as Pacemaker sees it; `pending` while it joins."""

    name: str
    online: bool
    standby: bool
    maintenance: bool
    pending: bool


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource, or a clone's instance: where it runs, and how often it failed there (1000000: for good)."""

    id: str
    node: str | None
    running: bool
    failed: bool
    managed: bool
    fail_count: int


@dataclass(frozen=True, slots=True)
class Status:
    """The cluster: its coordinator, and everything in it."""

    dc: str | None
    quorate: bool
    maintenance: bool
    nodes: tuple[Member, ...]
    resources: tuple[Resource, ...]

    def holder(self, resource: str) -> str | None:
        """The node that a resource runs on, the first where there is more than one."""
        return next((each.node for each in self.resources if each.id == resource and each.running), None)


def parse(text: str) -> Status:
    """What `crm_mon --output-as=xml` says; raises NodeError for what is not its XML."""
    try:
        root = ET.fromstring(text)  # noqa: S314 - a program's of this machine
    except ET.ParseError as error:
        raise NodeError(f"crm_mon: not XML: {error}") from None
    dc = root.find("summary/current_dc")
    options = root.find("summary/cluster_options")
    present = dc is not None and _is(dc, "present")
    counts = {
        (_plain(history), str(node.get("name"))): _count(history.get("fail-count"))
        for node in root.iterfind("node_history/node")
        for history in node.iterfind("resource_history")
    }
    return Status(
        dc=dc.get("name") if dc is not None and present else None,
        quorate=dc is not None and _is(dc, "with_quorum"),
        maintenance=options is not None and _is(options, "maintenance-mode"),
        nodes=tuple(
            Member(
                name=str(node.get("name")),
                online=_is(node, "online") and not _is(node, "unclean"),
                standby=_is(node, "standby"),
                maintenance=_is(node, "maintenance"),
                pending=_is(node, "pending"),
            )
            for node in root.iterfind("nodes/node")
        ),
        resources=tuple(_resources(root, counts)),
    )


def _resources(root: ET.Element, counts: dict[tuple[str, str], int]) -> list[Resource]:
    """Each where it runs; where it runs nowhere, once. Failures on nodes that it left count there."""
    found = []
    left = {key: count for key, count in counts.items() if count}
    for element in root.iterfind("resources//resource"):
        active = element.get("role") in _ACTIVE
        names: list[str | None] = [node.get("name") for node in element.iterfind("node")]
        for name in names or [None]:
            found.append(
                Resource(
                    id=_plain(element),
                    node=name,
                    running=active and name is not None and not _is(element, "failed"),
                    failed=_is(element, "failed"),
                    managed=_is(element, "managed"),
                    fail_count=left.pop((_plain(element), str(name)), 0),
                )
            )
    # Of a clone, instances that stopped say nothing; failures do, on nodes that it has left too.
    found += [Resource(name, node, False, False, True, count) for (name, node), count in left.items()]
    idle = {each.id for each in found if each.node is not None}
    return [each for each in dict.fromkeys(found) if each.node is not None or each.id not in idle or each.failed]


def _plain(element: ET.Element) -> str:
    """A resource's name without the number of a clone's instance."""
    return str(element.get("id")).partition(":")[0]


def _is(element: ET.Element, name: str) -> bool:
    return element.get(name) == "true"


def _count(text: str | None) -> int:
    if text is None:
        return 0
    return INFINITY if text == "INFINITY" else int(text)
