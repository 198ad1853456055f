"""Addresses: nodes', VIPs', gateways', and that no two of them are the same."""

from __future__ import annotations

from collections.abc import Iterator

from builder.spec.checks.networks import gateways, within
from builder.spec.checks.repeated import repeated
from builder.spec.derived import Address
from builder.spec.issues import Issue, KeyPath, nearest
from builder.spec.model import Cluster, Network, NetworkKind

# All ids in Pacemaker's CIB are of one name space: how the cluster's own begin, and what is added to a VIP's name.
# cib- and rsc- are its options, cli- is what `crm_resource --move` and --ban leave behind.
_OWN_IDS = ("haproxy", "hapx", "cib-", "rsc-", "cli-")
_ADDED = ("-params", "-meta", "-monitor", "-start", "-stop")


def check(cluster: Cluster) -> Iterator[Issue]:
    """Every issue with an address."""
    owned = list(_node_addresses(cluster))
    yield from repeated("address", owned)
    routers = {gateway: name for name, network in cluster.networks.items() for _, gateway in gateways(network)}
    for path, address in owned:
        name = str(path[3])
        network = cluster.networks.get(name)
        if network is None:
            yield Issue(path[:4], f"there is no network {name}", nearest(name, cluster.networks), absence=True)
        elif network.dhcp:
            yield Issue(
                path, f"{name} is a network with DHCP: nodes get their address from there", "leave one of them out"
            )
        elif not network.subnets:
            hint = f"add them under networks.{name}.subnets"
            yield Issue(
                path, f"the network {name} has no subnets: which prefix length has {address}?", hint, absence=True
            )
        elif why := within(address, name, network.subnets):
            yield Issue(path, why)
        elif address in routers:
            yield Issue(path, f"{address} is the gateway of {routers[address]}", "another address for the node")
    yield from _vips(cluster, {address: path for path, address in reversed(owned)}, routers)
    yield from _unreachable_gateways(cluster)


def _node_addresses(cluster: Cluster) -> Iterator[tuple[KeyPath, Address]]:
    for place, node in enumerate(cluster.nodes):
        for name, addresses in node.addresses.items():
            path: KeyPath = ("nodes", place, "addresses", name)
            for index, address in enumerate(addresses):
                yield path if len(addresses) == 1 else (*path, index), address


def _vips(cluster: Cluster, nodes: dict[Address, KeyPath], routers: dict[Address, str]) -> Iterator[Issue]:
    vips = list(enumerate(cluster.vips))
    yield from repeated("VIP", ((("vips", place, "address"), vip.address) for place, vip in vips))
    yield from repeated("VIP name", ((("vips", place, "name"), vip.name) for place, vip in vips))
    for place, vip in vips:
        where: KeyPath = ("vips", place, "address")
        own = (*_OWN_IDS, *(other.name + added for _, other in vips for added in _ADDED))
        if taken := next((each for each in own if vip.name.startswith(each)), None):
            hint = f"a name that does not begin with {taken}"
            yield Issue(
                ("vips", place, "name"), f"{vip.name}: Pacemaker has things of the cluster's own called so", hint
            )
        network = cluster.networks.get(vip.network)
        if network is None:
            hint = nearest(vip.network, cluster.networks)
            yield Issue(("vips", place, "network"), f"there is no network {vip.network}", hint, absence=True)
        elif _kind(cluster, network) is NetworkKind.NAT:
            yield Issue(("vips", place, "network"), "nobody reaches a VIP on a nat network", "another network")
        elif not network.subnets:
            hint = f"add them under networks.{vip.network}.subnets"
            yield Issue(where, f"the network {vip.network} has no subnets", hint, absence=True)
        elif why := within(vip.address, vip.network, network.subnets):
            yield Issue(where, why)
        if vip.address in nodes:
            node = cluster.nodes[int(nodes[vip.address][1])].name
            yield Issue(
                where, f"{vip.address} is {node}'s own address: a VIP moves between nodes", "an address of its own"
            )
        elif vip.address in routers:
            yield Issue(where, f"{vip.address} is the gateway of {routers[vip.address]}", "an address of its own")


def _kind(cluster: Cluster, network: Network) -> NetworkKind | None:
    parent = cluster.networks.get(network.parent) if network.parent is not None else None
    return parent.kind if parent is not None else network.kind


def _unreachable_gateways(cluster: Cluster) -> Iterator[Issue]:
    """A default route leads nowhere from a node that has no address beside the gateway."""
    for name, network in cluster.networks.items():
        for key, gateway in gateways(network):
            without = [
                node.name
                for node in cluster.nodes
                if not any(address.version == gateway.version for address in node.addresses.get(name, ()))
            ]
            beside = any(subnet.version == gateway.version for subnet in network.subnets)
            if without and beside and not network.dhcp and not gateway.is_link_local:
                message = f"no IPv{gateway.version} address on {name}, so no way to its gateway: {', '.join(without)}"
                yield Issue(
                    ("networks", name, key),
                    message,
                    f"give the nodes addresses there, or leave out {key}",
                    absence=True,
                )
