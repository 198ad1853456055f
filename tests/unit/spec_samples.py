"""Cluster specs as plain values: small ones by hand, valid ones at random, and what `load` says of a text."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st

from builder.errors import InputError
from builder.spec import Cluster, load

SEEDS = Path(__file__).resolve().parents[2] / "seeds"
SHIPPED = (SEEDS / "cluster.yaml", SEEDS / "kube-dmz.yaml")
LEFT_OUT = object()

_PUBLIC = {4: "192.168.56", 6: "fd00:56:"}
_LINK = {4: "10.56.0", 6: "fd00:57:"}


def _address(prefix: str, version: int, host: int) -> str:
    return f"{prefix}.{host}" if version == 4 else f"{prefix}:{host:x}"


def _subnet(prefix: str, version: int) -> str:
    return f"{prefix}.0/24" if version == 4 else f"{prefix}:/64"


def spec(nodes: int = 2, *versions: int) -> dict[str, Any]:
    """A spec of that many nodes on two links, with a VIP of each of the IP versions (default: 4)."""
    versions = versions or (4,)
    return {
        "name": "hapx",
        "networks": {
            "public": {"kind": "hostonly", "subnets": [_subnet(_PUBLIC[version], version) for version in versions]},
            "link": {"kind": "intnet", "subnets": [_subnet(_LINK[version], version) for version in versions]},
        },
        "nodes": [
            {
                "name": f"hapx-node{number:02}",
                "addresses": {
                    "public": [_address(_PUBLIC[version], version, 10 + number) for version in versions],
                    "link": [_address(_LINK[version], version, 10 + number) for version in versions],
                },
            }
            for number in range(1, nodes + 1)
        ],
        "vips": [
            {"name": f"vip{version}", "network": "public", "address": _address(_PUBLIC[version], version, 100)}
            for version in versions
        ],
        "corosync": {"links": ["public", "link"]},
        "haproxy": {
            "frontends": [{"name": "web", "port": 80, "backend": "servers"}],
            "backends": [{"name": "servers", "servers": [{"name": "web1", "address": "192.0.2.1", "port": 80}]}],
        },
    }


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with some values set, or LEFT_OUT, each by its place: "nodes.0.addresses.link"."""
    values = copy.deepcopy(values)
    for place, value in changes.items():
        *above, last = (int(part) if part.isdigit() else part for part in place.split("."))
        parent: Any = values
        for part in above:
            parent = parent.setdefault(part, {}) if isinstance(parent, dict) else parent[part]
        if value is LEFT_OUT:
            del parent[last]
        elif isinstance(parent, list) and last == len(parent):
            parent.append(value)
        else:
            parent[last] = value
    return values


@contextmanager
def written(text: str | bytes) -> Iterator[Path]:
    """A spec's file, in a folder of its own."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "cluster.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield path


def loaded(values: Any) -> Cluster:
    """The cluster that plain values say (JSON is YAML)."""
    with written(json.dumps(values)) as path:
        return load(path)


def said(text: str | bytes) -> list[str]:
    """What `load` finds wrong with a text, one line each: "LINE: key.path: message (hint)"; empty where it is right."""
    with written(text) as path:
        try:
            load(path)
        except InputError as error:
            return [str(problem).removeprefix(f"{path}:") for problem in error.problems]
    return []


def said_of(values: Any) -> list[str]:
    """The same for plain values, without the line."""
    return [line.partition(": ")[2] for line in said(json.dumps(values))]


_NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
_RESERVED = ("hapx", "haproxy", "stats", "localhost", "all", "default", "none", "lo")
_SAFE_NAMES = _NAMES.filter(lambda name: not name.startswith(("en", "eth", "wl", "ww", "ib", "sl", "mc", *_RESERVED)))
_WORDS = {"tcp": ["", "weight 10", "backup", 'inter "2s"'], "http": ["", "maxconn 100", 'cookie "a b"']}


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Valid specs of every shape: cards and VLANs, IPv4, IPv6 and both, DHCP beside, one to five nodes."""
    names = draw(st.lists(_SAFE_NAMES.filter(lambda name: not name[-1].isdigit()), min_size=3, max_size=5, unique=True))
    versions = draw(st.sampled_from([(4,), (6,), (4, 6)]))
    count = draw(st.sampled_from([1, 2, 3, 5]))
    static = names[:-1]
    networks: dict[str, Any] = {}
    nodes: list[dict[str, Any]] = [{"name": f"{names[0]}-{place}", "addresses": {}} for place in range(count)]
    for index, name in enumerate(static):
        prefix = {4: f"10.{index}.0", 6: f"fd00:{index}:"}
        networks[name] = {"subnets": [_subnet(prefix[version], version) for version in versions]}
        if index and draw(st.booleans()):
            networks[name] |= {"vlan": 100 + index, "parent": static[0]}
        else:
            networks[name]["kind"] = draw(st.sampled_from(["intnet", "hostonly", "bridged"]))
        for place, node in enumerate(nodes):
            addresses = [_address(prefix[version], version, 10 + place) for version in versions]
            node["addresses"][name] = addresses[0] if len(addresses) == 1 else addresses
    if draw(st.booleans()):
        networks[static[0]]["gateway"] = _address(f"10.{0}.0" if 4 in versions else "fd00:0:", versions[0], 1)
    if draw(st.booleans()):
        networks[names[-1]] = {"kind": "nat", "dhcp": True}
    extras = {
        "cpus": st.integers(1, 64),
        "memory_mib": st.just(2048),
        "firmware": st.sampled_from(["bios", "uefi"]),
        "disks": st.just([{"size_mib": 9}]),
    }
    for node in nodes:
        node.update(draw(st.fixed_dictionaries({}, optional=extras)))
    mode = draw(st.sampled_from(["tcp", "http"]))
    words = st.sampled_from(_WORDS[mode])
    token = draw(st.integers(300, 60_000))
    return {
        "name": draw(_SAFE_NAMES),
        "networks": networks,
        "nodes": nodes,
        "vips": [
            {"address": _address(f"10.{0}.0" if 4 in versions else "fd00:0:", versions[0], 99), "network": static[0]}
        ],
        "corosync": draw(
            st.fixed_dictionaries(
                {"links": st.just(static), "token": st.just(token)}, optional={"consensus": st.just(2 * token)}
            )
        ),
        "haproxy": {
            "frontends": [
                {"name": f"f-{place}", "port": port, "mode": mode, "backend": "b"}
                for place, port in enumerate(draw(st.sets(st.integers(6000, 30000), max_size=3)))
            ],
            "backends": [
                {
                    "name": "b",
                    "mode": mode,
                    "balance": draw(st.sampled_from(["roundrobin", "leastconn", "source", "random(2)", "hash src"])),
                    "servers": [
                        {"name": f"s-{place}", "address": "192.0.2.1", "port": 80, "options": draw(words)}
                        for place in range(draw(st.integers(1, 3)))
                    ],
                }
            ],
        },
    } | draw(
        st.fixed_dictionaries(
            {},
            optional={
                "domain": st.just("example.net"),
                "timezone": st.sampled_from(["Europe/Berlin", "UTC"]),
                "time_servers": st.just(["192.0.2.123", "ntp.example.net"]),
                "hosts": st.just({"web.example.net": "192.0.2.9"}),
                "machine": st.just({"cpus": 1}),
            },
        )
    )
