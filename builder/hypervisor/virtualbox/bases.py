"""The bases in a VirtualBox: imported OVAs, each with the snapshot that clones are made from."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from builder import interrupts
from builder.errors import HapxError, InputError
from builder.hypervisor import Base, Progress
from builder.hypervisor.virtualbox import mark, said, storage
from builder.hypervisor.virtualbox.manage import LONG, POLL, QUICK, SETTLE, Manage
from builder.hypervisor.virtualbox.reading import Settings

SNAPSHOT = "base"
"""The snapshot of a base that clones are made from; taken last, so a base without it is half-made."""


class Bases:
    """The bases of one VirtualBox. May be used by several threads at once."""

    def __init__(self, manage: Manage) -> None:
        self._manage = manage
        self._sources: dict[str, Settings] = {}
        self._lock = threading.Lock()

    def all(self) -> list[Base]:
        """Those that are whole."""
        uuids = [uuid for name, uuid in self._manage.machines_lately(look=True) if not mark.is_ours(uuid, name)]
        found = [
            (base, each)
            for each in self._manage.all(uuids)
            if SNAPSHOT in each.snapshots and (base := mark.read_base(each.description)) and base.name == each.name
        ]
        with self._lock:
            self._sources.update({base.name: each for base, each in found})
        return [base for base, _ in found]

    def source(self, base: Base) -> Settings:
        """The settings of a base; raises InputError where it is not there."""
        with self._lock:
            known = self._sources.get(base.name)
            if known is None or mark.read_base(known.description) != base:
                self._sources.pop(base.name, None)
                for found in self._manage.named(base.name):
                    if mark.read_base(found.description) == base and SNAPSHOT in found.snapshots:
                        self._sources[base.name] = found
            if base.name in self._sources:
                return self._sources[base.name]
        raise self._absent(base.name)

    def add(self, ova: Path, base: Base, *, on_progress: Progress | None = None) -> bool:
        """Import an OVA; see `Hypervisor.import_base`."""
        for found in self._manage.named(base.name):
            there = mark.read_base(found.description)
            if there is None or there.name != base.name:
                raise mark.in_the_way(self._manage.where, base.name)
            if SNAPSHOT not in found.snapshots:
                self._manage.unregister(found)
            elif there.sha256 == base.sha256:
                return False
            else:
                raise InputError(
                    f"{self._manage.where}: {base.name} is there already, from another OVA (SHA-256 {there.sha256})",
                    hint="import this one under another name (--name), or remove that one and the machines made of it",
                )
        size = ova.stat().st_size

        def on_percent(percent: int) -> None:
            if on_progress is not None:
                on_progress(size * percent // 100, size)

        place = self._manage.place
        near = place.fetchable(ova)
        copied = PurePosixPath(f".cache/hapx-build/{base.sha256[:16]}/{ova.name}")
        if near is None:
            place.put(ova, copied, mode=0o600)
        try:
            self._import(str(near or copied), base, on_percent)
        except BaseException:
            with interrupts.held(), contextlib.suppress(HapxError):
                self._sweep(base)
            raise
        if near is None:
            place.run(["rm", "-rf", "--", str(copied.parent)], timeout=QUICK)
        return True

    def remove(self, name: str) -> None:
        """Remove a base; raises InputError where it is none, or machines hang on its disk."""
        for found in self._manage.named(name):
            if mark.read_base(found.description) is None:
                raise mark.in_the_way(self._manage.where, name)
            storage.check_children(self._manage, found)
            self._manage.unregister(found)
            with self._lock:
                self._sources.pop(name, None)
            return
        raise self._absent(name)

    def _import(self, ova: str, base: Base, on_percent: Callable[[int], None]) -> None:
        flags = ["--vsys=0", f"--vmname={base.name}", f"--group={mark.BASES}", f"--description={mark.of_base(base)}"]
        result = self._manage.run("import", ova, *flags, timeout=LONG, check=False, on_percent=on_percent)
        if result.returncode != 0:
            if said.is_in_the_way(result):
                storage.make_way(self._manage, self._folder(base))
            elif not said.is_digest(result):
                raise said.error(result, self._manage.where)
            # Seen with VirtualBox 7.2 on a busy machine: it finds a digest wrong that is right, and not the next time.
            self._manage.run("import", ova, *flags, timeout=LONG, on_percent=on_percent)
        uuid = next(uuid for name, uuid in self._manage.machines() if name == base.name)
        self._manage.run("snapshot", uuid, "take", SNAPSHOT)

    def _sweep(self, base: Base) -> None:
        """Take away what is left of an import that was cut off: VirtualBox's daemon goes on with it for a moment."""
        deadline = time.monotonic() + SETTLE
        while True:
            for found in self._manage.named(base.name):
                if mark.read_base(found.description) == base and SNAPSHOT not in found.snapshots:
                    self._manage.unregister(found)
            storage.sweep(self._manage, self._folder(base))
            if time.monotonic() >= deadline:
                return
            time.sleep(POLL)

    def _folder(self, base: Base) -> PurePosixPath:
        folder = storage.default_folder(self._manage)
        return folder / mark.BASES.lstrip("/") / storage.folder_name(base.name)

    def _absent(self, name: str) -> InputError:
        there = ", ".join(base.name for base in self.all()) or "none"
        return InputError(
            f"{self._manage.where}: there is no base {name}",
            hint=f"there are: {there}; hapx-build import makes one",
        )
