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
    for name, host in fencing.hosts.items():
        if owner := derived.owner(cluster, host.address):
            message = f"{host.address} is {owner}, which powers nothing off when it is lost itself"
            yield Issue(("fencing", "hosts", name, "address"), message, "the address of its hypervisor's host")


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
