"""network-config in both versions."""

from __future__ import annotations

import pytest

from builder.errors import InputError
from builder.seed.network import Version
from builder.spec import derived
from tests.unit.document_samples import (
    edited,
    read,
    render,
)
from tests.unit.spec_samples import loaded

NETWORKS = {
    "name": "nets",
    "networks": {
        "dmz": {"kind": "intnet"},
        "vip": {"vlan": 41, "parent": "dmz", "subnets": ["192.168.4.0/27"]},
        "cluster": {
            "vlan": 43,
            "parent": "dmz",
            "subnets": ["192.168.4.32/27", "fd00:43::/64"],
            "gateway": "192.168.4.62",
            "gateway6": "fd00:43::1",
            "dns": ["192.168.4.1", "fd00::53"],
            "search": ["kube.demo"],
            "mtu": 1400,
        },
        "out": {"kind": "nat", "dhcp": True},
        "both": {"kind": "bridged", "dhcp": True, "subnets": ["fd00:9::/64"]},
    },
    "nodes": [
        {"name": "a", "addresses": {"cluster": ["192.168.4.35", "fd00:43::35"]}, "macs": {"dmz": "52:54:00:12:34:56"}},
        {"name": "b", "addresses": {"cluster": ["192.168.4.36", "fd00:43::36"]}},
    ],
    "vips": [{"address": "192.168.4.20", "network": "vip"}],
    "corosync": {"links": ["cluster"]},
}


def test_version_2_says_all_there_is_to_a_network() -> None:
    cluster = loaded(NETWORKS)
    node = cluster.nodes[0]
    config = read(render(cluster, hosts={"a"})[0].texts["network-config"])
    assert config == {
        "version": 2,
        "ethernets": {
            "dmz": {
                "match": {"macaddress": "52:54:00:12:34:56"},
                "set-name": "dmz",
                "accept-ra": False,
                "link-local": [],
                "optional": True,
            },
            "out": {
                "match": {"macaddress": derived.mac(cluster, node, "out")},
                "set-name": "out",
                "dhcp4": True,
                "optional": True,
            },
            "both": {
                "match": {"macaddress": derived.mac(cluster, node, "both")},
                "set-name": "both",
                "dhcp4": True,
                "dhcp6": True,
                "optional": True,
            },
        },
        "vlans": {
            "dmz.41": {"id": 41, "link": "dmz", "accept-ra": False, "link-local": [], "optional": True},
            "dmz.43": {
                "id": 43,
                "link": "dmz",
                "accept-ra": False,
                "addresses": ["192.168.4.35/27", "fd00:43::35/64"],
                "routes": [{"to": "default", "via": "192.168.4.62"}, {"to": "default", "via": "fd00:43::1"}],
                "nameservers": {"addresses": ["192.168.4.1", "fd00::53"], "search": ["kube.demo"]},
                "mtu": 1400,
            },
        },
    }


def test_version_1_says_the_same_as_far_as_it_can() -> None:
    cluster = loaded(NETWORKS)
    node = cluster.nodes[0]
    (made,) = render(cluster, hosts={"a"}, version=Version.ONE)
    assert read(made.texts["network-config"]) == {
        "version": 1,
        "config": [
            {
                "type": "physical",
                "name": "dmz",
                "mac_address": "52:54:00:12:34:56",
                "accept-ra": False,
                "subnets": [{"type": "manual"}],
            },
            {"type": "vlan", "name": "dmz.41", "vlan_id": 41, "vlan_link": "dmz", "subnets": [{"type": "manual"}]},
            {
                "type": "vlan",
                "name": "dmz.43",
                "vlan_id": 43,
                "vlan_link": "dmz",
                "mtu": 1400,
                "subnets": [
                    {"type": "static", "address": "192.168.4.35/27", "gateway": "192.168.4.62"},
                    {"type": "static6", "address": "fd00:43::35/64", "gateway": "fd00:43::1"},
                ],
            },
            {
                "type": "physical",
                "name": "out",
                "mac_address": derived.mac(cluster, node, "out"),
                "subnets": [{"type": "dhcp4"}],
            },
            {
                "type": "physical",
                "name": "both",
                "mac_address": derived.mac(cluster, node, "both"),
                "subnets": [{"type": "dhcp4"}, {"type": "dhcp6"}],
            },
            {"type": "nameserver", "address": ["192.168.4.1", "fd00::53"], "search": ["kube.demo"]},
        ],
    }


def test_version_1_has_no_words_for_a_route_without_an_address() -> None:
    cluster = edited({"networks.public.gateway6": "fe80::1"})
    assert read(render(cluster)[0].texts["network-config"])["ethernets"]["public"]["routes"] == [
        {"to": "default", "via": "fe80::1"}
    ]
    with pytest.raises(InputError, match=r"hapx-node01: version 1 .* no IPv6 address on public for the one to fe80::1"):
        render(cluster, version=Version.ONE)
