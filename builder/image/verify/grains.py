"""The grains of a streamOptimized VMDK, walked over as a forward-only importer does, and inflated in threads.

VMware, "Virtual Disk Format 5.0": each sector that follows the last one begins either a grain (LBA, 8 bytes; size,
4 bytes, not 0; a zlib stream; padding to a sector) or a marker (number of sectors that follow it, 8 bytes; 0, 4 bytes;
type, 4 bytes; padding). The last one is the end-of-stream marker: a sector of zeros.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from builder.image.verify.checks import Findings
from builder.image.verify.stream import Stream
from builder.image.verify.vmdk import FIELDS, GD_AT_END, REMAKE, SECTOR, TABLE_ENTRIES, Extent, Header

MARKER = struct.Struct("<QII")
GRAIN_HEAD = 12  # bytes before the zlib stream
LARGEST_SECTOR = 0xFFFFFFFF  # what an entry of a grain table can hold
BATCH = 32  # grains a thread takes at once
AGAIN = "copy or download the OVA again"


class Marker(IntEnum):
    """What a marker announces."""

    END_OF_STREAM = 0
    GRAIN_TABLE = 1
    GRAIN_DIRECTORY = 2
    FOOTER = 3


@dataclass(slots=True)
class Walk:
    """What was met on the way; sector numbers count from the beginning of the VMDK.

    `grains` are the numbers of the grains and `sectors` where they are, both in the order of the file; `complete` says
    that nothing was left unread.
    """

    grains: array[int] = field(default_factory=lambda: array("Q"))
    sectors: array[int] = field(default_factory=lambda: array("I"))
    marked_tables: set[int] = field(default_factory=set)
    marked_directories: set[int] = field(default_factory=set)
    footer: Header | None = None
    complete: bool = False


class _Grain(NamedTuple):
    """A compressed grain: `data` from its LBA to the end of its padding, `size` the bytes of its zlib stream."""

    sector: int
    size: int
    data: memoryview
    lengths: tuple[int, ...]  # to what it may inflate, in bytes


class _Problem(NamedTuple):
    sector: int
    check: str
    message: str


class _Inflater:
    """Hands grains to threads and gathers what they find, in order; keeps few of them in memory."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int, extent: Extent, findings: Findings) -> None:
        self._pool = pool
        self._most = 2 * threads + 2
        self._extent = extent
        self._findings = findings
        self._batch: list[_Grain] = []
        self._running: deque[Future[list[_Problem]]] = deque()

    def put(self, grain: _Grain) -> None:
        self._batch.append(grain)
        if len(self._batch) == BATCH:
            self._submit()
        while len(self._running) > self._most:
            self._take()

    def finish(self) -> None:
        if self._batch:
            self._submit()
        while self._running:
            self._take()

    def _submit(self) -> None:
        self._running.append(self._pool.submit(_inflate, self._batch, self._extent.header.grain_size * SECTOR))
        self._batch = []

    def _take(self) -> None:
        for sector, check, message in self._running.popleft().result():
            self._findings.add(check, self._extent.name, f"sector {sector}", message, hint=_HINTS.get(check, ""))


_HINTS = {
    "vmdk.inflate": "the disk is damaged, or was when it was made: copy it again, else make it again",
    "vmdk.zero-grain": "leave out grains that hold zeros only",
}


def _inflate(grains: list[_Grain], grain_bytes: int) -> list[_Problem]:
    """What is wrong with these grains; never inflates further than one byte past a grain."""
    problems = []
    zeros = bytes(grain_bytes)
    for sector, size, data, lengths in grains:
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(data[GRAIN_HEAD : GRAIN_HEAD + size], grain_bytes + 1)
        except zlib.error as error:
            problems.append(_Problem(sector, "vmdk.inflate", f"does not inflate: {error}"))
            continue
        if len(plain) > grain_bytes:
            problems.append(_Problem(sector, "vmdk.inflate", f"inflates to more than {grain_bytes:,} bytes"))
        elif not stream.eof:
            problems.append(_Problem(sector, "vmdk.inflate", f"the zlib stream breaks off after {len(plain):,} bytes"))
        elif len(plain) not in lengths:
            said = f"inflates to {len(plain):,} bytes instead of {lengths[0]:,}"
            problems.append(_Problem(sector, "vmdk.inflate", said))
        elif stream.unused_data:
            said = f"{len(stream.unused_data):,} bytes follow the zlib stream inside the grain's size"
            problems.append(_Problem(sector, "vmdk.inflate", said))
        if plain == zeros[: len(plain)]:
            problems.append(_Problem(sector, "vmdk.zero-grain", "holds zeros only"))
        padding = data[GRAIN_HEAD + size :]
        if padding != zeros[: len(padding)]:
            problems.append(_Problem(sector, "vmdk.padding", "the grain is padded with something else than zeros"))
    return problems


class _Walker:
    """One walk over one extent."""

    def __init__(self, stream: Stream, extent: Extent, inflater: _Inflater, findings: Findings) -> None:
        self.walk = Walk()
        self._stream = stream
        self._extent = extent
        self._header = extent.header
        self._end = extent.start + extent.size
        self._inflater = inflater
        self._findings = findings
        self._last_lba = -1
        self._after_footer = False

    def run(self) -> None:
        for sector in self._sectors():
            head = self._stream.peek(SECTOR)
            if len(head) < SECTOR:
                self._add("vmdk.truncated", sector, "the disk ends here, in the middle", AGAIN)
                return
            value, size, kind = MARKER.unpack_from(head)
            if self._after_footer and (size or kind != Marker.END_OF_STREAM):
                said = "the footer is not followed by the end-of-stream marker"
                self._add("vmdk.footer", sector, said, REMAKE)
            self._after_footer = False
            if size:
                if not self._grain(sector, value, size):
                    return
            elif kind == Marker.END_OF_STREAM:
                self._end_of_stream(sector, value)
                return
            elif not self._metadata(sector, value, kind):
                return
        if self._stream.position < self._end:
            self._add("vmdk.truncated", self._sector(), "the disk ends inside a sector", AGAIN)
            return
        self.walk.complete = True
        said = "the file ends without an end-of-stream marker, as qemu-img writes it: ESXi and Workstation refuse it"
        self._add("vmdk.eos", self._sector(), said, "append a sector of zeros, or: " + REMAKE)

    def _sectors(self) -> Iterator[int]:
        """The number of the sector the stream stands at, as long as a whole one is left."""
        while self._end - self._stream.position >= SECTOR:
            yield self._sector()

    def _sector(self) -> int:
        return (self._stream.position - self._extent.start) // SECTOR

    def _add(self, check: str, sector: int, message: str, hint: str = "") -> None:
        self._findings.add(check, self._extent.name, f"sector {sector}", message, hint=hint)

    def _grain(self, sector: int, lba: int, size: int) -> bool:
        """Take one grain; False where nothing can be read after it."""
        grain_size = self._header.grain_size
        whole = -(-(GRAIN_HEAD + size) // SECTOR) * SECTOR
        if whole > 2 * grain_size * SECTOR:
            said = f"neither a grain nor a marker: a grain of {size:,} bytes for the LBA {lba:,}"
            self._add("vmdk.marker", sector, said, "the disk is damaged from here on: " + AGAIN)
            return False
        if whole > self._end - self._stream.position or len(data := self._stream.read(whole)) < whole:
            self._add("vmdk.truncated", sector, "the disk ends inside this grain", AGAIN)
            return False
        if whole > (grain_size + 1) * SECTOR:
            said = f"{size:,} bytes for {grain_size * SECTOR:,}: open-vmdk does not read that"
            self._add("vmdk.oversize", sector, said, "store what does not compress instead of deflating it")
        lengths: tuple[int, ...] = (grain_size * SECTOR,)
        if 0 < self._header.capacity - lba < grain_size:
            lengths = (*lengths, (self._header.capacity - lba) * SECTOR)
        self._inflater.put(_Grain(sector, size, data, lengths))
        if lba % grain_size or lba >= self._header.capacity:
            said = f"a grain for the LBA {lba:,} of {self._header.capacity:,}"
            self._add("vmdk.grain", sector, said, f"a multiple of {grain_size} below the capacity")
            return True
        if lba <= self._last_lba:
            said = f"the LBA {lba:,} comes after {self._last_lba:,}"
            self._add("vmdk.grain-order", sector, said, "importers read forward only: write grains in order, each once")
        self._last_lba = max(lba, self._last_lba)
        self.walk.grains.append(lba // grain_size)
        self.walk.sectors.append(min(sector, LARGEST_SECTOR))
        return True

    def _metadata(self, sector: int, count: int, kind: int) -> bool:
        """Go over a marker and the sectors it announces; False where nothing can be read after it."""
        marker = bytes(self._stream.read(SECTOR))
        if marker[MARKER.size :].strip(b"\0"):
            self._add("vmdk.padding", sector, "the marker is padded with something else than zeros")
        if kind not in Marker.__members__.values():
            said = f"a marker of the unknown type {kind}"
            self._add("vmdk.marker", sector, said, "the disk is damaged from here on: " + AGAIN)
            return False
        if count * SECTOR > self._end - self._stream.position:
            said = f"{Marker(kind).name.replace('_', ' ').lower()} of {count:,} sectors, more than there are"
            self._add("vmdk.truncated", sector, said, AGAIN)
            return False
        if kind == Marker.GRAIN_TABLE:
            self.walk.marked_tables.add(sector + 1)
            expected = -(-4 * TABLE_ENTRIES // SECTOR)
        elif kind == Marker.GRAIN_DIRECTORY:
            self.walk.marked_directories.add(sector + 1)
            expected = -(-4 * self._header.tables // SECTOR)
        else:
            expected = 1
            if count == 1:
                self._footer(sector + 1, bytes(self._stream.peek(SECTOR)))
        if count != expected:
            said = f"{Marker(kind).name.replace('_', ' ').lower()} of {count:,} sectors instead of {expected:,}"
            self._add("vmdk.marker", sector, said, REMAKE)
        self._stream.skip(count * SECTOR)
        self._after_footer = kind == Marker.FOOTER
        return True

    def _footer(self, sector: int, raw: bytes) -> None:
        if len(raw) < SECTOR:
            return  # the next sector of the walk says so
        footer = Header.parse(raw)
        self.walk.footer = footer
        differing = [
            name
            for name in Header.__slots__
            if name != "directory_offset" and getattr(footer, name) != getattr(self._header, name)
        ]
        if differing:
            said = f"the footer differs from the header in {', '.join(differing)}"
            self._add("vmdk.footer", sector, said, "only gdOffset may differ: " + REMAKE)
        if footer.directory_offset == GD_AT_END:
            self._add("vmdk.footer", sector, "the footer does not say where the grain directory is", REMAKE)
        if raw[FIELDS.size :].strip(b"\0"):
            self._add("vmdk.padding", sector, "the footer is padded with something else than zeros")

    def _end_of_stream(self, sector: int, count: int) -> None:
        marker = self._stream.read(SECTOR)
        self.walk.complete = True
        if count or bytes(marker[MARKER.size :]).strip(b"\0"):
            self._add("vmdk.marker", sector, "the end-of-stream marker is not a sector of zeros", REMAKE)
        left = self._end - self._stream.position
        if left == 0:
            return
        for data in self._stream.chunks(left):
            if data != bytes(len(data)):
                self._add("vmdk.trailing", sector, f"{left:,} bytes follow the end-of-stream marker", REMAKE)
                return
        said = f"{left:,} bytes of zeros after the last grain, where one sector of zeros has to end the file"
        self._add(
            "vmdk.eos", sector, f"{said}: ESXi and Workstation refuse it", f"qemu-img writes such disks: {REMAKE}"
        )


def walk(stream: Stream, extent: Extent, pool: ThreadPoolExecutor, threads: int, findings: Findings) -> Walk:
    """Go over all grains of the extent that begins at the stream's position; what is wrong goes to `findings`."""
    inflater = _Inflater(pool, threads, extent, findings)
    stream.skip(extent.header.overhead * SECTOR)
    walker = _Walker(stream, extent, inflater, findings)
    walker.run()
    inflater.finish()
    return walker.walk
