"""The ISO as programs that share no code with its writer read it: their names, contents, dates, owners and modes."""

import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.seed import iso

STAMP = 1_700_000_000  # 2023-11-14 22:13:20 UTC
DOCUMENTS = {
    "meta-data": b"instance-id: hapx-node01\nlocal-hostname: hapx-node01\n",
    "user-data": b"#cloud-config\nhostname: hapx-node01\n" + random.Random(1).randbytes(50_000),
    "network-config": b"version: 2\n",
    "vendor-data": b"",
    "x" * 64: "a long name, ünïcode inside\n".encode(),
}
needs = {
    program: pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
    for program in ("xorriso", "isoinfo", "bsdtar", "7z", "blkid", "file", "genisoimage")
}


def out(*argv: object, **options) -> bytes:
    result = subprocess.run([str(part) for part in argv], capture_output=True, timeout=60, check=False, **options)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def files_in(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        assert path.is_file()
        path.chmod(0o600)
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def xorriso(image: Path, folder: Path) -> dict[str, bytes]:
    out("xorriso", "-indev", image, "-osirrox", "on", "-extract", "/", folder / "root")
    (folder / "root").chmod(0o700)
    return files_in(folder / "root")


def isoinfo(names: str) -> Callable[[Path, Path], dict[str, bytes]]:
    def read(image: Path, _folder: Path) -> dict[str, bytes]:
        listed = out("isoinfo", names, "-f", "-i", image).decode().split("\n")
        return {path.removeprefix("/"): out("isoinfo", names, "-x", path, "-i", image) for path in listed if path != ""}

    return read


def bsdtar(options: str) -> Callable[[Path, Path], dict[str, bytes]]:
    def read(image: Path, folder: Path) -> dict[str, bytes]:
        out("bsdtar", f"--options={options}", "-xf", image, "-C", folder)
        folder.chmod(0o700)
        return files_in(folder)

    return read


def seven_zip(image: Path, folder: Path) -> dict[str, bytes]:
    out("7z", "x", f"-o{folder}", image)
    return files_in(folder)


def mounted(options: str) -> Callable[[Path, Path], dict[str, bytes]]:
    def read(image: Path, folder: Path) -> dict[str, bytes]:
        inside = folder / "m"
        inside.mkdir()
        script = f'mount -o loop,ro{options} "$1" "$2/m" && cp "$2/m"/* "$2" && umount "$2/m"'
        argv = ["unshare", "--mount", "sh", "-ec", script, "sh", image, folder]
        tried = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        inside.rmdir()
        if tried.returncode and re.search("unknown filesystem|failed to setup loop|permitted|denied", tried.stderr):
            pytest.skip(f"no loop mount of ISO 9660 here: {tried.stderr.splitlines()[0]}")
        assert tried.returncode == 0, tried.stderr
        return files_in(folder)

    return read


READERS = {
    "xorriso": (xorriso, "xorriso"),
    "isoinfo, Joliet": (isoinfo("-J"), "isoinfo"),
    "isoinfo, Rock Ridge": (isoinfo("-R"), "isoinfo"),
    "bsdtar, Joliet": (bsdtar("iso9660:!rockridge"), "bsdtar"),
    "bsdtar, Rock Ridge": (bsdtar("iso9660:!joliet"), "bsdtar"),
    "7z": (seven_zip, "7z"),
    "the kernel, Joliet": (mounted(",norock"), "xorriso"),
    "the kernel, Rock Ridge": (mounted(",nojoliet"), "xorriso"),
}
readers = pytest.mark.parametrize("read", [pytest.param(r, id=n, marks=needs[p]) for n, (r, p) in READERS.items()])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return iso.write(DOCUMENTS, tmp_path_factory.mktemp("iso") / "seed.iso", timestamp=STAMP).path


@readers
def test_every_reader_finds_every_document(image, tmp_path, read):
    assert read(image, tmp_path) == DOCUMENTS


@readers
def test_with_nothing_in_them(tmp_path, read):
    documents = {"meta-data": b"", "user-data": b""}
    written = iso.write(documents, tmp_path / "seed.iso", timestamp=STAMP)
    (tmp_path / "out").mkdir()
    assert read(written.path, tmp_path / "out") == documents


_NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", fullmatch=True)
_SECTOR = 2048


def _documents() -> st.SearchStrategy[dict[str, bytes]]:
    sizes = st.one_of(
        st.integers(0, 300),
        st.sampled_from([_SECTOR - 1, _SECTOR, _SECTOR + 1, 16 * _SECTOR, 32768 + 1]),
    )
    content = st.builds(lambda size, seed: random.Random(seed).randbytes(size), sizes, st.integers(0, 1000))
    more = st.dictionaries(_NAME, content, max_size=12).filter(
        lambda found: len({name.lower() for name in found} | {"meta-data", "user-data"}) == len(found) + 2
    )
    return st.builds(lambda meta, user, rest: {"meta-data": meta, "user-data": user} | rest, content, content, more)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(READERS[name][0], id=name, marks=needs[READERS[name][1]])
        for name in ("xorriso", "isoinfo, Joliet", "isoinfo, Rock Ridge", "bsdtar, Joliet", "7z")
    ],
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=_documents(), label=st.from_regex(r"[A-Za-z0-9_-]{1,16}", fullmatch=True))
def test_any_documents_survive(read, documents, label):
    with tempfile.TemporaryDirectory(prefix="hapx-iso-") as name:
        written = iso.write(documents, Path(name) / "seed.iso", timestamp=STAMP, label=label)
        (Path(name) / "out").mkdir()
        assert read(written.path, Path(name) / "out") == documents


@needs["xorriso"]
def test_rock_ridge_says_root_reads_alone_and_when(image):
    said = out("xorriso", "-indev", image, "-find", "/", "-type", "f", "-exec", "lsdl", env={"TZ": "UTC"}).decode()
    lines = [line.split() for line in said.splitlines()]
    assert len(lines) == len(DOCUMENTS)
    assert {(mode, links, uid, gid) for mode, links, uid, gid, *_ in lines} == {("-r--------", "1", "0", "0")}
    assert {" ".join(line[5:8]) for line in lines} == {"Nov 14 2023"}


@needs["bsdtar"]
@pytest.mark.parametrize("options", ["iso9660:!joliet", "iso9660:!rockridge", "iso9660:!joliet,iso9660:!rockridge"])
def test_every_record_has_the_one_date(image, tmp_path, options):
    out("bsdtar", f"--options={options}", "-xpf", image, "-C", tmp_path)
    assert [path.stat().st_mtime for path in tmp_path.iterdir()] == [STAMP] * len(DOCUMENTS)
    folders = out("bsdtar", "--format=mtree", "-cf", "-", f"@{image}").decode()
    assert f". time={STAMP}.0 mode=555 gid=0 uid=0 type=dir" in folders


@needs["isoinfo"]
def test_isoinfo_knows_its_kind(image):
    said = out("isoinfo", "-d", "-i", image).decode()
    assert "Volume id: cidata" in said
    assert "Joliet with UCS level 3 found" in said
    assert "Rock Ridge signatures version 1 found" in said
    assert f"Volume size is: {image.stat().st_size // 2048}\n" in said


@needs["blkid"]
@pytest.mark.parametrize("label", ["cidata", "CIDATA"])
def test_blkid_finds_it_as_cloud_init_does(tmp_path, label):
    written = iso.write(DOCUMENTS, tmp_path / "seed.iso", timestamp=STAMP, label=label)
    said = out("blkid", "-p", "-o", "export", written.path).decode().splitlines()
    assert {f"LABEL={label}", "TYPE=iso9660", "UUID=2023-11-14-22-13-20-00"} <= set(said)


@needs["file"]
def test_file_knows_it(image):
    assert out("file", "-b", image).decode().strip() == "ISO 9660 CD-ROM filesystem data 'cidata'"


@needs["genisoimage"]
@needs["isoinfo"]
def test_it_holds_what_genisoimage_would_put_there_in_less_room(image, tmp_path):
    for name, content in DOCUMENTS.items():
        (tmp_path / name).write_bytes(content)
    theirs = tmp_path.with_suffix(".iso")
    out("genisoimage", "-quiet", "-o", theirs, "-V", "cidata", "-J", "-joliet-long", "-r", *sorted(tmp_path.iterdir()))
    for names in ("-J", "-R"):
        assert isoinfo(names)(image, tmp_path) == isoinfo(names)(theirs, tmp_path)
    assert image.stat().st_size < theirs.stat().st_size


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    """In a file system of 32 KiB of this test's own."""
    script = """
import os, sys
from pathlib import Path
from builder.errors import NoSpaceError
from builder.seed import iso
folder = Path(sys.argv[1])
try:
    iso.write({"meta-data": b"", "user-data": b"x" * 100_000}, folder / "seed.iso", timestamp=0)
except NoSpaceError as error:
    print(error.message, os.listdir(folder))
"""
    small = 'mount -t tmpfs -o size=32k none "$3" && exec "$1" -c "$2" "$3"'
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    argv = [*alone, "sh", "-c", small, "sh", sys.executable, script, tmp_path]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == f"{tmp_path}/seed.iso: no space left on the disk []\n", ran.stderr


def test_on_the_disk_it_is_its_owners_alone(image):
    assert stat.S_IMODE(image.stat().st_mode) == 0o600
