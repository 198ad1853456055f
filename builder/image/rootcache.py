"""Root file systems kept between bakes, by their inputs; and whether the mirror has moved on since one was made."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from builder import command
from builder.errors import CommandError, CommandTimeoutError
from builder.image import locks

KEPT = 3  # roots: two releases, and the one before a change that is undone


@dataclass(frozen=True, slots=True)
class RootState:
    """What a kept root was made from: a digest of the mirror's signed indices, their newest date, the time it took.

    And how large its tar is: one that a full disk or a power cut made shorter is not taken for whole.
    """

    mirror_state: str  # SHA-256, hex
    date: int  # seconds since the epoch
    seconds: float
    size: int  # bytes

    @classmethod
    def of(cls, making: Path, *, seconds: float) -> RootState:
        """The state that a folder with root.tar and apt/lists describes."""
        indices = _indices(making / "apt" / "lists")
        date = max((_date(index) for index in indices), default=0)
        return cls(_digest(indices), date, seconds, tar(making).stat().st_size)


def tar(entry: Path) -> Path:
    """The root file system of a cache entry."""
    return entry / "root.tar"


def load(entry: Path) -> RootState | None:
    """The state of a cache entry, or None where there is none, or only half of one."""
    try:
        data = json.loads((entry / "info.json").read_text())
        state = RootState(str(data["mirror_state"]), int(data["date"]), float(data["seconds"]), int(data["size"]))
        return state if tar(entry).stat().st_size == state.size else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def locked(entry: Path, *, shared: bool = False, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep others from replacing an entry (`shared`), or from using it, too; calls `waiting` where that takes time."""
    lock = _lock(entry)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(lock, shared=shared, wait=False))
        except BlockingIOError:
            waiting()
            stack.enter_context(locks.held(lock, shared=shared))
        yield


def used(entry: Path) -> None:
    """Note that an entry was of use: the ones that are not go first."""
    os.utime(entry)


def sweep(entry: Path) -> None:
    """Remove what a killed run left half made of an entry, whose lock the caller holds."""
    for left in entry.parent.glob(f".{entry.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def drop(entry: Path) -> None:
    """Remove an entry."""
    shutil.rmtree(entry, ignore_errors=True)


def store(making: Path, entry: Path, *, seconds: float) -> RootState:
    """Turn the folder `making` (root.tar, apt/sources.list, apt/lists) into the entry, whose lock the caller holds.

    An older one goes, and so do the entries, of other bakes, that were not used for longest.
    """
    lists = making / "apt" / "lists"
    state = RootState.of(making, seconds=seconds)
    kept = _indices(lists)
    for leftover in lists.iterdir():
        if leftover not in kept:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    (making / "info.json").write_text(json.dumps(asdict(state)) + "\n")
    if entry.exists():
        entry.rename(making / "before")
    making.rename(entry)
    shutil.rmtree(entry / "before", ignore_errors=True)
    used(entry)
    _evict(entry.parent)
    return state


def _evict(folder: Path) -> None:
    """Remove the entries that were not used for longest, but for those that somebody uses right now."""
    entries = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for old in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        with contextlib.suppress(BlockingIOError), locks.held(_lock(old), wait=False):
            drop(old)
            _lock(old).unlink()


def _lock(entry: Path) -> Path:
    return entry.parent.parent / "locks" / entry.name


def mirror_now(entry: Path, scratch: Path, *, timeout: float = 10.0) -> str | None:
    """The digest of the mirror's signed indices as they are now, or None where the mirror does not answer in time.

    apt itself asks, with the sources the root was made from and folders of its own below `scratch`; only the three
    small InRelease files travel, and those only when they changed. They are compared, never trusted.
    """
    lists = scratch / "lists"
    shutil.copytree(entry / "apt" / "lists", lists)
    Path(lists, "partial").mkdir(exist_ok=True)
    options = {
        "Dir::Etc::sourcelist": entry / "apt" / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": scratch,
        "Dir::State::status": "/dev/null",
        "Dir::Cache": scratch,
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
        "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
        "Acquire::IndexTargets::deb::Translations::DefaultEnabled": "false",
        "Acquire::AllowInsecureRepositories": "true",
        "Acquire::Check-Valid-Until": "false",  # a snapshot's
        "Acquire::Retries": "0",
        "Acquire::http::Timeout": "5",
        "Acquire::https::Timeout": "5",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    try:
        command.run(["apt-get", "update", "-q", *flags], timeout=timeout, env={"LC_ALL": "C.UTF-8"})
    except (CommandError, CommandTimeoutError):
        return None
    return _digest(_indices(lists))


def _indices(lists: Path) -> list[Path]:
    """The indices that carry a signature: InRelease, or Release of a mirror that keeps it in a file of its own."""
    return sorted(lists.glob("*Release"))


def _digest(indices: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for index in indices:
        whole.update(index.name.encode() + b"\0" + hashlib.sha256(index.read_bytes()).digest())
    return whole.hexdigest()


def _date(index: Path) -> int:
    """The `Date` of a Release file (RFC 5322, as Debian's repository format has it), in seconds since the epoch."""
    for line in index.read_text(errors="replace").splitlines():
        if line.startswith("Date:"):
            try:
                return int(email.utils.parsedate_to_datetime(line.partition(":")[2].strip()).timestamp())
            except ValueError:
                return 0
    return 0
