"""What a file system does not use is zeroed, and nothing else: as e2fsprogs sees it."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.image import unused
from builder.image.diff.ext4 import FileSystem

MIB = 1 << 20
START = 3 * MIB
SIZE = 96 * MIB


def debugfs(disk: Path, *requests: str) -> str:
    argv = ["/usr/sbin/debugfs", "-w", "-f", "-", f"{disk}?offset={START}"]
    done = subprocess.run(argv, input="\n".join(requests), capture_output=True, text=True, check=True)
    return done.stdout


def check(disk: Path) -> None:
    argv = ["/usr/sbin/e2fsck", "-f", "-n", f"{disk}?offset={START}"]
    subprocess.run(argv, check=True, capture_output=True)


def contents(disk: Path) -> dict[str, str]:
    with disk.open("rb") as file:
        system = FileSystem(file, START)
        return {path: system.sha256(inode) for path, inode in system.walk() if not inode.mode & 0o040000}


@pytest.fixture(params=["4096", "1024"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A disk with an ext4 that was used: files that are there, files that were deleted, a journal that was written."""
    noise = random.Random(3)
    (tmp_path / "files").mkdir()
    for name, size in (("kept", 5 * MIB + 17), ("deleted", 20 * MIB), ("small", 3)):
        (tmp_path / "files" / name).write_bytes(noise.randbytes(size))
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.write(noise.randbytes(START))  # whatever lies before it
        file.truncate(START + SIZE + MIB)
    argv = ["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", request.param, "-d", tmp_path / "files"]
    subprocess.run([*argv, "-E", f"offset={START}", disk, f"{SIZE >> 10}k"], check=True)
    debugfs(disk, "rm deleted")
    # Transactions that were replayed long ago: nothing but what lies there tells them from these bytes.
    with disk.open("r+b") as file:
        system = FileSystem(file, START)
        for first, count in system.spent():
            file.seek(START + first * system.block_size)
            file.write(noise.randbytes(count * system.block_size))
    check(disk)
    return disk


def test_what_was_deleted_is_zeros_and_what_is_there_stays(disk: Path) -> None:
    before, files, room = disk.read_bytes(), contents(disk), disk.stat().st_blocks
    with disk.open("r+b") as file:
        size = FileSystem(file, START).block_size
        assert unused.clear(file, START) == 24 * MIB - size  # the deleted file, and the journal but for its superblock
        assert unused.clear(file, START) == 0
    assert set(files) == {"/kept", "/small"}
    assert contents(disk) == files
    check(disk)
    after = disk.read_bytes()
    assert (after[:START], after[START + SIZE :]) == (before[:START], before[START + SIZE :])
    assert disk.stat().st_blocks == room  # a hole stays one
    # What e2fsprogs calls free is zeros.
    shown = subprocess.run(
        ["/usr/sbin/dumpe2fs", f"{disk}?offset={START}"], capture_output=True, text=True, check=True
    ).stdout
    for line in shown.splitlines():
        if line.startswith("  Free blocks: "):
            for run in filter(None, line.removeprefix("  Free blocks: ").split(", ")):
                first, _, last = run.partition("-")
                assert not any(after[START + int(first) * size : START + (int(last or first) + 1) * size])


def test_one_that_was_not_unmounted_is_left_alone(disk: Path) -> None:
    debugfs(disk, "set_super_value state 0")
    before = disk.read_bytes()
    with disk.open("r+b") as file, pytest.raises(InputError, match="was not unmounted"):
        unused.clear(file, START)
    assert disk.read_bytes() == before


def test_a_journal_that_is_still_needed_is_left_alone(disk: Path) -> None:
    with disk.open("r+b") as file:
        system = FileSystem(file, START)
        where = next(where for _, _, where in system.extents(system.inode(8)) if where is not None)
        file.seek(START + where * system.block_size + 0x1C)
        file.write(b"\0\0\0\1")  # s_start: what is to be replayed begins there
        file.flush()
        assert list(FileSystem(file, START).spent()) == []


def test_a_disk_without_a_file_system(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(MIB))
    with path.open("r+b") as file, pytest.raises(InputError, match="not an ext4"):
        unused.clear(file, 0)
