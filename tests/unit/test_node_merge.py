"""How a seed's payload gets into a cluster's configuration, and what of it stays: the node tool's `merge`."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hapx import merge

from builder.seed.cib import cib
from tests.unit.spec_samples import changed, loaded, spec


def payload(**changes: object) -> ET.Element:
    return merge.parse(cib(loaded(changed(spec(), changes) if changes else spec())))


def running(generation: str = "aa", *, of: ET.Element | None = None) -> ET.Element:
    """A cluster's CIB some time after a seed: Pacemaker and operators have added to it."""
    made = merge.stamped(payload() if of is None else of, generation)
    made.set("epoch", "7")
    nodes = made.find("configuration/nodes")
    assert nodes is not None
    nodes.append(ET.fromstring('<node id="1" uname="hapx-node01"><instance_attributes id="nodes-1"/></node>'))
    return made


def add(made: ET.Element, place: str, text: str) -> None:
    parent = made.find(place)
    assert parent is not None, place
    parent.append(ET.fromstring(text))


def ids(made: ET.Element) -> set[str]:
    return {name for each in made.iter() if (name := each.get("id")) is not None}


TWO_VIPS = {
    "vips": [
        {"name": "vip4", "network": "public", "address": "192.168.56.100"},
        {"name": "other", "network": "public", "address": "192.168.56.101"},
    ]
}


def test_the_same_seed_again_changes_nothing() -> None:
    made = merge.merged(running(), payload(), "aa")
    assert not made.changed
    assert not merge.merged(made.cib, payload(), "aa").changed


def test_what_pacemaker_and_operators_added_stays() -> None:
    current = running()
    theirs = {
        "configuration/crm_config/cluster_property_set": '<nvpair id="x-maint" name="maintenance-mode" value="true"/>',
        "configuration/resources": '<primitive id="dummy" class="ocf" provider="pacemaker" type="Dummy"/>',
        ".//primitive[@id='vip4']/meta_attributes": '<nvpair id="vip4-role" name="target-role" value="Stopped"/>',
        "configuration/constraints": '<rsc_location id="cli-prefer" rsc="vip4" node="hapx-node01" score="10"/>',
    }
    for place, text in theirs.items():
        add(current, place, text)
    made = merge.merged(current, payload(**TWO_VIPS), "bb")
    assert made.changed
    assert made.notes == ()
    assert {"x-maint", "dummy", "vip4-role", "cli-prefer", "nodes-1", "other"} <= ids(made.cib)


def test_what_left_the_seed_goes_and_with_it_what_was_made_about_it() -> None:
    current = running(of=payload(**TWO_VIPS))
    add(
        current,
        "configuration/constraints",
        '<rsc_location id="ban" rsc="other" node="hapx-node01" score="-INFINITY"/>',
    )
    made = merge.merged(current, payload(), "bb")
    assert made.notes == ("the constraint ban went with the resource it was about",)
    assert not [name for name in ids(made.cib) if "other" in name or name == "ban"]
    assert not merge.merged(made.cib, payload(), "bb").changed


def test_a_value_within_a_resource_changes_and_one_that_left_goes() -> None:
    before = payload()
    add(before, ".//primitive[@id='vip4']/instance_attributes", '<nvpair id="vip4-params-old" name="old" value="1"/>')
    made = merge.merged(running(of=before), payload(**{"vips.0.address": "192.168.56.77"}), "bb")
    address = made.cib.find(".//nvpair[@id='vip4-params-ip']")
    assert address is not None
    assert address.get("value") == "192.168.56.77"
    assert "vip4-params-old" not in ids(made.cib)


def test_a_resource_in_an_operators_group_is_changed_where_it_is() -> None:
    current = running()
    resources = current.find("configuration/resources")
    vip = current.find("configuration/resources/primitive[@id='vip4']")
    assert resources is not None
    assert vip is not None
    resources.remove(vip)
    group = ET.SubElement(resources, "group", {"id": "ops"})
    group.append(vip)
    made = merge.merged(current, payload(**{"vips.0.address": "192.168.56.77"}), "bb")
    assert made.cib.find("configuration/resources/group/primitive[@id='vip4']") is not None
    assert made.cib.find("configuration/resources/primitive[@id='vip4']") is None


def test_a_group_that_nothing_is_left_in_goes() -> None:
    current = running(of=payload(**TWO_VIPS))
    resources = current.find("configuration/resources")
    vip = current.find("configuration/resources/primitive[@id='other']")
    assert resources is not None
    assert vip is not None
    resources.remove(vip)
    ET.SubElement(resources, "group", {"id": "ops"}).append(vip)
    made = merge.merged(current, payload(), "bb")
    assert "ops" not in ids(made.cib)
    assert made.notes == ("the group ops went: nothing is left in it",)


def test_another_arrangement_moves_a_resource_instead_of_making_it_twice() -> None:
    flat = payload()
    resources = flat.find("configuration/resources")
    clone = flat.find(".//clone[@id='haproxy-clone']")
    assert resources is not None
    assert clone is not None
    haproxy = clone.find("primitive")
    assert haproxy is not None
    resources.remove(clone)
    resources.append(haproxy)
    for before, after, place in ((flat, payload(), "clone/primitive"), (payload(), flat, "primitive")):
        made = merge.merged(running(of=before), after, "bb")
        assert [each.get("id") for each in made.cib.iter("primitive")].count("haproxy") == 1
        assert made.cib.find(f"configuration/resources/{place}[@id='haproxy']") is not None


@pytest.mark.parametrize(
    ("history", "generation", "due"),
    [((), "aa", True), (("aa",), "aa", False), (("aa", "bb"), "aa", False), (("aa", "bb"), "cc", True)],
    ids=["never stamped", "runs", "ran before", "new"],
)
def test_a_boot_applies_only_what_is_new_to_the_cluster(
    history: tuple[str, ...], generation: str, *, due: bool
) -> None:
    assert merge.due(merge.Stamp(history[-1] if history else None, history, frozenset()), generation) is due


def test_the_stamp_remembers_generations_in_the_order_in_which_they_ran() -> None:
    made = running("aa")
    for generation in ("bb", "cc", "aa"):
        made = merge.merged(made, payload(), generation).cib
    stamp = merge.stamp_of(made)
    assert (stamp.generation, stamp.history) == ("aa", ("bb", "cc", "aa"))
    assert stamp.ids == frozenset(ids(payload()) - {"1"})


def test_a_cib_that_was_never_stamped_gets_everything() -> None:
    empty = merge.parse(
        "<cib epoch='0'><configuration><crm_config/><nodes/><resources/><constraints/></configuration></cib>"
    )
    made = merge.merged(empty, payload(), "aa")
    assert ids(payload()) <= ids(made.cib)
    merge.bump(made.cib)
    assert (made.cib.get("epoch"), made.cib.get("num_updates")) == ("1", "0")
