"""An image read as it lies in the OVA: its disk, its partitions and its root file system, without root or a mount.

The readers are other people's: qemu-img, sfdisk, debugfs, mtools. debugfs understands a file system inside a disk by
its offset, and what it finds comes with the owners and modes that are in the image, whoever reads it.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from builder.command import run

SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry of the partition table; `start` and `size` in bytes, `type` as a GUID in capitals."""

    name: str
    type: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in the file system: its inode's number, its type and mode as stat(2) has them, its owner, its size."""

    path: str
    inode: int
    mode: int
    uid: int
    gid: int
    size: int

    @property
    def permissions(self) -> int:
        """The mode without the type."""
        return stat.S_IMODE(self.mode)


def extract_disk(ova: Path, target: Path) -> None:
    """The disk of an OVA as a sparse raw file."""
    with tarfile.open(ova) as archive:
        (member,) = [member for member in archive if member.name.endswith(".vmdk")]
        # qemu-img reads the VMDK where it lies in the tar, so that it is written only once.
        there = {"driver": "file", "filename": str(ova)}
        piece = {"driver": "raw", "offset": member.offset_data, "size": member.size, "file": there}
    source = json.dumps({"driver": "vmdk", "file": piece})
    run(["qemu-img", "convert", "-O", "raw", f"json:{source}", str(target)], timeout=SECONDS)


@dataclass(frozen=True)
class Disk:
    """A raw disk."""

    path: Path

    @cached_property
    def size(self) -> int:
        """Its size in bytes."""
        return self.path.stat().st_size

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        """Its partitions, in the order of their numbers."""
        table = json.loads(run(["sfdisk", "--json", str(self.path)]).stdout)["partitiontable"]
        unit = table["sectorsize"]
        return tuple(
            Partition(entry.get("name", ""), entry["type"].upper(), entry["start"] * unit, entry["size"] * unit)
            for entry in table["partitions"]
        )

    @cached_property
    def root(self) -> FileSystem:
        """The root file system: the last partition."""
        return FileSystem(self.path, self.partitions[-1].start)

    def search(self, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
        """Each place on the disk, allocated or not, where a pattern is found: its offset in bytes, what is there."""
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            end = 0
            while end < self.size:
                try:
                    start = os.lseek(file.fileno(), end, os.SEEK_DATA)
                except OSError:  # nothing but a hole up to the end
                    return
                end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                for match in pattern.finditer(data, start, end):
                    yield match.start(), match.group()


@dataclass(frozen=True)
class FileSystem:
    """An ext4 file system that begins `offset` bytes into a raw disk."""

    disk: Path
    offset: int

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every name in it, by its absolute path; "/" is the root."""
        found: dict[str, Entry] = {}
        folders = {2: ""}  # inode number and path; 2 is the root's in every ext file system
        while folders:
            order = list(folders)
            listings = self._debugfs([f"ls -p <{inode}>" for inode in order])
            below: dict[int, str] = {}
            for inode, listing in zip(order, listings, strict=True):
                for line in filter(None, listing.splitlines()):
                    # /INODE/MODE/UID/GID/NAME/SIZE/, with no size for folders; a name has no slash.
                    _, number, mode, uid, gid, name, size, *_ = [*line.split("/"), ""]
                    unused = number == "0"  # a slot that a folder keeps for later
                    if unused or name == ".." or (name == "." and inode != 2):
                        continue
                    path = f"{folders[inode]}/{name}" if name != "." else "/"
                    entry = Entry(path, int(number), int(mode, 8), int(uid), int(gid), int(size or 0))
                    found[path] = entry
                    if stat.S_ISDIR(entry.mode) and path != "/":
                        below[entry.inode] = path
            folders = below
        return found

    def children(self, folder: str) -> list[str]:
        """The names in a folder, sorted."""
        return sorted(PurePosixPath(path).name for path in self.entries if path != "/" and _parent(path) == folder)

    def below(self, folder: str) -> list[Entry]:
        """Everything under a folder, at any depth."""
        return [entry for path, entry in self.entries.items() if path.startswith(folder.rstrip("/") + "/")]

    def matching(self, pattern: str) -> list[str]:
        """The paths that match a shell pattern as a whole: "*" reaches to the next slash, "**/" over any folders."""
        whole = re.compile(re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*"))
        return sorted(path for path in self.entries if whole.fullmatch(path))

    def text(self, path: str) -> str:
        """A file's text; raises KeyError where there is no such file (symbolic links are not followed)."""
        (text,) = self.texts([path])
        return text

    def texts(self, paths: Iterable[str]) -> list[str]:
        """The text of each of these files."""
        return self._debugfs([f"cat <{self.entries[path].inode}>" for path in paths])

    def link(self, path: str) -> str:
        """Where a symbolic link leads, as it is written in it."""
        (facts,) = self._debugfs([f"stat <{self.entries[path].inode}>"])
        match = re.search(r'^Fast link dest: "(.*)"$', facts, re.MULTILINE)
        assert match is not None, f"{path} is no symbolic link (or has more than 59 bytes): {facts}"
        return match.group(1)

    def dump(self, path: str, target: Path) -> Path:
        """Copy a file out of it."""
        self._debugfs([f'dump <{self.entries[path].inode}> "{target}"'])
        return target

    def capabilities(self, path: str) -> bytes:
        """A program's capabilities as the kernel keeps them (linux/capability.h: vfs_cap_data); empty: it has none."""
        (attributes,) = self._debugfs([f"ea_list <{self.entries[path].inode}>"])
        match = re.search(r"^ *security\.capability \(\d+\) = ([0-9a-f ]+)$", attributes, re.MULTILINE)
        return bytes.fromhex(match.group(1)) if match else b""

    def owner_of(self, offset: int, block_size: int = 4096) -> str:
        """The path of the file that has the byte at this offset of the disk; "" where none has."""
        block = (offset - self.offset) // block_size
        (said,) = self._debugfs([f"icheck {block}"])
        number = said.split()[-1]
        inodes = {entry.inode: entry.path for entry in self.entries.values()}
        return inodes.get(int(number), "") if number.isdigit() else ""

    def _debugfs(self, requests: list[str]) -> list[str]:
        """What debugfs answers to each of these requests."""
        said = run(
            ["debugfs", "-f", "/dev/stdin", f"{self.disk}?offset={self.offset}"],
            input="".join(f"{request}\n" for request in requests),
            timeout=SECONDS,
        ).stdout
        # It repeats each request before its answer.
        marks = [f"debugfs: {request}\n" for request in requests]
        answers: list[str] = []
        at = 0
        for mark, following in zip(marks, [*marks[1:], None], strict=True):
            assert said.startswith(mark, at), f"debugfs: no answer to {mark!r}"
            end = len(said) if following is None else said.index(following, at + len(mark))
            answers.append(said[at + len(mark) : end])
            at = end
        return answers


def _parent(path: str) -> str:
    return str(PurePosixPath(path).parent)
