"""The JSON Schema of a spec: current, valid, and of one mind with `load` about keys, types and bounds."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.spec.schema import json_schema, text
from builder.spec.validation import validate
from tests.unit.spec_samples import LEFT_OUT, SEEDS, SHIPPED, changed, spec, specs

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_json_schema_2020_12() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


def test_the_file_beside_the_specs_is_current() -> None:
    written = json.loads((SEEDS / "cluster.schema.json").read_text())
    assert written == json.loads(text()), "hapx-build spec schema > seeds/cluster.schema.json"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_specs_follow_it_and_name_it(path: Any) -> None:
    from ruamel.yaml import YAML

    assert path.read_text().startswith("# yaml-language-server: $schema=cluster.schema.json\n")
    assert [error.message for error in VALIDATOR.iter_errors(YAML(typ="safe").load(path))] == []


def test_every_key_is_described() -> None:
    for name, part in {"Cluster": SCHEMA, **SCHEMA["$defs"]}.items():
        for key, value in part.get("properties", {}).items():
            assert value["description"].strip(), f"{name}.{key}"
    assert SCHEMA["properties"]["networks"]["description"] == "Networks by name, in the order of the cards."


@settings(max_examples=100, deadline=None)
@given(specs())
def test_random_valid_specs_follow_it(values: dict[str, Any]) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(values)] == []


SAMPLE = changed(
    spec(2, 4, 6),
    {
        "domain": "hapx.test",
        "machine": {"cpus": 2, "memory_mib": 1024, "firmware": "bios"},
        "nodes.0.firmware": "uefi",
        "networks.link.mtu": 1500,
        "networks.link.adapter": "virtio",
        "nodes.0.macs": {"link": "02:00:00:00:00:01"},
        "nodes.0.disks": [{"size_mib": 1}],
        "corosync.token": 1000,
        "haproxy.stats": {"port": 32700, "user": "hapx"},
        "haproxy.client_timeout": "1h",
        "haproxy.frontends.0.mode": "tcp",
        "users": [{"name": "debian", "sudo": True}],
    },
)
_PLACES = [
    "name", "domain", "machine", "machine.cpus", "machine.memory_mib", "machine.firmware", "nodes.0.firmware",
    "networks", "networks.link",
    "networks.link.mtu", "networks.link.adapter", "networks.link.kind", "networks.link.dhcp",
    "networks.link.subnets", "networks.Wrong", "nodes", "nodes.0", "nodes.0.name", "nodes.0.id", "nodes.0.macs",
    "nodes.0.macs.link", "nodes.0.disks", "nodes.0.disks.0.size_mib", "vips", "vips.0.name", "corosync",
    "corosync.links", "corosync.token", "corosync.port", "haproxy.stats", "haproxy.stats.port",
    "haproxy.stats.user", "haproxy.client_timeout", "haproxy.frontends.0.mode", "haproxy.maxconn", "users",
    "users.0.name", "users.0.sudo", "timezone", "unknown", "nodes.0.unknown",
]  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, LEFT_OUT, [], {}, "", "x", "X", "1h", "0h", "a b", "02:00:5E:00:00:01", "Etc/UTC"]
    ),
    st.sampled_from([[""], ["x"], [1], {"x": 1}, {"x": "y"}, {"kind": "nat"}, 1.0, 1.5, float(2**40)]),
    st.integers(-5, 70_000),
    st.sampled_from(["e1000", "http", "nat", "uefi", "debian", "10.0.0.0/8", "link"]),
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(_PLACES), _VALUES)
def test_it_accepts_exactly_what_load_does(place: str, value: Any) -> None:
    values = changed(SAMPLE, {place: value}) if value is not LEFT_OUT or _is_there(place) else SAMPLE
    issues = validate(values)[1]
    errors = [error.message for error in VALIDATOR.iter_errors(values)]
    if _is_whole_float(value):
        return  # JSON Schema takes 1.0 for an integer, YAML does not
    assert bool(issues) == bool(errors), (issues, errors)


def _is_there(place: str) -> bool:
    value: Any = SAMPLE
    for part in place.split("."):
        if isinstance(value, dict) and part not in value:
            return False
        value = value[part] if isinstance(value, dict) else value[int(part)]
    return True


def _is_whole_float(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()
