"""Nodes: names, ids, cards, disks, hosts."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from builder.spec import derived
from builder.spec.checks.repeated import repeated
from builder.spec.issues import Issue, KeyPath, nearest
from builder.spec.model import Cluster, NetworkKind, Node

MAX_FQDN = 253  # RFC 1035, 2.3.4, as text


def check(cluster: Cluster) -> Iterator[Issue]:
    """Every issue with the nodes, but for their addresses."""
    nodes = list(enumerate(cluster.nodes))
    yield from repeated("node name", ((("nodes", place, "name"), node.name) for place, node in nodes))
    yield from repeated("node id", ((("nodes", place, "id"), _id(node, place)) for place, node in nodes))
    yield from repeated("MAC address", (entry for place, node in nodes for entry in _macs(cluster, place, node)))
    for place, node in nodes:
        path: KeyPath = ("nodes", place)
        if node.name == "localhost":
            yield Issue((*path, "name"), "localhost is every machine's name for itself", "a name of its own")
        if len(fqdn := derived.fqdn(cluster, node)) > MAX_FQDN:
            yield Issue((*path, "name"), f"has {len(fqdn)} characters with its domain, at most {MAX_FQDN} can be")
        yield from _own_macs(cluster, path, node)
        names = derived.disk_names(node)
        yield from repeated("disk name", (((*path, "disks", disk), name) for disk, name in enumerate(names)))
        yield from _host(path, node)
    yield from _hosts(cluster)


def _id(node: Node, place: int) -> int:
    return node.id if node.id is not None else place + 1


def _macs(cluster: Cluster, place: int, node: Node) -> Iterator[tuple[KeyPath, str]]:
    namesake = any(node.name == other.name for other in cluster.nodes[:place])  # then what is derived is the same too
    for card in derived.cards(cluster):
        if card in node.macs or not namesake:
            yield ("nodes", place, "macs", card), derived.mac(cluster, node, card)


def _own_macs(cluster: Cluster, path: KeyPath, node: Node) -> Iterator[Issue]:
    cards = derived.cards(cluster)
    for name, mac in node.macs.items():
        where = (*path, "macs", name)
        if name not in cluster.networks:
            yield Issue(where, f"there is no network {name}", nearest(name, cards), absence=True)
        elif name not in cards:
            parent = cluster.networks[name].parent
            yield Issue(
                where, "a VLAN has the MAC address of its parent's card", f"give it under {parent}, or leave it out"
            )
        # The lowest bit of the first octet: a group of machines, not one (IEEE 802, 8.2.2).
        if int(mac[:2], 16) & 1:
            yield Issue(where, f"{mac} is a multicast address, no card's", "an even second digit, as in 02:…")
        elif mac == "00:00:00:00:00:00":
            yield Issue(where, f"{mac} is no card's address", "leave it out: one is derived")


def _host(path: KeyPath, node: Node) -> Iterator[Issue]:
    if node.host is None:
        return
    try:
        parts = urlsplit(node.host)
        _ = parts.port
        password = parts.password
    except ValueError as error:
        yield Issue((*path, "host"), f"is no URI: {error}")
        return
    if password is not None:
        yield Issue((*path, "host"), "holds a password: a spec holds no secrets", "use SSH keys")
    elif parts.scheme == "ssh" and not parts.hostname:
        yield Issue((*path, "host"), "names no host", "ssh://user@host")


def _hosts(cluster: Cluster) -> Iterator[Issue]:
    """On several machines, whatever the nodes share has to leave the machine."""
    try:
        machines = {derived.host_machine(node) for node in cluster.nodes}
    except ValueError:
        return  # said by `_host`
    if len(machines) < 2:
        return
    used: dict[str, KeyPath] = {}
    for place, link in enumerate(cluster.corosync.links):
        used.setdefault(link, ("corosync", "links", place))
    for place, vip in enumerate(cluster.vips):
        used.setdefault(vip.network, ("vips", place, "network"))
    for name, path in used.items():
        card = cluster.networks.get(derived.card(cluster, name)) if name in cluster.networks else None
        if card is not None and card.kind not in {None, NetworkKind.BRIDGED}:
            message = f"{name} is {card.kind}: it ends at each host, and the nodes are on {len(machines)} hosts"
            yield Issue(path, message, "a bridged network")
