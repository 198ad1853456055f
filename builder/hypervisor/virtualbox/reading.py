"""What VBoxManage prints -> plain data. Pure; a key or a line that nobody knows is passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import PurePosixPath

from builder.hypervisor import State

Interface = IPv4Interface | IPv6Interface

STATES = {
    "poweroff": State.OFF,
    "teleported": State.OFF,
    "saved": State.SAVED,
    "aborted": State.BROKEN,
    "aborted-saved": State.BROKEN,
    "gurumeditation": State.BROKEN,
    "running": State.RUNNING,
    "teleporting": State.RUNNING,
    "livesnapshotting": State.RUNNING,
    "onlinesnapshotting": State.RUNNING,
    "paused": State.PAUSED,
    "teleportingpausedvm": State.PAUSED,
    "starting": State.STARTING,
    "restoring": State.STARTING,
    "stopping": State.STOPPING,
    "saving": State.STOPPING,
}
"""What `showvminfo` calls VMState; any other is at work on the machine's disks or settings (a snapshot, say)."""

# A value in quotes goes on to a quote that ends a line; \ stands before a quote or itself, as in a description.
_PAIR = re.compile(
    r'^"?(?P<key>[^"=\n]+)"?=(?:"(?P<text>(?:[^"\\]|\\.|"(?!$))*)"|(?P<plain>[^"\n]*))$', re.MULTILINE | re.DOTALL
)
_LISTED = re.compile(r'^"(?P<name>.*)" \{(?P<uuid>[0-9a-fA-F-]{36})\}$', re.MULTILINE)
_ATTACHED = re.compile(r"(?P<controller>.+)-(?P<port>\d+)-(?P<device>\d+)")
_POLICY = re.compile(r"^NIC (?P<slot>\d+):.*Promisc Policy: (?P<policy>[a-z-]+)", re.MULTILINE)
_VERSION = re.compile(r"^(\d+)\.(\d+)\.\d+", re.MULTILINE)

# The key that names what a card is plugged into, by its kind.
_PLUGS = {
    "intnet": "intnet",
    "hostonly": "hostonlyadapter",
    "hostonlynetwork": "hostonly-network",
    "bridged": "bridgeadapter",
}


@dataclass(frozen=True, slots=True)
class Card:
    """A network card: what it is plugged into, its type, its MAC address as twelve capital hexadecimal digits."""

    kind: str
    name: str | None
    type: str
    mac: str
    cable: bool


@dataclass(frozen=True, slots=True)
class Medium:
    """What hangs at a controller's port: a file, or "emptydrive"."""

    controller: str
    port: int
    device: int
    path: str


@dataclass(frozen=True, slots=True)
class Controller:
    """A storage controller and how many ports it has."""

    name: str
    type: str
    ports: int


@dataclass(frozen=True, slots=True)
class Settings:
    """A machine as `showvminfo --machinereadable` has it; `cards` are by slot, from 1, where there is one."""

    uuid: str
    name: str
    groups: tuple[str, ...]
    config: PurePosixPath
    state: State
    crashed: bool
    """Whether the guest stopped at a fault (BROKEN), its process still there."""
    cpus: int
    memory_mib: int
    vram_mib: int
    firmware: str
    """bios, efi, efi32, efi64 or efidual."""
    description: str
    cards: Mapping[int, Card]
    controllers: tuple[Controller, ...]
    media: tuple[Medium, ...]
    serial: tuple[str, str]
    """Port and mode of the first serial port: ("0x03f8,4", "file,/path"), or ("off", "")."""
    snapshots: frozenset[str]

    @property
    def folder(self) -> PurePosixPath:
        """Where the machine's own files are."""
        return self.config.parent


@dataclass(frozen=True, slots=True)
class HostOnly:
    """A host-only interface of the host, with its addresses."""

    name: str
    addresses: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image that VirtualBox knows."""

    uuid: str
    parent: str | None
    path: PurePosixPath


def version(text: str) -> tuple[int, int] | None:
    """Major and minor number in what `--version` prints; it may warn before it does."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2])) if match else None


def percent(text: str) -> int | None:
    """How far an import is, from what it has said so far: 0%...10%...; None while it only reads the descriptor."""
    _, _, since = text.partition("\nOK.\n")
    found = re.findall(r"(\d+)%", since)
    return int(found[-1]) if found else None


def machines(text: str) -> list[tuple[str, str]]:
    """Name and UUID of each line of `list vms`."""
    return [(match["name"], match["uuid"].lower()) for match in _LISTED.finditer(text)]


def settings(text: str) -> Settings:
    """A machine, from `showvminfo --machinereadable`."""
    values: dict[str, str] = {}
    for match in _PAIR.finditer(text):
        value = match["plain"] if match["text"] is None else re.sub(r"\\(.)", r"\1", match["text"], flags=re.DOTALL)
        values.setdefault(match["key"], value)  # the first: what a snapshot was like comes later
    controllers = tuple(_controllers(values))
    return Settings(
        uuid=values["UUID"].lower(),
        name=values["name"],
        groups=tuple(values.get("groups", "").split(",")),
        config=PurePosixPath(values["CfgFile"]),
        state=STATES.get(values["VMState"], State.STARTING),
        crashed=values["VMState"] == "gurumeditation",
        cpus=int(values["cpus"]),
        memory_mib=int(values["memory"]),
        vram_mib=int(values.get("vram", "0")),
        firmware=values["firmware"].lower(),
        description=values.get("description", ""),
        cards=dict(_cards(values)),
        controllers=controllers,
        media=tuple(_media(values, {controller.name for controller in controllers})),
        serial=(values.get("uart1", "off").lower(), values.get("uartmode1", "")),
        snapshots=frozenset(value for key, value in values.items() if re.fullmatch(r"SnapshotName[-\d]*", key)),
    )


def promiscuous(text: str) -> dict[int, str]:
    """Each card's promiscuous mode by slot, from `showvminfo` for people: for machines it leaves that out."""
    return {int(match["slot"]): match["policy"] for match in _POLICY.finditer(text)}


def host_only(text: str) -> list[HostOnly]:
    """The interfaces of `list hostonlyifs`."""
    found = []
    for block in _blocks(text):
        addresses = []
        for address, length in (
            (block.get("IPAddress", ""), block.get("NetworkMask", "")),
            (block.get("IPV6Address", ""), block.get("IPV6NetworkMaskPrefixLength", "")),
        ):
            if address and address != "0.0.0.0":  # noqa: S104 - what VirtualBox prints where there is none
                addresses.append(ip_interface(f"{address}/{length}"))
        found.append(HostOnly(block["Name"], tuple(addresses)))
    return found


def host_only_networks(text: str) -> list[HostOnly]:
    """The networks of `list hostonlynets` (VirtualBox 7 on macOS); the address is the lowest that it gives away."""
    found = []
    for block in _blocks(text):
        lower, mask = block.get("LowerIP", ""), block.get("NetworkMask", "")
        found.append(HostOnly(block["Name"], (ip_interface(f"{lower}/{mask}"),) if lower and mask else ()))
    return found


def disks(text: str) -> list[Disk]:
    """The images of `list hdds`."""
    return [
        Disk(block["UUID"].lower(), None if parent == "base" else parent, PurePosixPath(block["Location"]))
        for block in _blocks(text, first="UUID")
        if (parent := block.get("Parent UUID", "base").lower()) and "Location" in block
    ]


def capacity_mib(text: str) -> int | None:
    """A disk's size in MiB, from `showmediuminfo`."""
    match = re.search(r"^Capacity: +(\d+) MBytes$", text, re.MULTILINE)
    return int(match[1]) if match else None


def users(text: str) -> list[str]:
    """UUIDs of the machines that a medium hangs at, from `showmediuminfo`."""
    return [uuid.lower() for uuid in re.findall(r"\(UUID: ([0-9a-fA-F-]{36})\)", text)]


def _blocks(text: str, first: str = "Name") -> Iterator[dict[str, str]]:
    block: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if key == first and block:
            yield block
            block = {}
        if colon and (block or key == first):
            block.setdefault(key.strip(), value.strip())
    if block:
        yield block


def _cards(values: Mapping[str, str]) -> Iterator[tuple[int, Card]]:
    for slot in range(1, 37):
        kind = values.get(f"nic{slot}", "none")
        if kind != "none":
            plug = _PLUGS.get(kind)
            yield (
                slot,
                Card(
                    kind="hostonlynet" if kind == "hostonlynetwork" else kind,
                    name=values.get(f"{plug}{slot}") if plug else None,
                    type=values.get(f"nictype{slot}", ""),
                    mac=values.get(f"macaddress{slot}", ""),
                    cable=values.get(f"cableconnected{slot}") == "on",
                ),
            )


def _controllers(values: Mapping[str, str]) -> Iterator[Controller]:
    number = 0
    while (name := values.get(f"storagecontrollername{number}")) is not None:
        kind = values.get(f"storagecontrollertype{number}", "")
        yield Controller(name, kind, int(values.get(f"storagecontrollerportcount{number}", "1")))
        number += 1


def _media(values: Mapping[str, str], controllers: set[str]) -> Iterator[Medium]:
    for key, value in values.items():
        match = _ATTACHED.fullmatch(key)
        if match and match["controller"] in controllers and value != "none":
            yield Medium(match["controller"], int(match["port"]), int(match["device"]), value)
