"""Fencing: each node's machine on one host. Source: the fence agents' metadata, and Pacemaker's pcmk_host_map."""

from __future__ import annotations

from collections.abc import Iterator

from builder.spec import derived
from builder.spec.checks.repeated import repeated
from builder.spec.issues import Issue, KeyPath, nearest
from builder.spec.model import Cluster, Fencing


def check(cluster: Cluster) -> Iterator[Issue]:
    """Every issue with fencing; none where there is none."""
    if cluster.fencing is not None:
        yield from _hosts(cluster, cluster.fencing)
        yield from _machines(cluster, cluster.fencing)


def _hosts(cluster: Cluster, fencing: Fencing) -> Iterator[Issue]:
    top: KeyPath = ("fencing", "hosts")
    places = (((*top, name, "address"), (host.address, host.port)) for name, host in fencing.hosts.items())
    for path, (address, _) in places:
        if owner := derived.owner(cluster, address):
            yield Issue(path, f"{address} is {owner}: a node cannot power itself off", "its hypervisor's address")


def _machines(cluster: Cluster, fencing: Fencing) -> Iterator[Issue]:
    top: KeyPath = ("fencing", "hosts")
    names = [node.name for node in cluster.nodes]
    machines = derived.fencing_machines(cluster, fencing)
    listed = [((*top, host, "machines", node), node) for host, nodes in machines.items() for node in nodes]
    yield from repeated("node", listed)
    for host, nodes in machines.items():
        where: KeyPath = (*top, host, "machines")
        yield from repeated("machine", (((*where, node), machine) for node, machine in nodes.items()))
        if not nodes:
            yield Issue((*top, host), "has no machine of any node", "add machines: {NODE: MACHINE}", absence=True)
        for node in nodes:
            if node not in names:
                yield Issue((*where, node), f"there is no node {node}", nearest(node, names), absence=True)
    if without := [name for name in names if name not in {node for _, node in listed}]:
        message = f"nobody can power off {', '.join(without)}"
        yield Issue(top, message, "add machines: {NODE: MACHINE} to its host", absence=True)
