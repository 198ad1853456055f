"""What Pacemaker is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from builder.seed.cib import cib
from builder.spec import load
from tests.unit.document_samples import (
    written,
)
from tests.unit.spec_samples import SHIPPED, changed, loaded, spec, specs


def test_the_vip_is_where_haproxy_answers_and_its_link_is_up() -> None:
    tree = etree.fromstring(written(load(SHIPPED[1]), "/etc/hapx/cib.xml"))

    def values(resource: str) -> dict[str, str]:
        return {pair.get("name"): pair.get("value") for pair in tree.iterfind(f".//*[@id='{resource}']//nvpair")}

    assert tree.get("admin_epoch") == "0"
    assert values("cib-bootstrap-options") == {
        "no-quorum-policy": "stop",
        "stonith-enabled": "false",
        "start-failure-is-fatal": "false",
        "dc-deadtime": "500ms",
        "transition-delay": "100ms",
        "cluster-recheck-interval": "60s",
    }
    assert values("rsc-options") == {
        "resource-stickiness": "1000",
        "migration-threshold": "1",
        "failure-timeout": "60s",
    }
    assert values("vip") == {
        "ip": "192.168.4.20",
        "cidr_netmask": "27",
        "nic": "dmz.41",
        "broadcast": "192.168.4.31",
        "arp_count": "5",
        "arp_count_refresh": "1",
        "multiple-active": "stop_unexpected",
    }
    assert values("hapx-link-dmz.41") == {"interface": "dmz.41", "link_status_only": "true", "repeat_count": "1"}
    (haproxy,) = tree.iterfind(".//clone[@id='haproxy-clone']/primitive")
    assert (haproxy.get("class"), haproxy.get("provider"), haproxy.get("type")) == ("ocf", "hapx", "haproxy")
    (colocation,) = tree.iterfind(".//rsc_colocation")
    assert (colocation.get("rsc"), colocation.get("with-rsc"), colocation.get("score")) == (
        "vip",
        "haproxy-clone",
        "INFINITY",
    )
    (order,) = tree.iterfind(".//rsc_order")
    assert (order.get("first"), order.get("then"), order.get("kind")) == ("haproxy-clone", "vip", "Mandatory")
    (expression,) = tree.iterfind(".//rule[@score='-INFINITY']/expression")
    assert (expression.get("attribute"), expression.get("operation"), expression.get("value")) == (
        "ethmonitor-dmz.41",
        "eq",
        "0",
    )


def test_vips_of_both_ip_versions_have_one_owner_and_one_look_at_their_link() -> None:
    tree = etree.fromstring(written(loaded(spec(2, 4, 6)), "/etc/hapx/cib.xml"))
    with_what = {(each.get("rsc"), each.get("with-rsc")) for each in tree.iterfind(".//rsc_colocation")}
    assert with_what == {("vip4", "haproxy-clone"), ("vip6", "haproxy-clone"), ("vip6", "vip4")}
    assert [each.get("id") for each in tree.iterfind(".//clone")] == ["haproxy-clone", "hapx-link-public-clone"]
    vip6 = {pair.get("name"): pair.get("value") for pair in tree.iterfind(".//primitive[@id='vip6']//nvpair")}
    assert vip6["nodad"] == "true"
    assert "broadcast" not in vip6


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB kvm1"
KVM1 = {"address": "192.0.2.1", "user": "root", "host_key": HOST_KEY}
FENCING = {"agent": "fence_virsh", "hosts": {"kvm1": KVM1}}


def _cib(changes: dict[str, Any], nodes: int = 2, *versions: int) -> Any:
    cluster = loaded(changed(spec(nodes, *versions), changes))
    return etree.fromstring(cib(cluster))


def _values(tree: Any, owner: str) -> dict[str, str]:
    return {pair.get("name"): pair.get("value") for pair in tree.iterfind(f".//*[@id='{owner}']//nvpair")}


def test_haproxy_beside_the_vip_is_no_clone_and_comes_first() -> None:
    tree = _cib({"haproxy.arrangement": "primitive"}, 2, 4, 6)
    (haproxy,) = tree.iterfind(".//primitive[@type='haproxy']")
    assert haproxy.getparent().tag == "resources"
    assert [each.get("id") for each in tree.iterfind(".//clone")] == ["hapx-link-public-clone"]
    with_what = {(each.get("rsc"), each.get("with-rsc")) for each in tree.iterfind(".//rsc_colocation")}
    assert with_what == {("vip4", haproxy.get("id")), ("vip6", haproxy.get("id")), ("vip6", "vip4")}
    orders = {(each.get("first"), each.get("then")) for each in tree.iterfind(".//rsc_order")}
    assert orders == {(haproxy.get("id"), "vip4"), (haproxy.get("id"), "vip6")}
    assert _values(tree, haproxy.get("id"))["multiple-active"] == "stop_unexpected"
    # Where one arrangement follows the other in a cluster that runs, both are there for a moment.
    clone = {each.get("id") for each in _cib({}, 2, 4, 6).iterfind(".//primitive[@type='haproxy']")}
    assert haproxy.get("id") not in clone


def test_fencing_has_a_device_for_each_host_and_one_of_two_nodes_is_left() -> None:
    tree = _cib({"fencing": FENCING})
    properties = _values(tree, "cib-bootstrap-options")
    assert (properties["stonith-enabled"], properties["priority-fencing-delay"]) == ("true", "5s")
    assert _values(tree, "vip4")["priority"] == "1"
    (device,) = tree.iterfind(".//primitive[@class='stonith']")
    assert device.get("type") == "fence_virsh"
    assert _values(tree, device.get("id")) == {
        "ip": "192.0.2.1",
        "ipport": "22",
        "username": "root",
        "identity_file": "/etc/hapx/fencing.key",
        "pcmk_host_check": "static-list",
        "pcmk_host_map": "hapx-node01:hapx-node01;hapx-node02:hapx-node02",
    }
    machines = [{"hapx-node01": "a"}, {"hapx-node02": "b"}]
    hosts = {f"kvm{place}": {**KVM1, "machines": each} for place, each in enumerate(machines)}
    tree = _cib({"fencing": {"agent": "fence_vbox", "hosts": hosts}})
    devices = [
        _values(tree, each.get("id"))["pcmk_host_map"] for each in tree.iterfind(".//primitive[@type='fence_vbox']")
    ]
    assert devices == ["hapx-node01:a", "hapx-node02:b"]


@pytest.mark.parametrize("changes", [{}, {"corosync.qdevice": {"host": "192.0.2.5"}}], ids=["three", "quorum device"])
def test_where_the_smaller_part_does_not_shoot_nobody_waits(changes: dict[str, Any]) -> None:
    tree = _cib({"fencing": FENCING, **changes}, 2 if changes else 3)
    assert _values(tree, "cib-bootstrap-options")["stonith-enabled"] == "true"
    assert "priority-fencing-delay" not in _values(tree, "cib-bootstrap-options")
    assert "priority" not in _values(tree, "vip4")


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(specs(), st.sampled_from(["clone", "primitive"]), st.booleans())
def test_no_two_things_in_a_cib_have_one_id(values: dict[str, Any], arrangement: str, fenced: bool) -> None:
    values["haproxy"]["arrangement"] = arrangement
    tree = etree.fromstring(cib(loaded(values | ({"fencing": FENCING} if fenced else {}))))
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
