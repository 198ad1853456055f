"""Reads ext4 as it lies on a disk: every name, what its inode says, its contents; no mount, no rights, no program.

Layout: the kernel's Documentation/filesystems/ext4 (offsets of ext4_super_block, ext4_group_desc, ext4_inode,
ext4_extent, ext4_dir_entry_2, ext4_xattr_entry). What mke2fs makes by default is read: extents, inodes of 256 bytes,
group descriptors in one place. Anything else is refused, so that nothing is compared that was not understood.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import InputError

MAGIC = 0xEF53
ROOT_INODE = 2
_FILETYPE, _EXTENTS, _64BIT, _FLEX_BG, _LARGEDIR = 0x2, 0x40, 0x80, 0x200, 0x4000
_RECOVER, _CSUM_SEED, _INLINE_DATA = 0x4, 0x2000, 0x8000
_UNDERSTOOD = _FILETYPE | _RECOVER | _EXTENTS | _64BIT | _FLEX_BG | _CSUM_SEED | _LARGEDIR
_BIGALLOC = 0x200  # of the features that a reader may not know: a bit of a bitmap is more than a block
_BLOCK_UNINIT = 0x2  # of a group: nothing in it was ever given away, and its bitmap was not written
_EXTENTS_FLAG, _EA_INODE_FLAG = 0x80000, 0x200000
_EXTENT_MAGIC, _XATTR_MAGIC, _JOURNAL_MAGIC = 0xF30A, 0xEA020000, 0xC03B3998
_UNWRITTEN = 32768  # a longer extent is one that was never written: zeros
_DEEPEST = 5  # of a tree of extents
_CHUNK = 1 << 20
_PREFIXES = {1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}


@dataclass(frozen=True, slots=True)
class Inode:
    """What the file system keeps about a file; times in nanoseconds since the epoch."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    flags: int
    generation: int
    atime: int
    ctime: int
    mtime: int
    crtime: int
    device: int
    xattrs: tuple[tuple[str, bytes], ...]
    block: bytes  # i_block: the root of the tree of extents, or the target of a short symbolic link


class FileSystem:
    """An ext4 file system that begins at byte `offset` of a file; raises InputError where it cannot be read."""

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self._file = file
        self._offset = offset
        raw = self._at(1024, 1024)
        (magic,) = struct.unpack_from("<H", raw, 0x38)
        if magic != MAGIC:
            raise InputError("not an ext4 file system")
        incompatible, self._compatible_to_read = struct.unpack_from("<II", raw, 0x60)
        if incompatible & ~_UNDERSTOOD or not incompatible & _EXTENTS:
            raise InputError(f"an ext file system with features that are not read here ({incompatible:#x})")
        self.superblock = raw
        self.block_size = 1024 << struct.unpack_from("<I", raw, 0x18)[0]
        (self._per_group,) = struct.unpack_from("<I", raw, 0x28)
        (self._inodes,) = struct.unpack_from("<I", raw, 0x0)
        (self._inode_size,) = struct.unpack_from("<H", raw, 0x58)
        first = struct.unpack_from("<I", raw, 0x14)[0]
        size = struct.unpack_from("<H", raw, 0xFE)[0] if incompatible & _64BIT else 32
        if self.block_size > 65536 or not self._per_group or self._inode_size < 128 or size < 32:
            raise InputError("an ext4 file system whose superblock makes no sense")
        self._first = first
        self._tables = []
        self._bitmaps: list[int | None] = []
        groups = -(-self._inodes // self._per_group)
        descriptors = self._at((first + 1) * self.block_size, groups * size)
        for start in range(0, groups * size, size):
            (low,) = struct.unpack_from("<I", descriptors, start + 0x8)
            high = struct.unpack_from("<I", descriptors, start + 0x28)[0] if size >= 64 else 0
            self._tables.append(low | high << 32)
            (low,) = struct.unpack_from("<I", descriptors, start)
            high = struct.unpack_from("<I", descriptors, start + 0x20)[0] if size >= 64 else 0
            written = not struct.unpack_from("<H", descriptors, start + 0x12)[0] & _BLOCK_UNINIT
            self._bitmaps.append(low | high << 32 if written else None)
        self.unmounted = not incompatible & _RECOVER and bool(struct.unpack_from("<H", raw, 0x3A)[0] & 1)

    def free(self) -> Iterator[tuple[int, int]]:
        """Blocks that were given away once and belong to nothing now: the first one, and how many."""
        if self._compatible_to_read & _BIGALLOC:
            raise InputError("an ext4 file system that gives blocks away in clusters")
        low, per_group, high = (struct.unpack_from("<I", self.superblock, at)[0] for at in (0x4, 0x20, 0x150))
        end = low | high << 32
        for group, where in enumerate(self._bitmaps):
            if where is None:
                continue
            first = self._first + group * per_group
            bits = f"{int.from_bytes(self._at(where * self.block_size, self.block_size), 'little'):b}"[::-1]
            bits = bits.ljust(per_group, "0")[: min(per_group, end - first)]
            yield from ((first + run.start(), len(run[0])) for run in re.finditer("0+", bits))

    def spent(self) -> Iterator[tuple[int, int]]:
        """Blocks of the journal that nobody reads any more: all but its superblock, where it has nothing to replay.

        The journal's superblock is journal_superblock_s of the kernel's Documentation/filesystems/ext4/journal.rst.
        """
        (number,) = struct.unpack_from("<I", self.superblock, 0xE0)
        extents = list(self.extents(self.inode(number))) if number else []
        if not extents or extents[0][2] is None:
            return
        magic, first, begun = struct.unpack_from(">I16xI4xI", self._at(extents[0][2] * self.block_size, 32))
        if magic == _JOURNAL_MAGIC and not begun:
            for start, count, where in extents:
                skip = max(0, first - start)
                if where is not None and skip < count:
                    yield where + skip, count - skip

    def walk(self) -> Iterator[tuple[str, Inode]]:
        """Every name and its inode, "/" first, each folder before what is in it, in the order of the folders."""
        pending = [("/", ROOT_INODE)]
        seen = set()
        while pending:
            path, number = pending.pop()
            inode = self.inode(number)
            yield path, inode
            if stat.S_ISDIR(inode.mode):
                if number in seen:
                    raise InputError(f"{path}: this folder is in itself")
                seen.add(number)
                inside = [(f"{path.rstrip('/')}/{name}", each) for name, each in self.names(inode)]
                pending.extend(reversed(inside))

    def find(self, path: str) -> Inode:
        """The inode at a path from the root, links not followed; raises InputError where there is none."""
        inode = self.inode(ROOT_INODE)
        for part in path.strip("/").split("/"):
            number = dict(self.names(inode)).get(part) if stat.S_ISDIR(inode.mode) else None
            if number is None:
                raise InputError(f"/{path.strip('/')}: not there")
            inode = self.inode(number)
        return inode

    def inode(self, number: int) -> Inode:
        """The inode of that number."""
        if not 0 < number <= self._inodes:
            raise InputError(f"an inode of the number {number}, of {self._inodes}")
        group, index = divmod(number - 1, self._per_group)
        raw = self._at(self._tables[group] * self.block_size + index * self._inode_size, self._inode_size)
        mode, uid, low = struct.unpack_from("<HHI", raw, 0)
        gid, links = struct.unpack_from("<HH", raw, 0x18)
        (flags,) = struct.unpack_from("<I", raw, 0x20)
        generation, xattr_low, high = struct.unpack_from("<III", raw, 0x64)
        xattr_high, uid_high, gid_high = struct.unpack_from("<HHH", raw, 0x76)
        extra = struct.unpack_from("<H", raw, 0x80)[0] if self._inode_size > 128 else 0

        def time(at: int, more: int) -> int:
            (seconds,) = struct.unpack_from("<i", raw, at)
            if more + 4 > 128 + extra:
                return int(seconds) * 10**9
            (bits,) = struct.unpack_from("<I", raw, more)  # two bits of seconds, thirty of nanoseconds
            return int(seconds + ((bits & 3) << 32)) * 10**9 + int(bits >> 2)

        block = raw[0x28:0x64]
        device = 0
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            old, new = struct.unpack_from("<II", block)
            device = old or new
        return Inode(
            number=number,
            mode=mode,
            uid=uid | uid_high << 16,
            gid=gid | gid_high << 16,
            size=low | high << 32,
            links=links,
            flags=flags,
            generation=generation,
            atime=time(0x8, 0x8C),
            ctime=time(0xC, 0x84),
            mtime=time(0x10, 0x88),
            crtime=time(0x90, 0x94) if extra >= 0x18 else 0,
            device=device,
            xattrs=tuple(sorted(self._xattrs(raw, 128 + extra, xattr_low | xattr_high << 32))),
            block=block,
        )

    def names(self, folder: Inode) -> list[tuple[str, int]]:
        """The names in a folder and their inodes' numbers, in the order of the disk, without . and .. ."""
        found = []
        for data in self.blocks(folder):
            at = 0
            while at + 8 <= len(data):
                number, length, size = struct.unpack_from("<IHB", data, at)
                if length < 8 or length % 4 or at + length > len(data):
                    raise InputError(f"inode {folder.number}: a folder whose entries make no sense")
                name = data[at + 8 : at + 8 + size]
                if number and size and name not in {b".", b".."}:
                    found.append((name.decode("utf-8", "surrogateescape"), number))
                at += length
        return found

    def target(self, link: Inode) -> str:
        """Where a symbolic link leads: a short one is in the inode itself."""
        whole = link.block[: link.size] if link.size < 60 else b"".join(self.chunks(link))
        return whole.decode("utf-8", "surrogateescape")

    def sha256(self, file: Inode) -> str:
        """The digest, in hex, of a file's contents."""
        whole = hashlib.sha256()
        for chunk in self.chunks(file):
            whole.update(chunk)
        return whole.hexdigest()

    def chunks(self, file: Inode) -> Iterator[bytes]:
        """A file's contents in pieces, holes as zeros."""
        at = 0
        for start, count, where in self.extents(file):
            yield from _zeros(min(start * self.block_size, file.size) - at)
            begin, end = start * self.block_size, min((start + count) * self.block_size, file.size)
            if where is None:
                yield from _zeros(end - begin)
            else:
                for piece in range(begin, end, _CHUNK):
                    yield self._at(where * self.block_size + piece - begin, min(_CHUNK, end - piece))
            at = max(end, at)
        yield from _zeros(file.size - at)

    def blocks(self, file: Inode) -> Iterator[bytes]:
        """A file's contents, block by block."""
        for _, count, where in self.extents(file):
            for index in range(count if where is not None else 0):
                yield self._at(((where or 0) + index) * self.block_size, self.block_size)

    def extents(self, file: Inode) -> Iterator[tuple[int, int, int | None]]:
        """Where contents are: first block in the file, blocks, first block in the file system (None: never written)."""
        if file.flags & _EXTENTS_FLAG:
            yield from self._tree(file.block, file.number, _DEEPEST)
        elif any(file.block) and not stat.S_ISLNK(file.mode):
            raise InputError(f"inode {file.number}: contents that are not in extents are not read here")

    def _tree(self, node: bytes, number: int, depth_left: int) -> Iterator[tuple[int, int, int | None]]:
        magic, entries, _, depth = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or depth > depth_left or 12 + entries * 12 > len(node):
            raise InputError(f"inode {number}: a tree of extents that makes no sense")
        for at in range(12, 12 + entries * 12, 12):
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, at)
                yield from self._tree(
                    self._at((low | high << 32) * self.block_size, self.block_size), number, depth - 1
                )
            else:
                start, length, high, low = struct.unpack_from("<IHHI", node, at)
                unwritten = length > _UNWRITTEN
                yield start, length - _UNWRITTEN if unwritten else length, None if unwritten else low | high << 32

    def _xattrs(self, raw: bytes, at: int, block: int) -> Iterator[tuple[str, bytes]]:
        """The extended attributes in an inode, behind its fields, and in a block of their own."""
        if at + 4 <= len(raw) and struct.unpack_from("<I", raw, at)[0] == _XATTR_MAGIC:
            yield from _attributes(raw[at + 4 :], 0)
        if block:
            whole = self._at(block * self.block_size, self.block_size)
            if struct.unpack_from("<I", whole)[0] != _XATTR_MAGIC:
                raise InputError("a block of extended attributes that is none")
            yield from _attributes(whole, 32)

    def _at(self, start: int, size: int) -> bytes:
        self._file.seek(self._offset + start)
        data = self._file.read(size)
        if len(data) < size:
            raise InputError("the file system reaches beyond the end of its disk")
        return data


def _attributes(data: bytes, at: int) -> Iterator[tuple[str, bytes]]:
    while at + 16 <= len(data) and data[at : at + 4] != bytes(4):
        size, index, value_at, _, value_size = struct.unpack_from("<BBHII", data, at)
        name = data[at + 16 : at + 16 + size].decode("utf-8", "surrogateescape")
        yield _PREFIXES.get(index, f"{index}:") + name, data[value_at : value_at + value_size]
        at += 16 + -(-size // 4) * 4


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, _CHUNK))
        count -= _CHUNK
