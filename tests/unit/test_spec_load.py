"""What a spec's keys and types have to be, said in plain words; and that `load` bears whatever it is given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import ExitCode, InputError
from builder.spec import Cluster, load, model, scalars
from tests.unit.spec_samples import LEFT_OUT, SHIPPED, changed, loaded, said, said_of, spec, specs, written

HOST = "must be an IP address, or a host name in lower case, not"
SUBNET = "must be a subnet with its prefix length, as in 192.168.56.0/24, not"
LIBVIRT = "a libvirt URI as in qemu:///system or qemu+ssh://host/system"
SERVER = "haproxy.backends.0.servers.0.address"


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("domian", "x", "is no key of a spec here (did you mean domain?)"),
        ("nodes.0.adresses", {}, "is no key of a spec here (did you mean addresses?)"),
        ("corosync.zzz", 1, "is no key of a spec here (there are: consensus, links, port, qdevice, token)"),
        ("name", LEFT_OUT, "is missing (The cluster's name: "),
        ("nodes.0.name", LEFT_OUT, "is missing (Host name, and the virtual machine's name.)"),
        ("name", "Hapx", "must be lower-case letters, digits and hyphens, at most 32, no hyphen at either end, not "),
        ("name", 5, 'must be text, not a number (in quotes: "5")'),
        ("name", True, 'must be text, not true or false (in quotes: "true")'),
        ("name", None, "is empty (leave the key out, or give it a value)"),
        ("name", ["x"], "must be text, not a list"),
        ("networks.Public", {"kind": "nat"}, 'the name "Public" must be a lower-case letter first, then '),
        ("machine.cpus", "2", 'must be a whole number, not "2" (without quotes)'),
        ("machine.cpus", 1.5, "must be a whole number, not 1.5"),
        ("machine.cpus", True, "must be a whole number, not true or false"),
        ("machine.cpus", 0, "must be 1 or more"),
        ("machine.cpus", 65, "must be 64 or less"),
        ("networks.link.dhcp", "yes", 'must be true or false, not "yes"'),
        ("networks.link.kind", "x", 'must be one of nat, intnet, hostonly, bridged, not "x"'),
        ("networks.link.kind", "hostonyl", "must be one of nat, intnet, hostonly, bridged, "),
        ("networks.link.adapter", "e100", 'must be one of e1000, virtio, vmxnet3, not "e100" (did you mean e1000?)'),
        ("networks", [], "must be a mapping (key: value), not a list"),
        ("networks", None, "is empty (leave the key out, or write its keys below it)"),
        ("networks", {}, "must have at least 1 entry"),
        ("nodes", {}, "must be a list (- entry), not a mapping"),
        ("nodes.0.disks", None, "is empty (leave the key out, or write [])"),
        ("nodes.1", "hapx-node02", "must be a mapping (key: value), not text"),
        ("corosync.links", ["public"] * 9, "must have at most 8 entries"),
        ("vips.0.address", "192.168.56.300", 'must be an IPv4 or IPv6 address, not "192.168.56.300"'),
        ("vips.0.address", "10.0.0.9/24", "must be an IPv4 or IPv6 address; without the prefix length: 10.0.0.9, not "),
        ("vips.0.address", 3232249866, "must be an IPv4 or IPv6 address, not 3232249866"),
        (
            "vips.0.address",
            "fe80::1%eth0",
            "must be an address without a zone (%…): a zone is another one on each machine",
        ),
        ("networks.link.gateway6", "10.56.0.1", 'must be an IPv6 address, not "10.56.0.1"'),
        ("networks.link.subnets.0", "10.56.0.1/24", "must be the subnet itself, not an address in it: 10.56.0.0/24, "),
        (
            "networks.link.subnets.0",
            "10.56.0.0/255.255.255.0",
            "must have a prefix length, not a netmask: 10.56.0.0/24",
        ),
        ("networks.link.subnets.0", "10.56.0.0", f'{SUBNET} "10.56.0.0"'),
        ("networks.link.subnets.0", "10.56.0.0/33", f'{SUBNET} "10.56.0.0/33"'),
        (
            "nodes.0.macs.link",
            "02-00-00-00-00-01",
            "must be a MAC address: six pairs of hexadecimal digits with colons, ",
        ),
        ("haproxy.client_timeout", "20", "must be a number with its unit: ms, s, m or h, as in 30s or 1h, not "),
        (SERVER, "Web_1", f'{HOST} "Web_1"'),
        (SERVER, "10.0.0.300", f'{HOST} "10.0.0.300"'),
        ("haproxy.frontends.0.options.0", "a\nb", 'must be one line of text, not "a\\nb"'),
        ("nodes.0.host", "kvm1", f'must be ssh://user@host, or {LIBVIRT}, not "kvm1"'),
        ("users", [], "must have at least 1 entry"),
        ("domain", "a" * 70, "must be a domain name in lower case: letters, digits, hyphens and dots, not "),
        ("domain", "a." * 200 + "a", "must be at most 253 characters long"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(place: str, value: object, expected: str) -> None:
    sample = changed(spec(), {"haproxy.frontends.0.options": [""]})
    where = re.sub(r"\.(\d+)", r"[\1]", place)
    said = said_of(changed(sample, {place: value}))
    assert [line for line in said if line.startswith(f"{where}: {expected}")], said


def test_every_error_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
name: hapx
domian: hapx.test
networks:
  public: {kind: hostonly, subnets: [192.168.56.0/24], gateway: 10.0.0.1}
  link:
    kind: intnett
    subnets: [10.56.0.0/24]
nodes:
  - name: hapx-node01
    adresses: {public: 192.168.56.10, link: 10.56.0.11}
  - name: hapx-node01
    id: 1
    addresses: {public: 192.168.56.255, link: 10.56.0.12}
    disks:
vips:
  - address: 192.168.56.10
    network: publik
corosync:
  links: [public, link]
  token: 1s
ssh:
  keys: [nowhere.pub]
"""
    assert [line.split(" (")[0] for line in said(text)] == [
        "2: domian: is no key of a spec here",
        "4: networks.public.gateway: 10.0.0.1 is in no subnet of public: 192.168.56.0/24",
        '6: networks.link.kind: must be one of nat, intnet, hostonly, bridged, not "intnett"',
        "10: nodes[0].adresses: is no key of a spec here",
        "11: nodes[1].name: the node name hapx-node01 is there twice",
        "12: nodes[1].id: the node id 1 is there twice",
        "13: nodes[1].addresses.public: 192.168.56.255 is the broadcast address of 192.168.56.0/24",
        "14: nodes[1].disks: is empty",
        "16: vips[0].address: 192.168.56.10 is hapx-node01's own address: a VIP moves between nodes",
        '20: corosync.token: must be a whole number, not "1s"',
        '22: ssh.keys[0]: "nowhere.pub": no such file',
    ]


def test_what_only_follows_from_another_error_is_not_told() -> None:
    found = said_of(changed(spec(), {"networks.link.subnets": ["10.56.0.1/24"], "networks.public.kind": "nut"}))
    assert [line.partition(":")[0] for line in found] == ["networks.public.kind", "networks.link.subnets[0]"]


def test_no_error_shows_a_private_key() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----\n"
    for place in ("name", "ssh.keys", "machine.cpus", "networks.link.kind", "haproxy.config", "users.0", "domain"):
        for value in (key, [key]):
            lines = said_of(changed(spec(), {"users": [{}], place: value}))
            assert lines
            assert "b3BlbnNzaC1rZXktdjE" not in str(lines)


@pytest.mark.parametrize("name", ["missing.yaml", "", "missing/cluster.yaml"], ids=["file", "folder", "no folder"])
def test_a_spec_that_cannot_be_read_is_an_input_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path / name)
    assert str(tmp_path) in raised.value.message
    assert raised.value.exit_code == ExitCode.INPUT


def test_where_names_the_file_as_seen_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds/cluster.yaml").write_text("name: 5\n")
    monkeypatch.chdir(tmp_path)
    for path in (Path("seeds/cluster.yaml"), tmp_path / "seeds/cluster.yaml"):
        with pytest.raises(InputError) as raised:
            load(path)
        assert raised.value.problems[0].where == "seeds/cluster.yaml:1: name"


def test_one_address_reads_like_a_list_of_one() -> None:
    one = loaded(changed(spec(), {"nodes.0.addresses.link": "10.56.0.11"}))
    assert one == loaded(spec())


def test_macs_are_read_in_either_case() -> None:
    cluster = loaded(changed(spec(), {"nodes.0.macs": {"link": "08:00:27:A4:CE:07"}}))
    assert cluster.nodes[0].macs == {"link": "08:00:27:a4:ce:07"}


def _patterns(value: Any) -> set[str]:
    """Every pattern in a JSON Schema."""
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = {value["pattern"]} if isinstance(value, dict) and isinstance(value.get("pattern"), str) else set()
    return own.union(*map(_patterns, entries))


def test_every_pattern_of_the_model_is_said_in_words() -> None:
    # Subnets and server addresses are judged by functions that have words of their own.
    judged = {scalars.SUBNET_SCHEMA["pattern"], scalars.HOST_SCHEMA["pattern"]}
    assert _patterns(model.Cluster.model_json_schema()) - judged == set(scalars.TEXTS)


# What is only pydantic's: none of it may reach a person.
_FOREIGN = ("Input should", "Extra inputs", "Field required", "valid ", "validation", "Tuple", "Dictionary", "pydantic")

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["10.0.0.1", "link", "a b"]),
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


def _places(value: Any, place: str = "") -> list[str]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, entry in entries:
        here = f"{place}.{key}" if place else str(key)
        found += [here, *_places(entry, here)]
    return found


_SAMPLE = changed(spec(2, 4, 6), {"ssh": {"keys": []}, "users": [{"name": "debian"}], "hosts": {"a": "10.0.0.1"}})


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_ends_in_errors_not_in_a_traceback(text: str) -> None:
    assert said(text.encode("utf-8", "surrogatepass"))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_errors_not_in_a_traceback(data: bytes) -> None:
    assert said(data)


@settings(deadline=None)
@given(_TREES)
def test_any_tree_ends_in_errors_in_plain_words(value: Any) -> None:
    lines = said(json.dumps(value))
    assert lines
    assert not [line for line in lines for word in _FOREIGN if word in line]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(_places(_SAMPLE)), st.one_of(_TREES, st.just(LEFT_OUT))), min_size=1, max_size=3)
)
def test_any_change_of_a_good_spec_ends_in_a_cluster_or_in_plain_words(changes: list[tuple[str, Any]]) -> None:
    values = _SAMPLE
    for place, value in changes:
        try:
            values = changed(values, {place: value})
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            continue  # an earlier change took that place away
    for line in said(json.dumps(values)):
        assert not [word for word in _FOREIGN if word in line.split(", not ")[0].split(" (")[0]], line


_SHIPPED = {path.name: path.read_text() for path in SHIPPED}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(_SHIPPED)), st.data())
def test_any_damage_to_a_shipped_spec_is_borne(name: str, data: st.DataObject) -> None:
    text = _SHIPPED[name]
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 40))
    put = data.draw(
        st.one_of(
            st.text(max_size=8), st.sampled_from(["\t", "- ", ": ", "[", "{", "&a ", "*a", "'", '"', "|", "!", "\n"])
        )
    )
    said((text[:start] + put + text[start + length :]).encode("utf-8", "surrogatepass"))


@settings(max_examples=200, deadline=None)
@given(specs())
def test_random_valid_specs_are_accepted(values: dict[str, Any]) -> None:
    with written(json.dumps(values)) as path:
        assert isinstance(load(path), Cluster)
