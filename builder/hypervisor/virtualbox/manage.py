"""VBoxManage on one host: its version, its errors, the machines it knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from builder import command, remote
from builder.command import Result
from builder.errors import BusyError, HapxError, InputError, MissingError
from builder.hypervisor.virtualbox import dialect, reading, said
from builder.hypervisor.virtualbox.dialect import Dialect
from builder.hypervisor.virtualbox.reading import Settings
from builder.remote import Here, Ssh

PROGRAM = "VBoxManage"
QUICK = 120.0
"""Seconds for a call that is done in a moment; VirtualBox's daemon stalls for ten now and then."""
LONG = 4 * 3600.0
"""Seconds for a call that copies a disk."""
LOCKED = 20.0
"""Seconds to wait for a machine that another VBoxManage, or one that was killed, is not done with."""
SETTLE = 5.0
"""Seconds in which VirtualBox's daemon may still begin what a VBoxManage that was ended had asked for."""
POLL = 0.3
MOMENT = 2.0
"""Seconds for which a list of machines will do to see whether a name is free: while ten nodes are cloned, say."""
THREADS = 4

HINT = "VirtualBox 6.1 or later; or libvirt, with host: qemu:///system in the spec"


class Manage:
    """VBoxManage on a host. May be used by several threads at once."""

    def __init__(self, place: Here | Ssh) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._listed: tuple[float, list[tuple[str, str]]] = (-MOMENT, [])

    @property
    def where(self) -> str:
        """The host as people name it."""
        return self.place.where

    def run(
        self,
        *args: str,
        timeout: float = QUICK,
        check: bool = True,
        on_percent: Callable[[int], None] | None = None,
    ) -> Result:
        """Run VBoxManage, for a while again where the machine is in use; `on_percent` is told how far it says it is.

        Raises MissingError, UnreachableError, BusyError, and where `check` is on what `said.error` makes of a failure.
        """
        deadline = time.monotonic() + LOCKED
        while True:
            result = self._run(args, timeout, on_percent)
            if result.returncode == 0:
                return result
            error = said.error(result, self.where)
            if isinstance(error, BusyError) and time.monotonic() < deadline:
                time.sleep(POLL)
            elif check or isinstance(error, BusyError):
                raise error
            else:
                return result

    def _run(self, args: Sequence[str], timeout: float, on_percent: Callable[[int], None] | None) -> Result:
        if isinstance(self.place, Here) and command.which(PROGRAM) is None:
            raise MissingError(f"{PROGRAM}: VirtualBox is not installed", hint=HINT)
        on_errors = None if on_percent is None else _meter(on_percent)
        result = self.place.run([PROGRAM, "--nologo", *args], timeout=timeout, check=False, on_errors=on_errors)
        if isinstance(self.place, Ssh):
            remote.require(result, PROGRAM, self.where, HINT)
        return result

    @cached_property
    def version(self) -> tuple[int, int]:
        """Major and minor number; raises MissingError where it is older than any we know."""
        text = self.run("--version").stdout
        found = reading.version(text)
        if found is None:
            raise HapxError(f"{self.where}: VBoxManage --version says no version", details=text.splitlines())
        if found < dialect.OLDEST:
            raise MissingError(f"{self.where}: VirtualBox {found[0]}.{found[1]} is too old", hint=HINT)
        return found

    @property
    def dialect(self) -> Dialect:
        """What this version takes."""
        return dialect.of(self.version)

    @cached_property
    def system(self) -> str:
        """The host's operating system, as uname(1) has it."""
        return self.place.run(["uname", "-s"], timeout=QUICK).stdout.strip()

    def machines(self) -> list[tuple[str, str]]:
        """Name and UUID of every machine; names need not differ."""
        return reading.machines(self.run("list", "vms").stdout)

    def machines_lately(self, *, look: bool = False) -> list[tuple[str, str]]:
        """`machines` as they were when this was last asked, where that is not longer ago than a moment; else, or to
        `look`, as they are.
        """
        with self._lock:
            if look or time.monotonic() - self._listed[0] > MOMENT:
                self._listed = (time.monotonic(), self.machines())
            return list(self._listed[1])

    def forget(self) -> None:
        """Have `machines_lately` look again."""
        with self._lock:
            self._listed = (-MOMENT, [])

    def note(self, name: str, uuid: str) -> None:
        """A machine was made here: it is on the list from now on."""
        with self._lock:
            self._listed[1].append((name, uuid))

    def settings(self, machine: str) -> Settings | None:
        """A machine's settings by its UUID, or its name where that is one machine's only; None where there is none."""
        result = self.run("showvminfo", machine, "--machinereadable", check=False)
        if result.returncode == 0:
            return reading.settings(result.stdout)
        if said.is_absent(result):
            return None
        raise said.error(result, self.where)

    def all(self, uuids: Sequence[str]) -> list[Settings]:
        """The settings of these machines, but for those that are gone."""
        with ThreadPoolExecutor(THREADS) as pool:
            return [settings for settings in pool.map(self.settings, uuids) if settings is not None]

    def named(self, name: str) -> list[Settings]:
        """The settings of every machine of that name."""
        return self.all([uuid for each, uuid in self.machines() if each == name])

    def unregister(self, found: Settings) -> None:
        """Take a machine off VirtualBox' list, and delete its files; see `storage.check_children`."""
        self.run("unregistervm", found.uuid, "--delete", timeout=LONG)
        self.forget()

    def promiscuous(self, machine: str) -> dict[int, str]:
        """The promiscuous mode of each of a machine's cards, by slot."""
        return reading.promiscuous(self.run("showvminfo", machine).stdout)

    def the_one(self, name: str) -> Settings:
        """The settings of the machine of that name, whoever made it; raises InputError where there is not just one."""
        found = [uuid for each, uuid in self.machines() if each == name]
        if len(found) > 1:
            raise InputError(f"{self.where}: {len(found)} machines are called {name}", hint="rename all but one")
        settings = self.settings(found[0]) if found else None
        if settings is None:
            there = ", ".join(sorted(each for each, _ in self.machines())) or "none"
            raise InputError(f"{self.where}: there is no machine {name}", hint=f"there are: {there}")
        return settings


def _meter(on_percent: Callable[[int], None]) -> Callable[[str], None]:
    """Takes what VBoxManage has written to its errors so far, and tells each percentage once."""
    last = -1

    def take(text: str) -> None:
        nonlocal last
        found = reading.percent(text)
        if found is not None and found != last:
            last = found
            on_percent(found)

    return take
