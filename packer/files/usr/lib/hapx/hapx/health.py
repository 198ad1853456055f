"""How the cluster is, as this node sees it.

Failed: what the cluster is for is not there (no quorum, a floating IP that nobody holds), or this node has no part in
it. Degraded: it serves, but a next failure, or this one's clients, would notice. Healthy: neither.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree as ET

from hapx import clock, corosync, crm, facts, haproxy, merge
from hapx.clock import Clock
from hapx.errors import CannotTellError, ExitCode, NodeError
from hapx.facts import Facts
from hapx.haproxy import Backend
from hapx.programs import Result, Running

# All programs together, unless the caller gives more. Each takes a hundredth of it; one that hangs (a stopped daemon)
# is ended, and counts as dead. Where the processor is emulated, each takes seconds.
SECONDS = 4.0
# An offset of that many seconds is no longer a clock at its work.
_MAX_OFFSET = 1.0
_STAMP_ARGV = ("cibadmin", "--query", f"--xpath=//cluster_property_set[@id='{merge.STAMP}']")
_NO_SUCH_OBJECT = 105  # crm/common/results.h: CRM_EX_NOSUCH
_ADDRESSES_ARGV = ("ip", "-json", "address")
_FIREWALL_ARGV = ("systemctl", "is-failed", "--quiet", "hapx-firewall.service")


class State(StrEnum):
    """How it is, in a word."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"

    @property
    def exit_code(self) -> ExitCode:
        """What `hapx health` ends with."""
        return {State.HEALTHY: ExitCode.OK, State.DEGRADED: ExitCode.FAILED, State.FAILED: ExitCode.BROKEN}[self]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: how bad, what, what to do first."""

    severity: State
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the seed."""

    name: str
    id: int
    online: bool
    standby: bool


@dataclass(frozen=True, slots=True)
class Link:
    """One of Corosync's links to another node."""

    peer: str
    number: int
    connected: bool


@dataclass(frozen=True, slots=True)
class Vip:
    """A floating IP, and who holds it."""

    name: str
    address: str
    holder: str | None


@dataclass(frozen=True, slots=True)
class Haproxy:
    """HAProxy on this node."""

    alive: bool
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of Pacemaker's, where it runs."""

    id: str
    node: str | None
    running: bool
    failed: bool
    fail_count: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of the node, before anybody judges it; None: it did not answer."""

    quorum: corosync.Quorum | None
    links: dict[tuple[int, int], bool]
    status: crm.Status | None
    applied: str | None
    stamp_read: bool  # whether there was an answer to the question what is applied
    haproxy: Haproxy
    clock: Clock
    addresses: dict[str, str] | None  # this node's own, each with its interface
    firewall_failed: bool  # the seed's packet filter was not loaded


@dataclass(frozen=True, slots=True)
class Report:
    """The answer; its fields are those of `hapx health --json`."""

    state: State
    cluster: str
    node: str
    generation: str
    applied: str | None
    quorate: bool
    votes: int
    expected_votes: int
    dc: str | None
    nodes: tuple[Member, ...]
    links: tuple[Link, ...]
    vips: tuple[Vip, ...]
    haproxy: Haproxy
    resources: tuple[Resource, ...]
    clock: Clock
    problems: tuple[Problem, ...]

    def as_data(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)


def look(known: Facts, *, seconds: float = SECONDS) -> Report:
    """Ask everything there is to ask on this node, for so long, and judge it.

    Raises CannotTellError where it is none of the cluster's nodes.
    """
    name = facts.own_name()
    if all(node.name != name for node in known.nodes):
        names = ", ".join(node.name for node in known.nodes)
        raise CannotTellError(f"this is {name}, and the cluster's nodes are {names}", hint="see: hostnamectl")
    return judge(known, name, see(known, seconds))


def see(known: Facts, seconds: float) -> Seen:
    """What this node's programs say within so many seconds, all asked at the same time."""
    deadline = time.monotonic() + seconds
    asked = {
        argv: Running(argv)
        for argv in (
            crm.ARGV,
            corosync.QUORUM_ARGV,
            corosync.LINKS_ARGV,
            _STAMP_ARGV,
            clock.ARGV,
            _ADDRESSES_ARGV,
            _FIREWALL_ARGV,
        )
    }
    alive = haproxy.is_alive(known.monitor)
    backends = haproxy.backends() if alive else ()
    said = {argv: running.result(deadline) for argv, running in asked.items()}
    return Seen(
        quorum=corosync.parse_quorum(said[corosync.QUORUM_ARGV].stdout),
        links=corosync.parse_links(said[corosync.LINKS_ARGV].stdout),
        status=_status(said[crm.ARGV]),
        applied=_applied(said[_STAMP_ARGV]),
        stamp_read=said[_STAMP_ARGV].returncode in {0, _NO_SUCH_OBJECT},
        haproxy=Haproxy(alive, backends),
        clock=clock.parse(said[clock.ARGV].stdout),
        addresses=_addresses(said[_ADDRESSES_ARGV]),
        firewall_failed=said[_FIREWALL_ARGV].ok,
    )


def judge(known: Facts, own: str, seen: Seen) -> Report:
    """The report on what was seen. Pure."""
    status, quorum = seen.status, seen.quorum
    members = {} if status is None else {each.name: each for each in status.nodes}
    nodes = tuple(
        Member(
            name=node.name,
            id=node.id,
            online=node.name in members and members[node.name].online and not members[node.name].pending,
            standby=node.name in members and members[node.name].standby,
        )
        for node in known.nodes
    )
    links = tuple(
        Link(node.name, number, seen.links.get((node.id, number), False))
        for node in known.nodes
        if node.name != own
        for number in known.links
    )
    vips = tuple(Vip(vip.name, vip.address, None if status is None else status.holder(vip.name)) for vip in known.vips)
    resources = () if status is None else status.resources
    problems = tuple(_problems(known, own, seen, nodes, links, vips=vips))
    severities = {problem.severity for problem in problems}
    return Report(
        state=next((each for each in (State.FAILED, State.DEGRADED) if each in severities), State.HEALTHY),
        cluster=known.cluster,
        node=own,
        generation=known.generation,
        applied=seen.applied,
        quorate=quorum is not None and quorum.quorate,
        votes=quorum.votes if quorum is not None else 0,
        expected_votes=quorum.expected_votes if quorum is not None else len(known.nodes),
        dc=status.dc if status is not None else None,
        nodes=nodes,
        links=links,
        vips=vips,
        haproxy=seen.haproxy,
        resources=tuple(Resource(each.id, each.node, each.running, each.failed, each.fail_count) for each in resources),
        clock=seen.clock,
        problems=problems,
    )


class _Judgement:
    """What is wrong, found piece by piece."""

    def __init__(self, known: Facts, own: str, seen: Seen) -> None:
        self.known, self.own, self.seen = known, own, seen
        self.found: list[Problem] = []

    def failed(self, message: str, hint: str) -> None:
        self.found.append(Problem(State.FAILED, message, hint))

    def degraded(self, message: str, hint: str) -> None:
        self.found.append(Problem(State.DEGRADED, message, hint))

    def membership(self) -> None:
        quorum, status = self.seen.quorum, self.seen.status
        if quorum is None:
            self.failed("Corosync does not answer: this node is not in the cluster", "systemctl status corosync")
        elif not quorum.quorate:
            self.failed(
                f"no quorum: {quorum.votes} of {quorum.expected_votes} votes, so nothing runs here",
                "start the other nodes; only if they stay away for good: sudo hapx force-quorum",
            )
        if status is None:
            self.failed("Pacemaker does not answer: nothing is managed here", "systemctl status pacemaker")
        elif status.dc is None and quorum is not None and quorum.quorate:
            self.failed("the cluster has no coordinator (DC)", "wait ten seconds, then: journalctl -u pacemaker")

    def addresses(self, vips: tuple[Vip, ...]) -> None:
        if self.seen.status is None:
            return
        for vip, fact in zip(vips, self.known.vips, strict=True):
            name = f"{vip.name} ({vip.address})"
            if vip.holder is None:
                self.failed(f"{name} is held by nobody", "crm_mon -1rf; crm_simulate -sL")
            if self.seen.addresses is None:
                continue
            here = vip.address in self.seen.addresses
            if vip.holder == self.own and not here:
                self.failed(f"{name} is not on {fact.interface}", f"crm resource refresh {vip.name}")
            if here and vip.holder != self.own:
                whose = f"{vip.holder} is to hold it" if vip.holder else "no node is to hold it"
                self.failed(f"{name} is on this node, though {whose}", "systemctl restart pacemaker")

    def haproxy(self, vips: tuple[Vip, ...]) -> None:
        if not self.seen.haproxy.alive:
            say = self.failed if any(vip.holder == self.own for vip in vips) else self.degraded
            say("HAProxy does not answer on this node", "systemctl status haproxy; journalctl -u haproxy")
        for backend in self.seen.haproxy.backends:
            if backend.up == 0:
                said = f"backend {backend.name}: none of its servers is up ({backend.total})"
                self.degraded(said, "see to the servers behind it")

    def nodes(self, nodes: tuple[Member, ...], links: tuple[Link, ...]) -> None:
        status = self.seen.status
        if status is None or self.seen.quorum is None:
            return
        away = {node.name for node in nodes if not node.online}
        for node in nodes:
            if node.name in away and node.name == self.own:
                self.degraded("this node has not joined the cluster yet", "wait ten seconds; journalctl -u pacemaker")
            elif node.name in away:
                self.degraded(
                    f"{node.name} is not in the cluster", "start it, or see there: systemctl status corosync pacemaker"
                )
            if node.standby:
                self.degraded(f"{node.name} is in standby", f"crm node online {node.name}")
        for member in status.nodes:
            if member.maintenance and not status.maintenance:
                self.degraded(f"{member.name} is in maintenance", f"crm node ready {member.name}")
        if status.maintenance:
            self.degraded(
                "the cluster is in maintenance: Pacemaker only watches", "crm configure property maintenance-mode=false"
            )
        for link in links:
            if not link.connected and link.peer not in away:
                self.degraded(f"link {link.number} to {link.peer} is down", "cable, switch; then: corosync-cfgtool -n")

    def resources(self) -> None:
        status = self.seen.status
        for each in () if status is None else status.resources:
            where = f" on {each.node}" if each.node else ""
            if each.failed or each.fail_count:
                count = "too often" if each.fail_count >= crm.INFINITY else f"{each.fail_count} x"
                self.degraded(
                    f"{each.id} failed{where} ({count})", f"see why: crm_mon -1rf; then: crm resource cleanup {each.id}"
                )
            elif not each.managed and status is not None and not status.maintenance:
                self.degraded(f"{each.id} is not managed{where}", f"crm resource manage {each.id}")

    def seed(self) -> None:
        if not self.seen.stamp_read:
            return
        if self.seen.applied is None:
            self.degraded("the cluster runs without the seed's configuration", "sudo hapx reconcile")
        elif self.seen.applied != self.known.generation:
            self.degraded(
                f"this node has the seed's generation {self.known.generation}, the cluster runs {self.seen.applied}",
                "sudo hapx reconcile on each node, with the newest seed",
            )

    def firewall(self) -> None:
        if self.seen.firewall_failed:
            self.degraded(
                "the packet filter is not loaded: this node lets everything in",
                "nft -c -f /etc/nftables.conf; when that is right: systemctl restart hapx-firewall",
            )

    def clock(self) -> None:
        # Whether there is a time server says nothing of the cluster, which does not need one; a wrong clock does.
        offset = self.seen.clock.offset_seconds
        if offset is not None and abs(offset) > _MAX_OFFSET:
            self.degraded(f"the clock is {offset:+.1f} s off", "chronyc sources; chronyc makestep")


def _problems(
    known: Facts, own: str, seen: Seen, nodes: tuple[Member, ...], links: tuple[Link, ...], *, vips: tuple[Vip, ...]
) -> list[Problem]:
    """The failures first, and of those what is the cause of others first."""
    judgement = _Judgement(known, own, seen)
    judgement.membership()
    judgement.addresses(vips)
    judgement.haproxy(vips)
    judgement.nodes(nodes, links)
    judgement.resources()
    judgement.seed()
    judgement.firewall()
    judgement.clock()
    return sorted(judgement.found, key=lambda problem: problem.severity is not State.FAILED)


def _status(said: Result) -> crm.Status | None:
    try:
        return crm.parse(said.stdout) if said.ok else None
    except NodeError:
        return None


def _applied(said: Result) -> str | None:
    try:
        return merge.stamp_of(merge.parse(f"<cib>{said.stdout}</cib>")).generation if said.ok else None
    except ET.ParseError:
        return None


def _addresses(said: Result) -> dict[str, str] | None:
    try:
        return {
            address["local"]: link["ifname"]
            for link in json.loads(said.stdout)
            for address in link.get("addr_info", [])
        }
    except (ValueError, KeyError):
        return None
