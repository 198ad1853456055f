"""Where a bake works: folders that are gone afterwards, room on their disks, the log that keeps a second bake out."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from builder import command, interrupts
from builder.errors import BusyError, InputError, MissingError, NoSpaceError, of_os_error
from builder.image import locks, namespace

PREFIX = "hapx-bake-"  # of folders that a later bake takes away where their process, which holds their lock, is gone
KEPT_PREFIX = "hapx-kept-"  # of those that somebody asked to keep


def temporary_folder() -> Path:
    """Where work folders are made: $TMPDIR, or /var/tmp. Not /tmp, which is memory on Debian 13: gigabytes are written.

    Raises InputError where TMPDIR is not a folder that can be written to, or Packer could not pass its name to a shell.
    """
    folder = Path(os.environ.get("TMPDIR") or "/var/tmp").absolute()  # noqa: S108
    if not re.fullmatch(r"[\w/.,:@%+=~-]+", str(folder)):
        raise InputError(f"TMPDIR={folder}: a shell would not take this name as it is", hint="choose a plainer one")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"TMPDIR={folder}: not a folder that can be written to", hint="create it, or unset TMPDIR")
    # Without root, mmdebstrap works in it with subordinate ids (subuid(5)), which are others' to the file system.
    if os.geteuid() != 0 and (
        closed := [each for each in (folder, *folder.parents) if not each.stat().st_mode & 0o001]
    ):
        raise InputError(
            f"TMPDIR={folder}: only its owner may go through {closed[-1]}",
            hint=f"chmod o+x {closed[-1]}, or unset TMPDIR",
        )
    return folder


def cache_folder() -> Path:
    """Where root file systems are kept: $XDG_CACHE_HOME/hapx-build, by default ~/.cache/hapx-build."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "hapx-build"
    try:
        return Path.home() / ".cache" / "hapx-build"
    except RuntimeError:
        raise MissingError("this user has no home folder to keep a cache in", hint="set XDG_CACHE_HOME") from None


def make(path: Path) -> None:
    """Make a folder that stays, and those above it; raises InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{path}: this folder cannot be made: {error.strerror}"
        raise of_os_error(error) or InputError(reason, hint="choose another place") from None


def new_name(*, kept: bool = False) -> str:
    """A name for a work folder that nobody else uses."""
    return f"{KEPT_PREFIX if kept else PREFIX}{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def folder(path: Path, *, keep: bool = False, locked: bool = False) -> Iterator[None]:
    """Make a folder, and take it away again with all that is in it, whoever owns that.

    With `locked` its lock says as long that this process is alive: see `sweep` and `when_abandoned`.
    """
    with contextlib.ExitStack() as stack:
        with interrupts.held():
            unlocked = path.with_name(f".{path.name}")  # the name by which it may be swept comes with the lock
            unlocked.mkdir()
            unlocked.chmod(0o755)  # whatever the umask: accounts of an image go through it
            if locked:
                stack.enter_context(locks.held(unlocked))
            unlocked.rename(path)
            if not keep:
                stack.callback(_take_away, path)
        yield


def _take_away(path: Path) -> None:
    with interrupts.held():
        remove(path)


def when_abandoned(path: Path, end: Callable[[], None]) -> None:
    """Have `end` called, in a thread of its own, once the process that holds a work folder is gone or let it go.

    A bake that is killed cannot stop what runs below Packer, and Packer does not: a stage has to look for itself.
    """

    def watch() -> None:
        with contextlib.suppress(OSError), locks.held(path, shared=True):
            end()

    threading.Thread(target=watch, daemon=True, name="abandoned").start()


def remove(path: Path) -> None:
    """Delete a folder, whoever owns what is in it; quiet where it is gone already."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        # Files of the image's accounts belong to our subordinate ids: only our namespace's root may delete them.
        command.run(namespace.unshare_argv(["rm", "-rf", "--", path]), check=False)


def sweep(parent: Path) -> None:
    """Remove the work of bakes of ours that were killed: nobody else will."""
    for left in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is locked, or another's, or gone by now
            if left.stat().st_uid == os.geteuid():
                with locks.held(left, wait=False):
                    remove(left)


@contextlib.contextmanager
def locked(output: Path, log: Path) -> Iterator[TextIO]:
    """Let one bake at a time make `output`; yields its log, as it is, to be added to.

    The log is the lock: it is beside the output, so that it keeps out whoever bakes into the same folder, whatever
    their cache; and it stays anyway. Raises BusyError with the process that its first line names.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(log, wait=False))
        except BlockingIOError:
            first = log.read_text(errors="replace").partition("\n")[0]
            who = f" ({first})" if first.startswith("process ") else ""
            raise BusyError(
                f"{output}: another bake is making this file{who}", hint="wait for it, or give another --output"
            ) from None
        try:
            with log.open("a") as file:
                yield file
        finally:
            if log.exists() and log.stat().st_size == 0:
                log.unlink()


def require_space(needs: Sequence[tuple[Path, int]], *, hint: str) -> None:
    """Raise NoSpaceError where the disks of these folders have less room than is needed there (bytes), all told."""
    by_disk: dict[int, list[tuple[Path, int]]] = {}
    for path, size in needs:
        existing = _existing(path)
        by_disk.setdefault(existing.stat().st_dev, []).append((existing, size))
    for wanted in by_disk.values():
        free = shutil.disk_usage(wanted[0][0]).free
        needed = sum(size for _, size in wanted)
        if free < needed:
            places = ", ".join(dict.fromkeys(str(path) for path, _ in wanted))
            raise NoSpaceError(f"{places}: {free / 1e9:.1f} GB free, a bake needs {needed / 1e9:.1f} GB", hint=hint)


def full(places: Mapping[str, Path], *, doing: str) -> NoSpaceError:
    """The error for a disk that got full: of `places` (what chooses it, and where it is) that with the least room."""
    rooms = {name: shutil.disk_usage(_existing(path)) for name, path in places.items()}
    name = min(rooms, key=lambda name: rooms[name].free)
    room = f"{rooms[name].free / 1e6:,.0f} of {rooms[name].total / 1e6:,.0f} MB free"
    return NoSpaceError(
        f"{doing}: no space left on the disk of {places[name]} ({room})",
        hint=f"free some space there, or choose another place ({name})",
    )


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def output_path(asked: Path | None, name: str) -> Path:
    """Where the OVA goes: a file where the name ends in .ova, else a folder; dist/ by default."""
    if asked is not None and asked.suffix == ".ova":
        return asked.absolute()
    return (asked or Path("dist")).absolute() / f"{name}.ova"


def check_output(output: Path) -> None:
    """Raise InputError where the OVA, and what goes beside it, could not be put there in the end."""
    hint = "--output takes a folder, or a file.ova"
    if output.is_dir():
        raise InputError(f"{output}: this is a folder", hint=hint)
    folder = next(parent for parent in output.parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"{folder}: this is not a folder", hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: this folder cannot be written to", hint=hint)
