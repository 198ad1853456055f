"""What follows from a spec: names, numbers and addresses that nobody has to write down. Pure, and stable for ever:
a node that is made again from the same spec gets the same MAC addresses, interface names and ids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface
from urllib.parse import urlsplit

from builder.spec.model import Cluster, Fencing, Firmware, Node, Qdevice, QdeviceAlgorithm, Vip

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Subnet = IPv4Network | IPv6Network

IFNAMSIZ = 16
"""Bytes of an interface name in Linux, its final NUL among them (linux/if.h)."""

TOKEN_COEFFICIENT = 0
"""corosync.conf's token_coefficient. With Corosync's own 650 ms each node beyond the second would add that much to the
token: five nodes would notice a loss after 3 s where the spec says 1. So `token` is what it says, and corosync.conf has
to say 0."""

TWO_NODE_CONSENSUS = 200
"""Milliseconds. Of two nodes one is left when the token is lost: there is nobody to wait for. corosync.conf(5) calls
anything between the join timeout (50 ms) and the token safe."""


@dataclass(frozen=True, slots=True)
class Link:
    """One of Corosync's links: its number, network, UDP port, and each node's address by the node's name."""

    number: int
    network: str
    port: int
    addresses: dict[str, Address]


def node_id(cluster: Cluster, node: Node) -> int:
    """Corosync's node id: the one given, else the node's place in the list, from 1."""
    return node.id if node.id is not None else cluster.nodes.index(node) + 1


def two_node(cluster: Cluster) -> bool:
    """Whether votequorum's two_node applies: for exactly two nodes (votequorum(5)), and with no device to decide."""
    return len(cluster.nodes) == 2 and cluster.corosync.qdevice is None


def qdevice_algorithm(cluster: Cluster, qdevice: Qdevice) -> QdeviceAlgorithm:
    """The one given, else ffsplit for an even number of nodes, which alone it is for, and lms for an odd one."""
    return qdevice.algorithm or (QdeviceAlgorithm.LMS if len(cluster.nodes) % 2 else QdeviceAlgorithm.FFSPLIT)


def fencing_machines(cluster: Cluster, fencing: Fencing) -> dict[str, dict[str, str]]:
    """What the machines are called, by host and node: those given, else on a single host all nodes by their names."""
    machines = {name: dict(host.machines) for name, host in fencing.hosts.items()}
    if len(machines) == 1 and not any(machines.values()):
        return {name: {node.name: node.name for node in cluster.nodes} for name in machines}
    return machines


def consensus(cluster: Cluster) -> int:
    """Corosync's consensus in milliseconds: the one given, else for up to two nodes 200, for more 1.2 tokens.

    corosync.conf(5): at least 1.2 tokens; for two nodes anything above the join timeout of 50 ms is safe.
    """
    if cluster.corosync.consensus is not None:
        return cluster.corosync.consensus
    return TWO_NODE_CONSENSUS if len(cluster.nodes) <= 2 else cluster.corosync.token * 12 // 10


def fqdn(cluster: Cluster, node: Node) -> str:
    """The node's name with the cluster's domain, where it has one."""
    return f"{node.name}.{cluster.domain}" if cluster.domain else node.name


def cpus(cluster: Cluster, node: Node) -> int:
    """The node's virtual processors."""
    return node.cpus if node.cpus is not None else cluster.machine.cpus


def memory_mib(cluster: Cluster, node: Node) -> int:
    """The node's memory in MiB."""
    return node.memory_mib if node.memory_mib is not None else cluster.machine.memory_mib


def firmware(cluster: Cluster, node: Node) -> Firmware:
    """What starts the node's boot loader."""
    return node.firmware if node.firmware is not None else cluster.machine.firmware


def disk_names(node: Node) -> tuple[str, ...]:
    """The names of its additional disks: those given, else disk1, disk2, … by place."""
    return tuple(disk.name or f"disk{place}" for place, disk in enumerate(node.disks, 1))


def host_machine(node: Node) -> str:
    """The machine that the node's hypervisor is on, as its URI names it; empty: this one."""
    return (urlsplit(node.host).hostname or "") if node.host is not None else ""


def cards(cluster: Cluster) -> tuple[str, ...]:
    """The networks that are cards, in the order of the cards."""
    return tuple(name for name, network in cluster.networks.items() if network.vlan is None)


def card(cluster: Cluster, network: str) -> str:
    """The network whose card carries this one: itself, or for a VLAN its parent."""
    found = cluster.networks[network]
    return network if found.vlan is None or found.parent is None else found.parent


def interface(cluster: Cluster, network: str) -> str:
    """The interface of a network on every node: the network's name for a card, PARENT.ID for a VLAN.

    A card is found by its MAC address and renamed. A name like enp0s3 differs from hypervisor to hypervisor, and
    renaming to one that udev knows for any card of the machine, as its name or an altname, fails with "File exists";
    `checks.networks` keeps the names of networks clear of what udev and the kernel use.
    """
    vlan = cluster.networks[network].vlan
    return network if vlan is None else f"{cluster.networks[network].parent}.{vlan}"


def mac(cluster: Cluster, node: Node, network: str) -> str:
    """The MAC address of the node's card on a network (for a VLAN, of its parent's card), in lower case.

    The one given, else 02 and 40 bits of SHA-256 over the names of cluster, node and network. 02: locally administered,
    unicast (IEEE 802, 8.2.2), so that no card ever sold has it. VirtualBox's own 08:00:27 is a vendor's range, from
    which VirtualBox gives every other machine on the network an address at random.
    """
    owner = card(cluster, network)
    if owner in node.macs:
        return node.macs[owner]
    digest = hashlib.sha256("\0".join((cluster.name, node.name, owner)).encode()).digest()
    return bytes((0x02, *digest[:5])).hex(":")


def subnet_of(cluster: Cluster, network: str, address: Address) -> Subnet | None:
    """The subnet of the network that an address lies in."""
    return next((subnet for subnet in cluster.networks[network].subnets if address in subnet), None)


def addresses(cluster: Cluster, node: Node, network: str) -> tuple[Interface, ...]:
    """The node's addresses on a network, with the prefix lengths of their subnets, in the spec's order."""
    found = ((address, subnet_of(cluster, network, address)) for address in node.addresses.get(network, ()))
    return tuple(ip_interface((address, subnet.prefixlen)) for address, subnet in found if subnet is not None)


def owner(cluster: Cluster, address: Address) -> str:
    """The node or VIP of the cluster that has this address, by name; empty: none."""
    for node in cluster.nodes:
        if any(address in there for there in node.addresses.values()):
            return node.name
    return next((f"the VIP {vip.name}" for vip in cluster.vips if vip.address == address), "")


def vip_interface(cluster: Cluster, vip: Vip) -> Interface:
    """The VIP with the prefix length of the subnet it lies in. Raises ValueError where it lies in none."""
    subnet = subnet_of(cluster, vip.network, vip.address)
    if subnet is None:
        raise ValueError(f"{vip.address} is in no subnet of {vip.network}")
    return ip_interface((vip.address, subnet.prefixlen))


def vip_broadcast(cluster: Cluster, vip: Vip) -> IPv4Address | None:
    """The VIP's broadcast address; None for IPv6, and for a /31 or /32, which have none (RFC 3021)."""
    whole = vip_interface(cluster, vip)
    return (
        whole.network.broadcast_address if isinstance(whole, IPv4Interface) and whole.network.prefixlen < 31 else None
    )


def link_version(cluster: Cluster, network: str) -> int | None:
    """The IP version Corosync speaks on a network: 4 where every node has such an address there, else 6, else None."""
    shared = {4, 6}
    for node in cluster.nodes:
        shared &= {address.version for address in node.addresses.get(network, ())}
    return min(shared, default=None)


def links(cluster: Cluster) -> tuple[Link, ...]:
    """Corosync's links in order, each node with its first address of the link's IP version there.

    A knet link is one IP version on all nodes. Raises ValueError where a node has no address that will do.
    """
    found = []
    for number, network in enumerate(cluster.corosync.links):
        version = link_version(cluster, network)
        if version is None:
            raise ValueError(f"the nodes have no addresses of one IP version on {network}")
        by_node = {
            node.name: next(address for address in node.addresses[network] if address.version == version)
            for node in cluster.nodes
        }
        found.append(Link(number, network, cluster.corosync.port + number, by_node))
    return tuple(found)


def stats_allowed(cluster: Cluster) -> tuple[Subnet, ...]:
    """Where the statistics page may be read from: as given, else from the cluster's own subnets."""
    stats = cluster.haproxy.stats
    if stats is None or stats.allow:
        return stats.allow if stats is not None else ()
    return tuple(subnet for network in cluster.networks.values() for subnet in network.subnets)
