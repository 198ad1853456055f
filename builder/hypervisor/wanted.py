"""Spec -> the machine that each node should have. Pure: nothing is asked of a hypervisor."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

from builder.hypervisor import Base, ExtraDisk, Machine, Nic
from builder.spec import derived
from builder.spec.derived import Interface, Subnet
from builder.spec.model import Cluster, NetworkKind, Node


def machine(cluster: Cluster, node: Node, base: Base, seed: Path, *, linked: bool = True) -> Machine:
    """The node's machine; `seed` is its CD."""
    return Machine(
        cluster=cluster.name,
        name=node.name,
        base=base,
        cpus=derived.cpus(cluster, node),
        memory_mib=derived.memory_mib(cluster, node),
        nics=tuple(_nic(cluster, node, name) for name in derived.cards(cluster)),
        disks=tuple(
            ExtraDisk(name, disk.size_mib) for name, disk in zip(derived.disk_names(node), node.disks, strict=True)
        ),
        seed=seed,
        linked=linked,
        firmware=derived.firmware(cluster, node),
    )


def host_address(subnet: Subnet) -> Interface:
    """The host's own address in a subnet of a host-only network: the one after its own, as VirtualBox has it."""
    return ip_interface((subnet[min(1, subnet.num_addresses - 1)], subnet.prefixlen))


def _nic(cluster: Cluster, node: Node, name: str) -> Nic:
    network = cluster.networks[name]
    kind = network.kind or NetworkKind.NAT
    fallback = None if kind in (NetworkKind.HOSTONLY, NetworkKind.NAT) else name
    return Nic(
        network=name,
        kind=kind,
        name=network.name or fallback,
        adapter=network.adapter,
        mac=derived.mac(cluster, node, name),
        promiscuous=_carries_vip(cluster, name) and kind is not NetworkKind.NAT,
        subnets=network.subnets,
    )


def _carries_vip(cluster: Cluster, card: str) -> bool:
    """Whether a floating IP comes and goes on the card, itself or on a VLAN: its ARP must get through everywhere."""
    return any(derived.card(cluster, vip.network) == card for vip in cluster.vips)
