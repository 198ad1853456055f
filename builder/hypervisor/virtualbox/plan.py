"""What a machine should be and what it is -> the arguments of VBoxManage that make up the difference. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from builder.errors import InputError, Problem
from builder.hypervisor import Nic, State
from builder.hypervisor.virtualbox.dialect import Dialect
from builder.hypervisor.virtualbox.reading import Card, Controller, Settings
from builder.spec.model import Firmware, NetworkKind

SLOTS = 8  # of the chipset that machines get (PIIX3)
SYSTEM_PORT = 0
CD_PORT = 1
FIRST_DISK_PORT = 2
SERIAL_PORT = ("0x3F8", "4")  # a PC's first: ttyS0, where the image has its console

_TYPES = {"e1000": ("82540EM",), "virtio": ("virtio", "Virtio")}  # the first is set, any of them is right
_FIRMWARE = {Firmware.BIOS: ("bios",), Firmware.UEFI: ("efi", "efi64")}  # so here; efi32 starts no 64-bit system


@dataclass(frozen=True, slots=True)
class Plug:
    """What a card should be: plugged into what, on the host's side."""

    kind: str
    """nat, intnet, hostonly, hostonlynet or bridged."""
    name: str | None
    types: tuple[str, ...] | None
    """VirtualBox's names for the type, the first to be set; None: whatever it is."""
    mac: str | None
    """Twelve capital hexadecimal digits; None: whatever it is."""
    promiscuous: str | None
    """deny, allow-vms or allow-all; None: whatever it is."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The settings that a machine should have; what is None or empty stays as it is."""

    groups: tuple[str, ...]
    description: str
    cpus: int | None
    memory_mib: int | None
    plugs: Mapping[int, Plug]
    firmware: Firmware | None = None
    serial: PurePosixPath | None = None
    vram_mib: int | None = None
    cpu_hotplug: bool = False
    """Whether processors may come and go: set wherever another number of them is."""
    others: bool = True
    """Whether cards that are not among `plugs` are taken away."""


@dataclass(slots=True)
class Changes:
    """What has to be changed of a machine that is off, or `running`.

    `modify` are flags of modifyvm for a machine that is off, `control` the commands of controlvm for one that runs.
    `done` says in a few words what that changes, `later` what a running machine cannot take.
    """

    running: bool
    modify: list[str] = field(default_factory=list)
    control: list[list[str]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)

    def set(self, words: str, flags: Sequence[str], live: Sequence[str] | None = None) -> None:
        """Something that differs: `flags` set it on a machine that is off, `live`, if anything, on one that runs."""
        if not self.running:
            self.modify += flags
            self.done.append(words)
        elif live is not None:
            self.control.append(list(live))
            self.done.append(words)
        else:
            self.later.append(words)


def plugs(nics: Sequence[Nic], host_only: Mapping[str, tuple[str, str]]) -> dict[int, Plug]:
    """The cards of a node by slot; `host_only` has the kind and name on the host of each host-only network.

    Raises InputError for what VirtualBox does not have.
    """
    problems = [
        Problem(f"networks.{nic.network}.adapter", f"VirtualBox has no {nic.adapter}", f"one of {', '.join(_TYPES)}")
        for nic in nics
        if nic.adapter not in _TYPES
    ]
    if len(nics) > SLOTS:
        problems.append(Problem("networks", f"{len(nics)} cards", f"VirtualBox has room for {SLOTS}"))
    if problems:
        raise InputError("VirtualBox cannot make such a machine", problems)
    return {slot: _plug(nic, host_only) for slot, nic in enumerate(nics, 1)}


def _plug(nic: Nic, host_only: Mapping[str, tuple[str, str]]) -> Plug:
    kind, name = host_only.get(nic.network, (str(nic.kind), nic.name if nic.kind is not NetworkKind.NAT else None))
    # On an internal network there is nobody but machines; on the others the host, and what is behind it, counts too.
    allowed = "allow-vms" if nic.kind is NetworkKind.INTNET else "allow-all"
    return Plug(
        kind, name, _TYPES[nic.adapter], nic.mac.replace(":", "").upper(), allowed if nic.promiscuous else "deny"
    )


def changes(wanted: Wanted, found: Settings, modes: Mapping[int, str], dialect: Dialect) -> Changes:
    """What differs between the two; `modes` are the promiscuous modes of the cards that are there, by slot."""
    made = Changes(running=found.state in (State.RUNNING, State.PAUSED))
    for words, flags in _hardware(wanted, found, dialect):
        made.set(words, flags)
    if not made.running:  # what nobody sees from inside can wait without a word
        if found.description.partition("\n")[0] != wanted.description:
            made.set("description", ["--description", wanted.description])
        if found.groups != wanted.groups:
            made.set("group", ["--groups", ",".join(wanted.groups)])
    for slot, plug in wanted.plugs.items():
        _card(made, slot, plug, (found.cards.get(slot), modes.get(slot, "deny")), dialect)
    for slot in sorted(set(found.cards) - set(wanted.plugs)) if wanted.others else ():
        made.set(f"network card {slot}: none", [f"--nic{slot}", "none"])
    return made


def _hardware(wanted: Wanted, found: Settings, dialect: Dialect) -> Iterator[tuple[str, list[str]]]:
    """Each setting of the machine itself that differs: in words, and the flags that set it."""
    if wanted.cpus is not None and found.cpus != wanted.cpus:
        flags = ["--cpus", str(wanted.cpus)]
        if wanted.cpu_hotplug:
            # Their number cannot be lowered while they may come and go.
            flags = [dialect.cpu_hotplug, "off", *flags, dialect.cpu_hotplug, "on"]
        yield f"CPUs: {wanted.cpus}", flags
    if wanted.memory_mib is not None and found.memory_mib != wanted.memory_mib:
        yield f"memory: {wanted.memory_mib} MiB", ["--memory", str(wanted.memory_mib)]
    if wanted.firmware is not None and found.firmware not in _FIRMWARE[wanted.firmware]:
        yield f"firmware: {wanted.firmware}", ["--firmware", _FIRMWARE[wanted.firmware][0]]
    if wanted.vram_mib is not None and found.vram_mib != wanted.vram_mib:
        yield f"video memory: {wanted.vram_mib} MiB", ["--vram", str(wanted.vram_mib)]
    if wanted.serial is not None and (found.serial[0] == "off" or found.serial[1] != f"file,{wanted.serial}"):
        mode = [f"{dialect.uart_mode}1", "file", str(wanted.serial)]
        yield "serial console", ["--uart1", *SERIAL_PORT, *mode]


def _card(made: Changes, slot: int, plug: Plug, now: tuple[Card | None, str], dialect: Dialect) -> None:
    """What differs of one card from what it is `now`. A running machine gets no new one."""
    found, mode = now
    card = f"network card {slot}"
    there = found is not None
    if found is None or found.kind != plug.kind or (plug.name is not None and found.name != plug.name):
        into = [] if plug.name is None else [f"{_plug_flag(plug.kind, dialect)}{slot}", plug.name]
        live = [f"nic{slot}", plug.kind, *([plug.name] if plug.name is not None else [])]
        # controlvm knows no host-only networks (macOS).
        words = f"{card}: {plug.kind} {plug.name or ''}".rstrip()
        made.set(words, [f"--nic{slot}", plug.kind, *into], live if there and plug.kind != "hostonlynet" else None)
    if plug.types is not None and (found is None or found.type not in plug.types):
        made.set(f"{card}: {plug.types[0]}", [f"{dialect.nic_type}{slot}", plug.types[0]])
    if plug.mac is not None and (found is None or found.mac != plug.mac):
        made.set(f"{card}: MAC address {plug.mac}", [f"{dialect.mac}{slot}", plug.mac])
    if plug.promiscuous is not None and mode != plug.promiscuous:
        live = [f"nicpromisc{slot}", plug.promiscuous]
        words = f"{card}: promiscuous mode {plug.promiscuous}"
        made.set(words, [f"{dialect.promiscuous}{slot}", plug.promiscuous], live if there else None)
    if found is None or not found.cable:
        made.set(f"{card}: cable", [f"{dialect.cable}{slot}", "on"], [f"setlinkstate{slot}", "on"] if there else None)


def _plug_flag(kind: str, dialect: Dialect) -> str:
    flags = {
        "intnet": "--intnet",
        "hostonly": dialect.host_only,
        "hostonlynet": "--host-only-net",
        "bridged": dialect.bridge,
    }
    return flags[kind]


def disk_controller(found: Settings) -> Controller:
    """The controller that disks and the CD hang at: the SATA one, else the one with the most ports.

    Raises InputError where the machine has none.
    """
    if not found.controllers:
        raise InputError(f"{found.name}: the machine has no storage controller", hint="its base is no machine of ours")
    return max(found.controllers, key=lambda each: (each.type == "IntelAhci", each.ports))


def free_port(found: Settings, controller: Controller, taken: set[int]) -> int:
    """The first port for a further disk; raises InputError where there is none."""
    used = taken | {medium.port for medium in found.media if medium.controller == controller.name}
    for port in range(FIRST_DISK_PORT, controller.ports):
        if port not in used:
            return port
    raise InputError(f"{found.name}: no room for another disk at {controller.name}: {controller.ports} ports")
