"""What lies where in an OVA and on its disk: the grains of a streamOptimized VMDK as a raw disk, and its partitions."""

from __future__ import annotations

import os
import struct
import tarfile
import uuid
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import InputError
from builder.image.verify.grains import GRAIN_HEAD, MARKER, Marker
from builder.image.verify.vmdk import SECTOR, Header

NAMES = {0: "protective MBR and boot code", 1: "partition table (GPT header)", 2: "partition table (GPT entries)"}


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: its number, name, identities, and its place in bytes."""

    number: int
    name: str
    type: uuid.UUID
    id: uuid.UUID
    start: int
    size: int


def inflate(ova: BinaryIO, member: tarfile.TarInfo, target: BinaryIO) -> int:
    """Write the disk of a streamOptimized VMDK inside an OVA as a sparse raw disk; returns its size in bytes.

    Grains and markers: see `builder.image.verify.grains`. Raises InputError where the disk is of another kind, or
    damaged.
    """
    ova.seek(member.offset_data)
    sector = ova.read(SECTOR)
    if len(sector) < SECTOR or not sector.startswith(b"KDMV"):
        raise InputError(
            f"{member.name}: not a VMDK whose contents can be compared", hint="hapx-build verify says more"
        )
    header = Header.parse(sector)
    if not header.readable or not 0 < header.overhead * SECTOR <= member.size:
        raise InputError(f"{member.name}: not a streamOptimized disk", hint="hapx-build verify says more")
    most = 2 * header.grain_size * SECTOR
    at, end = header.overhead * SECTOR, member.size
    while at + SECTOR <= end:
        ova.seek(member.offset_data + at)
        head = ova.read(SECTOR)
        value, size, kind = MARKER.unpack_from(head)
        if not size:
            if kind == Marker.END_OF_STREAM:
                break
            at += (1 + value) * SECTOR
            continue
        if size > most or value >= header.capacity:
            raise InputError(f"{member.name}: damaged at sector {at // SECTOR}", hint="hapx-build verify says more")
        packed = head[GRAIN_HEAD : GRAIN_HEAD + size]
        packed += ova.read(size - len(packed))
        try:
            plain = zlib.decompressobj().decompress(packed, header.grain_size * SECTOR)
        except zlib.error as error:
            raise InputError(f"{member.name}: damaged at sector {at // SECTOR}: {error}") from None
        target.seek(value * SECTOR)
        target.write(plain)
        at += -(-(GRAIN_HEAD + size) // SECTOR) * SECTOR
    target.truncate(header.capacity * SECTOR)
    target.flush()
    return header.capacity * SECTOR


def partitions(disk: BinaryIO) -> list[Partition]:
    """The partitions of a GPT (UEFI specification 2.10 section 5.3), in their order; none where there is no GPT."""
    disk.seek(SECTOR)
    header = disk.read(SECTOR)
    if not header.startswith(b"EFI PART"):
        return []
    first, count, size = struct.unpack_from("<QII", header, 72)
    found = []
    for index in range(min(count, 1024)):
        disk.seek(first * SECTOR + index * size)
        entry = disk.read(128)
        if len(entry) < 128 or entry[:16] == bytes(16):
            continue
        start, end = struct.unpack_from("<QQ", entry, 32)
        name = entry[56:128].decode("utf-16-le", "replace").rstrip("\0")
        kind, identity = uuid.UUID(bytes_le=entry[:16]), uuid.UUID(bytes_le=entry[16:32])
        found.append(Partition(index + 1, name, kind, identity, start * SECTOR, (end + 1 - start) * SECTOR))
    return found


def place(offset: int, found: list[Partition], size: int) -> str:
    """Which part of a disk a byte belongs to, as a person would say it."""
    for each in found:
        if each.start <= offset < each.start + each.size:
            return f"partition {each.number} ({each.name})"
    sector = offset // SECTOR
    if sector >= size // SECTOR - 33:
        return "backup partition table"
    return NAMES.get(min(sector, 2), "") if sector < 34 else "between partitions"


def differing(left: BinaryIO, right: BinaryIO, size: int, *, block: int = 4096) -> list[tuple[int, int]]:
    """Where two disks differ: the first byte of each run of differing blocks, and the bytes from there to its end."""
    runs: list[tuple[int, int]] = []
    for start, end in _data(left, right, size):
        for at in range(start, end, 1 << 20):
            left.seek(at)
            right.seek(at)
            one, other = left.read(min(1 << 20, end - at)), right.read(min(1 << 20, end - at))
            if one == other:
                continue
            for inside in range(0, max(len(one), len(other)), block):
                if one[inside : inside + block] == other[inside : inside + block]:
                    continue
                where = at + inside
                if runs and sum(runs[-1]) == where:
                    runs[-1] = (runs[-1][0], runs[-1][1] + block)
                else:
                    runs.append((where, block))
    return [_exactly(left, right, start, length) for start, length in runs]


def _exactly(left: BinaryIO, right: BinaryIO, start: int, length: int) -> tuple[int, int]:
    """The same run from its first byte that differs."""
    left.seek(start)
    right.seek(start)
    one, other = left.read(length), right.read(length)
    first = next(
        index for index in range(max(len(one), len(other))) if one[index : index + 1] != other[index : index + 1]
    )
    return start + first, length - first


def _data(left: BinaryIO, right: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Where at least one of two sparse files has data, in whole MiB: pieces that do not overlap, in order."""
    wanted: set[int] = set()
    for file in (left, right):
        at = 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end
                break
            at = min(os.lseek(file.fileno(), start, os.SEEK_HOLE), size)
            wanted.update(range(start >> 20, (max(at, start + 1) - 1 >> 20) + 1))
    return [(number << 20, min((number + 1) << 20, size)) for number in sorted(wanted)]
