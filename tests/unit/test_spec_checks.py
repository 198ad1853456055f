"""What has to hold between the parts of a spec: each rule broken once, in a spec that is right otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder.seed import haproxy as documents
from builder.spec.checks import haproxy, networks
from tests.unit.spec_samples import LEFT_OUT, changed, loaded, said_of, spec

VLAN = {"vlan": 41, "parent": "public", "subnets": ["10.1.0.0/24"]}
SERVERS = "haproxy.backends.0.servers"

QDEVICE = {"host": "192.0.2.5"}
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB kvm1"
KVM1 = {"address": "192.0.2.1", "user": "root", "host_key": HOST_KEY}
KVM2 = {**KVM1, "address": "192.0.2.2"}
FENCING = {"agent": "fence_virsh", "hosts": {"kvm1": KVM1}}
BOTH = {"kvm1": {**KVM1, "machines": {"hapx-node01": "a"}}, "kvm2": {**KVM2, "machines": {"hapx-node02": "b"}}}

Changes = dict[str, Any]


@pytest.mark.parametrize("versions", [(4,), (6,), (4, 6)], ids=["IPv4", "IPv6", "both"])
@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 16])
def test_specs_of_every_size_and_ip_version_are_in_order(nodes: int, versions: tuple[int, ...]) -> None:
    assert len(loaded(spec(nodes, *versions)).nodes) == nodes


def _broken(changes: Changes, nodes: int = 2, *versions: int) -> list[str]:
    return said_of(changed(spec(nodes, *versions), changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"networks.link.kind": LEFT_OUT}, "networks.link: is neither a card nor a VLAN"),
        ({"networks.link.parent": "public"}, "networks.link.parent: has a parent, but no VLAN id"),
        (
            {"networks.v": {**VLAN, "parent": "publc"}},
            "networks.v.parent: there is no network publc (did you mean public?)",
        ),
        (
            {"networks.v": {"vlan": 41}},
            "networks.v.vlan: on which network's card is this VLAN? (add parent: public, link)",
        ),
        ({"networks.v": {**VLAN, "parent": "v"}}, "networks.v.parent: v is a VLAN itself (a card: public, link)"),
        ({"networks.v": {**VLAN, "kind": "nat"}}, "networks.v.kind: a VLAN has no kind of its own"),
        ({"networks.v": {**VLAN, "name": "x"}}, "networks.v.name: a VLAN has no name of its own"),
        ({"networks.v": {**VLAN, "adapter": "e1000"}}, "networks.v.adapter: a VLAN has no adapter of its own"),
        (
            {"networks.v": VLAN, "networks.w": {**VLAN, "subnets": []}},
            "networks.w.vlan: the VLAN 41 on public is there twice (the first is networks.v.vlan)",
        ),
        (
            {"networks.out": {"kind": "nat", "dhcp": True}, "networks.v": {**VLAN, "parent": "out"}},
            "networks.v.parent: out is nat, which carries no VLANs",
        ),
        ({"networks.out": {"kind": "nat", "name": "x"}}, "networks.out.name: a nat network has no name on the host"),
        (
            {"networks.a234567890123456": {"kind": "intnet"}},
            "networks.a234567890123456: its name has 16 characters: an interface of Linux has at most 15",
        ),
        (
            {
                "networks.a23456789012": {"kind": "intnet"},
                "networks.v": {**VLAN, "vlan": 4094, "parent": "a23456789012"},
            },
            "networks.v: its interface, a23456789012.4094, has 17 characters",
        ),
        (
            {f"networks.n{place}": {"kind": "intnet"} for place in range(7)},
            "networks: 9 cards: a machine has at most 8",
        ),
        ({"networks.link.mtu": 1200}, None),
        ({"networks.v": {**VLAN, "mtu": 9000}}, "networks.v.mtu: is more than its card carries (1500)"),
        ({"networks.v": {**VLAN, "mtu": 9000}, "networks.public.mtu": 9000}, None),
        ({"networks.v": {**VLAN, "subnets": ["192.168.0.0/16"]}}, "networks.v.subnets[0]: 192.168.0.0/16 overlaps "),
        ({"networks.v": {**VLAN, "subnets": ["10.1.0.0/24"] * 2}}, "networks.v.subnets[1]: 10.1.0.0/24 overlaps "),
        (
            {"networks.v": {**VLAN, "subnets": ["127.0.0.0/24"]}},
            "networks.v.subnets[0]: 127.0.0.0/24 is no network of ",
        ),
        (
            {"networks.v": {**VLAN, "subnets": ["224.1.0.0/24"]}},
            "networks.v.subnets[0]: 224.1.0.0/24 is no network of ",
        ),
        ({"networks.v": {**VLAN, "subnets": ["fe80::/64"]}}, "networks.v.subnets[0]: fe80::/64 is no network of "),
        ({"networks.v": {**VLAN, "subnets": ["::/0"]}}, "networks.v.subnets[0]: ::/0 is no network of "),
    ],
)
def test_networks(changes: Changes, expected: str | None) -> None:
    _judged(_broken(changes), expected)


def _judged(said: list[str], expected: str | None) -> None:
    """Exactly the one issue that was expected; None: nothing is wrong."""
    if expected is None:
        assert said == []
    else:
        assert len(said) == 1, said
        assert said[0].startswith(expected)


TAKEN = ["eth0", "ens3", "enp0s3", "eno1", "enx0a0027000000", "end0", "wlan0", "wlp2s0", "lo", "all", "docker0", "br0"]
FREE = [
    "public",
    "link",
    "dmz",
    "vip",
    "cluster",
    "engineering",
    "ethernet",
    "west",
    "wlan",
    "ensemble",
    "bridge",
    "local",
]


@pytest.mark.parametrize("name", TAKEN)
def test_a_network_is_not_called_as_linux_calls_interfaces(name: str) -> None:
    _judged(_broken({f"networks.{name}": {"kind": "intnet"}}), f"networks.{name}: {name} is a name that Linux gives")


@pytest.mark.parametrize("name", FREE)
def test_a_network_may_be_called_what_it_is_for(name: str) -> None:
    _judged(_broken({f"networks.{name}": changed(spec(), {})["networks"].get(name, {"kind": "intnet"})}), None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"networks.public.gateway": "192.168.56.1"}, None),
        (
            {"networks.public.gateway": "192.168.57.1"},
            "networks.public.gateway: 192.168.57.1 is in no subnet of public",
        ),
        (
            {"networks.public.gateway": "192.168.56.255"},
            "networks.public.gateway: 192.168.56.255 is the broadcast address",
        ),
        ({"networks.public.gateway": "fd00:56::1"}, "networks.public.gateway: the network has no IPv6 subnet"),
        ({"networks.public.gateway": "fe80::1"}, None),
        (
            {"networks.public.gateway": "192.168.56.1", "networks.link.gateway": "10.56.0.1"},
            "networks.link.gateway: a second default route for IPv4: public has one already",
        ),
        (
            {"networks.out": {"kind": "nat", "dhcp": True, "gateway": "10.0.2.2"}},
            "networks.out.gateway: a network with DHCP",
        ),
        (
            {"networks.v": {**VLAN, "gateway": "10.1.0.1"}},
            "networks.v.gateway: no IPv4 address on v, so no way to its gateway: hapx-node01, hapx-node02",
        ),
        (
            {"networks.public.gateway": "192.168.56.11"},
            "nodes[0].addresses.public: 192.168.56.11 is the gateway of public",
        ),
        ({"networks.public.gateway": "192.168.56.100"}, "vips[0].address: 192.168.56.100 is the gateway of public"),
    ],
)
def test_gateways(changes: Changes, expected: str | None) -> None:
    _judged(_broken(changes), expected)


def test_two_versions_have_a_default_route_each() -> None:
    routes = {"networks.public.gateway": "192.168.56.1", "networks.public.gateway6": "fd00:56::1"}
    _judged(_broken(routes, 2, 4, 6), None)
    routes["networks.public.gateway"] = "fd00:56::2"
    _judged(_broken(routes, 2, 4, 6), "networks.public.gateway6: a second default route for IPv6")


def test_ipv6_needs_packets_of_1280_bytes() -> None:
    _judged(_broken({"networks.link.mtu": 1279}, 2, 6), "networks.link.mtu: must be 1280 or more where there is IPv6")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"nodes.1.name": "hapx-node01"},
            "nodes[1].name: the node name hapx-node01 is there twice (the first is nodes[0].name)",
        ),
        ({"nodes.0.id": 2}, "nodes[1].id: the node id 2 is there twice (the first is nodes[0].id)"),
        ({"nodes.0.id": 7, "nodes.1.id": 3}, None),
        ({"nodes.1.name": "localhost"}, "nodes[1].name: localhost is every machine's name for itself"),
        ({"domain": "a." * 118 + "example"}, "nodes[0].name: has 255 characters with its domain, at most 253 can be"),
        (
            {"nodes.0.macs": {"lnk": "02:00:00:00:00:01"}},
            "nodes[0].macs.lnk: there is no network lnk (did you mean link?)",
        ),
        (
            {"nodes.0.macs": {"link": "01:00:5e:00:00:01"}},
            "nodes[0].macs.link: 01:00:5e:00:00:01 is a multicast address",
        ),
        ({"nodes.0.macs": {"link": "00:00:00:00:00:00"}}, "nodes[0].macs.link: 00:00:00:00:00:00 is no card's address"),
        (
            {"nodes.0.macs": {"link": "02:00:00:00:00:01", "public": "02:00:00:00:00:01"}},
            "nodes[0].macs.link: the MAC address 02:00:00:00:00:01 is there twice (the first is nodes[0].macs.public)",
        ),
        (
            {"networks.v": VLAN, "nodes.0.macs": {"v": "02:00:00:00:00:01"}},
            "nodes[0].macs.v: a VLAN has the MAC address of its parent's card (give it under public, or leave it out)",
        ),
        (
            {"nodes.0.disks": [{"size_mib": 9, "name": "disk2"}, {"size_mib": 9}]},
            "nodes[0].disks[1]: the disk name disk2 is there twice",
        ),
        ({"nodes.0.host": "ssh://me:secret@kvm1"}, "nodes[0].host: holds a password: a spec holds no secrets"),
        ({"nodes.0.host": "ssh:///x"}, "nodes[0].host: names no host (ssh://user@host)"),
        ({"nodes.0.host": "ssh://[x"}, "nodes[0].host: is no URI"),
        ({"nodes.0.host": "ssh://kvm1:99999"}, "nodes[0].host: is no URI"),
        ({"nodes.0.host": "qemu:///system"}, None),
        ({"nodes.0.host": "ssh://me@kvm1", "nodes.1.host": "qemu+ssh://root@kvm1/system"}, None),
    ],
)
def test_nodes(changes: Changes, expected: str | None) -> None:
    # But for what follows for the other node, and from the two being on two hosts then.
    _judged(
        [line for line in _broken(changes) if "nodes[1].name: has" not in line and "each host" not in line], expected
    )


def test_nodes_on_several_hosts_share_only_what_leaves_a_host() -> None:
    spread = changed(spec(), {"nodes.0.host": "ssh://kvm1", "nodes.1.host": "qemu+ssh://root@kvm2/system"})
    assert [line.partition(", and")[0] for line in said_of(spread)] == [
        "corosync.links[0]: public is hostonly: it ends at each host",
        "corosync.links[1]: link is intnet: it ends at each host",
    ]
    _judged(said_of(changed(spread, {"networks.public.kind": "bridged", "networks.link.kind": "bridged"})), None)


def test_the_secret_in_a_host_is_not_repeated() -> None:
    assert "hunter2" not in str(_broken({"nodes.0.host": "ssh://me:hunter2@kvm1"}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"nodes.0.addresses.lnik": "10.1.0.1"},
            "nodes[0].addresses.lnik: there is no network lnik (did you mean link?)",
        ),
        (
            {"nodes.0.addresses.link": "10.57.0.1"},
            "nodes[0].addresses.link: 10.57.0.1 is in no subnet of link: 10.56.0.0/24",
        ),
        (
            {"nodes.0.addresses.link": "10.56.0.0"},
            "nodes[0].addresses.link: 10.56.0.0 is the address of 10.56.0.0/24 itself",
        ),
        (
            {"nodes.0.addresses.link": "10.56.0.255"},
            "nodes[0].addresses.link: 10.56.0.255 is the broadcast address of ",
        ),
        (
            {"nodes.1.addresses.link": "10.56.0.11"},
            "nodes[1].addresses.link: the address 10.56.0.11 is there twice (the first is nodes[0].addresses.link)",
        ),
        (
            {"nodes.0.addresses.link": ["10.56.0.11", "10.56.0.11"]},
            "nodes[0].addresses.link[1]: the address 10.56.0.11 is there twice (the first is nodes[0]",
        ),
        (
            {"networks.out": {"kind": "nat", "dhcp": True}, "nodes.0.addresses.out": "10.0.2.5"},
            "nodes[0].addresses.out: out is a network with DHCP: nodes get their address from there",
        ),
        (
            {"networks.bare": {"kind": "intnet"}, "nodes.0.addresses.bare": "10.0.2.5"},
            "nodes[0].addresses.bare: the network bare has no subnets: which prefix length has 10.0.2.5?",
        ),
        ({"vips.0.network": "publik"}, "vips[0].network: there is no network publik (did you mean public?)"),
        (
            {"vips.0.address": "192.168.57.9"},
            "vips[0].address: 192.168.57.9 is in no subnet of public: 192.168.56.0/24",
        ),
        ({"vips.0.address": "192.168.56.255"}, "vips[0].address: 192.168.56.255 is the broadcast address of "),
        (
            {"vips.0.address": "192.168.56.12"},
            "vips[0].address: 192.168.56.12 is hapx-node02's own address: a VIP moves",
        ),
        (
            {"vips.1": {"address": "192.168.56.100", "network": "public", "name": "other"}},
            "vips[1].address: the VIP 192.168.56.100 is there twice (the first is vips[0].address)",
        ),
        (
            {"vips.1": {"address": "192.168.56.101", "network": "public", "name": "vip4"}},
            "vips[1].name: the VIP name vip4 is there twice (the first is vips[0].name)",
        ),
        ({"vips.0.name": "haproxy-clone"}, "vips[0].name: haproxy-clone: Pacemaker has things of the cluster's own"),
        (
            {"vips.0.name": "cib-web"},
            "vips[0].name: cib-web: Pacemaker has things of the cluster's own called so (a name that does not begin "
            "with cib-)",
        ),
        ({"vips.0.name": "rsc-options"}, "vips[0].name: rsc-options: Pacemaker has things of the cluster's own"),
        ({"vips.0.name": "cli-ban"}, "vips[0].name: cli-ban: Pacemaker has things of the cluster's own"),
        ({"vips.0.name": "cibola"}, None),
        (
            {"vips.1": {"address": "192.168.56.101", "network": "public", "name": "vip4-params-ip"}},
            "vips[1].name: vip4-params-ip: Pacemaker has things of the cluster's own called so",
        ),
        (
            {
                "networks.out": {"kind": "nat", "subnets": ["10.1.0.0/24"]},
                "vips.0": {"address": "10.1.0.9", "network": "out"},
            },
            "vips[0].network: nobody reaches a VIP on a nat network",
        ),
        (
            {"networks.bare": {"kind": "intnet"}, "vips.0": {"address": "10.1.0.9", "network": "bare"}},
            "vips[0].address: the network bare has no subnets",
        ),
        ({"networks.v": VLAN, "vips.0": {"address": "10.1.0.9", "network": "v"}}, None),
    ],
)
def test_addresses(changes: Changes, expected: str | None) -> None:
    _judged(_broken(changes), expected)


@pytest.mark.parametrize(
    ("subnet", "first", "second"),
    [
        ("10.56.0.0/31", "10.56.0.0", "10.56.0.1"),
        ("fd00::/127", "fd00::", "fd00::1"),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
    ],
)
def test_every_address_of_a_link_of_two_is_a_hosts_and_ipv6_has_no_broadcast(
    subnet: str, first: str, second: str
) -> None:
    places = ("networks.link.subnets.0", "nodes.0.addresses.link", "nodes.1.addresses.link")
    _judged(_broken(dict(zip(places, (subnet, first, second), strict=True))), None)


@pytest.mark.parametrize(
    ("nodes", "changes", "expected"),
    [
        (2, {"corosync.links": ["public", "lnk"]}, "corosync.links[1]: there is no network lnk (did you mean link?)"),
        (2, {"corosync.links": ["link", "link"]}, "corosync.links[1]: the link link is there twice"),
        (2, {"nodes.1.addresses.link": LEFT_OUT}, "nodes[1].addresses: hapx-node02 has no address on link, which is a"),
        (
            2,
            {"networks.out": {"kind": "bridged", "dhcp": True}, "corosync.links": ["public", "out"]},
            "corosync.links[1]: out is a network with DHCP: Corosync needs addresses that are known and stay",
        ),
        (2, {"networks.link.kind": "nat"}, "corosync.links[1]: link is nat: machines behind NAT do not see each other"),
        (1, {"networks.link.kind": "nat"}, None),
        (2, {"corosync.port": 65535}, "corosync.port: the last of 2 links would have port 65536"),
        (2, {"corosync.consensus": 300}, None),
        (
            3,
            {"corosync.consensus": 1000},
            "corosync.consensus: must be more than the token (1000) for more than two nodes",
        ),
        (3, {"corosync.consensus": 1001}, None),
        (2, {"corosync.consensus": 199}, "corosync.consensus: must be 200 or more"),
        (2, {"corosync.token": 299}, "corosync.token: must be 300 or more"),
        (2, {"corosync.qdevice": QDEVICE}, None),
        (3, {"corosync.qdevice": {**QDEVICE, "algorithm": "lms", "tls": False}}, None),
        (2, {"corosync.qdevice": {"port": 5403}}, "corosync.qdevice.host: is missing"),
        (
            1,
            {"corosync.qdevice": QDEVICE},
            "corosync.qdevice: a single node has nobody to be split from (leave it out)",
        ),
        (
            3,
            {"corosync.qdevice": {**QDEVICE, "algorithm": "ffsplit"}},
            "corosync.qdevice.algorithm: ffsplit is for halves, and 3 nodes have none",
        ),
        (
            2,
            {"corosync.qdevice": {**QDEVICE, "algorithm": "ffspilt"}},
            'corosync.qdevice.algorithm: must be one of ffsplit, lms, not "ffspilt" (did you mean ffsplit?)',
        ),
        (
            2,
            {"corosync.qdevice": {"host": "10.56.0.12"}},
            "corosync.qdevice.host: 10.56.0.12 is hapx-node02: whoever decides is none of them (a third machine)",
        ),
        (2, {"corosync.qdevice": {"host": "192.168.56.100"}}, "corosync.qdevice.host: 192.168.56.100 is the VIP vip4"),
    ],
)
def test_membership(nodes: int, changes: Changes, expected: str | None) -> None:
    _judged(_broken(changes, nodes), expected)


def test_a_link_is_one_ip_version() -> None:
    mixed = {"networks.link.subnets": ["10.56.0.0/24", "fd00:57::/64"], "nodes.1.addresses.link": "fd00:57::c"}
    _judged(
        _broken(mixed), "corosync.links[1]: some nodes have only IPv4 on link, others only IPv6: a link is one of them"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"haproxy.frontends.0.backend": "server"},
            "haproxy.frontends[0].backend: there is no backend server (did you mean ",
        ),
        ({"haproxy.frontends.0.port": 22}, "haproxy.frontends[0].port: 22 is the port of sshd"),
        ({"haproxy.frontends.0.port": 32700}, "haproxy.frontends[0].port: 32700 is the port of the statistics page"),
        ({"haproxy.frontends.0.port": 5406}, "haproxy.frontends[0].port: 5406 is the port of Corosync's link 1 (UDP)"),
        ({"haproxy.stats.port": 22}, "haproxy.stats.port: 22 is the port of sshd"),
        (
            {"haproxy.stats.port": 61936},
            "haproxy.stats.port: 61936 is the port of the cluster's own questions to HAProxy",
        ),
        ({"haproxy.stats": None, "haproxy.frontends.0.port": 32700}, None),
        (
            {"haproxy.frontends.1": {"name": "other", "port": 80, "backend": "servers"}},
            "haproxy.frontends[1].port: 80 is the port of the frontend web",
        ),
        (
            {"haproxy.frontends.1": {"name": "web", "port": 81, "backend": "servers"}},
            "haproxy.frontends[1].name: the frontend web is there twice",
        ),
        ({"haproxy.frontends.0.name": "stats"}, "haproxy.frontends[0].name: stats is the statistics page's own name"),
        (
            {"haproxy.frontends.0.mode": "http"},
            "haproxy.frontends[0].mode: an http frontend cannot use the tcp backend servers",
        ),
        ({"haproxy.backends.0.mode": "http"}, None),
        (
            {"haproxy.frontends.0.options": ['acl "x']},
            "haproxy.frontends[0].options[0]: a quote or a backslash at the end",
        ),
        (
            {"haproxy.frontends.0.options": ["listen x"]},
            "haproxy.frontends[0].options[0]: listen would begin a section",
        ),
        ({"haproxy.frontends.0.options": ["option httplog # 'x"]}, None),
        (
            {"haproxy.backends.0.balance": "roundrobbin"},
            "haproxy.backends[0].balance: there is no balance algorithm roundrobbin",
        ),
        (
            {"haproxy.backends.0.balance": "uri"},
            "haproxy.backends[0].balance: uri balances by a request, so only in http mode",
        ),
        (
            {"haproxy.backends.0.balance": "hash"},
            "haproxy.backends[0].balance: hash needs to be told by what (hash src)",
        ),
        ({"haproxy.backends.0.balance": "hdr(host)", "haproxy.backends.0.mode": "http"}, None),
        ({"haproxy.backends.0.check": "inter 'x"}, "haproxy.backends[0].check: a quote or a backslash"),
        (
            {f"{SERVERS}.1": {"name": "web1", "address": "192.0.2.2", "port": 80}},
            "haproxy.backends[0].servers[1].name: the server web1 is there twice",
        ),
        (
            {f"{SERVERS}.0.address": "web.example"},
            "haproxy.backends[0].servers[0].address: nobody could look up web.example",
        ),
        ({f"{SERVERS}.0.address": "web.example", "hosts": {"web.example": "192.0.2.1"}}, None),
        ({f"{SERVERS}.0.address": "hapx-node02"}, None),
        ({f"{SERVERS}.0.address": "web.example", "networks.public.dns": ["192.168.56.1"]}, None),
        ({"vips": []}, "vips: the frontends listen on the VIPs, and there is none"),
        ({"haproxy.arrangement": "primitive"}, None),
        (
            {"haproxy.arrangement": "group"},
            'haproxy.arrangement: must be one of clone, primitive, not "group"',
        ),
        (
            {"haproxy.arrangement": "primitive", "vips": [], "haproxy.frontends": []},
            "haproxy.arrangement: HAProxy would be beside the VIPs, and there is none (add a VIP, or arrangement: ",
        ),
        (
            {f"{SERVERS}.0.options": "weight 10 cookie web1"},
            "haproxy.backends[0].servers[0].options: a cookie is HTTP's, and HAProxy takes no notice of it in tcp mode",
        ),
        ({f"{SERVERS}.0.options": "cookie web1", "haproxy.backends.0.mode": "http"}, None),
        (
            {"haproxy.backends.0.options": ["cookie SERVER insert"]},
            "haproxy.backends[0].options[0]: a cookie is HTTP's",
        ),
        ({"haproxy.frontends": [], "haproxy.stats": None}, "haproxy: HAProxy would have nothing to listen on"),
        ({"haproxy.client_timeout": "597h"}, "haproxy.client_timeout: is longer than HAProxy can count (596h at most)"),
        ({"haproxy.client_timeout": "596h"}, None),
    ],
)
def test_haproxy(changes: Changes, expected: str | None) -> None:
    _judged(_broken(changes), expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"agent": "fence_vbox"}, None),
        ({"agent": "fence_xen"}, 'fencing.agent: must be one of fence_vbox, fence_virsh, not "fence_xen"'),
        ({"hosts": {}}, "fencing.hosts: must have at least 1 entry"),
        ({"hosts.kvm1.host_key": LEFT_OUT}, "fencing.hosts.kvm1.host_key: is missing"),
        ({"hosts.kvm1.host_key": "nowhere.pub"}, 'fencing.hosts.kvm1.host_key: "nowhere.pub": no such file'),
        ({"hosts.kvm1.password": "x"}, "fencing.hosts.kvm1.password: is no key of a spec here"),
        ({"hosts.kvm1.address": "kvm1"}, "fencing.hosts.kvm1.address: must be an IPv4 or IPv6 address"),
        (
            {"hosts.kvm1.address": "10.56.0.11"},
            "fencing.hosts.kvm1.address: 10.56.0.11 is hapx-node01, which powers nothing off when it is lost itself",
        ),
        (
            {"hosts.kvm1.machines": {"hapx-node01": "a; reboot"}},
            "fencing.hosts.kvm1.machines.hapx-node01: must be letters, digits",
        ),
        ({"hosts": BOTH}, None),
        (
            {"hosts": {**BOTH, "kvm3": KVM2}},
            "fencing.hosts.kvm3: has no machine of any node (add machines: {NODE: MACHINE})",
        ),
        (
            {"hosts.kvm1.machines": {"hapx-node01": "a"}},
            "fencing.hosts: nobody can power off hapx-node02 (add machines: {NODE: MACHINE} to its host)",
        ),
        (
            {"hosts.kvm1.machines": {"hapx-node01": "a", "hapx-node02": "a"}},
            "fencing.hosts.kvm1.machines.hapx-node02: the machine a is there twice",
        ),
        (
            {"hosts": {**BOTH, "kvm2": {**KVM2, "machines": {"hapx-node01": "c", "hapx-node02": "b"}}}},
            "fencing.hosts.kvm2.machines.hapx-node01: the node hapx-node01 is there twice",
        ),
        (
            {"hosts": {**BOTH, "kvm2": {**KVM2, "machines": {"hapx-node02": "b", "hapx-node03": "c"}}}},
            "fencing.hosts.kvm2.machines.hapx-node03: there is no node hapx-node03 (did you mean hapx-node02?)",
        ),
        ({"delay": 61}, "fencing.delay: must be 60 or less"),
    ],
)
def test_fencing(changes: Changes, expected: str | None) -> None:
    _judged(_broken({"fencing": changed(FENCING, changes)}), expected)


def test_a_configuration_of_ones_own_is_all_there_is(tmp_path: Any) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("global\n")
    own = {"haproxy.config": str(path)}
    alone = {**own, "haproxy.frontends": LEFT_OUT, "haproxy.backends": LEFT_OUT}
    _judged(_broken(alone), None)
    _judged(_broken({**alone, "vips": []}), None)
    assert [line.partition(":")[0] for line in _broken(own)] == ["haproxy.frontends", "haproxy.backends"]
    assert [line.partition(":")[0] for line in _broken({**alone, "haproxy.stats": {"port": 1}})] == ["haproxy.stats"]


def test_the_monitors_port_is_the_one_in_the_documents() -> None:
    assert haproxy.MONITOR_PORT == documents.MONITOR_PORT


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"users": [{"name": "a"}, {"name": "a"}]},
            "users[1].name: the user a is there twice (the first is users[0].name)",
        ),
        ({"users": [{"name": "root"}]}, "users[0].name: root is an account of the system's own (another name)"),
        ({"users": [{"name": "haproxy"}]}, "users[0].name: haproxy is an account of the system's own (another name)"),
        ({"hosts": {"hapx-node01": "192.0.2.1"}}, "hosts.hapx-node01: hapx-node01 is known already: hapx-node01"),
        (
            {"domain": "hapx.test", "hosts": {"hapx-node01.hapx.test": "192.0.2.1"}},
            'hosts["hapx-node01.hapx.test"]: hapx-node01.hapx.test is known already: hapx-node01',
        ),
        ({"hosts": {"localhost": "192.0.2.1"}}, "hosts.localhost: localhost is known already: every machine itself"),
        (
            {"haproxy.config": "x.cfg", "haproxy.frontends": [], "haproxy.backends": []},
            'haproxy.config: "x.cfg": no such file',
        ),
    ],
)
def test_accounts_names_and_files(changes: Changes, expected: str | None) -> None:
    _judged(_broken(changes), expected)


@pytest.mark.skipif(not Path("/usr/share/zoneinfo/Etc/UTC").exists(), reason="this machine has no tz database")
@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Europe/Berlin", None),
        ("Europe/Berln", "timezone: there is no time zone Europe/Berln (did you mean Europe/Berlin?)"),
        ("europe/berlin", "timezone: there is no time zone europe/berlin (did you mean Europe/Berlin?)"),
        ("Europe", "timezone: there is no time zone Europe"),
    ],
)
def test_time_zones(zone: str, expected: str | None) -> None:
    _judged(_broken({"timezone": zone}), expected)


def test_what_a_machine_can_have_is_asked_of_the_subnet_it_is_in() -> None:
    subnets = loaded(spec(2, 4, 6)).networks["link"].subnets
    assert networks.within(subnets[0].broadcast_address, "link", subnets)
    assert not networks.within(subnets[1].broadcast_address, "link", subnets)
