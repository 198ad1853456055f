"""The grain directory and the grain tables of a streamOptimized VMDK against the grains that are really there.

An importer that seeks (VirtualBox, QEMU) finds a grain through them, one that streams does not look at them: a disk
whose tables are wrong is one disk here and another one there.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from builder.image.verify.checks import Findings
from builder.image.verify.grains import Walk
from builder.image.verify.stream import Stream
from builder.image.verify.vmdk import FLAG_REDUNDANT, GD_AT_END, REMAKE, SECTOR, TABLE_ENTRIES, Extent

DIRECTORY_PIECE = 1 << 14  # entries of a directory read at once


def compare(stream: Stream, extent: Extent, walk: Walk, findings: Findings) -> None:
    """Every entry of every table, and of the directory, against the walk; the position of the stream stays."""
    header = extent.header
    if header.entries_per_table != TABLE_ENTRIES:
        return  # which was said
    if header.directory_offset == GD_AT_END and walk.footer is None:
        said = "the header says that the grain directory is at the end, but there is no footer that says where"
        findings.add("vmdk.footer", extent.name, "", said, hint=REMAKE)
        return
    directory = (walk.footer or header).directory_offset
    if directory == GD_AT_END:
        return  # the footer was found wanting already
    if walk.marked_directories and directory not in walk.marked_directories:
        said = f"gdOffset is sector {directory:,}, but the marker of the directory stands elsewhere"
        findings.add("vmdk.directory", extent.name, "", said, hint=REMAKE)
    if any(before >= after for before, after in pairwise(walk.grains)):
        _sort(walk)
    _Tables(stream, extent, walk, findings, directory, "").compare()
    if header.flags & FLAG_REDUNDANT:
        _Tables(stream, extent, walk, findings, header.redundant_offset, "redundant ").compare()


def _sort(walk: Walk) -> None:
    """Bring grains that were not in order into it; of one that is there several times the last counts."""
    last = dict(zip(walk.grains, walk.sectors, strict=True))
    walk.grains, walk.sectors = array("Q", sorted(last)), array("I", (last[grain] for grain in sorted(last)))


@dataclass(slots=True)
class _Tables:
    """One directory (`label` tells the redundant one) that begins at the sector `directory`."""

    stream: Stream
    extent: Extent
    walk: Walk
    findings: Findings
    directory: int
    label: str

    def compare(self) -> None:
        count = self.extent.header.tables
        if self.directory * SECTOR + 4 * count > self.extent.size:
            said = f"the {self.label}grain directory of {count:,} entries does not fit behind its offset"
            self._directory(said)
            return
        seen: dict[int, int] = {}
        for start in range(0, count, DIRECTORY_PIECE):
            entries = self._read(self.directory * SECTOR + 4 * start, min(count - start, DIRECTORY_PIECE))
            for number, sector in enumerate(entries, start=start):
                if sector in seen and sector:
                    self._directory(f"tables {seen[sector]:,} and {number:,} are both at sector {sector:,}")
                    continue
                seen[sector] = number
                self._entry(number, sector)

    def _entry(self, number: int, sector: int) -> None:
        """One entry of the directory: grain table `number` begins at `sector`; 0 is a table without grains."""
        first = bisect_left(self.walk.grains, number * TABLE_ENTRIES)
        end = bisect_left(self.walk.grains, (number + 1) * TABLE_ENTRIES, first)
        if sector == 0:
            if first < end:
                self._directory(f"has no grain table {number:,}, but {end - first:,} of its grains are there")
            return
        if sector * SECTOR + 4 * TABLE_ENTRIES > self.extent.size:
            self._directory(f"grain table {number:,} is said to be at sector {sector:,}, behind the end of the file")
            return
        if self.walk.marked_tables and sector not in self.walk.marked_tables:
            self._directory(f"grain table {number:,} is said to be at sector {sector:,}, where none is announced")
        found = self._read(sector * SECTOR, TABLE_ENTRIES)
        right = array("I", bytes(4 * TABLE_ENTRIES))
        for place in range(first, end):
            right[self.walk.grains[place] % TABLE_ENTRIES] = self.walk.sectors[place]
        if found != right:
            self._differences(number, sector, found, right)

    def _differences(self, number: int, sector: int, found: array[int], right: array[int]) -> None:
        for entry, (is_, should) in enumerate(zip(found, right, strict=True)):
            if is_ == should:
                continue
            lba = (number * TABLE_ENTRIES + entry) * self.extent.header.grain_size
            there = f"it is at sector {should:,}" if should else "there is none"
            said = f"{self.label}grain table {number:,} has the grain of LBA {lba:,} at sector {is_:,}; {there}"
            self.findings.add("vmdk.table", self.extent.name, f"sector {sector}, entry {entry}", said, hint=REMAKE)
            if self.findings.full("vmdk.table", self.extent.name):
                return

    def _directory(self, message: str) -> None:
        where = f"sector {self.directory}"
        said = message if message.startswith("the ") else f"the {self.label}grain directory: {message}"
        self.findings.add("vmdk.directory", self.extent.name, where, said, hint=REMAKE)

    def _read(self, offset: int, entries: int) -> array[int]:
        """Entries of four bytes each from a place inside the extent; short where the file is."""
        raw = self.stream.at(self.extent.start + offset, 4 * entries)
        found = array("I", raw.ljust(4 * entries, b"\0"))
        if sys.byteorder == "big":
            found.byteswap()
        return found
