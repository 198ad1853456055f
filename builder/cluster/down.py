"""`down`: all machines of a cluster off, and kept."""

from __future__ import annotations

from builder.crew import Crew
from builder.hypervisor import State
from builder.machines import Fleet
from builder.progress import Reporter
from builder.spec.model import Node

STOP_SECONDS = 120.0


def down(fleet: Fleet, reporter: Reporter) -> tuple[str, ...]:
    """Shut the machines down, all at the same time; the names of those that ran.

    One that does not go off within two minutes has its power taken away. Raises what the hypervisors do.
    """
    nodes = fleet.cluster.nodes

    def stop(node: Node) -> bool:
        host = fleet.on(node)
        there = {each.name: each.state for each in host.machines(fleet.cluster.name)}
        if there.get(node.name) in (None, State.BROKEN):
            return False
        return host.stop(node.name, timeout=STOP_SECONDS)

    with Crew() as crew, reporter.stage("stop", title="Shut down"):
        stopped = crew.each(nodes, stop)
    return tuple(node.name for node, did in zip(nodes, stopped, strict=True) if did)
