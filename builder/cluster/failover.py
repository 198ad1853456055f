"""A planned move of the floating IPs, and the outage it makes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from builder.cluster import contact
from builder.cluster.contact import Answer
from builder.cluster.health import Health
from builder.cluster.outage import Watch
from builder.cluster.status import ask_all, machine_states
from builder.errors import HapxError, InputError
from builder.machines import Fleet
from builder.progress import Reporter
from builder.spec.issues import nearest
from builder.spec.model import Node

MOVE_SECONDS = 90.0
SETTLE_SECONDS = 1.0
ASK_SECONDS = 60.0
POLL_SECONDS = 1.0

# On the node: the constraint that moves a VIP goes again whatever happens to whoever asked for it; should the node
# itself be lost meanwhile, it expires. crm_resource(8).
_MOVE = """
target=$1; shift
for vip; do crm_resource --resource "$vip" --move --node "$target" --lifetime PT5M 2>&1 || failed=1; done
crm_resource --wait --timeout 60 2>&1 || failed=1
for vip; do crm_resource --resource "$vip" --clear 2>&1 || failed=1; done
exit ${failed:-0}
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a planned move did. `outage` in seconds; None where this machine cannot reach the floating IP."""

    target: str
    vips: tuple[str, ...]
    origin: tuple[str, ...]
    outage: float | None
    seconds: float


def failover(fleet: Fleet, target: str | None, reporter: Reporter) -> Moved:
    """Move every VIP to a node, by default to the next one that is ready; wait until they are there.

    Raises InputError for a node that is not in the spec, HapxError where nothing can be moved or it did not move.
    """
    cluster = fleet.cluster
    if target is not None and target not in {node.name for node in cluster.nodes}:
        near = nearest(target, [node.name for node in cluster.nodes])
        raise InputError(f"--node {target}: no such node in the cluster {cluster.name}", hint=near)
    if not cluster.vips:
        raise InputError(f"the cluster {cluster.name} has no floating IP to move")
    with reporter.stage("ask", title="Ask who holds it"):
        through, before = _spokesman(fleet)
    chosen = target or _next(fleet, before)
    if not before.online(chosen) or any(each.name == chosen and each.standby for each in before.nodes):
        raise HapxError(f"{chosen} is not ready to take over", hint="hapx-build status says why")
    moving = tuple(vip.name for vip in before.vips if vip.holder != chosen)
    origin = tuple(dict.fromkeys(vip.holder or "nobody" for vip in before.vips if vip.name in moving))
    if not moving:
        return Moved(chosen, (), (), 0.0, 0.0)
    began = time.monotonic()
    address, port = str(cluster.vips[0].address), _port(fleet)
    with reporter.stage("move", title=f"Move it to {chosen}"), Watch(address, port) as watch:
        reachable = watch.reached(within=1.0)
        said = contact.ask(
            fleet, through, ["/bin/sh", "-c", _MOVE, "hapx-build", chosen, *moving], timeout=MOVE_SECONDS
        )
        _wait(fleet, through, chosen, moving, said or "")
        if reachable:
            watch.reached(within=SETTLE_SECONDS)
        outage = watch.longest() if reachable else None
    return Moved(chosen, moving, origin, outage, time.monotonic() - began)


def _port(fleet: Fleet) -> int:
    haproxy = fleet.cluster.haproxy
    if haproxy.frontends:
        return haproxy.frontends[0].port
    return haproxy.stats.port if haproxy.stats is not None else 80


def _spokesman(fleet: Fleet) -> tuple[Node, Health]:
    """A node that can speak for the cluster, and what it says. Raises HapxError where none can."""
    answers: list[Answer] = ask_all(fleet, machine_states(fleet), timeout=ASK_SECONDS)
    for node, answer in zip(fleet.cluster.nodes, answers, strict=True):
        if answer.health is not None and answer.health.quorate and answer.health.dc:
            return node, answer.health
    details = [f"{answer.node}: {answer.reason or 'has no quorum'}" for answer in answers]
    raise HapxError("no node speaks for the cluster", hint="hapx-build status", details=details)


def _next(fleet: Fleet, health: Health) -> str:
    """The node after the one that holds the first VIP, of those that are ready."""
    ready = [
        node.name
        for node in fleet.cluster.nodes
        if any(member.name == node.name and member.online and not member.standby for member in health.nodes)
    ]
    holder = health.vips[0].holder if health.vips else None
    others = [name for name in ready if name != holder]
    if not others:
        raise HapxError("there is no other node to move it to", hint="hapx-build status says which is missing")
    names = [node.name for node in fleet.cluster.nodes]
    after = [name for name in others if holder is not None and names.index(name) > names.index(holder)]
    return (after or others)[0]


def _wait(fleet: Fleet, through: Node, target: str, vips: tuple[str, ...], said: str) -> None:
    deadline = time.monotonic() + MOVE_SECONDS
    answer = contact.ask_health(fleet, through, timeout=ASK_SECONDS)
    while time.monotonic() < deadline:
        if answer.health is not None and set(vips) <= set(answer.health.holds(target)):
            return
        time.sleep(POLL_SECONDS)
        answer = contact.ask_health(fleet, through, timeout=ASK_SECONDS)
    lines = [line for line in said.splitlines() if line]
    if answer.health is not None:
        lines += [problem.message for problem in answer.health.problems]
    raise HapxError(f"{', '.join(vips)} did not move to {target}", hint="hapx-build status says why", details=lines)
