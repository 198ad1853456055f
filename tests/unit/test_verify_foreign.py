"""OVAs put together with other people's programs: qemu-img, Python's tarfile, GNU tar, sha256sum, openssl."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import pytest

from builder import command
from builder.image.verify import Finding, Report, Severity, verify
from tests.unit.verify_samples import OVF, Disk, Member, manifest, ova

SECTOR = 512
MIB = 1 << 20
pytestmark = pytest.mark.skipif(command.which("qemu-img") is None, reason="qemu-img is not installed")


def checks(report: Report) -> set[str]:
    return {finding.check for finding in report.findings}


def errors(report: Report) -> set[str]:
    return {finding.check for finding in report.findings if finding.severity is Severity.ERROR}


def only(report: Report, check: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.check == check]
    return finding


def raw(tmp_path: Path, last: bytes) -> Path:
    """A raw disk of 40 MiB: some grains that compress and some that do not, `last` being the last one that is used."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(40 * MIB)
        for number in (0, 7, 8, 530):
            file.seek(number * 65536)
            file.write(random.Random(number).randbytes(65536) if number % 2 else b"text " * 13107)
        file.seek(600 * 65536)
        file.write(last)
    return path


def converted(source: Path, *options: str) -> bytes:
    """The disk as qemu-img writes it."""
    target = source.with_name("disk.out")
    command.run(["qemu-img", "convert", *options, str(source), str(target)], timeout=60)
    return target.read_bytes()


def read(tmp_path: Path, data: bytes) -> Report:
    path = tmp_path / "sample.ova"
    path.write_bytes(data)
    return verify(path)


QEMU_WARNINGS = {"vmdk.redundant", "vmdk.ddb"}


@pytest.mark.parametrize(
    ("last", "message"),
    [
        # The compressed grain is longer than a grain, so it fills what qemu-img gives it and a sector more.
        (random.Random(1).randbytes(65536), "the file ends without an end-of-stream marker"),
        # It fills a sector or two of 128; an importer takes the first one that is left over for the end.
        (b"short", "bytes of zeros after the last grain"),
    ],
)
def test_disk_of_qemu_img_has_no_proper_end(tmp_path: Path, last: bytes, message: str) -> None:
    disk = converted(raw(tmp_path, last), "-O", "vmdk", "-o", "subformat=streamOptimized")
    report = read(tmp_path, ova(disk=disk))
    assert checks(report) == {"vmdk.eos", "vmdk.adapter", *QEMU_WARNINGS}
    assert errors(report) == {"vmdk.eos"}
    assert message in only(report, "vmdk.eos").message
    assert only(report, "vmdk.adapter").message == "ddb.adapterType is ide"


def test_disk_of_qemu_img_with_an_end_and_lsilogic_is_imported(tmp_path: Path) -> None:
    options = "subformat=streamOptimized,adapter_type=lsilogic"
    disk = converted(raw(tmp_path, random.Random(1).randbytes(65536)), "-O", "vmdk", "-o", options)
    report = read(tmp_path, ova(disk=disk + bytes(SECTOR)))
    assert checks(report) == QEMU_WARNINGS
    assert report.ok


def test_empty_disk_of_qemu_img(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(40 * MIB)
    report = read(tmp_path, ova(disk=converted(path, "-O", "vmdk", "-o", "subformat=streamOptimized")))
    assert errors(report) == {"vmdk.eos"}


@pytest.mark.parametrize("at_end", [False, True])
def test_qemu_img_reads_the_sample_that_everything_is_compared_with(tmp_path: Path, at_end: bool) -> None:
    disk = Disk(at_end=at_end)
    path = tmp_path / "sample-disk1.vmdk"
    path.write_bytes(disk.build())
    command.run(["qemu-img", "check", str(path)], timeout=60)
    command.run(["qemu-img", "convert", "-O", "raw", str(path), str(tmp_path / "disk.raw")], timeout=60)
    again = converted(tmp_path / "disk.raw", "-O", "vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic")
    (tmp_path / "again.vmdk").write_bytes(again)
    compared = command.run(["qemu-img", "compare", str(path), str(tmp_path / "again.vmdk")], timeout=60)
    assert "identical" in compared.stdout


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("-O", "vmdk"), "a VMDK of the kind monolithicSparse"),
        (("-O", "qcow2"), "a qcow2 disk"),
        (("-O", "vdi"), "a VDI disk"),
        (("-O", "vhdx"), "a VHDX disk"),
        (("-O", "vpc"), "a dynamic VHD disk"),
        (("-O", "vpc", "-o", "subformat=fixed,force_size"), "a fixed VHD disk"),
        (("-O", "qed"), "a QED disk"),
        (("-O", "raw"), "of no format known here, perhaps a raw disk"),
    ],
)
def test_disk_of_another_format(tmp_path: Path, options: tuple[str, ...], kind: str) -> None:
    report = read(tmp_path, ova(disk=converted(raw(tmp_path, b"x"), *options)))
    assert checks(report) == {"vmdk.format"}
    assert only(report, "vmdk.format").message == f"not a streamOptimized VMDK but {kind}"
    assert report.capacity is None


def files(tmp_path: Path) -> list[str]:
    """The files of a good OVA in a folder; their names in the right order."""
    disk = Disk().build()
    (tmp_path / "sample-disk1.vmdk").write_bytes(disk)
    text = OVF.replace("@SIZE@", str(len(disk))).encode()
    (tmp_path / "sample.ovf").write_bytes(text)
    (tmp_path / "sample.mf").write_text(manifest([("sample.ovf", text), ("sample-disk1.vmdk", disk)]))
    return ["sample.ovf", "sample.mf", "sample-disk1.vmdk"]


def archived(tmp_path: Path, tar_format: int, mtime: float) -> Report:
    names = files(tmp_path)
    with tarfile.open(tmp_path / "sample.ova", "w", format=tar_format) as tar:
        for name in names:
            info = tar.gettarinfo(tmp_path / name, name)
            info.mtime, info.mode, info.uid, info.gid = mtime, 0o644, 0, 0  # type: ignore[assignment]
            with (tmp_path / name).open("rb") as file:
                tar.addfile(info, file)
    return verify(tmp_path / "sample.ova")


def test_tarfile_with_a_broken_second_makes_pax_headers(tmp_path: Path) -> None:
    report = archived(tmp_path, tarfile.DEFAULT_FORMAT, 1700000000.5)
    found = [finding for finding in report.findings if finding.check == "tar.pax"]
    assert checks(report) == {"tar.pax"}
    assert len(found) == 3
    assert "PaxHeader" in found[0].message


def test_tarfile_in_ustar_is_good(tmp_path: Path) -> None:
    assert archived(tmp_path, tarfile.USTAR_FORMAT, 1700000000).findings == ()


def test_tarfile_in_gnu_format(tmp_path: Path) -> None:
    assert checks(archived(tmp_path, tarfile.GNU_FORMAT, 1700000000)) == {"tar.gnu"}


def packed(tmp_path: Path, *options: str, names: tuple[str, ...] | None = None) -> Report:
    found = files(tmp_path)
    target = tmp_path / "out" / "sample.ova"
    target.parent.mkdir()
    arguments = ["--owner=0", "--group=0", "--mode=0644", *options, "-cf", str(target), *(names or found)]
    command.run(["tar", *arguments], cwd=tmp_path, timeout=60)
    return verify(target)


def test_gnu_tar_in_ustar_is_good(tmp_path: Path) -> None:
    assert packed(tmp_path, "--format=ustar").findings == ()


def test_gnu_tar_in_pax(tmp_path: Path) -> None:
    report = packed(tmp_path, "--format=pax")
    assert checks(report) == {"tar.pax"}
    assert errors(report) == {"tar.pax"}


def test_gnu_tar_in_its_own_format(tmp_path: Path) -> None:
    report = packed(tmp_path, "--format=gnu")
    assert checks(report) == {"tar.gnu"}
    assert report.ok


def test_gnu_tar_of_names_with_dot_slash(tmp_path: Path) -> None:
    report = packed(tmp_path, "--format=ustar", names=("./sample.ovf", "./sample.mf", "./sample-disk1.vmdk"))
    assert checks(report) == {"tar.name"}
    assert report.findings[0].where == "sample.ovf: header at byte 0"


def test_gnu_tar_of_a_folder(tmp_path: Path) -> None:
    report = packed(tmp_path, "--format=ustar", "--sort=name", "--exclude=./out", names=(".",))
    assert {"tar.type", "tar.name", "tar.first"} <= checks(report)


def test_gnu_tar_of_a_long_name(tmp_path: Path) -> None:
    files(tmp_path)
    name = "a" * 120
    (tmp_path / name).write_bytes(b"")
    report = packed(tmp_path, "--format=gnu", names=("sample.ovf", "sample.mf", "sample-disk1.vmdk", name))
    assert checks(report) == {"tar.longname", "tar.gnu", "tar.extra"}
    assert only(report, "tar.extra").where == name


def test_gnu_tar_with_compression(tmp_path: Path) -> None:
    report = packed(tmp_path, "--format=ustar", "-z")
    assert checks(report) == {"tar.format"}
    assert "gzip" in only(report, "tar.format").message


def test_gnu_tar_sparse(tmp_path: Path) -> None:
    files(tmp_path)
    with (tmp_path / "sample.nvram").open("wb") as file:
        file.truncate(10 * MIB)
        file.seek(5 * MIB)
        file.write(b"x")
    report = packed(
        tmp_path, "--format=gnu", "-S", names=("sample.ovf", "sample.mf", "sample-disk1.vmdk", "sample.nvram")
    )
    assert "a GNU sparse file" in only(report, "tar.type").message


def signed(tmp_path: Path, *argv: str) -> Report:
    """An OVA whose manifest a program wrote."""
    names = files(tmp_path)
    lines = command.run([*argv, names[0], names[2]], cwd=tmp_path, timeout=60).stdout
    (tmp_path / "sample.mf").write_text(lines)
    parts = [Member(name, (tmp_path / name).read_bytes()) for name in names]
    return read(tmp_path, ova(members=lambda _: parts))


def test_manifest_of_sha256sum(tmp_path: Path) -> None:
    report = signed(tmp_path, "sha256sum", "--tag")
    assert checks(report) == {"manifest.format"}
    assert report.findings[0].where == "sample.mf: line 1"
    assert "a space before the bracket" in report.findings[0].message


@pytest.mark.skipif(command.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("kind", ["sha256", "sha512"])
def test_manifest_of_openssl(tmp_path: Path, kind: str) -> None:
    report = signed(tmp_path, "openssl", "dgst", f"-{kind}")
    if (command.version("openssl", "version") or "3") < "3":
        assert "manifest.format" not in checks(report)
    else:
        assert f"SHA2-{kind[3:]} instead of SHA{kind[3:]}" in report.findings[0].message
    assert "manifest.digest" not in checks(report)


@pytest.mark.skipif(command.which("openssl") is None, reason="openssl is not installed")
def test_manifest_of_openssl_with_sha1(tmp_path: Path) -> None:
    report = signed(tmp_path, "openssl", "dgst", "-sha1")
    assert checks(report) == {"manifest.not-sha256"}
    assert report.ok
