"""libvirt through virsh and a connection URI: qemu:///system, qemu+ssh://user@host/system.

A base is a volume of our storage pool, a node a domain over it; both are in `storage` and `domain`. A domain is defined
with our mark before anything is made for it, and undefined when all of that is gone: what a run that was cut off left
behind is always known for ours, and for half-made.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from uuid import uuid4
from xml.etree.ElementTree import Element

from builder import remote
from builder.errors import CommandError, InputError, MissingError
from builder.hypervisor import Base, Converged, Found, Machine, Progress, State
from builder.hypervisor.libvirt import agent, conversion, domain, storage
from builder.hypervisor.libvirt.domain import Mark
from builder.hypervisor.libvirt.networks import Networks
from builder.hypervisor.libvirt.storage import Storage
from builder.hypervisor.libvirt.virsh import AbsentError, Virsh
from builder.spec.model import Firmware

POLL_SECONDS = 0.5
# What moves a terminal's cursor and colours its text (ECMA-48), and what ends a line twice.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])|[\r\x07]")

_STATES = {
    "running": State.RUNNING,
    "idle": State.RUNNING,
    "paused": State.PAUSED,
    "pmsuspended": State.PAUSED,
    "in shutdown": State.STOPPING,
    "shut off": State.OFF,
    "crashed": State.BROKEN,
}


class Libvirt:
    """One libvirt, by its connection URI; meets `Hypervisor`. May be used by several threads at once."""

    def __init__(self, uri: str) -> None:
        self._virsh = Virsh(uri)
        self._storage = Storage(self._virsh)
        self._networks = Networks(self._virsh)
        self._making = threading.RLock()  # storage and networks belong to all machines of the host

    @property
    def where(self) -> str:
        """The connection URI."""
        return self._virsh.uri

    def alone(self, *, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """See `Hypervisor`. Other runs of this user on this machine: libvirt knows no locks."""
        digest = hashlib.sha256(self.where.encode()).hexdigest()[:12]
        return remote.Here().alone(f"libvirt-{digest}", on_wait=on_wait)

    # -- Bases

    def bases(self) -> Sequence[Base]:
        """The imported OVAs."""
        with self._making:
            return self._storage.bases()

    def import_base(self, ova: Path, base: Base, *, on_progress: Progress | None = None) -> bool:
        """Import an OVA that was verified; False when that very OVA is there already."""
        with self._making:
            if base in self._storage.bases():
                return False
            self._storage.prepare()
            for other in self._storage.half_made_bases():
                if other.name == base.name:
                    self._storage.remove_base(other)
            with tempfile.TemporaryDirectory(prefix="hapx-", dir=conversion.workplace()) as folder:
                image = Path(folder) / "base.qcow2"
                capacity = conversion.to_qcow2(ova, image)
                size = ova.stat().st_size
                if on_progress is not None:
                    on_progress(size // 2, size)
                self._storage.add_base(base, image, capacity=capacity)
                if on_progress is not None:
                    on_progress(size, size)
            return True

    def remove_base(self, name: str) -> None:
        """Remove an imported OVA; raises InputError while machines hang on its disk."""
        with self._making:
            if users := [found.name for found in self.machines() if found.base == name]:
                raise InputError(f"{self.where}: {name} is the base of {', '.join(users)}", hint="destroy them first")
            for base in (*self._storage.bases(), *self._storage.half_made_bases()):
                if base.name == name:
                    self._storage.remove_base(base)

    # -- Machines

    def machines(self, cluster: str | None = None) -> Sequence[Found]:
        """The machines of ours, of one cluster or of all, half-made ones too."""
        found = []
        for name in self._virsh.names("list", "--all", "--name"):
            definition = self._virsh.xml("dumpxml", "--inactive", name)
            mark = domain.mark_of(definition) if definition is not None else None
            if mark is None or cluster not in (None, mark.cluster):
                continue
            state = self._state(name) if mark.finished else State.BROKEN
            found.append(Found(mark.cluster, name, state, mark.base))
        return found

    def converge(self, machine: Machine) -> Converged:
        """Make the machine and the networks it needs, or change what differs; nothing is started or stopped."""
        with self._making:
            self._check_connection()
            self._check_firmware(machine)
            actual = self._virsh.xml("dumpxml", "--inactive", machine.name)
            mark = domain.mark_of(actual) if actual is not None else None
            if actual is not None and (mark is None or mark.cluster != machine.cluster):
                owner = f"the cluster {mark.cluster}'s" if mark is not None else "somebody else's"
                message = f"{self.where}: there is a machine {machine.name} already, and it is {owner}"
                raise InputError(message, hint="give the node another name, or remove that machine yourself")
            if actual is None or mark is None or not mark.finished:
                self._make(machine, actual)
                changes, later = list[str](), list[str]()
            else:
                changes, later = self._change(machine, actual, mark)
            # After the machine: a network that a machine names is not removed by somebody else's clean-up.
            made, waiting = self._networks.converge(machine.nics)
            created = actual is None or mark is None or not mark.finished
            return Converged(machine.name, created, (*changes, *made), (*later, *waiting))

    def start(self, name: str) -> bool:
        """Power a machine on, or resume it; False when it runs already."""
        match self._state(name):
            case State.RUNNING | State.STARTING:
                return False
            case State.PAUSED:
                self._virsh.run("resume", name)
            case State.STOPPING:
                self._wait_until_off(name, 60)
                self._start(name)
            case _:
                self._start(name)
        return True

    def stop(self, name: str, *, timeout: float) -> bool:
        """Ask a machine to shut down (ACPI), and take its power away after `timeout` seconds; False when it is off."""
        state = self._state(name)
        if state is State.RUNNING:
            try:
                self._virsh.run("shutdown", name, "--mode", "acpi")
            except CommandError:
                if self._state(name) is not State.OFF:  # it went off by itself meanwhile
                    raise
        if state in (State.RUNNING, State.STOPPING) and self._wait_until_off(name, timeout):
            return True
        return self.power_off(name) or state is not State.OFF

    def power_off(self, name: str) -> bool:
        """Take a machine's power away; False when it is off."""
        state = self._state(name)
        if state is State.SAVED:
            self._virsh.run("managedsave-remove", name)
            return True
        if state in (State.OFF, State.BROKEN):
            return False
        try:
            self._virsh.run("destroy", name)
        except CommandError:
            if self._state(name) is not State.OFF:
                raise
            return False
        return True

    def destroy(self, name: str) -> bool:
        """Remove a machine with its disks and the CD copied for it; False when there is none of that name."""
        with self._making:
            definition = self._virsh.xml("dumpxml", "--inactive", name)
            if definition is not None:
                mark = domain.mark_of(definition)
                if mark is None:
                    raise InputError(f"{self.where}: the machine {name} is somebody else's, and stays")
                self.power_off(name)
                # From here on it counts as half-made, however this ends.
                self._virsh.take("define", domain.unfinished(name, definition.findtext("uuid", ""), mark))
            volumes = self._storage.of_node(name)
            for volume in volumes:
                self._storage.remove(volume)
            if definition is not None:
                self._virsh.run("undefine", name, "--managed-save")
            return definition is not None or bool(volumes)

    def destroy_networks(self, cluster: str) -> Sequence[str]:
        """Remove the networks of ours that no machine uses any more, whichever cluster they were made for."""
        with self._making:
            return self._networks.remove_unused()

    # -- What a machine says

    def console(self, name: str) -> Sequence[str]:
        """virsh's console; it is left with Ctrl-]."""
        return self._virsh.argv("console", name)

    def console_tail(self, name: str, lines: int) -> Sequence[str]:
        """The last lines of the machine's serial console, as far as they were kept; none where nothing was."""
        with self._making:
            volumes = self._storage.of_node(name)
            text = self._storage.read(volume) if (volume := storage.console_volume(name)) in volumes else ""
        plain = _CONTROL.sub("", text)
        return [line for line in plain.splitlines() if line.strip()][-lines:]

    def ask(self, name: str, argv: Sequence[str], *, timeout: float) -> str | None:
        """What a program on the node prints, run as root by the guest agent; None where that does not answer (yet)."""
        try:
            return agent.ask(self._virsh, name, argv, timeout=timeout)
        except AbsentError:
            return None

    # -- Making

    def _check_connection(self) -> None:
        if re.search(r"/session(\?|$)", self.where):
            message = f"{self.where}: a session's libvirt has no networks that machines could share"
            raise InputError(message, hint="use qemu:///system, or qemu+ssh://user@host/system")

    def _check_firmware(self, machine: Machine) -> None:
        if machine.firmware is Firmware.UEFI and not self._uefi:
            message = f"{self.where}: {machine.name} is to start under UEFI, and there is no firmware for that"
            hint = "on that host: sudo apt-get install ovmf && sudo systemctl restart libvirtd"
            raise MissingError(message, hint=hint)

    @cached_property
    def _uefi(self) -> bool:
        """Whether libvirt has found UEFI firmware for our kind of machine; it looks once, until it is restarted."""
        kind = ["--virttype", "kvm" if self._kvm else "qemu", "--arch", "x86_64", "--machine", domain.MACHINE]
        told = self._virsh.xml("domcapabilities", *kind)
        return told is not None and any(
            value.text == "efi" for value in told.findall("os/enum[@name='firmware']/value")
        )

    @cached_property
    def _kvm(self) -> bool:
        """Whether guests run on the host's processor, by what libvirt knows of that host.

        That it offers KVM only says that /dev/kvm opens (see `acceleration`): the processor has to have vmx or svm.
        """
        capabilities = self._virsh.xml("capabilities")
        offered = capabilities is not None and any(
            guest.get("type") == "kvm" for guest in capabilities.findall("guest/arch[@name='x86_64']/domain")
        )
        cpu = capabilities.find("host/cpu") if capabilities is not None else None
        if not offered or cpu is None:
            return False
        # The CPU's own list names only what its model does not imply.
        from xml.etree.ElementTree import tostring

        text = self._virsh.run("cpu-baseline", "/dev/stdin", "--features", input=tostring(cpu, encoding="unicode"))
        return re.search(r"<feature [^>]*name='(vmx|svm)'", text) is not None

    def _make(self, machine: Machine, actual: Element | None) -> None:
        if machine.base not in self._storage.bases():
            raise InputError(f"{self.where}: {machine.base.name} is not imported there", hint="hapx-build import")
        place = self._storage.prepare()
        mark = Mark(machine.cluster, machine.base.name, machine.base.sha256, "")
        left = self._storage.of_node(machine.name)
        if actual is None and left:
            message = f"{self.where}: there is no machine {machine.name}, but there are disks of it: {', '.join(left)}"
            raise InputError(message, hint=f"hapx-build destroy --host {machine.name} removes them")
        uuid = actual.findtext("uuid", "") if actual is not None else str(uuid4())
        self._virsh.take("define", domain.unfinished(machine.name, uuid, mark))
        for volume in left:
            self._storage.remove(volume)
        system = storage.system_volume(machine.name)
        if machine.linked:
            self._storage.add_overlay(system, machine.base, place)
        else:
            self._storage.add_copy(system, machine.base)
        for disk in machine.disks:
            self._storage.add_disk(storage.disk_volume(machine.name, disk.name), disk.size_mib)
        seed = storage.seed_volume(machine.name, machine.seed.read_bytes())
        self._storage.add_file(seed, machine.seed)
        self._define(machine, uuid, mark, seed)

    def _wanted(self, machine: Machine, uuid: str, mark: Mark, seed: str) -> Element:
        place = self._storage.place()
        bare = domain.definition(machine, uuid, place, seed, kvm=self._kvm, mark=mark)
        finished = replace(mark, definition=domain.digest(bare))
        return domain.definition(machine, uuid, place, seed, kvm=self._kvm, mark=finished)

    def _define(self, machine: Machine, uuid: str, mark: Mark, seed: str) -> None:
        self._virsh.take("define", self._wanted(machine, uuid, mark, seed))

    def _change(self, machine: Machine, actual: Element, mark: Mark) -> tuple[list[str], list[str]]:
        """What was changed on a machine that is there, and what has to wait until it is off."""
        place = self._storage.place()
        uuid = actual.findtext("uuid", "")
        changes: list[str] = []
        off = self._state(machine.name) is State.OFF
        before = PurePosixPath(domain.cd_path(actual)).name
        seed = storage.seed_volume(machine.name, machine.seed.read_bytes())
        if seed != before:
            self._storage.add_file(seed, machine.seed)
            how = ["--config"] if off else ["--live", "--config"]
            self._virsh.run("change-media", machine.name, domain.CD, place.path(seed), "--update", "--force", *how)
            changes.append("CD")
        for volume in self._storage.of_node(machine.name):
            if ".seed." in volume and volume != seed:
                self._storage.remove(volume)
        wanted = self._wanted(machine, uuid, mark, seed)
        words = [*domain.differences(actual, wanted), *self._growth(machine)]
        if not words:
            return changes, []
        if not off:
            return changes, words
        there = self._storage.of_node(machine.name)
        for disk in machine.disks:
            volume = storage.disk_volume(machine.name, disk.name)
            if volume not in there:
                self._storage.add_disk(volume, disk.size_mib)
            elif self._storage.sizes(volume)[0] < disk.size_mib << 20:
                self._storage.grow(volume, disk.size_mib)
        self._virsh.take("define", wanted)
        if machine.firmware is Firmware.BIOS:
            self._storage.remove(storage.nvram_volume(machine.name))
        return [*changes, *words], []

    def _growth(self, machine: Machine) -> list[str]:
        """The disks that should be larger than they are. Raises InputError for those that should be smaller."""
        there = self._storage.of_node(machine.name)
        words = []
        for disk in machine.disks:
            volume = storage.disk_volume(machine.name, disk.name)
            has = self._storage.sizes(volume)[0] >> 20 if volume in there else disk.size_mib
            if has > disk.size_mib:
                message = f"{self.where}: {machine.name}'s disk {disk.name} has {has} MiB, and cannot shrink"
                raise InputError(message, hint=f"say {has} MiB in the spec, or give the disk another name")
            if has < disk.size_mib:
                words.append(f"disk {disk.name}: {disk.size_mib} MiB instead of {has} MiB")
        return words

    # -- Running

    def _state(self, name: str) -> State:
        """What a domain is doing. Raises AbsentError where there is none of that name."""
        state = _STATES.get(self._virsh.run("domstate", name).strip(), State.BROKEN)
        if state is State.OFF and re.search(r"^Managed save: +yes$", self._virsh.run("dominfo", name), re.MULTILINE):
            return State.SAVED
        return state

    def _start(self, name: str) -> None:
        try:
            self._virsh.run("start", name)
        except CommandError as error:
            said = " ".join(error.details)
            if "already running" in said:
                return  # another run was quicker
            if match := re.search(r"(?:[Uu]nable to add|failed to add) .*bridge (\S+?)[ :]", said):
                message = f"{self.where}: {name} cannot be plugged into {match[1]}: {error.details[-1]}"
                hint = "a bridged network's name in the spec has to be a bridge (ip link add NAME type bridge)"
                raise InputError(message, hint=hint) from None
            raise

    def _wait_until_off(self, name: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._state(name) is not State.OFF:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True
