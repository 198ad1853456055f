"""Says in what two OVAs differ: the archive, the descriptor's lines, the disk's parts, each file in its root.

The disks are laid out as sparse raw files beside $TMPDIR's other files, compared byte by byte, and read as what they
are: see `ext4` and `disks`. Where all that a person can name is the same, the bytes that differ are named.
"""

from __future__ import annotations

import difflib
import hashlib
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

from builder.errors import InputError, of_os_error
from builder.image import workplace
from builder.image.diff import disks
from builder.image.diff.ext4 import FileSystem, Inode

TEXTS = (".ovf", ".mf", ".cert")
LARGEST_TEXT = 4 << 20
BYTES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same: where (a member, a part of the disk, a file in the image), what of it, both."""

    where: str
    what: str
    left: str = ""
    right: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two OVAs, their SHA-256 in hex, and in what they differ: nothing, where they are the same bytes."""

    left: Path
    right: Path
    left_sha256: str
    right_sha256: str
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether they are the same, bit for bit."""
        return self.left_sha256 == self.right_sha256


def compare(left: Path, right: Path, *, on_step: Callable[[str], None] = lambda _: None) -> Comparison:
    """Compare two OVAs; `on_step` hears what is read. Raises InputError where one is none, or cannot be read."""
    digests = []
    for path in (left, right):
        on_step(f"Read {path.name}")
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise of_os_error(error) or InputError(f"{path}: {error.strerror}", hint="name two OVAs") from None
    if digests[0] == digests[1]:
        return Comparison(left, right, digests[0], digests[1], ())
    on_step("Compare")
    found = tuple(_archives(left, right))
    return Comparison(left, right, digests[0], digests[1], found or (_raw(left, right),))


def _archives(left: Path, right: Path) -> Iterator[Difference]:
    """The members of two archives, in pairs: by name, the disks by their order."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in (left, right)]
        lists = [_members(path, file) for path, file in zip((left, right), files, strict=True)]
        ours, theirs = ([member.name for member in members] for members in lists)
        if ours != theirs:
            yield Difference("archive", "members", ", ".join(ours), ", ".join(theirs))
        for one, other in _pairs(*lists):
            for what in ("mode", "uid", "gid", "uname", "gname", "mtime", "size", "type"):
                mine, yours = getattr(one, what), getattr(other, what)
                if mine != yours:
                    yield Difference(one.name, f"tar header: {what}", _shown(what, mine), _shown(what, yours))
            if one.name.endswith(TEXTS) and max(one.size, other.size) <= LARGEST_TEXT:
                yield from _texts(one.name, _read(files[0], one), _read(files[1], other))
            elif one.name.endswith(".vmdk"):
                yield from _vmdks(one, other, files[0], files[1])
            elif _digest(files[0], one) != _digest(files[1], other):
                yield Difference(one.name, "contents", _digest(files[0], one), _digest(files[1], other))


def _pairs(
    left: list[tarfile.TarInfo], right: list[tarfile.TarInfo]
) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarInfo]]:
    """Those of the same kind, one after the other: an OVA of another version has other names for the same things."""
    for suffix in dict.fromkeys(Path(member.name).suffix for member in left):
        yield from zip(
            [member for member in left if Path(member.name).suffix == suffix],
            [member for member in right if Path(member.name).suffix == suffix],
            strict=False,
        )


def _texts(name: str, left: bytes, right: bytes) -> Iterator[Difference]:
    one, other = (text.decode("utf-8", "replace").splitlines() for text in (left, right))
    matcher = difflib.SequenceMatcher(a=one, b=other, autojunk=False)
    for tag, start, end, begin, stop in matcher.get_opcodes():
        if tag != "equal":
            yield Difference(name, f"line {start + 1}", "\n".join(one[start:end]), "\n".join(other[begin:stop]))


def _vmdks(left: tarfile.TarInfo, right: tarfile.TarInfo, ours: BinaryIO, theirs: BinaryIO) -> Iterator[Difference]:
    """The descriptors inside two VMDKs, then the disks."""
    yield from _texts(f"{left.name}: descriptor", _descriptor(ours, left), _descriptor(theirs, right))
    folder = workplace.temporary_folder()
    with ExitStack() as stack:
        try:
            raws = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(2)]
            sizes = [
                disks.inflate(file, member, raw)
                for file, member, raw in zip((ours, theirs), (left, right), raws, strict=True)
            ]
        except InputError as error:
            if (one := _digest(ours, left)) != (other := _digest(theirs, right)):
                yield Difference(left.name, f"contents ({error.message})", one, other)
            return
        if sizes[0] != sizes[1]:
            yield Difference(left.name, "capacity in bytes", str(sizes[0]), str(sizes[1]))
        found = list(_disks(raws[0], raws[1], min(sizes)))
        yield from found
        if not found and _digest(ours, left) != _digest(theirs, right):
            one, other = _digest(ours, left), _digest(theirs, right)
            yield Difference(left.name, "compressed or laid out in another way: the disk in it is the same", one, other)


def _disks(left: BinaryIO, right: BinaryIO, size: int) -> Iterator[Difference]:
    """Two raw disks: their partitions, the files in those that are ext4, the bytes of everything else."""
    ours, theirs = disks.partitions(left), disks.partitions(right)
    for one, other in zip(ours, theirs, strict=False):
        for field in fields(one):
            mine, yours = getattr(one, field.name), getattr(other, field.name)
            if mine != yours:
                yield Difference(f"partition {one.number} ({one.name})", field.name, str(mine), str(yours))
    if len(ours) != len(theirs):
        yield Difference("partition table", "partitions", str(len(ours)), str(len(theirs)))
    told = set()
    for one, other in zip(ours, theirs, strict=False):
        name = f"partition {one.number} ({one.name})"
        try:
            systems = FileSystem(left, one.start), FileSystem(right, other.start)
            found = list(_file_systems(*systems))
        except InputError:
            continue  # no ext4, or one that is not understood: its bytes are compared
        if found:
            told.add(name)
        yield from found
    runs: dict[str, list[tuple[int, int]]] = {}
    for start, length in disks.differing(left, right, size):
        runs.setdefault(disks.place(start, ours, size), []).append((start, length))
    starts = {f"partition {each.number} ({each.name})": each.start for each in ours}
    for name, places in runs.items():
        if name in told:
            continue  # its files say why
        first, total = places[0][0], sum(length for _, length in places)
        mine, yours = (_bytes_at(file, first) for file in (left, right))
        what = f"byte {first - starts.get(name, 0):#x}"
        yield Difference(name, f"{what} and up to {total:,} more in {len(places)} places", mine, yours)


def _file_systems(left: FileSystem, right: FileSystem) -> Iterator[Difference]:
    """Two ext4 file systems: identities, names, inodes, contents."""
    ours, theirs = dict(left.walk()), dict(right.walk())
    for field, start, size in (("UUID", 0x68, 16), ("label", 0x78, 16), ("hash seed", 0xEC, 16), ("made at", 0x108, 4)):
        one_id, other_id = (each.superblock[start : start + size].hex() for each in (left, right))
        if one_id != other_id:
            yield Difference("/", f"file system: {field}", one_id, other_id)
    for path in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(path), theirs.get(path)
        if one is None or other is None:
            yield Difference(path, "is there", "no" if one is None else "yes", "no" if other is None else "yes")
            continue
        yield from _inodes(path, one, other)
        if stat.S_IFMT(one.mode) != stat.S_IFMT(other.mode):
            continue
        if stat.S_ISLNK(one.mode) and left.target(one) != right.target(other):
            yield Difference(path, "target", left.target(one), right.target(other))
        elif stat.S_ISREG(one.mode) and (mine := left.sha256(one)) != (yours := right.sha256(other)):
            yield Difference(path, "contents (SHA-256)", mine, yours)
        elif stat.S_ISDIR(one.mode):
            names = [[name for name, _ in each.names(inode)] for each, inode in ((left, one), (right, other))]
            if names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
                yield Difference(path, "order of its entries", " ".join(names[0][:9]), " ".join(names[1][:9]))


def _inodes(path: str, one: Inode, other: Inode) -> Iterator[Difference]:
    for what in ("mode", "uid", "gid", "size", "links", "flags", "generation", "device", "xattrs"):
        mine, yours = getattr(one, what), getattr(other, what)
        if mine != yours and not (what == "size" and stat.S_ISDIR(one.mode)):
            yield Difference(path, what, _shown(what, mine), _shown(what, yours))
    for what in ("mtime", "ctime", "atime", "crtime"):
        mine, yours = getattr(one, what), getattr(other, what)
        if mine != yours:
            yield Difference(path, what, f"{mine / 1e9:.9f}", f"{yours / 1e9:.9f}")


def _shown(what: str, value: object) -> str:
    match what, value:
        case "mode", int():
            return oct(value)
        case "xattrs", tuple():
            return ", ".join(f"{name}={data.hex()}" for name, data in value)
        case "type", bytes():
            return value.decode("ascii", "replace")
        case _:
            return str(value)


def _members(path: Path, file: BinaryIO) -> list[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            return archive.getmembers()
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path}: not an OVA: {error}", hint="name two OVAs") from None


def _read(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def _digest(file: BinaryIO, member: tarfile.TarInfo) -> str:
    whole = hashlib.sha256()
    file.seek(member.offset_data)
    left = member.size
    while left and (data := file.read(min(left, 1 << 20))):
        whole.update(data)
        left -= len(data)
    return whole.hexdigest()


def _descriptor(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """The text in a VMDK that begins behind its header, as far as there is one."""
    file.seek(member.offset_data + 512)
    return file.read(min(10240, max(0, member.size - 512))).rstrip(b"\0").partition(b"\0")[0]


def _bytes_at(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    return file.read(BYTES_SHOWN).hex(" ")


def _raw(left: Path, right: Path) -> Difference:
    """Two archives that hold the same: the first byte between the members that is not."""
    with left.open("rb") as one, right.open("rb") as other:
        at = 0
        while (mine := one.read(1 << 20)) == (yours := other.read(1 << 20)):
            at += len(mine)
        first = next(index for index in range(1 << 20) if mine[index : index + 1] != yours[index : index + 1])
    return Difference(
        "archive", f"byte {at + first:#x}", mine[first : first + 8].hex(" "), yours[first : first + 8].hex(" ")
    )
