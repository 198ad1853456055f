"""A node's network-config for cloud-init, in version 2 (netplan's) or 1: cards found by MAC address, VLANs on them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from builder.errors import InputError
from builder.spec import derived
from builder.spec.derived import Address
from builder.spec.model import Cluster, Network, Node


class Version(IntEnum):
    """The versions of network-config that cloud-init reads."""

    ONE = 1
    TWO = 2


def network_config(cluster: Cluster, node: Node, version: Version = Version.TWO) -> dict[str, Any]:
    """The node's network-config as plain data.

    What version 1 has no words for is left to the node's defaults: that nobody waits for an interface without an
    address, that a VLAN takes no router advertisements, and that there is no IPv6 where the spec has none. Raises
    InputError for a default route that version 1 cannot say.
    """
    return _version_1(cluster, node) if version is Version.ONE else _version_2(cluster, node)


def known_by(cluster: Cluster, node: Node) -> tuple[Address, ...]:
    """The addresses that a node's name stands for: its first of IPv4 and its first of IPv6, networks in their order."""
    every = [address for network in cluster.networks for address in node.addresses.get(network, ())]
    first = {address.version: address for address in reversed(every)}
    return tuple(first[version] for version in sorted(first))


def _version_2(cluster: Cluster, node: Node) -> dict[str, Any]:
    ethernets: dict[str, Any] = {}
    vlans: dict[str, Any] = {}
    for name, network in cluster.networks.items():
        interface = derived.interface(cluster, name)
        settings = _settings(cluster, node, name)
        if network.vlan is None:
            match = {"macaddress": derived.mac(cluster, node, name)}
            ethernets[interface] = {"match": match, "set-name": interface, **settings}
        else:
            parent = derived.interface(cluster, derived.card(cluster, name))
            vlans[interface] = {"id": network.vlan, "link": parent, **settings}
    return {"version": 2, "ethernets": ethernets} | ({"vlans": vlans} if vlans else {})


def _settings(cluster: Cluster, node: Node, name: str) -> dict[str, Any]:
    network = cluster.networks[name]
    addresses = [str(address) for address in derived.addresses(cluster, node, name)]
    settings: dict[str, Any] = {}
    if network.dhcp:
        settings["dhcp4"] = True
        if _has_ipv6(network):
            settings["dhcp6"] = True
    else:
        # A node has the addresses and routes that the spec gives it, and no others.
        settings["accept-ra"] = False
        if not _has_ipv6(network):
            # Nor IPv6's own: a boot would wait two seconds to see whether somebody else has it (RFC 4862).
            settings["link-local"] = []
    if addresses:
        settings["addresses"] = addresses
    else:
        # systemd-networkd-wait-online would hold the boot for two minutes: for ever without an address, and with DHCP
        # whenever its server is away. Corosync's links have addresses, so there is always something to wait for.
        settings["optional"] = True
    if routes := [{"to": "default", "via": str(gateway)} for gateway in _gateways(network)]:
        settings["routes"] = routes
    if network.dns or network.search:
        servers = {"addresses": [str(server) for server in network.dns], "search": list(network.search)}
        settings["nameservers"] = {key: value for key, value in servers.items() if value}
    if network.mtu is not None:
        settings["mtu"] = network.mtu
    return settings


def _version_1(cluster: Cluster, node: Node) -> dict[str, Any]:
    config = []
    for name, network in cluster.networks.items():
        interface = derived.interface(cluster, name)
        if network.vlan is None:
            entry: dict[str, Any] = {"type": "physical", "name": interface}
            entry["mac_address"] = derived.mac(cluster, node, name)
            if not network.dhcp:
                entry["accept-ra"] = False
        else:
            entry = {"type": "vlan", "name": interface, "vlan_id": network.vlan}
            entry["vlan_link"] = derived.interface(cluster, derived.card(cluster, name))
        if network.mtu is not None:
            entry["mtu"] = network.mtu
        config.append({**entry, "subnets": _subnets(cluster, node, name)})
    # A subnet can name servers too, but cloud-init reads that for a static one only.
    for network in cluster.networks.values():
        if network.dns or network.search:
            servers = [str(server) for server in network.dns]
            config.append({"type": "nameserver", "address": servers, "search": list(network.search)})
    return {"version": 1, "config": config}


def _subnets(cluster: Cluster, node: Node, name: str) -> list[dict[str, Any]]:
    network = cluster.networks[name]
    if network.dhcp:
        return [{"type": "dhcp4"}, *([{"type": "dhcp6"}] if _has_ipv6(network) else [])]
    subnets: list[dict[str, Any]] = []
    gateways = {gateway.version: gateway for gateway in _gateways(network)}
    for address in derived.addresses(cluster, node, name):
        subnet = {"type": "static" if address.version == 4 else "static6", "address": str(address)}
        if (gateway := gateways.pop(address.version, None)) is not None:
            subnet["gateway"] = str(gateway)
        subnets.append(subnet)
    for version, gateway in gateways.items():
        raise InputError(
            f"{node.name}: version 1 of network-config has a default route only beside an address, "
            f"and there is no IPv{version} address on {name} for the one to {gateway}",
            hint="use version 2, or give the node an address there",
        )
    return subnets or [{"type": "manual"}]


def _gateways(network: Network) -> tuple[Address, ...]:
    return tuple(gateway for gateway in (network.gateway, network.gateway6) if gateway is not None)


def _has_ipv6(network: Network) -> bool:
    return any(subnet.version == 6 for subnet in network.subnets)
