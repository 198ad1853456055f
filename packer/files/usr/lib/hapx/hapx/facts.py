"""What the seed says about the cluster and its nodes (/etc/hapx/cluster.json)."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hapx.errors import CannotTellError, NodeError

FACTS = Path("/etc/hapx/cluster.json")
PAYLOAD = Path("/etc/hapx/cib.xml")


@dataclass(frozen=True, slots=True)
class Member:
    """A node: its name and id, and its addresses on Corosync's links, in their order."""

    name: str
    id: int
    links: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vip:
    """A floating IP: its resource's name, and where it lives."""

    name: str
    address: str
    prefix: int
    interface: str


@dataclass(frozen=True, slots=True)
class Monitor:
    """Where HAProxy is asked whether it answers."""

    address: str
    port: int
    uri: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The cluster as this node's seed has it; `links` are their numbers."""

    cluster: str
    generation: str
    nodes: tuple[Member, ...]
    links: tuple[int, ...]
    vips: tuple[Vip, ...]
    monitor: Monitor


def load(path: Path = FACTS) -> Facts:
    """The facts; raises CannotTellError where there is no seed yet, NodeError where they cannot be read."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise CannotTellError(
            "this node has no seed yet", hint="attach its CD (hapx-build seed-iso) and reboot"
        ) from None
    except OSError as error:
        raise NodeError(f"{path}: {error.strerror}") from None
    return parse(text, str(path))


def parse(text: str, where: str) -> Facts:
    """The facts in the text of cluster.json; raises NodeError for what is none."""
    try:
        data: dict[str, Any] = json.loads(text)
        return Facts(
            cluster=str(data["cluster"]),
            generation=str(data["generation"]),
            nodes=tuple(
                Member(str(node["name"]), int(node["id"]), tuple(map(str, node["links"]))) for node in data["nodes"]
            ),
            links=tuple(int(link["number"]) for link in data["links"]),
            vips=tuple(
                Vip(str(vip["name"]), str(vip["address"]), int(vip["prefix"]), str(vip["interface"]))
                for vip in data["vips"]
            ),
            monitor=Monitor(str(data["monitor"]["address"]), int(data["monitor"]["port"]), str(data["monitor"]["uri"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise NodeError(
            f"{where}: not what a seed has there ({type(error).__name__}: {error})",
            hint="make the seed again (hapx-build seed-iso) and apply it: hapx reconcile",
        ) from None


def own_name() -> str:
    """This node's name, as Pacemaker and Corosync know it."""
    return socket.gethostname()
