"""The OVA writer: the archive is read back by GNU tar, Python's tarfile, sha256sum, lxml and qemu-img."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from builder.errors import HapxError, InputError, NoSpaceError
from builder.image import ova, vmdk
from builder.image.ovf import Appliance

MIB = 1 << 20
BLOCK = 512
TIME = 1_700_000_000
APPLIANCE = Appliance(name="hapx-1.0-amd64", product="HAProxy cluster node", version="1.0")
MEMBERS = ["hapx-1.0-amd64.ovf", "hapx-1.0-amd64.mf", "hapx-1.0-amd64-disk1.vmdk"]
OVF = {"ovf": "http://schemas.dmtf.org/ovf/envelope/1"}


def run(*argv: str | Path) -> str:
    return subprocess.run([*map(str, argv)], check=True, capture_output=True, text=True).stdout


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_disk(path: Path, *, mib: int = 40, noise_mib: int = 3) -> Path:
    with path.open("wb") as file:
        file.truncate(mib * MIB)
        file.seek(MIB)
        file.write(random.Random(mib).randbytes(noise_mib * MIB))
        file.seek(20 * MIB)
        file.write(b"text\n" * 100_000)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_disk(tmp_path / "disk.raw")


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    return folder


def headers(path: Path) -> list[bytes]:
    """The 512-byte headers, found with nothing but the size field of each."""
    found = []
    with path.open("rb") as file:
        while (block := file.read(BLOCK)).strip(b"\0"):
            found.append(block)
            file.seek(-(-int(block[124:135], 8) // BLOCK) * BLOCK, os.SEEK_CUR)
    return found


# What is in it


def test_gnu_tar_extracts_what_the_manifest_and_the_descriptor_say(disk: Path, dist: Path) -> None:
    target = dist / "any name.ova"
    info = ova.write(disk, target, APPLIANCE, timestamp=TIME)
    assert run("tar", "--list", "--file", target).splitlines() == MEMBERS
    run("tar", "--extract", "--file", target, "--directory", dist)
    ovf, mf, image = (dist / name for name in MEMBERS)

    sums = {path.name: run("sha256sum", path).split()[0] for path in (ovf, mf, image)}
    expected = f"SHA256({ovf.name})= {sums[ovf.name]}\nSHA256({image.name})= {sums[image.name]}\n"
    assert mf.read_bytes() == expected.encode(), "exactly these lines: vSphere takes no other spelling"
    assert info.members == tuple(ova.Member(name, (dist / name).stat().st_size, sums[name]) for name in MEMBERS)

    document = etree.parse(ovf)
    assert document.xpath("//ovf:File/@ovf:href", namespaces=OVF) == [image.name]
    assert document.xpath("//ovf:File/@ovf:size", namespaces=OVF) == [str(image.stat().st_size)]
    assert document.xpath("//ovf:Disk/@ovf:capacity", namespaces=OVF) == ["40"]

    assert "No errors" in run("qemu-img", "check", image)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "vmdk", disk, image)
    assert f'"{image.name}"'.encode() in image.read_bytes()[: 21 * BLOCK], "the extent has the file's name"

    assert info.path == target
    assert info.size == target.stat().st_size
    assert info.sha256 == run("sha256sum", target).split()[0]
    assert info.vmdk.sha256 == sums[image.name]


def test_gnu_tar_lists_plain_files_of_root(disk: Path, dist: Path) -> None:
    target = dist / "a.ova"
    info = ova.write(disk, target, APPLIANCE, timestamp=TIME)
    listing = run("env", "TZ=UTC", "tar", "--list", "--verbose", "--full-time", "--file", target).splitlines()
    assert [line.split() for line in listing] == [
        ["-rw-r--r--", "0/0", str(member.size), "2023-11-14", "22:13:20", member.name] for member in info.members
    ]


def test_tarfile_reads_it_forward_only(disk: Path, dist: Path) -> None:
    target = dist / "a.ova"
    ova.write(disk, target, APPLIANCE, timestamp=TIME)
    with target.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
        entries = list(archive)
    assert [entry.name for entry in entries] == MEMBERS
    for entry in entries:
        assert (entry.isreg(), entry.mode, entry.uid, entry.gid) == (True, 0o644, 0, 0)
        assert (entry.uname, entry.gname, entry.mtime) == ("", "", TIME)
        assert entry.pax_headers == {}


def test_every_header_is_ustar_and_none_is_pax(disk: Path, dist: Path) -> None:
    target = dist / "a.ova"
    ova.write(disk, target, APPLIANCE, timestamp=TIME)
    found = headers(target)
    assert [header[:100].rstrip(b"\0").decode() for header in found] == MEMBERS
    for header in found:
        assert header[257:265] == b"ustar\x0000"
        assert header[156:157] == b"0", "a regular file; x and g are pax, L is GNU's long name"
        assert header[345:500] == bytes(155), "no prefix: names are flat"


def test_the_archive_ends_in_whole_records_of_zeros(disk: Path, dist: Path) -> None:
    target = dist / "a.ova"
    info = ova.write(disk, target, APPLIANCE, timestamp=TIME)
    assert info.size % 10240 == 0
    used = sum(BLOCK + -(-member.size // BLOCK) * BLOCK for member in info.members)
    content = target.read_bytes()
    assert 2 * BLOCK <= len(content) - used < 2 * BLOCK + 10240
    assert content[used:] == bytes(len(content) - used)


def test_the_file_is_readable_by_everybody(disk: Path, dist: Path) -> None:
    target = dist / "a.ova"
    umask = os.umask(0o077)
    try:
        ova.write(disk, target, APPLIANCE, timestamp=TIME)
    finally:
        os.umask(umask)
    assert target.stat().st_mode & 0o7777 == 0o644


def test_the_same_inputs_give_the_same_bytes_whatever_the_threads(disk: Path, dist: Path) -> None:
    digests = {
        ova.write(disk, dist / f"{threads}.ova", APPLIANCE, timestamp=TIME, threads=threads).sha256
        for threads in (1, 2, 5)
    }
    assert len(digests) == 1
    assert ova.write(disk, dist / "later.ova", APPLIANCE, timestamp=TIME + 1).sha256 not in digests


def test_a_descriptor_of_any_length_fits_the_room_left_for_it(tmp_path: Path, dist: Path) -> None:
    """Its length is known only at the end; around a block's edge the number of digits decides over a whole block."""
    disk = make_disk(tmp_path / "small.raw", mib=21, noise_mib=0)
    padded = 0
    for extra in range(0, BLOCK, 3):
        appliance = Appliance(name="a", description="x" * extra)
        info = ova.write(disk, dist / "a.ova", appliance, timestamp=TIME)
        with tarfile.open(dist / "a.ova") as archive:
            assert archive.getnames() == ["a.ovf", "a.mf", "a-disk1.vmdk"]
            member = archive.extractfile("a.ovf")
            assert member is not None
            document = member.read()
        assert etree.fromstring(document) is not None
        assert hashlib.sha256(document).hexdigest() == info.members[0].sha256
        padded += document.endswith(b"\n\n")
    assert padded, "the case was met"


def test_a_member_of_8_gib_and_more_has_a_header_that_tars_read(tmp_path: Path) -> None:
    """The header alone, before a hole of the size it names: a VMDK of 8 GiB takes too long here."""
    size = 9 << 30
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        file.write(ova._header(ova.Member("a-disk1.vmdk", size, ""), TIME))
        file.truncate(BLOCK + size + 2 * BLOCK)
    assert run("tar", "--list", "--verbose", "--file", path).split()[2] == str(size)
    with tarfile.open(path) as archive:
        (entry,) = archive
    assert (entry.name, entry.size, entry.mtime, entry.pax_headers) == ("a-disk1.vmdk", size, TIME, {})


def test_an_existing_target_is_replaced(disk: Path, dist: Path) -> None:
    target = dist / "a.ova"
    target.write_text("old")
    info = ova.write(disk, target, APPLIANCE, timestamp=TIME)
    assert target.stat().st_size == info.size
    assert names(dist) == ["a.ova"]


def test_progress_is_the_vmdk_s(disk: Path, dist: Path) -> None:
    seen: list[tuple[int, int]] = []
    ova.write(disk, dist / "a.ova", APPLIANCE, timestamp=TIME, on_progress=lambda *now: seen.append(now))
    assert seen[-1][0] == seen[-1][1]
    assert len(seen) > 3


# What goes wrong


@pytest.fixture(params=["no older file", "an older file"])
def target(dist: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A target, that must be as it was when the test is over, alone in its folder."""
    path = dist / "a.ova"
    if request.param == "an older file":
        path.write_text("old")
    before = [(entry.name, entry.read_bytes(), entry.stat().st_mtime_ns) for entry in dist.iterdir()]
    yield path
    assert [(entry.name, entry.read_bytes(), entry.stat().st_mtime_ns) for entry in dist.iterdir()] == before


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 16 MiB; only root can make one."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    yield folder
    run("umount", folder)


def test_no_space_names_the_folder_and_what_is_needed(tmp_path: Path, small_file_system: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw", mib=64, noise_mib=40)
    older = small_file_system / "a.ova"
    older.write_text("old")
    with pytest.raises(NoSpaceError) as caught:
        ova.write(disk, older, APPLIANCE, timestamp=TIME)
    assert caught.value.message.startswith(f"{small_file_system}: no space for a.ova: about ")
    needed = float(caught.value.message.split("about ")[1].split(" MB")[0])
    written = ova.write(disk, tmp_path / "elsewhere.ova", APPLIANCE, timestamp=TIME).size
    assert needed == pytest.approx(written / 1e6, rel=0.1), "an estimate"
    assert "16.8 MB are free" in caught.value.message
    assert "make room" in caught.value.hint
    assert older.read_text() == "old"
    assert names(small_file_system) == ["a.ova"]


def test_a_file_system_that_takes_no_larger_file_is_full_too(disk: Path, target: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limit[1]))
    try:
        with pytest.raises(NoSpaceError, match=r"no space for a\.ova"):
            ova.write(disk, target, APPLIANCE, timestamp=TIME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_ctrl_c_midway_leaves_nothing(disk: Path, target: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ova.write(disk, target, APPLIANCE, timestamp=TIME, on_progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vmdk")]


def test_sigint_to_the_process_leaves_nothing(disk: Path, target: Path) -> None:
    code = """
import sys
from pathlib import Path
from builder.image import ova
from builder.image.ovf import Appliance
def stop(done, total):
    if done > total // 2:
        print("half", flush=True)
        sys.stdin.read()
ova.write(Path(sys.argv[1]), Path(sys.argv[2]), Appliance(name="a"), timestamp=0, on_progress=stop)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(disk), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        assert [name for name in names(target.parent) if name.startswith(".a.ova.")], "it is at work"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT


def test_a_disk_that_shrinks_midway_leaves_nothing(disk: Path, target: Path) -> None:
    def shrink(done: int, total: int) -> None:
        os.truncate(disk, MIB)

    with pytest.raises(HapxError, match=r"disk\.raw: ended at byte"):
        ova.write(disk, target, APPLIANCE, timestamp=TIME, threads=1, on_progress=shrink)


def test_a_write_error_says_where(disk: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A mock: no device that fails to sync can be made here.
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(HapxError, match=r"a\.ova: cannot be written: Input/output error"):
        ova.write(disk, target, APPLIANCE, timestamp=TIME)


def test_a_folder_that_is_not_there_is_said_before_any_work(disk: Path, dist: Path) -> None:
    with pytest.raises(InputError, match=r"none: a\.ova cannot be written there: No such file") as caught:
        ova.write(disk, dist / "none" / "a.ova", APPLIANCE, timestamp=TIME)
    assert "create the folder" in caught.value.hint


def test_a_folder_as_target_is_refused(disk: Path, dist: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        ova.write(disk, dist, APPLIANCE, timestamp=TIME)
    assert names(dist) == []


@pytest.mark.parametrize("timestamp", [-1, 8**11])
def test_a_time_no_tar_can_hold_is_refused(disk: Path, target: Path, timestamp: int) -> None:
    with pytest.raises(InputError, match="not a time that a tar can hold"):
        ova.write(disk, target, APPLIANCE, timestamp=timestamp)


def test_an_odd_disk_is_refused(disk: Path, target: Path) -> None:
    os.truncate(disk, 40 * MIB + 1)
    with pytest.raises(InputError, match="not a whole number of MiB"):
        ova.write(disk, target, APPLIANCE, timestamp=TIME)


def test_the_largest_vmdk_has_no_more_digits_than_there_is_room_for() -> None:
    worst = vmdk.MAX_CAPACITY // 65536 * (130 * BLOCK)  # every grain grows by what zlib adds at most
    assert len(str(worst)) <= len(str(ova.LARGEST_VMDK))
