"""The archive of an OVA, read header by header: what a general tar reader would silently put right is a finding here.

DSP0243 wants ustar; importers read forward only and most of them know nothing but a plain ustar header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from builder.image.verify.checks import Findings
from builder.image.verify.stream import Stream

BLOCK = 512
ZEROS = bytes(BLOCK)
GNU_FROM = 8 << 30  # bytes; a size of 11 octal digits ends here
LONGEST_EXTENSION = 1 << 14  # bytes of a pax or long-name header that is worth reading
LONGEST_NAME = 255  # characters; no file system takes more
CHARACTERS = re.compile(r"[A-Za-z0-9._+=-]+")  # Proxmox VE's
PAX_LENGTH = re.compile(rb"(\d{1,7}) ")
TYPES = {
    "1": "a hard link",
    "2": "a symbolic link",
    "3": "a character device",
    "4": "a block device",
    "5": "a folder",
    "6": "a FIFO",
    "7": "a contiguous file",
    "D": "a GNU folder dump",
    "M": "a continuation of another volume",
    "S": "a GNU sparse file",
    "V": "a volume label",
}
PLAIN = "tar --format=ustar --owner=0 --group=0 --mode=0644 -cf X.ova X.ovf X.mf X-disk1.vmdk"
OTHER_FORMATS = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"(\xb5/\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7-Zip file",
    b"KDMV": "a bare VMDK",
    b"QFI\xfb": "a bare qcow2 disk",
    b"<?xml": "an XML file, perhaps the .ovf alone",
    b"# Disk De": "the text descriptor of a VMDK",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A member: its name without a leading ./, where its header and its data begin, and its size, all in bytes."""

    name: str
    header: int
    offset: int
    size: int


@dataclass(slots=True)
class _Header:
    """The fields of a header block that are looked at; None where a number cannot be read."""

    name: str
    mode: int | None
    uid: int | None
    gid: int | None
    size: int | None
    mtime: int | None
    kind: str
    magic: bytes
    checksum_right: bool
    base256: bool  # the size


@dataclass(slots=True)
class _Extensions:
    """What pax and GNU headers say about the member that follows them."""

    name: str | None = None
    size: int | None = None
    seen: bool = field(default=False)


def entries(stream: Stream, archive: str, findings: Findings) -> Iterator[Entry]:
    """The members of the archive that `stream` reads, one after the other; what is wrong goes to `findings`.

    Between two members the caller may read as much of the member's data as it wants; the rest is gone over.
    `archive` is the name findings carry for what belongs to no member.
    """
    names: set[str] = set()
    extensions = _Extensions()
    while True:
        start = stream.position
        block = bytes(stream.read(BLOCK))
        if len(block) < BLOCK:
            _unended(block, start, archive, findings)
            return
        if block == ZEROS:
            _end(stream, start, archive, findings)
            return
        header = _parse(block)
        if not header.checksum_right and start == 0 and header.magic[:5] != b"ustar":
            kind = next((kind for magic, kind in OTHER_FORMATS.items() if block.startswith(magic)), "not a tar archive")
            findings.add("tar.format", archive, "", f"not an OVA: this is {kind}", hint="an OVA is a plain tar archive")
            return
        where = f"header at byte {start}"
        if header.kind in "xgXLK":
            _extension(stream, header, extensions, findings, archive=archive, where=where)
            continue
        name, size = extensions.name or header.name, header.size if extensions.size is None else extensions.size
        gnu_needed = size is not None and size >= GNU_FROM
        if not _sound(header, size, name or archive, where, findings, left=stream.size - stream.position):
            return
        assert size is not None  # noqa: S101 - for the type checker: _sound() said so
        _format(header, name, where, findings, extensions, gnu_needed=gnu_needed)
        _properties(header, name, where, findings)
        name = _name(name, archive, where, names, findings)
        extensions = _Extensions()
        entry = Entry(name, start, stream.position, size)
        yield entry
        stream.skip(entry.offset + size - stream.position)
        if stream.position < entry.offset + size:
            missing = entry.offset + size - stream.position
            said = f"the archive ends inside this file: {missing:,} of {size:,} bytes are missing"
            findings.add("tar.truncated", name, "", said, hint="copy or download the OVA again")
            return
        padding = bytes(stream.read(-size % BLOCK))
        if padding.strip(b"\0"):
            findings.add("tar.padding", name, f"byte {entry.offset + size}", "padded with something else than zeros")


def _number(raw: bytes) -> int | None:
    """A numeric field: octal digits, or base 256 where the first bit is set; None for anything else."""
    if raw[0] & 0x80:
        value = int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
        return None if raw[0] & 0x40 else value  # negative
    text, _, rest = raw.partition(b"\0")
    text = text.strip(b" ")
    if not re.fullmatch(rb"[0-7]*", text) or rest.strip(b"\0 "):
        return None
    return int(text or b"0", 8)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", errors="backslashreplace")


def _parse(block: bytes) -> _Header:
    # POSIX.1-1988: the sum of all bytes, the checksum's own field taken as spaces.
    checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    magic = block[257:265]
    prefix = _text(block[345:500]) if magic == b"ustar\x0000" else ""
    name = _text(block[:100])
    return _Header(
        name=f"{prefix}/{name}" if prefix else name,
        mode=_number(block[100:108]),
        uid=_number(block[108:116]),
        gid=_number(block[116:124]),
        size=_number(block[124:136]),
        mtime=_number(block[136:148]),
        kind="0" if block[156] == 0 else chr(block[156]),
        magic=magic,
        checksum_right=_number(block[148:156]) == checksum,
        base256=bool(block[124] & 0x80),
    )


def _sound(header: _Header, size: int | None, subject: str, where: str, findings: Findings, *, left: int) -> bool:
    """Whether the archive can be followed beyond this header."""
    damaged = "the archive is damaged here: copy or download the OVA again"
    if not header.checksum_right:
        findings.add("tar.header", subject, where, "the checksum of the header is wrong", hint=damaged)
        if header.magic[:5] != b"ustar":
            return False
    if size is None:
        findings.add("tar.header", subject, where, "the size in the header is not a number", hint=damaged)
        return False
    if not header.checksum_right and size > left:
        return False
    for field_name in ("mode", "uid", "gid", "mtime"):
        if getattr(header, field_name) is None:
            findings.add("tar.header", subject, where, f"{field_name} is not a number", hint=damaged)
    return True


def _extension(
    stream: Stream, header: _Header, extensions: _Extensions, findings: Findings, *, archive: str, where: str
) -> None:
    """Take in a pax or GNU header, so that the member after it is still understood."""
    gnu = header.kind in "LK"
    if not header.checksum_right:
        findings.add("tar.header", archive, where, "the checksum of the header is wrong")
    if gnu:
        findings.add(
            "tar.longname", archive, where, "a GNU long-name header, which importers take for a file",
            hint=f"names of up to 99 characters, and: {PLAIN}",
        )  # fmt: skip
    else:
        findings.add(
            "tar.pax", archive, where, f"a pax header ({header.name}), which vSphere, Fusion and oVirt take for a file",
            hint=f"{PLAIN}; in Python: tarfile.open(..., format=tarfile.USTAR_FORMAT) and whole numbers for mtime",
        )  # fmt: skip
    size = header.size or 0
    data = bytes(stream.peek(min(size, LONGEST_EXTENSION)))
    stream.skip(size + -size % BLOCK)
    extensions.seen = True
    if header.kind == "L":
        extensions.name = _text(data)
    elif header.kind in "xX":
        records = _pax_records(data)
        if b"path" in records:
            extensions.name = _text(records[b"path"])
        if re.fullmatch(rb"\d{1,19}", records.get(b"size", b"")):
            extensions.size = int(records[b"size"])


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header, each `length key=value` and a newline, up to the first that is none."""
    records = {}
    at = 0
    while match := PAX_LENGTH.match(data, at):
        key, equals, value = data[match.end() : at + int(match[1])].removesuffix(b"\n").partition(b"=")
        if not equals:
            break
        records[key] = value
        at += int(match[1])
    return records


def _format(
    header: _Header, name: str, where: str, findings: Findings, extensions: _Extensions, *, gnu_needed: bool
) -> None:
    if header.magic == b"ustar  \0":
        # GNU tar's own format; where its extensions are used that is said already.
        if not gnu_needed and not extensions.seen:
            findings.add("tar.gnu", name, where, "a GNU header where ustar would do", hint=PLAIN)
    elif header.magic != b"ustar\x0000":
        said = "no magic: a header from before POSIX" if not header.magic.strip(b"\0") else f"magic {header.magic!r}"
        findings.add("tar.magic", name, where, f"not a ustar header ({said})", hint=PLAIN)
    if header.base256 and not gnu_needed:
        findings.add("tar.size", name, where, "the size is in base 256 although octal digits would hold it", hint=PLAIN)


def _properties(header: _Header, name: str, where: str, findings: Findings) -> None:
    if header.kind != "0":
        kind = TYPES.get(header.kind, f"of the unknown type {header.kind!r}")
        findings.add("tar.type", name, where, f"not a regular file but {kind}", hint="an OVA holds plain files only")
    if header.mode is not None and header.mode != 0o644:
        findings.add("tar.mode", name, where, f"mode {header.mode:04o} instead of 0644", hint=PLAIN)
    if header.uid or header.gid:
        findings.add("tar.owner", name, where, f"owner {header.uid}, group {header.gid} instead of 0, 0", hint=PLAIN)


def _name(name: str, archive: str, where: str, names: set[str], findings: Findings) -> str:
    """The flat name of the member; remembers it in `names`."""
    flat = name
    while flat.startswith("./"):
        flat = flat[2:].lstrip("/")
    if len(flat) > LONGEST_NAME:
        flat = flat[:LONGEST_NAME]
        findings.add("tar.name", flat, where, f"a name of {len(name):,} characters, which no file system takes")
    elif not flat:
        flat = f"(the member with its {where})"
        findings.add("tar.name", archive, where, "a member without a name")
    elif "/" in flat or "\\" in flat or flat in (".", ".."):
        outside = flat.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", flat)
        said = "would be written outside the folder it is unpacked to" if outside else "is in a folder"
        findings.add("tar.name", flat, where, f"this name {said}", hint="an OVA has flat names only")
    elif flat != name:
        findings.add(
            "tar.name", flat, where, f"the name in the header is {name}, not {flat}",
            hint="name the files one by one instead of archiving the folder: tar -cf X.ova X.ovf X.mf X-disk1.vmdk",
        )  # fmt: skip
    elif not CHARACTERS.fullmatch(flat):
        findings.add("tar.name-characters", flat, where, "Proxmox VE refuses this name", hint="A-Z a-z 0-9 . _ + = -")
    if flat in names:
        findings.add(
            "tar.duplicate", flat, where, "this name was there already; importers differ in which one they take"
        )
    names.add(flat)
    return flat


def _unended(block: bytes, start: int, archive: str, findings: Findings) -> None:
    """The file ends where a header would begin."""
    if start == 0:
        findings.add(
            "tar.format", archive, "", f"not an OVA: {'empty' if not block else 'too short for a tar archive'}"
        )
        return
    if block:
        said = "the archive ends in the middle of a block"
        findings.add("tar.truncated", archive, f"byte {start}", said, hint="copy or download the OVA again")
    else:
        said = "the archive ends without the two blocks of zeros that close it"
        findings.add("tar.end", archive, f"byte {start}", said, hint=PLAIN)


def _end(stream: Stream, start: int, archive: str, findings: Findings) -> None:
    """The first block of zeros: there is a second one, and then nothing but zeros."""
    if start == 0:
        findings.add("tar.format", archive, "", "not an OVA: an empty archive, or a file of zeros")
    if bytes(stream.peek(BLOCK)) != ZEROS:
        findings.add("tar.end", archive, f"byte {start}", "one block of zeros instead of two at the end of the archive")
    while data := stream.read(1 << 20):
        at = stream.position - len(data)
        if data != bytes(len(data)):
            at += len(data) - len(bytes(data).lstrip(b"\0"))
            more = stream.size - at
            findings.add(
                "tar.trailing", archive, f"byte {at}", f"{more:,} more bytes after the end of the archive",
                hint="two archives glued together, or something appended: make the OVA anew",
            )  # fmt: skip
            return
