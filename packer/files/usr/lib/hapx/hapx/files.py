"""Files written so that at any time, power cuts included, each is the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def place(path: Path, data: bytes, *, mode: int, uid: int, gid: int) -> None:
    """Put a file in its place; raises OSError, and then everything is as it was."""
    write_beside(path, data, mode=mode, uid=uid, gid=gid).replace(path)
    sync_folder(path.parent)


def write_beside(path: Path, data: bytes, *, mode: int, uid: int, gid: int) -> Path:
    """Write what is to become `path` under a name of its own in the same folder, down to the disk."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".hapx", dir=path.parent)
    made = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return made


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
