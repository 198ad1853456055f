"""Corosync: links, timings, a quorum device. Sources: corosync.conf(5), corosync-qdevice(8), `corosync -t` of 3.1.9."""

from __future__ import annotations

from collections.abc import Iterator

from builder.spec import derived
from builder.spec.checks.repeated import repeated
from builder.spec.issues import Issue, KeyPath, nearest
from builder.spec.model import Cluster, NetworkKind, Qdevice, QdeviceAlgorithm


def check(cluster: Cluster) -> Iterator[Issue]:
    """Every issue with Corosync's links and timings."""
    links = cluster.corosync.links
    yield from repeated("link", ((("corosync", "links", place), name) for place, name in enumerate(links)))
    for name in dict.fromkeys(links):
        yield from _link(cluster, ("corosync", "links", links.index(name)), name)
    if (last := cluster.corosync.port + len(links) - 1) > 65535:
        yield Issue(("corosync", "port"), f"the last of {len(links)} links would have port {last}", "a lower port")
    yield from _consensus(cluster)
    if cluster.corosync.qdevice is not None:
        yield from _qdevice(cluster, cluster.corosync.qdevice)


def _link(cluster: Cluster, path: KeyPath, name: str) -> Iterator[Issue]:
    network = cluster.networks.get(name)
    if network is None:
        yield Issue(path, f"there is no network {name}", nearest(name, cluster.networks), absence=True)
        return
    if network.dhcp:
        message = f"{name} is a network with DHCP: Corosync needs addresses that are known and stay"
        yield Issue(path, message, "give the nodes addresses there instead")
        return
    card = cluster.networks.get(derived.card(cluster, name))
    if card is not None and card.kind is NetworkKind.NAT and len(cluster.nodes) > 1:
        yield Issue(path, f"{name} is nat: machines behind NAT do not see each other", "intnet, hostonly or bridged")
    without = [place for place, node in enumerate(cluster.nodes) if not node.addresses.get(name)]
    for place in without:
        node = cluster.nodes[place].name
        message = f"{node} has no address on {name}, which is a Corosync link"
        yield Issue(("nodes", place, "addresses"), message, f"add {name}: ADDRESS", absence=True)
    if not without and derived.link_version(cluster, name) is None:
        message = f"some nodes have only IPv4 on {name}, others only IPv6: a link is one of them"
        yield Issue(path, message, "give every node an address of the same version there", absence=True)


def _consensus(cluster: Cluster) -> Iterator[Issue]:
    given, token = cluster.corosync.consensus, cluster.corosync.token
    if given is not None and len(cluster.nodes) > 2 and given <= token:
        message = f"must be more than the token ({token}) for more than two nodes, not {given}: corosync.conf(5)"
        yield Issue(("corosync", "consensus"), message, f"leave it out for 1.2 tokens, {token * 12 // 10}")


def _qdevice(cluster: Cluster, qdevice: Qdevice) -> Iterator[Issue]:
    path: KeyPath = ("corosync", "qdevice")
    count = len(cluster.nodes)
    if count == 1:
        yield Issue(path, "a single node has nobody to be split from", "leave it out", absence=True)
    elif qdevice.algorithm is QdeviceAlgorithm.FFSPLIT and count % 2:
        message = f"ffsplit is for halves, and {count} nodes have none: corosync-qdevice(8)"
        yield Issue((*path, "algorithm"), message, "lms, or leave it out", absence=True)
    if owner := derived.owner(cluster, qdevice.host):
        yield Issue((*path, "host"), f"{qdevice.host} is {owner}: whoever decides is none of them", "a third machine")
