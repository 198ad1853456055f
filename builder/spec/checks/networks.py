"""Networks: cards and VLANs, the interfaces they become, subnets, gateways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations

from builder.spec import derived
from builder.spec.checks.repeated import repeated
from builder.spec.derived import Address, Subnet
from builder.spec.issues import Issue, KeyPath, nearest
from builder.spec.model import Cluster, Network, NetworkKind

MAX_CARDS = 8  # VirtualBox: a machine with the PIIX3 chipset
MIN_IPV6_MTU = 1280  # RFC 8200, 5

# Interface names that udev gives (systemd.net-naming-scheme(7)), as name or altname, and those that drivers and sysctl
# take for themselves.
_TAKEN = re.compile(
    r"(eth|wlan|wwan|usb|ib)\d.*"
    r"|(en|ib|mc|sl|wl|ww)([abcdiopsuvP]\d.*|x[0-9a-f]{12}.*)"
    r"|(bond|br|docker|dummy|erspan|geneve|gre|gretap|ifb|ip6gre|ip6tnl|ip6_vti|ip_vti|lxcbr|macsec|macvlan|nlmon|ppp|sit"
    r"|tap|team|teql|tun|tunl|veth|virbr|vxlan|wg)\d+"
    r"|all|default|lo|lo\d+|none"
)

# Where no host can have its own address, or none that another machine could reach (RFC 6890).
_UNUSABLE = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::/8",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)


def check(cluster: Cluster) -> Iterator[Issue]:
    """Every issue with the networks themselves."""
    for name, network in cluster.networks.items():
        path: KeyPath = ("networks", name)
        yield from _card_or_vlan(cluster, path, network)
        yield from _interface(cluster, path, name)
        yield from _mtu(cluster, path, network)
        yield from _subnets(path, network)
        yield from _gateways(path, network)
    vlans = ((name, network) for name, network in cluster.networks.items() if network.vlan is not None)
    yield from repeated(
        "VLAN", ((("networks", name, "vlan"), f"{network.vlan} on {network.parent}") for name, network in vlans)
    )
    if len(cards := derived.cards(cluster)) > MAX_CARDS:
        yield Issue(("networks",), f"{len(cards)} cards: a machine has at most {MAX_CARDS}", "make some of them VLANs")
    yield from _overlaps(cluster)
    yield from _default_routes(cluster)


def within(address: Address, name: str, subnets: tuple[Subnet, ...]) -> str:
    """Why no machine can have this address on a network of that name and with these subnets; empty where it can."""
    subnet = next((subnet for subnet in subnets if address in subnet), None)
    if subnet is None:
        return f"{address} is in no subnet of {name}: {', '.join(map(str, subnets))}"
    # A /31 or /127 is a link of two addresses, both of them hosts (RFC 3021, RFC 6164); a /32 or /128 is one.
    if subnet.max_prefixlen - subnet.prefixlen <= 1:
        return ""
    if address == subnet.network_address:
        return f"{address} is the address of {subnet} itself, no machine's"
    if isinstance(subnet, IPv4Network) and address == subnet.broadcast_address:
        return f"{address} is the broadcast address of {subnet}"
    return ""


def _card_or_vlan(cluster: Cluster, path: KeyPath, network: Network) -> Iterator[Issue]:
    if network.vlan is None:
        if network.parent is not None:
            yield Issue((*path, "parent"), "has a parent, but no VLAN id", "add vlan: 1 to 4094", absence=True)
        elif network.kind is None:
            kinds = ", ".join(NetworkKind)
            yield Issue(path, "is neither a card nor a VLAN", f"add kind: {kinds}; or vlan and parent", absence=True)
        elif network.kind is NetworkKind.NAT and network.name is not None:
            yield Issue((*path, "name"), "a nat network has no name on the host", "leave it out")
        return
    for key in ("kind", "name", "adapter"):
        if key in network.model_fields_set and getattr(network, key) is not None:
            yield Issue(
                (*path, key), f"a VLAN has no {key} of its own: that is its parent's", f"leave out {key}, or vlan"
            )
    if network.parent is None:
        cards = ", ".join(derived.cards(cluster))
        yield Issue((*path, "vlan"), "on which network's card is this VLAN?", f"add parent: {cards}", absence=True)
        return
    parent = cluster.networks.get(network.parent)
    where = (*path, "parent")
    if parent is None:
        hint = nearest(network.parent, derived.cards(cluster))
        yield Issue(where, f"there is no network {network.parent}", hint, absence=True)
    elif parent.vlan is not None:
        yield Issue(where, f"{network.parent} is a VLAN itself", f"a card: {', '.join(derived.cards(cluster))}")
    elif parent.kind is NetworkKind.NAT:
        yield Issue(
            where, f"{network.parent} is nat, which carries no VLANs", "a card that is intnet, hostonly or bridged"
        )


def _interface(cluster: Cluster, path: KeyPath, name: str) -> Iterator[Issue]:
    interface = derived.interface(cluster, name)
    if len(interface) >= derived.IFNAMSIZ:
        what = "its name" if interface == name else f"its interface, {interface},"
        limit = derived.IFNAMSIZ - 1
        hint = "a shorter name" if interface == name else f"a shorter name for {cluster.networks[name].parent}"
        yield Issue(path, f"{what} has {len(interface)} characters: an interface of Linux has at most {limit}", hint)
    if cluster.networks[name].vlan is None and _TAKEN.fullmatch(name):
        yield Issue(
            path,
            f"{name} is a name that Linux gives to interfaces itself; the card's would collide with it",
            "a name for what the network is for, such as public",
        )


def _mtu(cluster: Cluster, path: KeyPath, network: Network) -> Iterator[Issue]:
    if network.mtu is None:
        return
    if network.mtu < MIN_IPV6_MTU and any(subnet.version == 6 for subnet in network.subnets):
        yield Issue((*path, "mtu"), f"must be {MIN_IPV6_MTU} or more where there is IPv6, not {network.mtu}")
    parent = cluster.networks.get(network.parent) if network.parent is not None else None
    carried = (parent.mtu or 1500) if parent is not None else network.mtu
    if network.mtu > carried:
        yield Issue((*path, "mtu"), f"is more than its card carries ({carried})", f"set mtu on {network.parent} too")


def _subnets(path: KeyPath, network: Network) -> Iterator[Issue]:
    for place, subnet in enumerate(network.subnets):
        for unusable in _UNUSABLE:
            if _overlap(subnet, unusable):
                yield Issue((*path, "subnets", place), f"{subnet} is no network of machines: {unusable} is set aside")
                break


def _overlap(one: Subnet, other: Subnet) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def _overlaps(cluster: Cluster) -> Iterator[Issue]:
    places = [
        (("networks", name, "subnets", place), subnet, name)
        for name, network in cluster.networks.items()
        for place, subnet in enumerate(network.subnets)
    ]
    for (_, one, where), (path, other, _) in combinations(places, 2):
        if _overlap(one, other):
            yield Issue(path, f"{other} overlaps {one} of {where}: which way would a packet go?")


def gateways(network: Network) -> Iterator[tuple[str, Address]]:
    """A network's default routes: the key, the gateway."""
    if network.gateway is not None:
        yield "gateway", network.gateway
    if network.gateway6 is not None:
        yield "gateway6", network.gateway6


def _gateways(path: KeyPath, network: Network) -> Iterator[Issue]:
    for key, gateway in gateways(network):
        where = (*path, key)
        if network.dhcp:
            yield Issue(where, "a network with DHCP gets its default route from there", f"leave out {key}, or dhcp")
        elif gateway.version == 6 and gateway.is_link_local:
            continue  # what routers are called in IPv6, and in no subnet
        elif not any(subnet.version == gateway.version for subnet in network.subnets):
            yield Issue(where, f"the network has no IPv{gateway.version} subnet", "add it to subnets", absence=True)
        elif why := within(gateway, str(path[-1]), network.subnets):
            yield Issue(where, why)


def _default_routes(cluster: Cluster) -> Iterator[Issue]:
    first: dict[int, str] = {}
    for name, network in cluster.networks.items():
        for key, gateway in gateways(network):
            if gateway.version in first:
                message = f"a second default route for IPv{gateway.version}: {first[gateway.version]} has one already"
                yield Issue(("networks", name, key), message, "leave one out: a node has one default route")
            else:
                first[gateway.version] = name
