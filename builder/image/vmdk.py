"""A raw disk as a streamOptimized VMDK: written strictly forward, on every core, the same bytes every time.

The format is VMware's "Virtual Disk Format 5.0" technical note, section "Stream-Optimized Compressed". Where readers
differ from the note, this module keeps to what all of them take:

- The grain directory comes at the end (GD_AT_END in the header, the true offset in a footer). It is the only form that
  can be written forward, it is the one the note draws and vSphere and VirtualBox export, and every importer knows it:
  VirtualBox looks for the footer when it can seek and skips the metadata by its markers when it cannot, QEMU (hence
  Proxmox and virt-v2v) lets a footer take precedence over the header, open-vmdk does as well, and ESXi and ovftool read
  grain by grain up to the end-of-stream marker.
- Nothing stands between the descriptor and the first grain. Readers that start after the descriptor and readers that
  start at `overHead` meet at the same sector; padding up to a round number would end the stream for the former.
- Grains are zlib streams (RFC 1950), as every product writes them, although the note says RFC 1951.
- Version 3: ESXi calls version 1 "too old". An end-of-stream marker, which qemu-img leaves out and ESXi misses.
- A grain table none of whose grains exists is not written; its grain directory entry is 0.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import deflate

from builder.errors import HapxError, InputError

# libdeflate's. On a Debian root file system (tests/bench/bench_ova.py) level 4 takes 30 % of the CPU time of qemu-img's
# zlib, spread over the cores, for as many bytes (+0.6 %); level 5 takes 34 % and saves 1.5 %.
DEFAULT_LEVEL = 4

SECTOR = 512
GRAIN = 128 * SECTOR
GTES_PER_GT = 512
GT_SPAN = GTES_PER_GT * GRAIN  # what one grain table covers
MIB = 1 << 20
MAX_CAPACITY = 2 << 40  # grain tables hold 32-bit sector numbers

DESCRIPTOR_SECTORS = 20
OVERHEAD_SECTORS = 1 + DESCRIPTOR_SECTORS
GD_AT_END = (1 << 64) - 1
FLAGS = 1 | 1 << 16 | 1 << 17  # newline detector, compressed grains, markers with their LBA
DEFLATE = 1
MARKER_GT, MARKER_GD, MARKER_FOOTER = 1, 2, 3

HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
GRAIN_MARKER = struct.Struct("<QI")
MARKER = struct.Struct("<QII496x")
ZERO_GRAIN = bytes(GRAIN)
ZERO_SECTOR = bytes(SECTOR)

# A batch is what a thread takes at a time; it never crosses a grain table. Two a thread wait to be written, and a
# thread at work holds one as it was read, its grains, and these put together: 52 MiB where nothing compresses and
# 16 threads work.
BATCH = 8 * GRAIN
MAX_THREADS = 16


@dataclass(frozen=True, slots=True)
class VmdkInfo:
    """A VMDK that was written: sizes in bytes, the number of grains in it, and the bytes of the disk these hold."""

    capacity: int
    size: int
    sha256: str
    grains: int
    populated: int


def capacity(disk: Path) -> int:
    """The size of a raw disk in bytes; raises InputError when it is not there or no VMDK can have its size."""
    try:
        size = disk.stat().st_size
    except OSError as error:
        raise InputError(f"{disk}: cannot be read: {error.strerror}") from error
    if not disk.is_file():
        raise InputError(f"{disk}: not a file", hint="give a raw disk image")
    if size == 0 or size % MIB:
        raise InputError(
            f"{disk}: {size} bytes are not a whole number of MiB, which a VMDK's capacity has to be",
            hint=f"truncate --size={size // MIB + 1}M {disk}",
        )
    if size >= MAX_CAPACITY:
        raise InputError(f"{disk}: {size} bytes are more than a streamOptimized VMDK can address", hint="at most 2 TiB")
    return size


def write(
    disk: Path,
    out: BinaryIO,
    *,
    name: str,
    level: int = DEFAULT_LEVEL,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> VmdkInfo:
    """Write the raw image `disk` to `out` as a streamOptimized VMDK, forward only.

    `name` is the VMDK's file name, which its descriptor repeats; `level` the compression level; `threads` defaults to
    the cores this process may use and does not change a byte of the result. `on_progress(done, total)` counts bytes of
    the disk, holes left out.

    Raises InputError (no such disk, a size no VMDK can have, a bad name), HapxError when the disk cannot be read to its
    end or changes meanwhile, and OSError as it comes from `out`; what `out` got is then to be thrown away.
    """
    size = capacity(disk)
    with _opened(disk) as file:
        descriptor = file.fileno()
        before = os.fstat(descriptor)
        extents = list(_extents(disk, descriptor, size))
        stream = _Stream(out)
        stream.write(_header(size // SECTOR, GD_AT_END))
        stream.write(_descriptor(name, size, _read(disk, descriptor, 0, MIB)))
        tables = _Tables(stream, size)
        done, total = 0, sum(end - start for start, end in extents)
        for batch in _compressed(disk, descriptor, extents, level=level, threads=threads):
            tables.add(batch)
            done += batch.length
            if on_progress is not None:
                on_progress(done, total)
        directory = tables.close()
        stream.write(MARKER.pack(1, 0, MARKER_FOOTER))
        stream.write(_header(size // SECTOR, directory))
        stream.write(ZERO_SECTOR)  # the end-of-stream marker is all zeros
        after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise HapxError(f"{disk}: was changed while it was read", hint="nothing may write to the disk meanwhile")
    return VmdkInfo(size, stream.size, stream.sha256.hexdigest(), tables.grains, tables.grains * GRAIN)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A stretch of the disk: where, how long, its grains ready to be written, and (grain number, sectors) of each."""

    offset: int
    length: int
    blob: bytes
    grains: tuple[tuple[int, int], ...]


class _Stream:
    """What is written: hashed and counted on its way."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()
        self.size = 0

    @property
    def sector(self) -> int:
        return self.size // SECTOR

    def write(self, data: bytes) -> None:
        self._out.write(data)
        self.sha256.update(data)
        self.size += len(data)


class _Tables:
    """Writes grains, each grain table after the last of its grains, and in the end the grain directory."""

    def __init__(self, stream: _Stream, size: int) -> None:
        self._stream = stream
        self._directory = [0] * -(-size // GT_SPAN)
        self._table = [0] * GTES_PER_GT
        self._number = 0
        self.grains = 0

    def add(self, batch: _Batch) -> None:
        if not batch.grains:
            return
        if (number := batch.offset // GT_SPAN) != self._number:
            self._flush()
            self._number = number
        sector = self._stream.sector
        for grain, sectors in batch.grains:
            self._table[grain % GTES_PER_GT] = sector
            sector += sectors
        self.grains += len(batch.grains)
        self._stream.write(batch.blob)

    def close(self) -> int:
        """Write what is left and the grain directory; the directory's sector."""
        self._flush()
        entries = struct.pack(f"<{len(self._directory)}I", *self._directory)
        entries += bytes(-len(entries) % SECTOR)
        self._stream.write(MARKER.pack(len(entries) // SECTOR, 0, MARKER_GD))
        sector = self._stream.sector
        self._stream.write(entries)
        return sector

    def _flush(self) -> None:
        if not any(self._table):
            return
        entries = struct.pack(f"<{GTES_PER_GT}I", *self._table)
        self._stream.write(MARKER.pack(len(entries) // SECTOR, 0, MARKER_GT))
        self._directory[self._number] = self._stream.sector
        self._stream.write(entries)
        self._table = [0] * GTES_PER_GT


def _header(sectors: int, directory: int) -> bytes:
    """The header, or with the grain directory's true sector the footer."""
    return HEADER.pack(
        b"KDMV",
        3,
        FLAGS,
        sectors,
        GRAIN // SECTOR,
        1,  # descriptorOffset
        DESCRIPTOR_SECTORS,
        GTES_PER_GT,
        0,  # rgdOffset: no redundant directory
        directory,
        OVERHEAD_SECTORS,
        0,  # uncleanShutdown
        b"\n \r\n",
        DEFLATE,
    )


def _descriptor(name: str, size: int, start: bytes) -> bytes:
    """The embedded descriptor, padded to its sectors.

    The content ids must differ between two disks and be the same for the same one, yet they stand before the content.
    They come from the name, the size and the first MiB (`start`), where a GPT keeps the disk's own GUID.
    """
    if not name or any(character in '"/\\' or not character.isprintable() for character in name):
        raise InputError(f"{name!r}: not a file name a VMDK can carry", hint="use letters, digits, '.', '-' and '_'")
    digest = hashlib.sha256(b"%s\0%d\0" % (name.encode(), size) + start).hexdigest()
    # 0 means "not set", ffffffff "no parent" and fffffffe "changed": a CID is none of these.
    cid = f"{1 + int(digest[:8], 16) % 0xFFFFFFFD:08x}"
    # 255 heads and 63 sectors are what a BIOS can say of anything above 4 GiB; cylinders end at 65535.
    cylinders = min(max(size // SECTOR // (255 * 63), 1), 65535)
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        'encoding="UTF-8"',
        f"CID={cid}",
        "parentCID=ffffffff",
        'createType="streamOptimized"',
        "",
        "# Extent description",
        f'RW {size // SECTOR} SPARSE "{name}"',
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        'ddb.adapterType = "lsilogic"',
        f'ddb.geometry.cylinders = "{cylinders}"',
        'ddb.geometry.heads = "255"',
        'ddb.geometry.sectors = "63"',
        f'ddb.longContentID = "{digest[8:32]}{cid}"',
        'ddb.toolsInstallType = "4"',  # the guest's own open-vm-tools
        'ddb.toolsVersion = "2147483647"',
        'ddb.virtualHWVersion = "4"',  # obsolete since ESX 3, yet expected to be there
        "",
    )
    text = "\n".join(lines).encode()
    if len(text) >= DESCRIPTOR_SECTORS * SECTOR:
        raise InputError(f"{name[:40]}…: too long for a VMDK's file name", hint="use at most 255 characters")
    return text.ljust(DESCRIPTOR_SECTORS * SECTOR, b"\0")


def _opened(disk: Path) -> BinaryIO:
    try:
        return disk.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{disk}: cannot be read: {error.strerror}") from error


def _extents(disk: Path, descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The stretches of the file that hold data, widened to whole grains and merged where they then touch."""
    start = end = position = 0
    while position < size:
        try:
            data = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but holes from here on
                break
            raise HapxError(f"{disk}: cannot be read at byte {position}: {error.strerror}") from error
        position = os.lseek(descriptor, data, os.SEEK_HOLE)
        first, last = data // GRAIN * GRAIN, min(-(-position // GRAIN) * GRAIN, size)
        if first > end:
            if end > start:
                yield start, end
            start = first
        end = last
    if end > start:
        yield start, end


def _batches(extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(offset, length) of each batch, cut at multiples of BATCH."""
    for start, end in extents:
        for edge in range(start // BATCH * BATCH, end, BATCH):
            offset = max(start, edge)
            yield offset, min(end, edge + BATCH) - offset


def _compressed(
    disk: Path, descriptor: int, extents: Iterable[tuple[int, int]], *, level: int, threads: int | None
) -> Iterator[_Batch]:
    """Each batch in order, read and compressed by the threads ahead of whoever takes them."""
    workers = min(threads or len(os.sched_getaffinity(0)), MAX_THREADS)
    waiting: deque[Future[_Batch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="vmdk") as pool:
        for offset, length in _batches(extents):
            waiting.append(pool.submit(_compress, disk, descriptor, offset, length, level))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _compress(disk: Path, descriptor: int, offset: int, length: int, level: int) -> _Batch:
    data = _read(disk, descriptor, offset, length)
    view = memoryview(data)
    parts: list[bytes | bytearray] = []
    grains: list[tuple[int, int]] = []
    for start in range(0, length, GRAIN):
        if data.startswith(ZERO_GRAIN, start):  # a memcmp that ends at the first byte that is not 0
            continue
        packed = deflate.zlib_compress(view[start : start + GRAIN], level)
        used = GRAIN_MARKER.size + len(packed)
        padding = -used % SECTOR
        parts += (GRAIN_MARKER.pack((offset + start) // SECTOR, len(packed)), packed, ZERO_SECTOR[:padding])
        grains.append(((offset + start) // GRAIN, (used + padding) // SECTOR))
    return _Batch(offset, length, b"".join(parts), tuple(grains))


def _read(disk: Path, descriptor: int, offset: int, length: int) -> bytes:
    """Exactly `length` bytes from `offset`."""
    parts: list[bytes] = []
    got = 0
    while got < length:
        try:
            part = os.pread(descriptor, length - got, offset + got)
        except OSError as error:
            raise HapxError(f"{disk}: cannot be read at byte {offset + got}: {error.strerror}") from error
        if not part:
            raise HapxError(
                f"{disk}: ended at byte {offset + got} while it was read",
                hint="nothing may write to the disk meanwhile",
            )
        parts.append(part)
        got += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
