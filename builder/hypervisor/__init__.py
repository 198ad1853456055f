"""What every hypervisor does for a cluster, and the plain data it takes and gives; `virtualbox` and `libvirt` do it.

A base is an imported OVA, named after its version; a machine is a clone of one, a node of a cluster. Both carry a mark
of ours. What does not is somebody else's: it is never changed, and one in the way is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from builder.spec.derived import Subnet
from builder.spec.model import Firmware, NetworkKind

# Done and whole, in bytes.
Progress = Callable[[int, int], None]


class State(StrEnum):
    """What a machine is doing, in the words that hypervisors share."""

    OFF = "off"
    RUNNING = "running"
    PAUSED = "paused"
    SAVED = "saved"
    STARTING = "starting"
    STOPPING = "stopping"
    BROKEN = "broken"
    """Crashed, or half-made by a run that was cut off."""


@dataclass(frozen=True, slots=True)
class Base:
    """An imported OVA."""

    name: str
    """The machine's or volume's name on the hypervisor: "hapx-1.2.0-amd64"."""
    sha256: str
    """The OVA's digest: the same OVA again is nothing to do."""


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card and what it is plugged into."""

    network: str
    """The network's name in the spec."""
    kind: NetworkKind
    name: str | None
    """The internal network's, host-only network's or bridge's name on the host; None where the host chooses."""
    adapter: str
    """e1000, virtio or vmxnet3."""
    mac: str
    """Lower case, with colons."""
    promiscuous: bool
    """Whether frames for other machines' MAC addresses are let through."""
    subnets: tuple[Subnet, ...]
    """Of a host-only network: the host itself has an address in each."""


@dataclass(frozen=True, slots=True)
class ExtraDisk:
    """A disk beside the one with the system."""

    name: str
    size_mib: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A node's machine as it should be."""

    cluster: str
    name: str
    base: Base
    cpus: int
    memory_mib: int
    nics: tuple[Nic, ...]
    disks: tuple[ExtraDisk, ...]
    seed: Path
    """The node's CD on this machine; where it is needed on another, it is copied there."""
    linked: bool = True
    """A linked clone (an overlay over the base's disk), or a full copy."""
    firmware: Firmware = Firmware.BIOS


@dataclass(frozen=True, slots=True)
class Found:
    """A machine of ours as it is."""

    cluster: str
    name: str
    state: State
    base: str
    """Its base's name, as noted when it was made; empty where a run was cut off before that."""


@dataclass(frozen=True, slots=True)
class Converged:
    """What it took to make a machine what it should be."""

    name: str
    created: bool
    changes: tuple[str, ...]
    """What was changed, a few words each; empty when everything was right already."""
    later: tuple[str, ...] = ()
    """What a running machine cannot take: changed when it has been stopped and this is run again."""


class Hypervisor(Protocol):
    """One hypervisor on one host.

    Everything here may be run again, after success and after being cut off. Each raises HapxError: MissingError
    where the hypervisor's program is not there, UnreachableError for a host that does not answer, InputError for what
    is in the way, CommandError for what its program refuses.
    """

    @property
    def where(self) -> str:
        """The host as people and the spec name it: "this machine", "ssh://user@host", "qemu:///system"."""
        ...

    def alone(self, *, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Keep other runs of hapx-build from making or removing anything here meanwhile; see `remote.Place.alone`.

        For whoever imports, converges or destroys. A thread holds one at a time: two URIs may mean the same hypervisor.
        """
        ...

    def bases(self) -> Sequence[Base]:
        """The imported OVAs."""
        ...

    def import_base(self, ova: Path, base: Base, *, on_progress: Progress | None = None) -> bool:
        """Import an OVA that was verified; False when that very OVA is there already."""
        ...

    def remove_base(self, name: str) -> None:
        """Remove an imported OVA; raises InputError while machines hang on its disk."""
        ...

    def machines(self, cluster: str | None = None) -> Sequence[Found]:
        """The machines of ours, of one cluster or of all, half-made ones too."""
        ...

    def converge(self, machine: Machine) -> Converged:
        """Make the machine and the networks it needs, or change what differs; nothing is started or stopped."""
        ...

    def start(self, name: str) -> bool:
        """Power a machine on, or resume it; False when it runs already."""
        ...

    def stop(self, name: str, *, timeout: float) -> bool:
        """Ask a machine to shut down (ACPI), and take its power away after `timeout` seconds; False when it is off."""
        ...

    def power_off(self, name: str) -> bool:
        """Take a machine's power away; False when it is off."""
        ...

    def destroy(self, name: str) -> bool:
        """Remove a machine with its disks and the CD copied for it; False when there is none of that name."""
        ...

    def destroy_networks(self, cluster: str) -> Sequence[str]:
        """Remove the networks that were made for a cluster and that nobody uses any more; their names."""
        ...

    def console(self, name: str) -> Sequence[str]:
        """The command that shows the machine's serial console as it is written, to be run on this machine."""
        ...

    def console_tail(self, name: str, lines: int) -> Sequence[str]:
        """The last lines of the machine's serial console, as far as they were kept; none where nothing was."""
        ...

    def ask(self, name: str, argv: Sequence[str], *, timeout: float) -> str | None:
        """What a program on the node prints, run as root by the guest agent; None where that does not answer (yet)."""
        ...
