"""How machines and bases of ours are known. Pure.

A clone's UUID is chosen here: its last 48 bits are a digest of the others and of the machine's name. It is there from
the moment VirtualBox knows the machine, nothing a person changes in the window takes it away, and a copy that somebody
makes has another. Its group and its description say where it came from; a base, whose UUID VirtualBox chooses, is known
by its description, which it is imported with.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from dataclasses import dataclass

from builder.errors import InputError
from builder.hypervisor import Base

BASES = "/hapx/bases"
"""The group of the imported OVAs."""

_BASE = re.compile(r"Base image (?P<name>.+) of hapx-build, SHA-256 of its OVA (?P<sha256>[0-9a-f]{64})")
_NODE = re.compile(r"Node (?P<name>\S+) of the cluster (?P<cluster>\S+), made by hapx-build from (?P<base>.+)")
_CREATED = re.compile(r"(?P<name>\S+), made by hapx-build create from (?P<base>.+)")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a machine says it came from; a machine that `create` made has no cluster."""

    name: str
    cluster: str
    base: str


def fresh_uuid(name: str) -> str:
    """A UUID for a machine of ours of that name, unlike any other (RFC 9562, version 8)."""
    head = uuid.UUID(bytes=secrets.token_bytes(10) + bytes(6), version=4).bytes[:10]
    head = head[:6] + bytes([0x80 | head[6] & 0x0F]) + head[7:]
    return str(uuid.UUID(bytes=head + _digest(head, name)))


def is_ours(machine: str, name: str) -> bool:
    """Whether the UUID of a machine of that name was made by `fresh_uuid`."""
    value = uuid.UUID(machine).bytes
    return value[10:] == _digest(value[:10], name)


def in_the_way(where: str, name: str) -> InputError:
    """The error for a machine that has a name of ours, and no mark."""
    return InputError(
        f"{where}: a machine called {name} is there that hapx-build did not make: it is left alone",
        hint="rename one of the two",
    )


def group(cluster: str) -> str:
    """The group of a cluster's machines."""
    return f"/hapx/{cluster}"


def of_base(base: Base) -> str:
    """The description of a base."""
    return f"Base image {base.name} of hapx-build, SHA-256 of its OVA {base.sha256}"


def of_node(cluster: str, name: str, base: str) -> str:
    """The description of a node's machine."""
    return f"Node {name} of the cluster {cluster}, made by hapx-build from {base}"


def of_created(name: str, base: str) -> str:
    """The description of a machine that `create` made."""
    return f"{name}, made by hapx-build create from {base}"


def read_base(description: str) -> Base | None:
    """The base that a description says it is of."""
    match = _BASE.fullmatch(description.partition("\n")[0].strip())
    return Base(match["name"], match["sha256"]) if match else None


def read_origin(description: str) -> Origin | None:
    """What the first line of a machine's description says about where it came from."""
    line = description.partition("\n")[0].strip()
    if match := _NODE.fullmatch(line):
        return Origin(match["name"], match["cluster"], match["base"])
    if match := _CREATED.fullmatch(line):
        return Origin(match["name"], "", match["base"])
    return None


def _digest(head: bytes, name: str) -> bytes:
    return hashlib.sha256(b"hapx-build machine\0" + head + name.encode()).digest()[:6]
