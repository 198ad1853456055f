"""Archives, manifests and certificates with one defect each, and what `verify` says about them."""

from __future__ import annotations

import ast
import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import builder.image.verify
from builder.errors import InputError
from builder.image.verify import CHECKS, Finding, Report, Severity, verify
from builder.image.verify import Member as Read
from tests.unit.verify_samples import DESCRIPTOR, Disk, Member, change, manifest, ova

Members = Callable[[list[Member]], list[Member]]


def read(tmp_path: Path, data: bytes) -> Report:
    path = tmp_path / "sample.ova"
    path.write_bytes(data)
    return verify(path)


def checks(report: Report) -> set[str]:
    return {finding.check for finding in report.findings}


def only(report: Report, check: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.check == check]
    return finding


def header(index: int, **fields: bytes) -> Members:
    """Overwrite fields in the header of one member."""
    return lambda members: [
        replace(member, fields={**member.fields, **fields}) if number == index else member
        for number, member in enumerate(members)
    ]


def headers(**fields: bytes) -> Members:
    return lambda members: [replace(member, fields=fields) for member in members]


def changed(index: int, **attributes: Any) -> Members:
    return lambda members: [
        replace(member, **attributes) if number == index else member for number, member in enumerate(members)
    ]


def renamed(index: int, name: str) -> Members:
    return changed(index, name=name)


def inserted(index: int, *more: Member) -> Members:
    return lambda members: [*members[:index], *more, *members[index:]]


def ordered(*order: int) -> Members:
    return lambda members: [members[index] for index in order]


def test_good_ova(tmp_path: Path) -> None:
    data = ova()
    report = read(tmp_path, data)
    assert report.findings == ()
    assert (report.size, report.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert report.capacity == 40 << 20
    assert [member.name for member in report.members] == ["sample.ovf", "sample.mf", "sample-disk1.vmdk"]
    for member in report.members:
        assert isinstance(member, Read)
        there = data[member.offset : member.offset + member.size]
        assert member.sha256 == hashlib.sha256(there).hexdigest()


def test_good_ova_padded_to_a_record(tmp_path: Path) -> None:
    assert read(tmp_path, ova(end=bytes(10240))).findings == ()


def test_good_ova_larger_than_one_chunk(tmp_path: Path) -> None:
    data = ova(disk=Disk(grains=tuple(range(0, 512, 2))))  # 16 MiB that do not compress
    report = read(tmp_path, data)
    assert report.findings == ()
    assert report.sha256 == hashlib.sha256(data).hexdigest()


def test_one_thread_and_many_find_the_same(tmp_path: Path) -> None:
    path = tmp_path / "sample.ova"
    path.write_bytes(ova(disk=replace(Disk(grains=tuple(range(100))), entries={3: 9}, pieces={50: b"\1" * 512})))
    assert verify(path, threads=1) == verify(path, threads=5)
    assert not verify(path).ok


def test_progress_goes_up_to_the_size(tmp_path: Path) -> None:
    path = tmp_path / "sample.ova"
    data = ova(disk=Disk(grains=tuple(range(0, 300, 2))))
    path.write_bytes(data)
    seen: list[tuple[int, int]] = []
    verify(path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert len(seen) > 1
    assert seen[-1] == (len(data), len(data))


PAX = Member("PaxHeaders/sample.ovf", b"22 mtime=1700000000.5\n", {"kind": b"x"})
ARCHIVES: dict[str, tuple[Members, set[str]]] = {
    "pax header": (inserted(0, PAX), {"tar.pax"}),
    "global pax header": (inserted(0, replace(PAX, fields={"kind": b"g"})), {"tar.pax"}),
    "pax header in the middle": (inserted(2, PAX), {"tar.pax"}),
    "pax header with a name": (
        lambda members: inserted(0, replace(PAX, data=b"19 path=sample.ovf\n"))(renamed(0, "x")(members)),
        {"tar.pax"},
    ),
    "GNU long name": (inserted(0, Member("././@LongLink", b"sample.ovf\0", {"kind": b"L"})), {"tar.longname"}),
    "GNU magic": (headers(magic=b"ustar  \0"), {"tar.gnu"}),
    "no magic": (headers(magic=bytes(8)), {"tar.magic"}),
    "unknown magic": (header(1, magic=b"ustarXXX"), {"tar.magic"}),
    "size in base 256": (
        lambda members: header(1, size=b"\x80" + len(members[1].data).to_bytes(11, "big"))(members),
        {"tar.size"},
    ),
    "mode": (header(2, mode=b"0000755\0"), {"tar.mode"}),
    "owner": (header(2, uid=b"0001750\0"), {"tar.owner"}),
    "group": (header(2, gid=b"0001750\0"), {"tar.owner"}),
    "mode is no number": (header(2, mode=b"rw-r--r-"), {"tar.header"}),
    "time is no number": (header(2, mtime=b"1700000000.5"), {"tar.header"}),
    "checksum": (changed(0, checksum=b"000000\0 "), {"tar.header"}),
    "checksum is no number": (changed(0, checksum=b"xxxxxx\0 "), {"tar.header"}),
    "symbolic link": (
        inserted(3, Member("link", b"", {"kind": b"2", "link": b"/etc/passwd"})),
        {"tar.type", "tar.extra"},
    ),
    "folder": (
        inserted(0, Member("./", b"", {"kind": b"5"})),
        {"tar.type", "tar.name", "tar.first", "tar.extra"},
    ),
    "dot slash": (renamed(0, "./sample.ovf"), {"tar.name"}),
    "in a folder": (inserted(3, Member("folder/readme", b"")), {"tar.name", "tar.extra"}),
    "up and away": (inserted(3, Member("../../etc/cron.d/x", b"")), {"tar.name", "tar.extra"}),
    "absolute": (inserted(3, Member("/etc/passwd", b"")), {"tar.name", "tar.extra"}),
    "backslash": (inserted(3, Member("..\\x", b"")), {"tar.name", "tar.extra"}),
    "prefix field": (header(2, prefix=b"folder"), {"tar.name", "tar.missing", "tar.extra", "manifest.extra"}),
    "space in a name": (inserted(3, Member("read me", b"")), {"tar.name-characters", "tar.extra"}),
    "twice": (lambda members: [*members, members[2]], {"tar.duplicate"}),
    "padding": (changed(0, pad=b"x"), {"tar.padding"}),
    "extra file": (inserted(3, Member("readme.txt", b"hello")), {"tar.extra"}),
    "second descriptor": (inserted(3, Member("other.ovf", b"<x/>")), {"tar.extra"}),
    "descriptor last": (ordered(1, 2, 0), {"tar.first"}),
    "manifest before the descriptor": (ordered(1, 0, 2), {"tar.first"}),
    "manifest last": (ordered(0, 2, 1), {"tar.manifest-last"}),
    "no disk": (ordered(0, 1), {"tar.missing", "manifest.extra"}),
    "no manifest": (ordered(0, 2), {"manifest.absent"}),
    "no descriptor": (ordered(1, 2), {"ovf.absent", "manifest.extra"}),
    "manifest of another name": (renamed(1, "other.mf"), {"tar.basename"}),
    "endless manifest": (changed(1, data=bytes(1 << 20)), {"tar.too-large"}),
    "endless descriptor": (
        changed(0, data=bytes(5 << 20)),
        {"tar.too-large", "manifest.digest"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive_defect(tmp_path: Path, name: str) -> None:
    change_members, expected = ARCHIVES[name]
    assert checks(read(tmp_path, ova(members=change_members))) == expected


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (b"", {"tar.end"}),
        (bytes(512), {"tar.end"}),
        (bytes(100), {"tar.truncated"}),
        (bytes(512) + b"x" * 512 + bytes(1024), {"tar.end", "tar.trailing"}),
        (bytes(1024) + b"x", {"tar.trailing"}),
        (bytes(1024) + ova(), {"tar.trailing"}),
        (bytes(5 << 20) + b"x", {"tar.trailing"}),
    ],
)
def test_end_of_the_archive(tmp_path: Path, end: bytes, expected: set[str]) -> None:
    assert checks(read(tmp_path, ova(end=end))) == expected


def test_two_disks_in_the_wrong_order(tmp_path: Path) -> None:
    def second_disk(text: str) -> str:
        file = f'<File ovf:id="file2" ovf:href="b.vmdk" ovf:size="{len(Disk().build())}"/>'
        return change("</References>", f"{file}</References>")(text)

    def members(parts: list[Member]) -> list[Member]:
        lines = manifest([(parts[0].name, parts[0].data), (parts[2].name, parts[2].data), ("b.vmdk", parts[2].data)])
        return [parts[0], replace(parts[1], data=lines.encode()), replace(parts[2], name="b.vmdk"), parts[2]]

    finding = only(read(tmp_path, ova(descriptor=second_disk, members=members)), "tar.order")
    assert finding.message == (
        "members are sample.ovf, sample.mf, b.vmdk, sample-disk1.vmdk; "
        "the order is sample.ovf, sample.mf, sample-disk1.vmdk, b.vmdk"
    )


def test_pax_finding_says_how_to_do_without(tmp_path: Path) -> None:
    finding = only(read(tmp_path, ova(members=inserted(0, PAX))), "tar.pax")
    assert finding.where == "sample.ova: header at byte 0"
    assert "USTAR_FORMAT" in finding.hint
    assert "--format=ustar" in finding.hint


def test_member_of_8_gib_may_have_its_size_in_base_256(tmp_path: Path) -> None:
    size = 9 << 30
    huge = Member("huge.vmdk", b"", {"size": b"\x80" + size.to_bytes(11, "big"), "magic": b"ustar  \0"})
    path = tmp_path / "sample.ova"
    path.write_bytes(ova(members=inserted(3, huge), end=b""))
    report = verify(path)
    assert {"tar.size", "tar.gnu"} & checks(report) == set()
    assert only(report, "tar.truncated").where == "huge.vmdk"


def test_pax_size_is_followed(tmp_path: Path) -> None:
    data = b"12 size=600\n"
    parts = [Member("x", data, {"kind": b"x"}), Member("readme", b"r" * 600, {"size": b"00000000000\0"})]
    assert checks(read(tmp_path, ova(members=inserted(3, *parts)))) == {"tar.pax", "tar.extra"}


def test_negative_size_ends_the_archive(tmp_path: Path) -> None:
    report = read(tmp_path, ova(members=header(1, size=b"\xff" * 12)))
    assert only(report, "tar.header").message == "the size in the header is not a number"


MANIFESTS: dict[str, tuple[Callable[[str], str], set[str]]] = {
    "empty": (lambda text: "", {"manifest.format", "manifest.incomplete"}),
    "CR LF": (lambda text: text.replace("\n", "\r\n"), {"manifest.format"}),
    "no last line's end": (lambda text: text[:-1], {"manifest.format"}),
    "empty line": (lambda text: text + "\n", {"manifest.format"}),
    "comment": (lambda text: text + "# made by hand\n", {"manifest.format"}),
    "endless line": (lambda text: text + "SHA256(" * 5000 + "\n", {"manifest.format"}),
    "sha256sum --tag": (lambda text: text.replace("(", " (").replace("= ", " = "), {"manifest.format"}),
    "OpenSSL 3": (lambda text: text.replace("SHA256", "SHA2-256"), {"manifest.format"}),
    "no space": (lambda text: text.replace("= ", "="), {"manifest.format"}),
    "two spaces": (lambda text: text.replace("= ", "=  "), {"manifest.format"}),
    "uppercase": (
        lambda text: "".join(line[:-64] + line[-64:].upper() + "\n" for line in text.splitlines()),
        {"manifest.format"},
    ),
    "sha256sum": (
        lambda text: "".join(f"{line[-64:]}  x\n" for line in text.splitlines()),
        {"manifest.format", "manifest.incomplete"},
    ),
    "digest too short": (lambda text: text.replace("\n", "")[:-1] + "\n", {"manifest.format", "manifest.incomplete"}),
    "wrong digest": (lambda text: text[:-2] + ("0" if text[-2] != "0" else "1") + "\n", {"manifest.digest"}),
    "MD5": (lambda text: text.replace("SHA256", "MD5"), {"manifest.algorithm", "manifest.incomplete"}),
    "disk not listed": (lambda text: text.splitlines(keepends=True)[0], {"manifest.incomplete"}),
    "descriptor not listed": (lambda text: text.splitlines(keepends=True)[1], {"manifest.incomplete"}),
    "listed twice": (lambda text: text + text.splitlines(keepends=True)[0], {"manifest.extra"}),
    "file that is not there": (lambda text: text + manifest([("readme", b"")]), {"manifest.extra"}),
    "manifest lists itself": (
        lambda text: text + manifest([("sample.mf", b"")]),
        {"manifest.extra", "manifest.digest"},
    ),
    "path": (change("(sample-disk1.vmdk)", "(/tmp/sample-disk1.vmdk)"), {"manifest.extra", "manifest.incomplete"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_defect(tmp_path: Path, name: str) -> None:
    signed, expected = MANIFESTS[name]
    assert checks(read(tmp_path, ova(signed=signed))) == expected


@pytest.mark.parametrize("kind", ["sha1", "sha512"])
def test_other_digests_are_computed_and_only_a_warning(tmp_path: Path, kind: str) -> None:
    def members(parts: list[Member], *, spoil: bytes = b"") -> list[Member]:
        lines = manifest([(parts[0].name, parts[0].data), (parts[2].name, parts[2].data + spoil)], kind=kind)
        return [parts[0], replace(parts[1], data=lines.encode()), parts[2]]

    report = read(tmp_path, ova(members=members))
    assert checks(report) == {"manifest.not-sha256"}
    assert report.ok
    report = read(tmp_path, ova(members=lambda parts: members(parts, spoil=b"x")))
    assert checks(report) == {"manifest.not-sha256", "manifest.digest"}
    assert not report.ok


def test_wrong_digest_is_told_with_both(tmp_path: Path) -> None:
    data = Disk().build()
    right = hashlib.sha256(data).hexdigest()
    finding = only(read(tmp_path, ova(signed=change(right, "0" * 64))), "manifest.digest")
    assert finding.where == "sample.mf: line 2"
    assert finding.message == f"SHA256 of sample-disk1.vmdk is {right}, the manifest says {'0' * 64}"


def test_openssl_3_is_named(tmp_path: Path) -> None:
    report = read(tmp_path, ova(signed=lambda text: text.replace("SHA256", "SHA2-256")))
    said = [finding.message for finding in report.findings]
    assert said == ["SHA2-256 instead of SHA256, as OpenSSL 3 writes it: vSphere refuses it"] * 2


PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"SHA256(sample.mf)= 0123abcd\n{PEM}", {"cert.unchecked"}),
        (f"SHA256(other.mf)= 0123abcd\n{PEM}", {"cert.unchecked", "cert.format"}),
        (PEM, {"cert.unchecked", "cert.format"}),
        ("SHA256(sample.mf)= 0123abcd\n", {"cert.unchecked", "cert.format"}),
        ("", {"cert.unchecked", "cert.format"}),
    ],
)
def test_certificate(tmp_path: Path, text: str, expected: set[str]) -> None:
    report = read(tmp_path, ova(members=inserted(2, Member("sample.cert", text.encode()))))
    assert checks(report) == expected
    assert only(report, "cert.unchecked").severity is Severity.WARNING


def test_certificate_behind_the_disk_is_out_of_order(tmp_path: Path) -> None:
    certificate = Member("sample.cert", f"SHA256(sample.mf)= 0123abcd\n{PEM}".encode())
    assert checks(read(tmp_path, ova(members=inserted(3, certificate)))) == {"cert.unchecked", "tar.order"}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"x" * 100, "too short for a tar archive"),
        (b"x" * 5000, "this is not a tar archive"),
        (b"\x1f\x8b" + b"x" * 5000, "this is a gzip file"),
        (b"PK\x03\x04" + b"x" * 5000, "this is a zip file"),
        (b"<?xml version='1.0'?>" + b"x" * 5000, "this is an XML file, perhaps the .ovf alone"),
        (Disk().build(), "this is a bare VMDK"),
    ],
)
def test_file_that_is_no_archive(tmp_path: Path, data: bytes, kind: str) -> None:
    report = read(tmp_path, data)
    finding = only(report, "tar.format")
    assert finding.message == f"not an OVA: {kind}"
    assert checks(report) == {"tar.format"}
    assert (report.size, report.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_archive_of_nothing(tmp_path: Path) -> None:
    report = read(tmp_path, bytes(10240))
    assert not report.ok
    assert report.members == ()


def test_ova_cut_anywhere_is_found(tmp_path: Path) -> None:
    data = ova()
    path = tmp_path / "sample.ova"
    path.write_bytes(data)
    cuts = [*range(len(data) - 1, len(data) - 4000, -97), *range(len(data) - 4000, 0, -1511)]
    with path.open("r+b") as file:
        for cut in cuts:
            file.truncate(cut)
            report = verify(path)
            assert report.findings, f"cut at {cut}"
            assert not report.ok or cut >= len(data) - 1024, f"cut at {cut}"
            assert report.size == cut


def test_progress_that_raises_ends_everything(tmp_path: Path) -> None:
    path = tmp_path / "sample.ova"
    path.write_bytes(ova(disk=Disk(grains=tuple(range(0, 512, 2)))))

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        verify(path, on_progress=interrupt)
    assert threading.active_count() == before


@pytest.mark.parametrize("name", [".ovf", "x.OVF", "x.ovf "])
def test_odd_descriptor_names_are_no_way_around_the_checks(tmp_path: Path, name: str) -> None:
    report = read(tmp_path, ova(descriptor=lambda text: "rubbish", members=renamed(0, name)))
    assert checks(report) & {"ovf.xml", "ovf.absent"}


def test_long_name(tmp_path: Path) -> None:
    long_name = Member("././@LongLink", b"n" * 5000, {"kind": b"L"})
    report = read(tmp_path, ova(members=inserted(3, long_name, Member("n", b""))))
    assert checks(report) == {"tar.longname", "tar.name", "tar.extra"}
    assert only(report, "tar.name").message == "a name of 5,000 characters, which no file system takes"


def test_names_cannot_steer_the_terminal_or_fill_it(tmp_path: Path) -> None:
    report = read(tmp_path, ova(members=inserted(3, Member("a\x1b[2J\nb" * 10, b""))))
    for finding in report.findings:
        assert str(finding).isprintable()
        assert len(finding.message) < 500


def test_missing_file() -> None:
    with pytest.raises(InputError, match="No such file"):
        verify(Path("/nowhere/at/all.ova"))


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="directory"):
        verify(tmp_path)


def test_device() -> None:
    with pytest.raises(InputError, match="not a regular file"):
        verify(Path("/dev/null"))


GROUPS = ("tar", "manifest", "cert", "ovf", "vmdk", "sums", "signature", "build", "sbom", "provenance")


def test_table_of_checks() -> None:
    assert len(CHECKS) > 70
    for name, check in CHECKS.items():
        group, dot, rest = name.partition(".")
        assert group in GROUPS
        assert dot
        assert rest == rest.lower()
        assert check.description
        assert "\n" not in check.description


def test_table_of_checks_is_what_the_code_uses() -> None:
    used: set[str] = set()
    for path in Path(builder.image.verify.__file__).parent.glob("*.py"):
        if path.name != "checks.py":
            strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            pattern = re.compile(rf"({'|'.join(GROUPS)})\.[a-z0-9-]+")
            used |= {text for text in strings if isinstance(text, str) and pattern.fullmatch(text)}
    assert used == set(CHECKS)


def test_extent_name_does_not_have_to_be_the_member(tmp_path: Path) -> None:
    disk = Disk(descriptor=DESCRIPTOR.replace("sample-disk1.vmdk", "call me what you want.vmdk"))
    assert read(tmp_path, ova(disk=disk)).findings == ()
