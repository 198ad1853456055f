"""Locks on files and folders. One is held until its process ends, however it ends: a killed run locks nobody out."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[int]:
    """Hold a lock (flock(2)) on a file, made where there is none, or on a folder; yields its descriptor.

    Raises BlockingIOError where somebody else holds it and `wait` is not said. The file may be deleted by who holds
    its lock alone.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, kind)
            # Who held it may have deleted the file meanwhile: then this is a lock on nothing.
            if not _is(path, descriptor):
                continue
            yield descriptor
            return
        finally:
            os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
