"""What follows from a spec: stable over time, distinct between machines, right for every IP version."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.spec import Cluster, derived
from tests.unit.spec_samples import changed, loaded, spec

VLAN = {"vlan": 41, "parent": "public", "subnets": ["10.1.0.0/27"]}


def _with_vlan() -> Cluster:
    values = changed(spec(), {"networks.v": VLAN, "vips.1": {"name": "v", "network": "v", "address": "10.1.0.20"}})
    return loaded(values)


def test_macs_stay_what_they_were() -> None:
    # A machine that is made again, by any later version, is the same machine to switches and DHCP servers.
    cluster = loaded(spec())
    macs = [derived.mac(cluster, node, card) for node in cluster.nodes for card in derived.cards(cluster)]
    assert macs == ["02:7c:95:23:87:d8", "02:c4:36:1e:a5:3c", "02:9f:d1:1a:58:03", "02:74:6e:5e:1c:f7"]


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True), min_size=3, max_size=3))
def test_macs_are_locally_administered_and_unicast(names: list[str]) -> None:
    values = changed(spec(), {"name": names[0], "nodes.0.name": f"a-{names[1]}", "nodes.1.name": f"b-{names[2]}"})
    cluster = Cluster.model_validate(values)
    macs = [derived.mac(cluster, node, card) for node in cluster.nodes for card in derived.cards(cluster)]
    assert len(set(macs)) == 4
    assert all(int(mac[:2], 16) & 0b11 == 0b10 for mac in macs)


def test_a_mac_that_is_given_is_used_and_a_vlan_has_its_parents() -> None:
    cluster = loaded(changed(spec(), {"networks.v": VLAN, "nodes.0.macs": {"public": "08:00:27:00:00:01"}}))
    first, second = cluster.nodes
    assert derived.mac(cluster, first, "v") == derived.mac(cluster, first, "public") == "08:00:27:00:00:01"
    assert derived.mac(cluster, second, "v") == derived.mac(cluster, second, "public") == "02:9f:d1:1a:58:03"


def test_interfaces_are_called_as_networks_and_vlans_by_card_and_id() -> None:
    cluster = _with_vlan()
    assert {name: derived.interface(cluster, name) for name in cluster.networks} == {
        "public": "public",
        "link": "link",
        "v": "public.41",
    }
    assert derived.cards(cluster) == ("public", "link")
    assert derived.card(cluster, "v") == "public"


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_node_ids_count_from_one(nodes: int) -> None:
    cluster = loaded(spec(nodes))
    assert [derived.node_id(cluster, node) for node in cluster.nodes] == list(range(1, nodes + 1))


@pytest.mark.parametrize(
    ("nodes", "token", "given_consensus", "two_node", "consensus"),
    [
        (1, 1000, None, False, 200),
        (2, 1000, None, True, 200),
        (2, 3000, None, True, 200),
        (2, 1000, 300, True, 300),
        (3, 1000, None, False, 1200),
        (3, 1001, None, False, 1201),
        (5, 3000, None, False, 3600),
        (5, 3000, 9000, False, 9000),
    ],
)
def test_quorum_and_timings(
    nodes: int, token: int, given_consensus: int | None, two_node: bool, consensus: int
) -> None:
    timings = {"corosync.token": token} | ({"corosync.consensus": given_consensus} if given_consensus else {})
    cluster = loaded(changed(spec(nodes), timings))
    assert derived.two_node(cluster) is two_node
    assert derived.consensus(cluster) == consensus


def test_addresses_have_the_prefix_of_their_subnet() -> None:
    cluster = loaded(spec(2, 4, 6))
    assert derived.addresses(cluster, cluster.nodes[0], "link") == (
        ip_interface("10.56.0.11/24"),
        ip_interface("fd00:57::b/64"),
    )
    assert derived.addresses(_with_vlan(), cluster.nodes[0], "v") == ()


def test_vips_have_prefix_and_broadcast() -> None:
    cluster = _with_vlan()
    whole = [derived.vip_interface(cluster, vip) for vip in cluster.vips]
    assert whole == [ip_interface("192.168.56.100/24"), ip_interface("10.1.0.20/27")]
    assert [str(derived.vip_broadcast(cluster, vip)) for vip in cluster.vips] == ["192.168.56.255", "10.1.0.31"]


def test_a_vip_of_ipv6_or_alone_in_its_subnet_has_no_broadcast() -> None:
    alone = changed(spec(2, 6), {"networks.v": {**VLAN, "subnets": ["10.1.0.20/32"]}})
    cluster = loaded(changed(alone, {"vips.1": {"name": "v", "network": "v", "address": "10.1.0.20"}}))
    assert [derived.vip_broadcast(cluster, vip) for vip in cluster.vips] == [None, None]


@pytest.mark.parametrize(
    ("versions", "first", "second"),
    [
        ((4,), "192.168.56.12", "10.56.0.12"),
        ((6,), "fd00:56::c", "fd00:57::c"),
        ((6, 4), "192.168.56.12", "10.56.0.12"),
    ],
)
def test_links_are_numbered_in_order_and_one_ip_version(versions: tuple[int, ...], first: str, second: str) -> None:
    links = derived.links(loaded(spec(3, *versions)))
    assert [(link.number, link.network, link.port) for link in links] == [(0, "public", 5405), (1, "link", 5406)]
    assert [link.addresses["hapx-node02"] for link in links] == [ip_address(first), ip_address(second)]


def test_a_link_takes_the_version_that_all_nodes_have() -> None:
    values = changed(spec(2, 4, 6), {"nodes.1.addresses.link": "fd00:57::c"})
    assert derived.links(loaded(values))[1].addresses == {
        "hapx-node01": ip_address("fd00:57::b"),
        "hapx-node02": ip_address("fd00:57::c"),
    }


def test_what_a_node_does_not_say_it_has_from_the_cluster() -> None:
    cluster = loaded(
        changed(
            spec(),
            {
                "domain": "hapx.test",
                "machine": {"cpus": 4, "firmware": "uefi"},
                "nodes.1.cpus": 8,
                "nodes.1.memory_mib": 4096,
                "nodes.1.firmware": "bios",
                "nodes.1.disks": [{"size_mib": 1}, {"size_mib": 1, "name": "data"}, {"size_mib": 1}],
            },
        )
    )
    first, second = cluster.nodes
    assert [derived.cpus(cluster, node) for node in cluster.nodes] == [4, 8]
    assert [derived.memory_mib(cluster, node) for node in cluster.nodes] == [1024, 4096]
    assert [derived.firmware(cluster, node) for node in cluster.nodes] == ["uefi", "bios"]
    assert derived.fqdn(cluster, first) == "hapx-node01.hapx.test"
    assert derived.disk_names(second) == ("disk1", "data", "disk3")


@pytest.mark.parametrize(
    ("uri", "machine"),
    [
        (None, ""),
        ("qemu:///system", ""),
        ("ssh://me@kvm1", "kvm1"),
        ("qemu+ssh://root@KVM1:2222/system", "kvm1"),
        ("ssh://[fd00::1]", "fd00::1"),
    ],
)
def test_two_uris_of_one_machine_are_one_machine(uri: str | None, machine: str) -> None:
    cluster = loaded(changed(spec(1), {"nodes.0.host": uri}))
    assert derived.host_machine(cluster.nodes[0]) == machine


def test_the_statistics_are_for_the_clusters_own_subnets_unless_said_otherwise() -> None:
    assert [str(subnet) for subnet in derived.stats_allowed(loaded(spec()))] == ["192.168.56.0/24", "10.56.0.0/24"]
    other = loaded(changed(spec(), {"haproxy.stats": {"allow": ["192.0.2.0/24"]}}))
    assert [str(subnet) for subnet in derived.stats_allowed(other)] == ["192.0.2.0/24"]
    assert derived.stats_allowed(loaded(changed(spec(), {"haproxy.stats": None}))) == ()
