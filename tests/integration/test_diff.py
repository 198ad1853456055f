"""`hapx-build diff` on OVAs that our writer made of disks that sfdisk and mke2fs made: each difference is named."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.image import ova
from builder.image.diff import Comparison, compare
from builder.image.diff.ext4 import FileSystem
from builder.image.ovf import Appliance

MIB = 1 << 20
START, SIZE = 2 * MIB, 29 * MIB  # of the root partition
EPOCH = "1700000000"
TABLE = """label: gpt
label-id: 11111111-1111-4111-8111-111111111111
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, uuid=22222222-2222-4222-8222-222222222222, name="boot"
start=4096, size=59392, type=L, uuid=33333333-3333-4333-8333-333333333333, name="root"
"""
COMMAND = str(Path(sys.executable).with_name("hapx-build"))


def tree(folder: Path) -> Path:
    """Files of every kind that an image has, and some that are hard to read."""
    folder.mkdir(mode=0o755)
    (folder / "etc").mkdir()
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (folder / "etc/empty").touch()
    (folder / "etc/short").symlink_to("hosts")
    (folder / "etc/long").symlink_to("x" * 200)
    (folder / "etc/hard").hardlink_to(folder / "etc/hosts")
    (folder / "etc/ünïcödé").write_text("")
    many = folder / "many"
    many.mkdir()
    for number in range(900):
        (many / f"a file with a name that takes some room {number}").touch()
    with (folder / "sparse").open("wb") as file:
        for offset in range(0, 8 * MIB, 64 << 10):  # extents that do not fit into an inode
            file.seek(offset)
            file.write(b"%d" % offset)
    (folder / "large").write_bytes(bytes(range(256)) * 12000)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (int(EPOCH), int(EPOCH)), follow_symlinks=False)
    return folder


def disk(folder: Path, target: Path) -> Path:
    """A disk with two partitions, the second an ext4 with the files of a folder."""
    with target.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["sfdisk", "--quiet", target], input=TABLE, text=True, check=True)
    extended = f"offset={START},hash_seed=44444444-4444-4444-8444-444444444444,root_owner=0:0"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", "55555555-5555-4555-8555-555555555555", "-E", extended]
    environment = os.environ | {"SOURCE_DATE_EPOCH": EPOCH, "E2FSPROGS_FAKE_TIME": EPOCH}
    subprocess.run([*argv, "-d", folder, target, f"{SIZE // 1024}k"], check=True, env=environment)
    return target


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    return disk(tree(folder / "tree"), folder / "disk.raw")


def pack(raw: Path, target: Path, *, name: str = "x", cpus: int = 2) -> Path:
    appliance = Appliance(name=name, product="p", vendor="v", version="1", full_version="1", cpus=cpus, memory_mib=512)
    ova.write(raw, target, appliance, timestamp=int(EPOCH))
    return target


def debugfs(raw: Path, *requests: str, write: bool = True) -> str:
    argv = ["debugfs", *(["-w"] if write else []), "-f", "/dev/stdin", f"{raw}?offset={START}"]
    text = "".join(f"{request}\n" for request in requests)
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=True).stdout


def poke(offset: int, data: bytes) -> Callable[[Path], None]:
    def change(raw: Path) -> None:
        with raw.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return change


def told(*requests: str) -> Callable[[Path], None]:
    def change(raw: Path) -> None:
        debugfs(raw, *requests)

    return change


def told_of(raw: Path, tmp_path: Path, change: Callable[[Path], None]) -> Comparison:
    other = tmp_path / "other.raw"
    shutil.copyfile(raw, other)
    change(other)
    return compare(pack(raw, tmp_path / "a.ova"), pack(other, tmp_path / "b.ova"))


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (told("sif /etc/hosts mode 0100600"), "/etc/hosts", "mode"),
        (told("sif /etc/hosts uid 1234567"), "/etc/hosts", "uid"),
        (told("sif /etc/empty gid 7"), "/etc/empty", "gid"),
        (told("sif /etc/empty mtime @1800000000"), "/etc/empty", "mtime"),
        (told("sif /etc/empty ctime @1800000000"), "/etc/empty", "ctime"),
        (told("sif /etc/empty generation 7"), "/etc/empty", "generation"),
        (told("ea_set /etc/hosts security.capability abc"), "/etc/hosts", "xattrs"),
        (told("ln /etc/hosts /etc/more"), "/etc/more", "is there"),
        (told("unlink /etc/short"), "/etc/short", "is there"),
        (told("symlink /etc/fresh elsewhere"), "/etc/fresh", "is there"),
        (poke(0x5C, b"\xaa"), "protective MBR and boot code", "byte 0x5c"),
        (poke(MIB + 0x1234, b"\xaa"), "partition 1 (boot)", "byte 0x1234"),
    ],
)
def test_a_difference_is_named(
    made: Path, tmp_path: Path, change: Callable[[Path], None], where: str, what: str
) -> None:
    result = told_of(made, tmp_path, change)
    assert not result.same
    found = [each for each in result.differences if each.where == where and each.what.startswith(what)]
    assert found, result.differences
    assert all(each.left != each.right for each in found)


def test_contents_are_compared_wherever_they_lie(made: Path, tmp_path: Path) -> None:
    def change(raw: Path) -> None:
        data = raw.read_bytes()
        at = data.index(b"127.0.0.1 localhost", START)
        poke(at, b"127.0.0.2")(raw)
        last = data.rindex(b"%d" % (8 * MIB - (64 << 10)))
        poke(last, b"9")(raw)

    result = told_of(made, tmp_path, change)
    named = {each.where for each in result.differences if each.what.startswith("contents (SHA")}
    assert named == {"/etc/hosts", "/etc/hard", "/sparse"}


def test_what_no_file_owns_is_named_by_its_byte(made: Path, tmp_path: Path) -> None:
    result = told_of(made, tmp_path, poke(START + SIZE - 100, b"left over"))
    assert [each.where for each in result.differences if each.where.startswith("partition")] == ["partition 2 (root)"]


def test_the_reader_reads_what_debugfs_does(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    debugfs(made, f"rdump / {out}", write=False)
    with made.open("rb") as file:
        system = FileSystem(file, START)
        found = dict(system.walk())
        names = {f"/{path.relative_to(out)}" for path in out.rglob("*")}
        assert names == found.keys() - {"/"}
        assert len(names) > 900
        for name in names:
            path, inode = out / name[1:], found[name]
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                assert system.target(inode) == str(path.readlink())
                continue
            assert inode.mtime == status.st_mtime_ns
            assert inode.mode == status.st_mode
            if path.is_file():
                assert b"".join(system.chunks(inode)) == path.read_bytes()
                assert inode.links == (2 if name in {"/etc/hosts", "/etc/hard"} else 1)


def test_the_command_says_it_and_ends_with_one_or_zero(made: Path, tmp_path: Path) -> None:
    first, again = pack(made, tmp_path / "a.ova"), pack(made, tmp_path / "again.ova")
    other = pack(made, tmp_path / "b.ova", cpus=3)

    def run(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([COMMAND, "diff", *arguments], capture_output=True, text=True, check=False)

    same = run(first, again)
    assert same.returncode == 0
    assert "bit for bit" in same.stdout
    differs = run(first, other)
    assert differs.returncode == 1
    assert "x.ovf: line" in differs.stdout
    assert "disk1" not in differs.stdout.replace("x.mf", "")
    said = json.loads(run("--json", first, other).stdout)
    assert said["same"] is False
    assert {each["where"] for each in said["differences"]} == {"x.ovf", "x.mf"}
    renamed = run(first, pack(made, tmp_path / "c.ova", name="y"))
    assert "archive: members" in renamed.stdout
    assert renamed.returncode == 1


@pytest.mark.parametrize("contents", [b"", b"not a tar" * 999, None])
def test_what_is_no_ova_is_an_error(made: Path, tmp_path: Path, contents: bytes | None) -> None:
    wrong = tmp_path / "wrong.ova"
    if contents is not None:
        wrong.write_bytes(contents)
    argv = [COMMAND, "diff", wrong, pack(made, tmp_path / "a.ova")]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 3, result.stderr
    assert str(wrong) in result.stderr
