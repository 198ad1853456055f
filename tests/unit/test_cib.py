"""What Pacemaker is told."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from lxml import etree

from builder.spec import load
from tests.unit.document_samples import (
    written,
)
from tests.unit.spec_samples import SHIPPED, loaded, spec, specs


def test_the_vip_is_where_haproxy_answers_and_its_link_is_up() -> None:
    cib = etree.fromstring(written(load(SHIPPED[1]), "/etc/hapx/cib.xml"))

    def values(resource: str) -> dict[str, str]:
        return {pair.get("name"): pair.get("value") for pair in cib.iterfind(f".//*[@id='{resource}']//nvpair")}

    assert cib.get("admin_epoch") == "0"
    assert values("cib-bootstrap-options") == {
        "no-quorum-policy": "stop",
        "stonith-enabled": "false",
        "start-failure-is-fatal": "false",
        "dc-deadtime": "5s",
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
    (haproxy,) = cib.iterfind(".//clone[@id='haproxy-clone']/primitive")
    assert (haproxy.get("class"), haproxy.get("provider"), haproxy.get("type")) == ("ocf", "hapx", "haproxy")
    (colocation,) = cib.iterfind(".//rsc_colocation")
    assert (colocation.get("rsc"), colocation.get("with-rsc"), colocation.get("score")) == (
        "vip",
        "haproxy-clone",
        "INFINITY",
    )
    (order,) = cib.iterfind(".//rsc_order")
    assert (order.get("first"), order.get("then"), order.get("kind")) == ("haproxy-clone", "vip", "Mandatory")
    (expression,) = cib.iterfind(".//rule[@score='-INFINITY']/expression")
    assert (expression.get("attribute"), expression.get("operation"), expression.get("value")) == (
        "ethmonitor-dmz.41",
        "eq",
        "0",
    )


def test_vips_of_both_ip_versions_have_one_owner_and_one_look_at_their_link() -> None:
    cib = etree.fromstring(written(loaded(spec(2, 4, 6)), "/etc/hapx/cib.xml"))
    with_what = {(each.get("rsc"), each.get("with-rsc")) for each in cib.iterfind(".//rsc_colocation")}
    assert with_what == {("vip4", "haproxy-clone"), ("vip6", "haproxy-clone"), ("vip6", "vip4")}
    assert [each.get("id") for each in cib.iterfind(".//clone")] == ["haproxy-clone", "hapx-link-public-clone"]
    vip6 = {pair.get("name"): pair.get("value") for pair in cib.iterfind(".//primitive[@id='vip6']//nvpair")}
    assert vip6["nodad"] == "true"
    assert "broadcast" not in vip6


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(specs())
def test_no_two_things_in_a_cib_have_one_id(values: dict[str, Any]) -> None:
    cib = etree.fromstring(written(loaded(values), "/etc/hapx/cib.xml"))
    ids = [element.get("id") for element in cib.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
