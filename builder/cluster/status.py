"""How a cluster is: its machines as their hosts know them, and everything else as its nodes tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from builder.cluster import contact, health
from builder.cluster.contact import Answer
from builder.cluster.health import Backend, Link, Resource, Trouble, Vip
from builder.errors import HapxError
from builder.hypervisor import Found, Hypervisor, State
from builder.machines import Fleet
from builder.spec.model import Node

ASK_SECONDS = 60.0
ABSENT = "absent"
UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node: its machine's state (or "absent", or its host is "unreachable"), and what it says itself."""

    name: str
    host: str
    machine: str
    health: str | None
    """healthy, degraded or failed, by its own judgement; None where it does not answer."""
    reason: str
    """Why there is no health."""
    online: bool
    """Whether the cluster has it as a member."""
    standby: bool
    holds: tuple[str, ...]
    haproxy: bool
    backends: tuple[Backend, ...]
    links: tuple[Link, ...]
    generation: str | None
    applied: str | None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A cluster. `quorate` and all below it are None or empty where no node answers."""

    cluster: str
    nodes: tuple[NodeStatus, ...]
    quorate: bool | None
    votes: int | None
    expected_votes: int | None
    dc: str | None
    vips: tuple[Vip, ...]
    resources: tuple[Resource, ...]
    problems: tuple[Trouble, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as it should be."""
        return not self.problems and all(node.health == health.HEALTHY for node in self.nodes)


def ask_all(fleet: Fleet, machines: Mapping[str, str], *, timeout: float) -> list[Answer]:
    """Every node's health, asked at the same time; those whose machine is known not to run are not asked."""
    nodes = fleet.cluster.nodes

    def ask(node: Node) -> Answer:
        if (state := machines[node.name]) not in (State.RUNNING, UNREACHABLE):
            return Answer(node.name, None, f"its machine is {state}")
        return contact.ask_health(fleet, node, timeout=timeout)

    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        return list(pool.map(ask, nodes))


def status(fleet: Fleet) -> ClusterStatus:
    """The cluster's state now; a host or node that does not answer is part of it, not an error."""
    states = machine_states(fleet)
    return judge(fleet, ask_all(fleet, states, timeout=ASK_SECONDS), states)


def judge(fleet: Fleet, answers: Sequence[Answer], machines: Mapping[str, str]) -> ClusterStatus:
    """One picture from what the nodes and their hosts say; `machines` are the states by the nodes' names.

    Who has quorum and a DC is believed before who has not. That two nodes say of themselves that they hold the same
    VIP is a problem whoever is believed.
    """
    said = [answer.health for answer in answers if answer.health is not None]
    voice = next(iter(sorted(said, key=lambda each: (not each.quorate, each.dc is None))), None)
    nodes = []
    problems: list[Trouble] = []
    for node, answer in zip(fleet.cluster.nodes, answers, strict=True):
        own = answer.health
        member = next((each for each in voice.nodes if each.name == node.name), None) if voice is not None else None
        nodes.append(
            NodeStatus(
                name=node.name,
                host=fleet.on(node).where,
                machine=machines[node.name],
                health=own.state if own is not None else None,
                reason=answer.reason,
                online=member is not None and member.online,
                standby=member is not None and member.standby,
                holds=voice.holds(node.name) if voice is not None else (),
                haproxy=own is not None and own.haproxy.alive,
                backends=own.haproxy.backends if own is not None else (),
                links=own.links if own is not None else (),
                generation=own.generation if own is not None else None,
                applied=own.applied if own is not None else None,
            )
        )
        if own is None:
            problems.append(Trouble(health.FAILED, f"{node.name}: {answer.reason}", "hapx-build up"))
        else:
            problems += [Trouble(each.severity, f"{node.name}: {each.message}", each.hint) for each in own.problems]
    problems += _disagreements(answers)
    return ClusterStatus(
        cluster=fleet.cluster.name,
        nodes=tuple(nodes),
        quorate=voice.quorate if voice is not None else None,
        votes=voice.votes if voice is not None else None,
        expected_votes=voice.expected_votes if voice is not None else None,
        dc=voice.dc if voice is not None else None,
        vips=voice.vips if voice is not None else (),
        resources=voice.resources if voice is not None else (),
        problems=tuple(dict.fromkeys(problems)),
    )


def _disagreements(answers: Sequence[Answer]) -> list[Trouble]:
    owners: dict[str, list[str]] = {}
    for answer in answers:
        if answer.health is not None:
            for vip in answer.health.vips:
                if vip.holder == answer.node:
                    owners.setdefault(vip.address, []).append(answer.node)
    return [
        Trouble(health.FAILED, f"{address} is held by {' and '.join(names)}", "the nodes do not hear each other")
        for address, names in owners.items()
        if len(names) > 1
    ]


def machine_states(fleet: Fleet) -> dict[str, str]:
    """The state of each node's machine, each host asked once."""
    hosts = {id(host): host for host in (fleet.on(node) for node in fleet.cluster.nodes)}

    def found(host: Hypervisor) -> Sequence[Found] | None:
        try:
            return host.machines(fleet.cluster.name)
        except HapxError:
            return None

    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        by_host = dict(zip(hosts, pool.map(found, hosts.values()), strict=True))
    states = {}
    for node in fleet.cluster.nodes:
        machines = by_host[id(fleet.on(node))]
        states[node.name] = (
            UNREACHABLE
            if machines is None
            else next((str(machine.state) for machine in machines if machine.name == node.name), ABSENT)
        )
    return states
