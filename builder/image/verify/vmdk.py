"""A disk of an OVA: what format it is, and the header and descriptor of a streamOptimized VMDK.

VMware, "Virtual Disk Format 5.0": the header is the structure SparseExtentHeader, little endian, in sector 0; the
descriptor is text in sectors of its own. The grains that follow are `grains`', the tables `tables`'.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from builder.image.verify.checks import Findings
from builder.image.verify.stream import Stream

SECTOR = 512
GD_AT_END = 0xFFFFFFFFFFFFFFFF
FLAG_NEWLINE, FLAG_REDUNDANT, FLAG_COMPRESSED, FLAG_MARKERS = 1 << 0, 1 << 1, 1 << 16, 1 << 17
NEEDED_FLAGS = FLAG_NEWLINE | FLAG_COMPRESSED | FLAG_MARKERS
FIELDS = struct.Struct("<4sIIQQQQIQQQB4sH")  # 79 bytes, then 433 of padding
NEWLINES = b"\n \r\n"
SECTORS_PER_MIB = 2048
LARGEST_CAPACITY = 62 << 31  # sectors of 62 TiB, the most VMware makes
LARGEST_GRAIN = 2048  # sectors; more is not read, so that no header makes us allocate what it likes
TABLE_ENTRIES = 512  # of a grain table; disks that say otherwise are wrong, and their tables are not read
LARGEST_DESCRIPTOR = 2048  # sectors, for the same reason
EXTENT = re.compile(r'(RW|RDONLY|NOACCESS) (\d{1,19}) (\w+)(?: "([^"]*)")?(?: \d+)?')
DDB_KEYS = ("virtualHWVersion", "geometry.cylinders", "toolsInstallType", "toolsVersion")
REMAKE = "make the disk with `hapx-build image`, ovftool or open-vmdk's vmdk-convert"

FORMATS = {  # offset, magic -> name
    (0, b"COWD"): "an ESX sparse VMDK",
    (0, b"# Disk DescriptorFile"): "the text descriptor of a VMDK whose data is in other files",
    (0, b"QFI\xfb"): "a qcow2 disk",
    (0, b"QED\0"): "a QED disk",
    (0, b"conectix"): "a dynamic VHD disk",
    (0, b"vhdxfile"): "a VHDX disk",
    (64, b"\x7f\x10\xda\xbe"): "a VDI disk",
    (0, b"\x1f\x8b"): "a gzip file",
    (0, b"PK\x03\x04"): "a zip file",
    (0, b"\xfd7zXZ\0"): "an xz file",
    (32769, b"CD001"): "an ISO image",
    (512, b"EFI PART"): "a raw disk with a GPT",
    (510, b"\x55\xaa"): "a raw disk with an MBR",
}


@dataclass(frozen=True, slots=True)
class Header:
    """SparseExtentHeader; offsets and sizes in sectors of 512 bytes."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    entries_per_table: int
    redundant_offset: int
    directory_offset: int
    overhead: int
    unclean: int
    newlines: bytes
    compression: int

    @classmethod
    def parse(cls, sector: bytes) -> Header:
        """The header in one sector of 512 bytes."""
        return cls(*FIELDS.unpack_from(sector))

    @property
    def readable(self) -> bool:
        """Whether the grains and the disk have sizes that can be worked with."""
        sizes = (1 << power for power in range(3, LARGEST_GRAIN.bit_length()))
        return self.grain_size in sizes and 0 < self.capacity <= LARGEST_CAPACITY

    @property
    def tables(self) -> int:
        """How many grain tables the disk has, which is how many entries its directory has."""
        return -(-self.capacity // (self.grain_size * TABLE_ENTRIES))


@dataclass(frozen=True, slots=True)
class Extent:
    """A VMDK inside the OVA: its name, where it begins and how long it is in bytes, and its header."""

    name: str
    start: int
    size: int
    header: Header


@dataclass(frozen=True, slots=True)
class Disk:
    """What a file turned out to be: a name for a person; the capacity in bytes where it is streamOptimized."""

    kind: str
    stream_optimized: bool = False
    capacity: int | None = None


def identify(stream: Stream, size: int) -> str:
    """What the next `size` bytes are, by their magic; "" for a VMDK with a header."""
    head = bytes(stream.peek(min(size, 33 * 1024)))
    if head.startswith(b"KDMV"):
        return ""
    for (offset, magic), name in FORMATS.items():
        if head[offset : offset + len(magic)] == magic:
            return name
    if stream.at(stream.position + size - SECTOR, 8) == b"conectix":
        return "a fixed VHD disk"
    return "of no format known here, perhaps a raw disk"


def read_header(stream: Stream, size: int, name: str, findings: Findings) -> tuple[Disk, Extent | None]:
    """Judge header and descriptor of the VMDK of `size` bytes that begins at the stream's position.

    Gives what it is, and the extent when its grains can be walked over. The position stays where it is.
    """
    if size < SECTOR or len(sector := bytes(stream.peek(SECTOR))) < SECTOR:
        findings.add("vmdk.truncated", name, "", "ends inside its header", hint="copy or download the OVA again")
        return Disk("a truncated VMDK"), None
    header = Header.parse(sector)
    extent = Extent(name, stream.position, size, header)
    text = _descriptor_text(stream, extent, findings)
    keys, extents = _descriptor_keys(text, name, findings)
    kind = keys.get("createType", "")
    if not header.flags & (FLAG_COMPRESSED | FLAG_MARKERS) and kind != "streamOptimized":
        return Disk(f"a VMDK of the kind {kind or 'sparse'}"), None
    _header(header, sector, name, findings)
    _layout(extent, findings)
    _descriptor(text, keys, header, name, findings)
    _extents(extents, header, name, findings)
    disk = Disk("a streamOptimized VMDK", stream_optimized=True, capacity=header.capacity * SECTOR)
    walkable = header.readable and 0 < header.overhead * SECTOR <= size
    return disk, extent if walkable else None


def _header(header: Header, sector: bytes, name: str, findings: Findings) -> None:
    def wrong(check: str, message: str, hint: str = REMAKE) -> None:
        findings.add(check, name, "sector 0", message, hint=hint)

    if header.version != 3:
        wrong("vmdk.version", f"version {header.version} instead of 3")
    missing = NEEDED_FLAGS & ~header.flags
    foreign = header.flags & ~NEEDED_FLAGS & ~FLAG_REDUNDANT
    if missing or foreign:
        said = " and ".join([f"without {missing:#x}"] * bool(missing) + [f"with {foreign:#x}"] * bool(foreign))
        wrong("vmdk.flags", f"flags {header.flags:#x}, {said}: not those of a streamOptimized disk")
    if header.flags & FLAG_REDUNDANT:
        wrong("vmdk.redundant", "has a redundant grain directory, as qemu-img writes it")
    if header.newlines != NEWLINES:
        said = f"newline detector {header.newlines.hex(' ')} instead of {NEWLINES.hex(' ')}"
        wrong("vmdk.newline", said, "the file went through a transfer in text mode: copy it as binary")
    if header.compression != 1:
        wrong("vmdk.compression", f"compressAlgorithm {header.compression} instead of 1")
    if header.grain_size != 128:
        wrong("vmdk.grain-size", f"grains of {header.grain_size} sectors instead of 128")
    if header.entries_per_table != TABLE_ENTRIES:
        wrong("vmdk.table-size", f"grain tables of {header.entries_per_table} entries instead of {TABLE_ENTRIES}")
    if header.unclean:
        wrong("vmdk.unclean", "marked as not closed properly")
    if not 0 < header.capacity <= LARGEST_CAPACITY:
        wrong("vmdk.capacity", f"a capacity of {header.capacity:,} sectors")
    elif header.capacity % SECTORS_PER_MIB:
        said = f"a capacity of {header.capacity:,} sectors, which is no whole number of MiB"
        wrong("vmdk.capacity", said, "grow the raw disk to whole MiB first: truncate -s %1M DISK")
    if sector[FIELDS.size :].strip(b"\0"):
        wrong("vmdk.padding", "padded with something else than zeros")


def _layout(extent: Extent, findings: Findings) -> None:
    header, sectors = extent.header, extent.size // SECTOR

    def wrong(message: str) -> None:
        findings.add("vmdk.layout", extent.name, "sector 0", message, hint=REMAKE)

    if extent.size % SECTOR:
        said = f"{extent.size:,} bytes, which is no whole number of sectors"
        findings.add("vmdk.truncated", extent.name, "", said, hint="copy or download the OVA again")
    if header.overhead == 0 or header.overhead > sectors:
        wrong(f"the first grain is said to be at sector {header.overhead:,} of {sectors:,}")
    end_of_descriptor = header.descriptor_offset + header.descriptor_size
    if header.descriptor_offset == 0 or header.descriptor_size == 0:
        wrong("no embedded descriptor")
    elif end_of_descriptor > min(header.overhead, sectors):
        wrong(f"the descriptor ends at sector {end_of_descriptor:,}, behind the first grain or the file")
    elif (header.descriptor_offset, header.descriptor_size) != (1, 20):
        said = f"the descriptor is at sector {header.descriptor_offset} and has {header.descriptor_size} sectors"
        findings.add("vmdk.descriptor-place", extent.name, "sector 0", said, hint="sector 1, 20 sectors")
    directory = header.directory_offset
    if directory != GD_AT_END and not 0 < directory < sectors:
        wrong(f"the grain directory is said to be at sector {directory:,} of {sectors:,}")


def _descriptor_text(stream: Stream, extent: Extent, findings: Findings) -> str:
    """The embedded descriptor up to its first NUL, "" where the header leads nowhere."""
    header = extent.header
    offset = header.descriptor_offset * SECTOR
    size = min(header.descriptor_size, LARGEST_DESCRIPTOR) * SECTOR
    if not 0 < offset < extent.size:
        return ""
    raw, _, rest = stream.at(extent.start + offset, min(size, extent.size - offset)).partition(b"\0")
    if rest.strip(b"\0"):
        said = "the descriptor goes on after its first NUL"
        findings.add("vmdk.padding", extent.name, f"sector {header.descriptor_offset}", said)
    return raw.decode("utf-8", errors="backslashreplace")


def _descriptor_keys(text: str, name: str, findings: Findings) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """The keys of a descriptor without quotes, and its extent lines with their numbers."""
    keys: dict[str, str] = {}
    extents = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        key, equals, value = (part.strip() for part in line.partition("="))
        if not line or line.startswith("#"):
            continue
        if re.match(r"(RW|RDONLY|NOACCESS)\b", line):
            extents.append((number, line))
        elif not equals:
            findings.add("vmdk.descriptor", name, f"descriptor line {number}", f"neither key nor extent: {line!r}")
        elif key in keys:
            findings.add("vmdk.descriptor", name, f"descriptor line {number}", f"{key} was there already")
        else:
            keys[key] = value.strip('"')
    return keys, extents


def _descriptor(text: str, keys: dict[str, str], header: Header, name: str, findings: Findings) -> None:
    def wrong(check: str, message: str, hint: str = "") -> None:
        findings.add(check, name, "descriptor", message, hint=hint)

    first = text.partition("\n")[0]
    if first != "# Disk DescriptorFile":
        wrong("vmdk.descriptor", f"the first line is {first[:80]!r}", "exactly `# Disk DescriptorFile`")
    if "\r" in text:
        wrong("vmdk.descriptor", "lines end in CR LF instead of LF")
    for key, right in (("version", "1"), ("createType", "streamOptimized")):
        if (value := keys.get(key, "missing")) != right:
            wrong("vmdk.descriptor", f"{key} is {value[:80]}", f"{key}={right}")
    cid = keys.get("CID", "missing").lower()
    if not re.fullmatch(r"[0-9a-f]{1,8}", cid) or int(cid, 16) >= 0xFFFFFFFE:
        wrong(
            "vmdk.cid", f"CID is {cid[:80]}", "any 32-bit number but ffffffff (no parent) and fffffffe (not yet known)"
        )
    if (parent := keys.get("parentCID", "missing").lower()) != "ffffffff":
        wrong(
            "vmdk.cid", f"parentCID is {parent[:80]}: the disk needs another one to be complete", "parentCID=ffffffff"
        )
    if (adapter := keys.get("ddb.adapterType", "missing")) != "lsilogic":
        wrong("vmdk.adapter", f"ddb.adapterType is {adapter[:80]}", "lsilogic; for qemu-img: -o adapter_type=lsilogic")
    missing = [f"ddb.{key}" for key in DDB_KEYS if not re.fullmatch(r"\d{1,10}", keys.get(f"ddb.{key}", ""))]
    if missing:
        wrong("vmdk.ddb", f"missing or not a number: {', '.join(missing)}")
    geometry = keys.get("ddb.geometry.heads"), keys.get("ddb.geometry.sectors")
    if geometry != ("255", "63"):
        wrong("vmdk.ddb", f"{geometry[0]} heads and {geometry[1]} sectors instead of 255 and 63")
    content = keys.get("ddb.longContentID", "missing").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", content) or (len(cid) <= 8 and content[24:] != cid.zfill(8)):
        wrong("vmdk.ddb", f"ddb.longContentID is {content[:80]}", "32 hex digits, the last 8 of them the CID")


def _extents(extents: list[tuple[int, str]], header: Header, name: str, findings: Findings) -> None:
    if len(extents) != 1:
        findings.add("vmdk.extent", name, "descriptor", f"{len(extents) or 'no'} extents, there has to be one")
    for number, line in extents:
        where = f"descriptor line {number}"
        match = EXTENT.fullmatch(line)
        if match is None or match[1] == "NOACCESS" or match[3] != "SPARSE" or not match[4]:
            findings.add("vmdk.extent", name, where, f"not an extent of this disk: {line!r}", hint='RW n SPARSE "name"')
            continue
        if int(match[2]) != header.capacity:
            said = f"an extent of {int(match[2]):,} sectors, but the header says {header.capacity:,}"
            findings.add("vmdk.extent", name, where, said, hint=REMAKE)
        if re.search(r"[/\\]|^\.\.?$", match[4]):
            findings.add("vmdk.extent", name, where, f"the extent is a path: {match[4]}", hint="a flat name")
