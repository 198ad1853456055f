"""Root file systems kept between bakes, by their inputs; and whether the mirror has moved on since one was made."""

from __future__ import annotations

import email.utils
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from builder import command
from builder.errors import CommandError, CommandTimeoutError

KEPT = 3  # roots: two releases, and the one before a change that is undone


@dataclass(frozen=True, slots=True)
class RootState:
    """What a kept root was made from: a digest of the mirror's signed indices, their newest date, the time it took."""

    mirror_state: str  # SHA-256, hex
    date: int  # seconds since the epoch
    seconds: float

    @classmethod
    def of(cls, lists: Path, *, seconds: float) -> RootState:
        """The state that apt's `lists` folder describes."""
        indices = sorted(lists.glob("*InRelease"))
        return cls(_digest(indices), max((_date(index) for index in indices), default=0), seconds)


def tar(entry: Path) -> Path:
    """The root file system of a cache entry."""
    return entry / "root.tar"


def load(entry: Path) -> RootState | None:
    """The state of a cache entry, or None where there is none, or only half of one."""
    try:
        data = json.loads((entry / "info.json").read_text())
        state = RootState(str(data["mirror_state"]), int(data["date"]), float(data["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if tar(entry).is_file() else None


def store(making: Path, entry: Path, *, seconds: float) -> RootState:
    """Turn the folder `making` (root.tar, apt/sources.list, apt/lists) into the cache entry; an older one goes."""
    lists = making / "apt" / "lists"
    state = RootState.of(lists, seconds=seconds)
    for leftover in lists.iterdir():
        if not leftover.name.endswith("InRelease"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    (making / "info.json").write_text(json.dumps(asdict(state)) + "\n")
    if entry.exists():
        # Out of the way first: another bake may be storing, or unpacking, the same root.
        entry.rename(making / "before")
    making.rename(entry)
    shutil.rmtree(entry / "before", ignore_errors=True)
    entries = [path for path in entry.parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for old in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return state


def mirror_now(entry: Path, *, timeout: float = 10.0) -> str | None:
    """The digest of the mirror's signed indices as they are now, or None where the mirror does not answer in time.

    apt itself asks, with the sources the root was made from and folders of its own; only the three small InRelease
    files travel, and those only when they changed. They are compared, never trusted.
    """
    with tempfile.TemporaryDirectory(prefix="hapx-apt-") as scratch:
        lists = Path(scratch, "lists")
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
            "Acquire::Retries": "0",
            "Acquire::http::Timeout": "5",
            "Acquire::https::Timeout": "5",
        }
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        try:
            command.run(["apt-get", "update", "-q", *flags], timeout=timeout, env={"LC_ALL": "C.UTF-8"})
        except (CommandError, CommandTimeoutError):
            return None
        return _digest(sorted(lists.glob("*InRelease")))


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
