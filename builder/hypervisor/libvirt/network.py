"""What network cards are plugged into, as libvirt networks: their names, their XML, our mark on them.

Pure. libvirt 9.0 keeps no notes on a network (it does since 9.7), but it keeps its UUID: ours follow from the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, ip_interface, ip_network
from uuid import NAMESPACE_URL, UUID, uuid5
from xml.etree.ElementTree import Element

from builder.hypervisor import Nic
from builder.hypervisor.libvirt.virsh import child
from builder.hypervisor.wanted import host_address
from builder.spec.derived import Interface, Subnet
from builder.spec.model import NetworkKind

NAT = "hapx-nat"
HOSTONLY = "hapx-hostonly"
_OURS = uuid5(NAMESPACE_URL, "urn:hapx-build:network")

# One of these is taken for the NAT network: the first that meets nothing else the host or the cluster knows of.
_NAT_CANDIDATES = tuple(IPv4Network((f"192.168.{number}.0", 24)) for number in range(131, 200))


def name(nic: Nic) -> str:
    """The name of the network, or for a bridged card of the bridge, on the host.

    Two host-only networks cannot have one subnet, so those without a name of their own are named after theirs.
    """
    if nic.name is not None:
        return nic.name
    if nic.kind is NetworkKind.NAT:
        return NAT
    return "-".join((HOSTONLY, *(str(subnet).replace("/", "-") for subnet in nic.subnets[:1])))


def uuid(network: str) -> UUID:
    """The UUID of a network of ours with that name."""
    return uuid5(_OURS, network)


def definition(nic: Nic, *, taken: Iterable[Subnet] = (), kept: Sequence[Interface] = ()) -> Element:
    """The network's XML. `taken` are subnets a NAT network has to keep away from, `kept` addresses it has already.

    An internal network is a bridge without any address of the host's. On a host-only one the host has an address in
    each subnet and gives away none: the nodes' are in the spec. Raises StopIteration where no NAT candidate is free.
    """
    network = Element("network")
    child(network, "name", name(nic))
    child(network, "uuid", str(uuid(name(nic))))
    if nic.kind is NetworkKind.NAT:
        child(network, "forward", mode="nat")
    child(network, "bridge", stp="off", delay="0")
    if nic.kind is NetworkKind.NAT:
        wanted = list(kept) or [host_address(_free(taken))]
    else:
        ours = [host_address(subnet) for subnet in nic.subnets] if nic.kind is NetworkKind.HOSTONLY else []
        wanted = [*kept, *(address for address in ours if address not in kept)]
    if nic.kind is not NetworkKind.NAT and wanted:
        # Neither names nor addresses are given away, so no dnsmasq has to run.
        child(network, "dns", enable="no")
    for address in wanted:
        family = "ipv6" if address.version == 6 else "ipv4"
        prefix = str(address.network.prefixlen)
        ip = child(network, "ip", family=family, address=str(address.ip), prefix=prefix)
        if nic.kind is NetworkKind.NAT:
            child(child(ip, "dhcp"), "range", start=str(address.network[100]), end=str(address.network[254]))
    return network


def addresses(network: Element) -> list[Interface]:
    """The host's addresses on a network, from its XML."""
    found = []
    for ip in network.findall("ip"):
        mask = ip.get("prefix") or ip.get("netmask")
        address = ip.get("address", "")
        found.append(ip_interface(f"{address}/{mask}" if mask else address))
    return found


def isolated(network: Element) -> bool:
    """Whether it leads nowhere outside the host."""
    return network.find("forward") is None


def _free(taken: Iterable[Subnet]) -> IPv4Network:
    others = [ip_network(each) for each in taken]
    return next(
        candidate
        for candidate in _NAT_CANDIDATES
        if not any(isinstance(other, IPv4Network) and other.overlaps(candidate) for other in others)
    )
