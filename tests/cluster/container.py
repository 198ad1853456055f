"""A node as a container: the baked root with its own systemd, started, cut off and brought back like a machine.

What differs from a machine, and nothing else:

- The kernel is shared with whoever runs the tests: no boot loader, no modules, one clock.
- The root is a stack of the baked files (never written) and a disk of the node's own, a tmpfs of `DISK_SIZE`;
  /etc/fstab names the disk of a machine, so the container's is empty.
- Network cards are veths. They have no address burnt in, by which netplan has systemd-networkd find them: a drop-in
  beside each .network file finds them by the address they have. cloud-init's own renaming works as on a machine.
- The seed lies where NoCloud looks for one, instead of on a CD.

Power is cut by taking the cards away and killing process 1 with all it started, at once. A container that resets itself
(reboot(2), as Pacemaker does in a panic) is dark from that moment on and boots again `FIRMWARE_SECONDS` later.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.command import Result, run
from builder.image.namespace import PATH
from tests.cluster.world import World

FIRMWARE_SECONDS = 2.0
START_SECONDS = 15.0
DISK_SIZE = "1g"
SEED = "var/lib/cloud/seed/nocloud"
RESET = 133  # systemd-nspawn(1): what it exits with under --keep-unit when the container asked for a reboot

# cgroup2 inside, whatever this machine has; and /proc/sys/net, of the container's own network, can be written to.
_NSPAWN = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}

# $1 the folder of the node, $2 the baked root, $3 the name, $4... cgroups to be in
_START = """
set -eu
here=$1 root=$2 name=$3; shift 3
for cgroup; do mkdir -p "$cgroup"; echo $$ >"$cgroup/cgroup.procs"; done
mount -t overlay overlay -o "lowerdir=$root,upperdir=$here/disk/upper,workdir=$here/disk/work" "$here/root"
exec nsenter --net="/run/netns/$name" systemd-nspawn --quiet --register=no --keep-unit --boot \
    --directory="$here/root" --machine="$name" --network-namespace-path="/run/netns/$name" \
    --capability=CAP_NET_ADMIN --console=pipe --link-journal=no --resolv-conf=off --timezone=off
"""
_MATCH = """[Match]
PermanentMACAddress=
MACAddress={mac}
"""


@dataclass(frozen=True, slots=True)
class Card:
    """A network card: the bridge it is plugged into, its MAC address, and what the node calls it."""

    bridge: str
    mac: str
    interface: str


class Container:
    """One node. Its files are in `folder` of the world, its cards plugged in as long as it has power."""

    def __init__(
        self, world: World, name: str, root: Path, cards: Sequence[Card], cgroup: str, folder: Path | None = None
    ) -> None:
        self.world, self.name, self.root, self.cards = world, name, root, tuple(cards)
        self.folder = folder or world.folder / name
        self.cgroup = f"{cgroup}/{name}"
        self.number = int("".join(filter(str.isdigit, name)) or 0)
        self.resets = 0
        self.plugged = 0.0
        self._power = threading.Lock()
        self._machine: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._wanted = False
        self.new_disk()

    # Power

    def new_disk(self) -> None:
        """An empty disk in place of the old: the node as it is cloned from the image."""
        assert not self.is_on, f"{self.name} is on"
        disk, root = self.folder / "disk", self.folder / "root"
        script = 'mkdir -p "$1" "$2"; umount "$1" 2>/dev/null; set -e; mount -t tmpfs -o "size=$3" tmpfs "$1"'
        script += '; mkdir "$1/upper" "$1/work"; chmod 755 "$1/upper"'
        self.world.run("sh", "-c", script, "disk", disk, root, DISK_SIZE)
        self.write("etc/fstab", "")
        for card in self.cards:
            folder = f"etc/systemd/network/10-netplan-{card.interface}.network.d"
            self.write(f"{folder}/40-container.conf", _MATCH.format(mac=card.mac))

    def start(self) -> None:
        """Switch it on; returns when its process 1 runs."""
        with self._power:
            assert self._machine is None, f"{self.name} is on"
            self._wanted = True
            self._boot()

    def power_off(self) -> float:
        """Cut the power; returns when that was, in seconds of time.monotonic()."""
        with self._power:
            self._wanted = False
            moment = time.monotonic()
            if self._machine is not None:
                self._unplug()
                self._kill()
                self._machine.wait(START_SECONDS)
                self._machine = None
            return moment

    def wait_off(self, seconds: float) -> None:
        """Wait until it has switched itself off."""
        assert self._machine is not None
        self._wanted = False
        self._machine.wait(seconds)
        with self._power:
            self._unplug()
            self._machine = None

    @property
    def is_on(self) -> bool:
        """Whether it has power, though it may be starting."""
        return self._machine is not None

    @property
    def leader(self) -> int:
        """The process id of its process 1, waited for during a reset; raises ProcessLookupError where there is none."""
        deadline = time.monotonic() + FIRMWARE_SECONDS + START_SECONDS
        while not self._leader and self.is_on and time.monotonic() < deadline:
            time.sleep(0.05)
        if not self._leader:
            raise ProcessLookupError(f"{self.name} is not running")
        return self._leader

    # What is in it

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file on its disk while it is off."""
        target = self.world.inside(self.folder / "disk/upper") / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        target.chmod(mode)

    def seed(self, documents: Mapping[str, bytes]) -> None:
        """Put a seed in, as a CD: it is read at the next boot."""
        for name, content in documents.items():
            if self.is_on:
                self.run("sh", "-c", f"mkdir -p /{SEED}; cat >/{SEED}/{name}", input=content.decode())
            else:
                self.write(f"{SEED}/{name}", content, 0o600)

    def run(self, *argv: str, check: bool = True, timeout: float = 60.0, input: str | None = None) -> Result:
        """Run a program in it, as root."""
        inside = ["env", "-i", f"PATH={PATH}", "HOME=/root", "LC_ALL=C.UTF-8", *argv]
        command = ["nsenter", f"--target={self.leader}", "--all", "--", *inside]
        return run(command, check=check, timeout=timeout, input=input)

    def sh(self, script: str, *, check: bool = True, timeout: float = 60.0) -> str:
        """Run a shell script in it; what it says on standard output."""
        return self.run("sh", "-euc", script, check=check, timeout=timeout).stdout

    def pids(self, program: str) -> list[int]:
        """The outer process ids of a program that runs in it, by its name."""
        found = []
        for pid, name in _processes(self.cgroup):
            if name == program:
                found.append(pid)
        return sorted(found)

    def kill(self, program: str, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal to every process of that name in it; returns when, in seconds of time.monotonic()."""
        pids = self.pids(program)
        assert pids, f"{self.name}: no {program} is running"
        return self.kill_pids(pids, number)

    def kill_pids(self, pids: Sequence[int], number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal to processes in it, by their outer ids; returns when."""
        moment = time.monotonic()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return moment

    def health(self) -> dict[str, Any]:
        """What `hapx health` says there."""
        said: dict[str, Any] = json.loads(self.run("hapx", "health", "--json", check=False).stdout)
        return said

    # Cards

    def outer(self, card: Card) -> str:
        """The other end of a card's wire, in the world."""
        return f"n{self.number}-{card.bridge}"

    def wire(self, bridge: str) -> str:
        """The end, in the world, of the wire that goes to a bridge."""
        return next(self.outer(card) for card in self.cards if card.bridge == bridge)

    def unplug(self, *bridges: str) -> float:
        """Pull the cables to these bridges: the cards lose their link. Returns when."""
        moment = time.monotonic()
        self.world.ip(*(f"link set dev {self.wire(bridge)} down" for bridge in bridges))
        return moment

    def plug(self, *bridges: str) -> float:
        """Put the cables in again; returns when."""
        self.plugged = moment = time.monotonic()
        self.world.ip(*(f"link set dev {self.wire(bridge)} up" for bridge in bridges))
        return moment

    def isolate(self) -> float:
        """Its switches pass nothing from or to it any more, and its cards do not notice. Returns when."""
        return self._forward("0")

    def join(self) -> float:
        """They pass everything again; returns when."""
        return self._forward("3")

    def _forward(self, state: str) -> float:
        moment = time.monotonic()
        for card in self.cards:
            # bridge(8): 0 is disabled, 3 forwarding
            self.world.run("bridge", "link", "set", "dev", self.outer(card), "state", state)
        return moment

    def freeze(self) -> float:
        """It stands still, whatever it is doing, and nothing reaches it; returns when."""
        moment = time.monotonic()
        self.isolate()
        self._freezer.write_text("1")
        return moment

    def thaw(self) -> float:
        """It goes on; returns when."""
        self._freezer.write_text("0")
        self.join()
        return time.monotonic()

    @property
    def _freezer(self) -> Path:
        return hierarchies()[0] / self.cgroup / "payload/cgroup.freeze"

    # How

    def _boot(self) -> None:
        lines = [f"netns add {self.name}"]
        for card in self.cards:
            inner = f"i{self.outer(card)}"
            lines += [
                f"link add name {inner} address {card.mac} netns {self.name} type veth peer name {self.outer(card)}",
                f"link set dev {self.outer(card)} master {card.bridge} up",
            ]
        self.world.ip(*lines)
        cgroups = [f"{each}/{self.cgroup}" for each in hierarchies()]
        script = ["unshare", "--mount", "--propagation=private", "sh", "-c", _START, "start"]
        argv = self.world.enter([*script, self.folder, self.root, self.name, *cgroups])
        environment = {**os.environ, **_NSPAWN}
        with Path(self.world.folder, f"{self.name}.console").open("ab") as console:
            self._machine = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not (leader := _leader(self.cgroup)):
            if self._machine.poll() is not None or time.monotonic() > deadline:
                said = Path(self.world.folder, f"{self.name}.console").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} does not start:\n{said}")
            time.sleep(0.02)
        self._leader = leader
        self._check_harmless()
        threading.Thread(target=self._watch, args=(self._machine, leader), daemon=True).start()

    def _check_harmless(self) -> None:
        """No container may reach the machine's own magic keys, whatever it is told to write to them."""
        enter = ["nsenter", f"--target={self._leader}", "--mount", "--root"]
        deadline = time.monotonic() + START_SECONDS
        # Process 1 is there a little before all that systemd-nspawn mounts over /proc. Opening it presses no key.
        while run([*enter, "sh", "-c", ": >>/proc/sysrq-trigger"], check=False, timeout=10).returncode == 0:
            if time.monotonic() > deadline:
                self._kill()
                raise RuntimeError("/proc/sysrq-trigger can be written to in containers here: no test may go on")

    def _watch(self, machine: subprocess.Popen[bytes], leader: int) -> None:
        """The end of process 1 is the end of what the network sees of it; after a reset it boots again."""
        with contextlib.suppress(ProcessLookupError):
            end = os.pidfd_open(leader)
            try:
                poll = select.poll()
                poll.register(end, select.POLLIN)
                poll.poll()
            finally:
                os.close(end)
        self._leader = 0
        with self._power:
            if self._machine is not machine or not self._wanted:
                return
            self._unplug()
            if machine.wait(START_SECONDS) != RESET:
                self._wanted = False
                self._machine = None
                return
            self.resets += 1
            time.sleep(FIRMWARE_SECONDS)
            self._boot()

    def _unplug(self) -> None:
        """Take the cards away, whatever of them is still there."""
        lines = [f"link del dev {self.outer(card)}" for card in self.cards]
        command = self.world.enter(["ip", "-force", "-batch", "-"])
        run(command, input="".join(f"{line}\n" for line in [*lines, f"netns del {self.name}"]), check=False, timeout=30)

    def _kill(self) -> None:
        if self._leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)


def hierarchies() -> list[Path]:
    """Where cgroups are made: cgroup2, and systemd's own where that is another one."""
    base = Path("/sys/fs/cgroup")
    return [found for name in ("unified", "systemd") if (found := base / name).is_dir()] or [base]


def tidy(prefix: str) -> None:
    """Remove the cgroups that runs before this one left: named PREFIX-PID-NUMBER, of processes that are gone."""
    for base in hierarchies():
        for group in base.glob(f"{prefix}-*"):
            if not Path("/proc", group.name.removeprefix(f"{prefix}-").partition("-")[0]).exists():
                remove_cgroup(group)


def remove_cgroup(group: Path) -> None:
    """Remove a cgroup with all below it; those that something still runs in stay."""
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def _processes(cgroup: str) -> list[tuple[int, str]]:
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names, many times a second
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            if f"/{cgroup}/payload" in Path("/proc", entry, "cgroup").read_text():
                found.append((int(entry), Path("/proc", entry, "comm").read_text().strip()))
    return found


def _leader(cgroup: str) -> int:
    for pid, _ in _processes(cgroup):
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{pid}/status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(numbers) == 3 and numbers[-1] == "1":
                return pid
    return 0
