"""What of Corosync's configuration cannot change while the cluster runs.

Tried with Corosync 3.1.9. A reload takes timings, priorities, nodes and whole links, added or removed, and two_node.
It refuses another address for a link; it says nothing of another port, which it does not open; and it takes another key
or cipher at once, on the nodes that have it, so that these no longer understand the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hapx.changes import Change
from hapx.errors import NodeError

CONFIGURATION = Path("/etc/corosync/corosync.conf")
AUTHKEY = Path("/etc/corosync/authkey")
_FIXED = {
    "totem": ("version", "transport", "cluster_name", "ip_version", "crypto_model", "crypto_cipher", "crypto_hash"),
    "quorum": ("provider",),
    "interface": ("mcastport", "mcastaddr", "bindnetaddr"),
    "node": ("name", *(f"ring{number}_addr" for number in range(8))),
}


@dataclass(frozen=True, slots=True)
class Section:
    """A block of corosync.conf: its name, what it says, the blocks in it."""

    name: str
    values: dict[str, str] = field(default_factory=dict)
    blocks: list[Section] = field(default_factory=list)

    def each(self, name: str) -> Iterator[Section]:
        """The blocks of a name in it, and in those."""
        for block in self.blocks:
            if block.name == name:
                yield block
            yield from block.each(name)

    def names(self) -> set[str]:
        """The nodes it lists."""
        return {node.values.get("name", "") for node in self.each("node")}


def parse(text: str) -> Section:
    """corosync.conf(5) as blocks within blocks."""
    root = Section("")
    path = [root]
    for line in (each.partition("#")[0].strip() for each in text.splitlines()):
        if line.endswith("{"):
            made = Section(line.removesuffix("{").strip())
            path[-1].blocks.append(made)
            path.append(made)
        elif line == "}" and len(path) > 1:
            path.pop()
        elif ":" in line:
            key, _, value = line.partition(":")
            path[-1].values[key.strip()] = value.strip()
    return root


def check(planned: Iterable[Change], online: Iterable[str]) -> None:
    """Raise NodeError where a seed wants of a running cluster what it cannot; `online`: the nodes that are in it."""
    found: list[str] = []
    leaving: set[str] = set()
    for change in planned:
        if change.before is None:
            continue
        if change.file.path == AUTHKEY and change.before.data != change.file.data:
            found.append("authkey: another key")
        if change.file.path == CONFIGURATION:
            old, new = (parse(each.data.decode(errors="replace")) for each in (change.before, change.file))
            found += fixed(old, new)
            leaving = (old.names() - new.names()) & set(online)
    if found:
        raise NodeError(
            "this seed changes what cannot change while the cluster runs, so nothing was changed",
            hint="shut all nodes down, put their new CDs in, and start them",
            details=found,
        )
    if leaving:
        names = ", ".join(sorted(leaving))
        raise NodeError(
            f"{names}: to leave the cluster, and still in it, so nothing was changed", hint=f"shut {names} down first"
        )


def fixed(old: Section, new: Section) -> Iterator[str]:
    """What a reload does not bring about, or should not, in words."""
    for name in ("totem", "quorum"):
        (before, after) = ({k: v for block in each.each(name) for k, v in block.values.items()} for each in (old, new))
        yield from _differences(name, before, after, _FIXED[name])
    for name, key in (("interface", "linknumber"), ("node", "nodeid")):
        before_by, after_by = (
            {block.values.get(key, "0"): block.values for block in each.each(name)} for each in (old, new)
        )
        for number in before_by.keys() & after_by.keys():
            here, there = before_by[number], after_by[number]
            keys = [each for each in _FIXED[name] if not each.startswith("ring") or (each in here and each in there)]
            yield from _differences(f"{name} {number}", here, there, keys)


def _differences(where: str, before: Mapping[str, str], after: Mapping[str, str], keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        if before.get(key) != after.get(key):
            yield f"{where}: {key} from {before.get(key, 'nothing')} to {after.get(key, 'nothing')}"
