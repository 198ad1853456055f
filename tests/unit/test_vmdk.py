"""The VMDK writer: what it writes is read back by qemu-img, and looked at field by field where qemu-img is lenient."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import HapxError, InputError
from builder.image import vmdk

SECTOR = 512
GRAIN = 65536
MIB = 1 << 20
GT_SPAN = 32 * MIB
NAME = "test-disk1.vmdk"


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def text(seed: int, length: int) -> bytes:
    line = b"%d: the quick brown fox jumps over the lazy dog\n" % seed
    return (line * (length // len(line) + 1))[:length]


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes


def make_disk(path: Path, size: int, *writes: Write) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for write in writes:
            file.seek(write.offset)
            file.write(write.data)
    return path


def build(disk: Path, **options: object) -> tuple[bytes, vmdk.VmdkInfo]:
    out = io.BytesIO()
    info = vmdk.write(disk, out, name=NAME, **options)  # type: ignore[arg-type]
    return out.getvalue(), info


def qemu_img(*arguments: str | Path) -> str:
    return subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def unpacked(image: bytes, folder: Path) -> bytes:
    """The disk that qemu-img reads out of the VMDK, which it also checks."""
    (folder / NAME).write_bytes(image)
    assert "No errors" in qemu_img("check", "-f", "vmdk", folder / NAME)
    qemu_img("convert", "-f", "vmdk", "-O", "raw", folder / NAME, folder / "back.raw")
    return (folder / "back.raw").read_bytes()


def walk(image: bytes) -> Iterator[tuple[str, int, int, bytes]]:
    """What a reader that only goes forward meets: (kind, sector, LBA or sectors, data), the end included."""
    kinds = {0: "end", 1: "grain table", 2: "grain directory", 3: "footer"}
    sector = struct.unpack_from("<Q", image, 64)[0]  # overHead
    while sector * SECTOR < len(image):
        value, size, kind = struct.unpack_from("<QII", image, sector * SECTOR)
        if size:
            start = sector * SECTOR + 12
            yield "grain", sector, value, image[start : start + size]
            sector += -(-(12 + size) // SECTOR)
        else:
            start = (sector + 1) * SECTOR
            assert image[sector * SECTOR + 16 : start] == bytes(496), "a marker is padded with zeros"
            yield kinds[kind], sector, value, image[start : start + value * SECTOR]
            sector += 1 + value


def descriptor(image: bytes) -> list[str]:
    return image[SECTOR : 21 * SECTOR].rstrip(b"\0").decode().split("\n")


def setting(image: bytes, key: str) -> str:
    (line,) = [line for line in descriptor(image) if line.startswith(key)]
    return line.partition("=")[2].strip().strip('"')


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """72 MiB in three grain tables: text and noise in the first, nothing in the second, a little in the third."""
    return make_disk(
        tmp_path / "disk.raw",
        72 * MIB,
        Write(0, text(1, 3 * MIB)),
        Write(5 * MIB + 777, noise(2, MIB)),
        Write(20 * MIB, bytes(2 * MIB)),  # zeros that take space in the file
        Write(72 * MIB - 1, b"\x01"),
    )


# What comes back


writes = st.lists(
    st.tuples(
        st.integers(0, 70 * MIB - 1),
        st.sampled_from(["text", "noise", "zero"]),
        st.one_of(st.integers(1, 5000), st.integers(1, 3 * MIB)),
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mib=st.integers(1, 70), drafts=writes, threads=st.integers(1, 4), level=st.sampled_from([1, 4, 6, 9]))
def test_a_random_sparse_disk_comes_back_identical(
    mib: int, drafts: list[tuple[int, str, int]], threads: int, level: int, tmp_path: Path
) -> None:
    size = mib * MIB
    make = {"text": text, "noise": noise, "zero": lambda _, length: bytes(length)}
    parts = [
        Write(offset % size, make[kind](number, min(length, size - offset % size)))
        for number, (offset, kind, length) in enumerate(drafts)
    ]
    disk = make_disk(tmp_path / "disk.raw", size, *parts)
    image, info = build(disk, threads=threads, level=level)
    content = disk.read_bytes()
    assert unpacked(image, tmp_path) == content
    populated = [start for start in range(0, size, GRAIN) if content[start : start + GRAIN].strip(b"\0")]
    assert [lba * SECTOR for kind, _, lba, _ in walk(image) if kind == "grain"] == populated
    assert info == vmdk.VmdkInfo(
        size, len(image), hashlib.sha256(image).hexdigest(), len(populated), GRAIN * len(populated)
    )


def test_a_disk_of_nothing_but_a_hole_works(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw", 40 * MIB)
    image, info = build(disk)
    assert (info.grains, info.populated) == (0, 0)
    assert [kind for kind, *_ in walk(image)] == ["grain directory", "footer", "end"]
    assert unpacked(image, tmp_path) == bytes(40 * MIB)


def test_a_terabyte_of_hole_costs_nothing(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw", 1 << 40, Write((1 << 40) - GRAIN, text(1, GRAIN)))
    image, info = build(disk)
    assert info.grains == 1
    (tmp_path / NAME).write_bytes(image)
    assert json.loads(qemu_img("info", "--output=json", tmp_path / NAME))["virtual-size"] == 1 << 40
    last = (1 << 40) // GRAIN - 1
    qemu_img(
        "dd", "-f", "vmdk", "-O", "raw", "bs=64k", f"skip={last}", f"if={tmp_path / NAME}", f"of={tmp_path / 'end'}"
    )
    assert (tmp_path / "end").read_bytes() == text(1, GRAIN)


# The same bytes


@pytest.mark.parametrize("threads", [2, 5])
def test_the_number_of_threads_does_not_change_a_byte(disk: Path, threads: int) -> None:
    assert build(disk, threads=threads) == build(disk, threads=1)


def test_holes_and_zeros_give_the_same_bytes(disk: Path, tmp_path: Path) -> None:
    full = tmp_path / "full.raw"
    full.write_bytes(disk.read_bytes())
    assert full.stat().st_blocks > disk.stat().st_blocks
    assert build(full) == build(disk)


# The format, field by field (VMware, "Virtual Disk Format 5.0")

HEADER_FIELDS = [
    ("magicNumber", "<4s", 0, b"KDMV"),
    ("version", "<I", 4, 3),
    ("flags: newline detector, compressed, markers", "<I", 8, 0x30001),
    ("capacity", "<Q", 12, 72 * MIB // SECTOR),
    ("grainSize", "<Q", 20, 128),
    ("descriptorOffset", "<Q", 28, 1),
    ("descriptorSize", "<Q", 36, 20),
    ("numGTEsPerGT", "<I", 44, 512),
    ("rgdOffset", "<Q", 48, 0),
    ("gdOffset: at the end", "<Q", 56, 0xFFFFFFFFFFFFFFFF),
    ("overHead", "<Q", 64, 21),
    ("uncleanShutdown", "<B", 72, 0),
    ("newline detector", "<4s", 73, b"\n \r\n"),
    ("compressAlgorithm", "<H", 77, 1),
    ("padding", "<433s", 79, bytes(433)),
]


@pytest.mark.parametrize(
    ("form", "offset", "value"), [row[1:] for row in HEADER_FIELDS], ids=[r[0] for r in HEADER_FIELDS]
)
def test_the_header_says(disk: Path, form: str, offset: int, value: object) -> None:
    assert struct.unpack_from(form, build(disk)[0], offset) == (value,)


def test_the_footer_is_the_header_with_the_directory_in_place(disk: Path) -> None:
    image, _ = build(disk)
    assert len(image) % SECTOR == 0
    assert image[-SECTOR:] == bytes(SECTOR), "the end-of-stream marker"
    assert struct.unpack_from("<QII", image, len(image) - 3 * SECTOR) == (1, 0, 3), "the footer's marker"
    header, footer = image[:SECTOR], image[-2 * SECTOR : -SECTOR]
    (directory,) = [sector for kind, sector, *_ in walk(image) if kind == "grain directory"]
    assert footer == header[:56] + struct.pack("<Q", directory + 1) + header[64:]


def test_the_tables_lead_to_every_grain_and_to_nothing_else(disk: Path) -> None:
    image, info = build(disk)
    (offset,) = struct.unpack_from("<Q", image, len(image) - 2 * SECTOR + 56)
    directory = struct.unpack_from("<3I", image, offset * SECTOR)
    assert [entry != 0 for entry in directory] == [True, False, True], "no table where there is no grain"
    found: dict[int, int] = {}
    for number, entry in enumerate(directory):
        table = struct.unpack_from("<512I", image, entry * SECTOR) if entry else (0,) * 512
        found |= {number * 65536 + index * 128: sector for index, sector in enumerate(table) if sector}
    assert found == {lba: sector for kind, sector, lba, _ in walk(image) if kind == "grain"}
    assert len(found) == info.grains


def test_a_forward_reader_meets_everything_in_order(disk: Path) -> None:
    image, _ = build(disk)
    kinds = [kind for kind, *_ in walk(image)]
    assert [kind for kind in kinds if kind != "grain"] == [
        "grain table",
        "grain table",
        "grain directory",
        "footer",
        "end",
    ]
    assert kinds[0] == "grain"
    assert kinds[-5:-3] == ["grain", "grain table"]
    lbas = [lba for kind, _, lba, _ in walk(image) if kind == "grain"]
    assert lbas == sorted(set(lbas))


def test_grains_are_whole_zlib_streams_that_fit_virtualboxs_buffer(disk: Path) -> None:
    image, _ = build(disk)
    content = disk.read_bytes()
    sizes = []
    for kind, _, lba, data in walk(image):
        if kind == "grain":
            inflate = zlib.decompressobj()
            assert inflate.decompress(data) == content[lba * SECTOR : lba * SECTOR + GRAIN]
            assert inflate.eof
            assert inflate.unused_data == b""
            sizes.append(len(data))
    # Noise does not compress; VirtualBox and qemu-img have room for a grain and a little.
    assert GRAIN < max(sizes) < GRAIN + 2 * SECTOR


DESCRIPTOR_LINES = [
    "version=1",
    'encoding="UTF-8"',
    "parentCID=ffffffff",
    'createType="streamOptimized"',
    f'RW {72 * MIB // SECTOR} SPARSE "{NAME}"',
    'ddb.adapterType = "lsilogic"',
    f'ddb.geometry.cylinders = "{72 * MIB // SECTOR // (255 * 63)}"',
    'ddb.geometry.heads = "255"',
    'ddb.geometry.sectors = "63"',
    'ddb.toolsInstallType = "4"',
    'ddb.toolsVersion = "2147483647"',
    'ddb.virtualHWVersion = "4"',
]


@pytest.mark.parametrize("line", DESCRIPTOR_LINES)
def test_the_descriptor_says(disk: Path, line: str) -> None:
    assert line in descriptor(build(disk)[0])


def test_the_descriptor_starts_as_readers_expect(disk: Path) -> None:
    assert descriptor(build(disk)[0])[0] == "# Disk DescriptorFile"


@pytest.mark.parametrize(("mib", "cylinders"), [(1, 1), (8192, 1044), (600 * 1024, 65535)])
def test_cylinders_round_down_and_end_at_65535(tmp_path: Path, mib: int, cylinders: int) -> None:
    image, _ = build(make_disk(tmp_path / "disk.raw", mib * MIB))
    assert setting(image, "ddb.geometry.cylinders") == str(cylinders)


def test_content_ids_are_the_disks_own(disk: Path, tmp_path: Path) -> None:
    def ids(path: Path, name: str = NAME) -> tuple[str, str]:
        out = io.BytesIO()
        vmdk.write(path, out, name=name)
        return setting(out.getvalue(), "CID"), setting(out.getvalue(), "ddb.longContentID")

    other_start = make_disk(tmp_path / "start.raw", 72 * MIB, Write(512, b"EFI PART"))
    larger = make_disk(tmp_path / "larger.raw", 73 * MIB, Write(0, text(1, 3 * MIB)))
    seen = {ids(disk), ids(disk, "other.vmdk"), ids(other_start), ids(larger)}
    assert len(seen) == 4
    for cid, long_id in seen:
        assert int(cid, 16) not in {0, 0xFFFFFFFE, 0xFFFFFFFF}
        assert len(cid) == 8
        assert len(long_id) == 32
        assert long_id.endswith(cid), "its last 32 bits are the CID"


# What is wrong with the input


@pytest.mark.parametrize(
    ("size", "message", "hint"),
    [
        (0, "0 bytes are not a whole number of MiB", "--size=1M"),
        (MIB - 1, "1048575 bytes are not a whole number of MiB", "--size=1M"),
        (5 * MIB + 512, "5243392 bytes are not a whole number of MiB", "--size=6M"),
        (2 << 40, "more than a streamOptimized VMDK can address", "2 TiB"),
    ],
)
def test_a_size_no_vmdk_can_have_is_refused(tmp_path: Path, size: int, message: str, hint: str) -> None:
    disk = make_disk(tmp_path / "disk.raw", size)
    out = io.BytesIO()
    with pytest.raises(InputError, match=message) as caught:
        vmdk.write(disk, out, name=NAME)
    assert str(disk) in caught.value.message
    assert hint in caught.value.hint
    assert out.getvalue() == b""


def test_a_disk_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.raw: cannot be read: No such file"):
        build(tmp_path / "none.raw")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a file"):
        build(tmp_path)


@pytest.mark.parametrize("name", ["", 'a"b.vmdk', "a\nb.vmdk", "folder/a.vmdk", "x" * 11000])
def test_a_name_the_descriptor_cannot_hold_is_refused(disk: Path, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        vmdk.write(disk, io.BytesIO(), name=name)


def shrink(disk: Path) -> None:
    os.truncate(disk, 4 * MIB)


def grow(disk: Path) -> None:
    os.truncate(disk, 80 * MIB)


def rewrite(disk: Path) -> None:
    stamp = disk.stat().st_mtime_ns
    with disk.open("r+b") as file:
        file.write(b"x")
    os.utime(disk, ns=(stamp, stamp + 1))  # within one tick of the clock the time might stay the same


@pytest.mark.parametrize(
    ("change", "message"),
    [(shrink, "ended at byte"), (grow, "was changed while it was read"), (rewrite, "was changed while it was read")],
)
def test_a_disk_that_changes_meanwhile_is_noticed(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    disk = make_disk(tmp_path / "disk.raw", 72 * MIB, Write(0, text(1, 71 * MIB)))
    changed = False

    def once(done: int, total: int) -> None:
        nonlocal changed
        if not changed:
            changed = True
            change(disk)

    with pytest.raises(HapxError, match=message) as caught:
        build(disk, threads=1, on_progress=once)
    assert str(disk) in caught.value.message
    assert "nothing may write to the disk" in caught.value.hint


def test_a_read_error_says_where(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A mock: no disk that fails at a given place can be made here.
    pread = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if offset == 5 * MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(HapxError, match=r"disk\.raw: cannot be read at byte 5242880: Input/output error"):
        build(disk)


def test_an_error_of_the_output_comes_through(disk: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        vmdk.write(disk, full, name=NAME)


# How it works


def test_the_output_is_only_ever_written_to(disk: Path) -> None:
    class Pipe:
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def write(self, data: bytes) -> int:
            self.parts.append(bytes(data))
            return len(data)

    pipe = Pipe()
    vmdk.write(disk, pipe, name=NAME)  # type: ignore[arg-type]
    assert b"".join(pipe.parts) == build(disk)[0]


def test_progress_counts_what_is_read_and_holes_are_not(disk: Path) -> None:
    seen: list[tuple[int, int]] = []
    build(disk, on_progress=lambda done, total: seen.append((done, total)))
    totals = {total for _, total in seen}
    assert len(totals) == 1
    (total,) = totals
    # 3 MiB of text, 1 MiB of noise that touches 17 grains, 2 MiB of zeros in the file, one grain at the end; file
    # systems may round a hole's edges.
    assert 6 * MIB + 2 * GRAIN <= total < 8 * MIB
    done = [done for done, _ in seen]
    assert done == sorted(set(done))
    assert done[-1] == total


def test_memory_stays_small_when_the_output_is_slow(tmp_path: Path) -> None:
    block = noise(1, MIB)
    disk = make_disk(tmp_path / "disk.raw", 256 * MIB, *(Write(number * MIB, block) for number in range(256)))
    code = """
import sys, time
from pathlib import Path
from builder.image import vmdk
class Slow:
    def write(self, data):
        time.sleep(0.001)
def kb(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])
before = kb("VmRSS")
vmdk.write(Path(sys.argv[1]), Slow(), name="slow.vmdk", threads=16, level=1)
print(kb("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(disk)], check=True, capture_output=True, text=True)
    assert 1024 < int(done.stdout) < 64 * 1024, "kB"
