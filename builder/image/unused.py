"""Zeros what a file system does not use any more, so that it takes no room in an OVA.

A machine that was used has deleted files and old transactions all over its disk. Its own fstrim does not get at them:
a virtual disk need not pass that on, and what was deleted in the last seconds is not given back yet.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

from builder.errors import InputError
from builder.image.diff.ext4 import FileSystem

CHUNK = 1 << 20


def clear(disk: BinaryIO, start: int) -> int:
    """Zero the free blocks, and the journal, of the ext4 that begins at byte `start` of a disk; returns bytes zeroed.

    `disk` is open for reading and writing; its holes stay holes. Raises InputError where there is no ext4 that can be
    read, or one that was not unmounted: its journal is needed then.
    """
    system = FileSystem(disk, start)
    if not system.unmounted:
        raise InputError("the machine's file system was not unmounted", hint="see in the log whether it was shut down")
    cleared, descriptor = 0, disk.fileno()
    for first, count in [*system.free(), *system.spent()]:
        begin = start + first * system.block_size
        for at, size in _data(descriptor, begin, begin + count * system.block_size):
            if any(os.pread(descriptor, size, at)):
                cleared += os.pwrite(descriptor, bytes(size), at)
    return cleared


def _data(descriptor: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Pieces between two bytes of a sparse file that are no holes: where, and how long."""
    at = begin
    while at < end:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end of the file
                return
            raise
        edge = min(os.lseek(descriptor, at, os.SEEK_HOLE), end)
        while at < edge:
            size = min(CHUNK, edge - at)
            yield at, size
            at += size
