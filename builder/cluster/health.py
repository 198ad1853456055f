"""What `hapx health --json` says on a node, as types; /usr/sbin/hapx in the image writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

# Whoever is asked has better things to do first, and on an emulated processor every answer takes seconds.
COMMAND = ("/usr/bin/nice", "-n", "10", "/usr/sbin/hapx", "health", "--json", "--timeout", "30")

HEALTHY = "healthy"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the asked one sees it."""

    name: str
    online: bool
    standby: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """One of Corosync's links to a peer."""

    peer: str
    number: int
    connected: bool


@dataclass(frozen=True, slots=True)
class Vip:
    """A floating IP and the node that holds it."""

    name: str
    address: str
    holder: str | None


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend and how many of its servers are up."""

    name: str
    up: int
    total: int


@dataclass(frozen=True, slots=True)
class Haproxy:
    """HAProxy on the asked node."""

    alive: bool
    backends: tuple[Backend, ...] = ()


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of Pacemaker's on a node."""

    id: str
    node: str | None
    running: bool
    failed: bool
    fail_count: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, and what to do about it."""

    severity: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """A node's answer. `generation` is the seed it has, `applied` the one whose configuration Pacemaker has."""

    state: str
    cluster: str
    node: str
    generation: str
    applied: str | None
    quorate: bool
    votes: int
    expected_votes: int
    dc: str | None
    nodes: tuple[Member, ...] = ()
    links: tuple[Link, ...] = ()
    vips: tuple[Vip, ...] = ()
    haproxy: Haproxy = field(default_factory=lambda: Haproxy(alive=False))
    resources: tuple[Resource, ...] = ()
    problems: tuple[Trouble, ...] = ()

    def online(self, name: str) -> bool:
        """Whether the asked node sees another one as a member that takes resources or could."""
        return any(member.name == name and member.online for member in self.nodes)

    def holds(self, name: str) -> tuple[str, ...]:
        """The names of the VIPs that a node holds, as the asked one sees it."""
        return tuple(vip.name for vip in self.vips if vip.holder == name)


def refusal(text: str) -> str:
    """Why a node cannot tell its health, in its own words; empty where it printed something else."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def parse(text: str) -> Health | None:
    """The answer in what a node printed; None where it is none."""
    from pydantic import TypeAdapter, ValidationError

    try:
        data: Any = json.loads(text)
        return TypeAdapter(Health).validate_python(data)
    except (ValueError, ValidationError):
        return None
