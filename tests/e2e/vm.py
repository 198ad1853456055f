"""A virtual machine of a test's own: QEMU with a disk made over the image's, watched through its serial console.

Nothing of it outlives the test: QEMU is ended by its process, and dies with the process that started it. No packet
leaves it: a network card's other end is QEMU's own network stack, cut off from the host (`restrict=on`), unless the
test names another. Inside, commands run without a login, through the QEMU guest agent that is part of the image.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from builder import acceleration
from builder.command import run

POLL_SECONDS = 0.2
KILL_SECONDS = 10.0
QMP_SECONDS = 30.0
AGENT_SECONDS = 120.0
COMMAND_SECONDS = 120.0
CONSOLE_LINES = 40

OVMF = tuple(Path("/usr/share/OVMF", f"OVMF_{part}_4M.fd") for part in ("CODE", "VARS"))


class Firmware(StrEnum):
    """What starts the boot loader, and the chipset it comes with here."""

    BIOS = "bios"  # i440FX, the chipset VirtualBox and VMware show by default
    UEFI = "uefi"  # Q35


class Controller(StrEnum):
    """What the disk hangs on."""

    IDE = "ide"
    SATA = "sata"
    NVME = "nvme"
    VIRTIO_BLK = "virtio-blk"
    VIRTIO_SCSI = "virtio-scsi"
    PVSCSI = "pvscsi"
    SAS = "mptsas1068"


class Nic(StrEnum):
    """A network card, by QEMU's name for it."""

    E1000 = "e1000"
    VMXNET3 = "vmxnet3"
    VIRTIO = "virtio-net-pci"


_SCSI_DISK = "scsi-hd,bus=controller.0,drive=disk,bootindex=1"
_DISKS: Mapping[Controller, tuple[str, ...]] = {
    Controller.IDE: ("ide-hd,bus=ide.0,drive=disk,bootindex=1",),
    Controller.SATA: ("ahci,id=controller", "ide-hd,bus=controller.0,drive=disk,bootindex=1"),
    Controller.NVME: ("nvme,serial=hapx,drive=disk,bootindex=1",),
    Controller.VIRTIO_BLK: ("virtio-blk-pci,drive=disk,bootindex=1",),
    Controller.VIRTIO_SCSI: ("virtio-scsi-pci,id=controller", _SCSI_DISK),
    Controller.PVSCSI: ("pvscsi,id=controller", _SCSI_DISK),
    # Linux leaves a SAS disk without an address of its own alone.
    Controller.SAS: ("mptsas1068,id=controller", f"{_SCSI_DISK},wwn=0x5000c50000000001"),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to start without firmware and boot loader, its initramfs, and its command line."""

    path: Path
    initramfs: Path
    arguments: str


@dataclass(frozen=True, slots=True)
class Cable:
    """A virtio network card with a MAC address, and what QEMU plugs it into: a -netdev without its id."""

    mac: str
    netdev: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine: `disk` (raw) is only read, what the guest writes goes to a layer of its own.

    The guest sees the disk `grown_by_mib` larger than it is. With `kernel` the firmware's only part is the chipset.
    """

    disk: Path
    firmware: Firmware
    controller: Controller
    nics: tuple[Nic, ...] = ()
    cables: tuple[Cable, ...] = ()
    cd: Path | None = None
    grown_by_mib: int = 0
    kernel: Kernel | None = None
    memory_mib: int = 1024
    cpus: int = 2


@dataclass(frozen=True, slots=True)
class Output:
    """What a command inside the guest did."""

    returncode: int
    stdout: str
    stderr: str


class GuestError(Exception):
    """The guest, or QEMU, did not do what was waited for; with the last lines of its console."""


def arguments(machine: Machine, work: Path, *, qmp: int, agent: int) -> list[str]:
    """QEMU's command line; `qmp` and `agent` are descriptors of sockets it inherits, its files lie in `work`."""
    argv = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "std"),
        *("-machine", "q35" if machine.firmware is Firmware.UEFI else "pc"),
        *acceleration.detect().qemu_arguments(),
        *("-smp", str(machine.cpus), "-m", str(machine.memory_mib)),
        *("-chardev", f"file,id=console,path={work / 'console'}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={agent}"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-drive", f"if=none,id=disk,format=qcow2,discard=unmap,file={work / 'disk.qcow2'}"),
        *(part for device in _DISKS[machine.controller] for part in ("-device", device)),
    ]
    for index, nic in enumerate(machine.nics):
        argv += ["-netdev", f"user,id=net{index},restrict=on", "-device", f"{nic},netdev=net{index}"]
    for index, cable in enumerate(machine.cables):
        argv += ["-netdev", f"{cable.netdev},id=cable{index}"]
        argv += ["-device", f"virtio-net-pci,netdev=cable{index},mac={cable.mac}"]
    if machine.cd is not None:
        argv += ["-drive", f"if=none,id=cd,format=raw,readonly=on,media=cdrom,file={machine.cd.resolve()}"]
        argv += ["-device", "ide-cd,drive=cd,bus=ide.1"]
    if machine.kernel is not None:
        argv += ["-kernel", str(machine.kernel.path), "-initrd", str(machine.kernel.initramfs)]
        # A kernel that gives up ends the machine, not only itself.
        argv += ["-append", machine.kernel.arguments, "-no-reboot"]
    elif machine.firmware is Firmware.UEFI:
        code, variables = OVMF[0], work / "vars.fd"
        argv += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
        argv += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
    return argv


@contextlib.contextmanager
def start(machine: Machine, work: Path) -> Iterator[Guest]:
    """The machine, switched on, until the block ends. `work` is a folder for its files, which are removed again.

    The console's text, and what QEMU itself said, stay in `work` for whoever looks into a failure.
    """
    work.mkdir(parents=True)
    layer = work / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(machine.disk.resolve()), str(layer)])
    run(["qemu-img", "resize", "-q", str(layer), f"+{machine.grown_by_mib}M"])
    if machine.firmware is Firmware.UEFI:
        shutil.copyfile(OVMF[1], work / "vars.fd")
    with contextlib.ExitStack() as stack:
        ours, theirs = zip(*(socket.socketpair() for _ in ("qmp", "agent")), strict=True)
        for end in ours:
            stack.callback(end.close)
        descriptors = [end.fileno() for end in theirs]
        argv = arguments(machine, work, qmp=descriptors[0], agent=descriptors[1])
        # A test run that is killed takes its machines with it.
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        with (work / "qemu").open("wb") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
                start_new_session=True,
            )
        for end in theirs:
            end.close()
        try:
            yield Guest(process, work, qmp=ours[0], agent=ours[1])
        finally:
            process.kill()
            process.wait(KILL_SECONDS)
            layer.unlink()
            (work / "vars.fd").unlink(missing_ok=True)


class Guest:
    """A machine that was switched on."""

    def __init__(self, process: subprocess.Popen[bytes], work: Path, *, qmp: socket.socket, agent: socket.socket):
        self._process = process
        self._work = work
        self._qmp = _Channel(qmp)
        self._agent = _Channel(agent)
        self._numbers = itertools.count(1)
        self._started = time.monotonic()

    @property
    def console(self) -> str:
        """Everything on the serial console so far."""
        path = self._work / "console"
        return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""

    def wait_for(self, pattern: str, *, seconds: float, fail: str = "", after: int = 0) -> float:
        """Wait until a regular expression is found on the console, from the character `after` on.

        Returns the seconds since the machine was switched on. Raises GuestError when the time is over, QEMU ended, or
        `fail` (another expression) is found first.
        """
        deadline = time.monotonic() + seconds
        while True:
            ended = self._process.poll() is not None
            text = self.console[after:]
            if re.search(pattern, text, re.MULTILINE):
                return time.monotonic() - self._started
            if fail and (found := re.search(fail, text, re.MULTILINE)):
                raise self._error(f"waiting for {pattern!r}, the console said {found.group()!r}")
            if ended:
                raise self._error(f"waiting for {pattern!r}, QEMU ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                raise self._error(f"{pattern!r} did not come within {seconds:.0f} seconds")
            time.sleep(POLL_SECONDS)

    def run(self, *argv: str, seconds: float = COMMAND_SECONDS) -> Output:
        """Run a command inside, as root; what it is and where it is found is for the guest's /usr/bin/env to say."""
        self._greet()
        call = {"path": "/usr/bin/env", "arg": list(argv), "capture-output": True}
        pid = self._agent.ask("guest-exec", call, AGENT_SECONDS)["pid"]
        deadline = time.monotonic() + seconds
        while not (status := self._agent.ask("guest-exec-status", {"pid": pid}, AGENT_SECONDS))["exited"]:
            if time.monotonic() > deadline:
                raise self._error(f"{' '.join(argv)}: no end after {seconds:.0f} seconds")
            time.sleep(POLL_SECONDS)
        stdout, stderr = (base64.b64decode(status.get(key, "")).decode() for key in ("out-data", "err-data"))
        return Output(status.get("exitcode", -status.get("signal", 0)), stdout, stderr)

    def read(self, *argv: str, seconds: float = COMMAND_SECONDS) -> str:
        """What a command inside that has to succeed writes to its output, without the white space around it."""
        output = self.run(*argv, seconds=seconds)
        if output.returncode != 0:
            said = (output.stderr or output.stdout).strip()
            raise GuestError(f"{' '.join(argv)}: exit code {output.returncode}: {said}")
        return output.stdout.strip()

    def press_power_button(self) -> None:
        """The ACPI power button, once."""
        self._command("system_powerdown")

    def grow_disk(self, mib: int) -> None:
        """Make the disk `mib` MiB larger while the machine runs, as a hypervisor's administrator would."""
        (disk,) = self._command("query-block")
        size = disk["inserted"]["image"]["virtual-size"] + (mib << 20)
        self._command("block_resize", {"device": disk["device"], "size": size})

    def restart(self, ready: str, *, seconds: float) -> float:
        """Restart the system inside and wait for `ready` (see `wait_for`) anew; returns the seconds that took."""
        said, began = len(self.console), time.monotonic()
        self._greet()
        self._agent.send({"execute": "guest-shutdown", "arguments": {"mode": "reboot"}})
        self._agent.greeted = False  # what answers next is another process
        self.wait_for(ready, seconds=seconds, after=said)
        return time.monotonic() - began

    def wait_until_off(self, *, seconds: float) -> float:
        """Wait until the machine switched itself off; returns the seconds it took. Raises GuestError."""
        began = time.monotonic()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self._error(f"not off after {seconds:.0f} seconds") from None
        if code != 0:
            raise self._error(f"QEMU ended with exit code {code}")
        return time.monotonic() - began

    def _command(self, name: str, values: Mapping[str, object] | None = None) -> Any:
        if not self._qmp.greeted:
            self._qmp.receive(QMP_SECONDS, lambda message: "QMP" in message)
            self._qmp.greeted = True
            self._command("qmp_capabilities")
        return self._qmp.ask(name, values or {}, QMP_SECONDS)

    def _greet(self) -> None:
        """Come to an understanding with the guest agent: what was left unread is thrown away (`guest-sync`)."""
        if self._agent.greeted:
            return
        number = next(self._numbers)
        self._agent.send({"execute": "guest-sync", "arguments": {"id": number}})
        self._agent.receive(AGENT_SECONDS, lambda message: message.get("return") == number)
        self._agent.greeted = True

    def _error(self, message: str) -> GuestError:
        lines = self.console.splitlines()[-CONSOLE_LINES:]
        said = (self._work / "qemu").read_text(errors="replace").splitlines()
        return GuestError("\n".join([message, *said, f"-- the end of {self._work / 'console'}", *lines]))


class _Channel:
    """JSON objects, one a line, over a socket."""

    def __init__(self, end: socket.socket) -> None:
        self.greeted = False
        self._socket = end
        self._pending = b""

    def send(self, message: Mapping[str, object]) -> None:
        self._socket.settimeout(QMP_SECONDS)
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def ask(self, name: str, values: Mapping[str, object], seconds: float) -> Any:
        """What a command returns; raises GuestError where it fails."""
        self.send({"execute": name, "arguments": values})
        answer = self.receive(seconds, lambda message: "return" in message or "error" in message)
        if "error" in answer:
            raise GuestError(f"{name}: {answer['error']}")
        return answer["return"]

    def receive(self, seconds: float, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next object that is wanted; those before it are thrown away. Raises GuestError."""
        deadline = time.monotonic() + seconds
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if newline:
                self._pending = rest
                message = json.loads(line)
                if wanted(message):
                    assert isinstance(message, dict)
                    return message
                continue
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                chunk = self._socket.recv(1 << 16)
            except TimeoutError:
                raise GuestError(f"no answer within {seconds:.0f} seconds") from None
            if not chunk:
                raise GuestError("QEMU closed the channel")
            self._pending += chunk
