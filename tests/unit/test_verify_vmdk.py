"""Disks with one defect each, and what `verify` says about them."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from builder.image.verify import Finding, Report, verify
from tests.unit.verify_samples import (
    AT_END,
    CAPACITY,
    DESCRIPTOR,
    DIRECTORY,
    END,
    FIRST_TABLE,
    FRONT,
    GRAIN,
    SECTOR,
    Disk,
    change,
    content,
    grain,
    header,
    marker,
    ova,
    sectors,
)

GOOD = Disk()
FOOTED = Disk(at_end=True)


def report(tmp_path: Path, disk: bytes | Disk) -> Report:
    path = tmp_path / "sample.ova"
    path.write_bytes(ova(disk=disk))
    return verify(path)


def checks(report: Report) -> set[str]:
    return {finding.check for finding in report.findings}


def only(report: Report, check: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.check == check]
    return finding


def described(old: str, new: str) -> Disk:
    return replace(GOOD, descriptor=change(old, new)(DESCRIPTOR))


@pytest.mark.parametrize("disk", [GOOD, FOOTED, Disk(grains=()), Disk(grains=(), at_end=True)])
def test_good_disk_has_no_finding(tmp_path: Path, disk: Disk) -> None:
    result = report(tmp_path, disk)
    assert result.findings == ()
    assert result.ok
    assert result.capacity == 40 << 20


def test_good_disk_with_every_grain_has_no_finding(tmp_path: Path) -> None:
    assert report(tmp_path, Disk(grains=tuple(range(640)))).findings == ()


DISPUTED = {"vmdk.capacity", "vmdk.extent", "ovf.capacity"}  # header, descriptor and OVF do not agree
HEADERS: dict[str, tuple[dict[str, int | bytes], set[str]]] = {
    "version 1": ({"version": 1}, {"vmdk.version"}),
    "no markers": ({"flags": 0x10001}, {"vmdk.flags"}),
    "not compressed": ({"flags": 0x20001}, {"vmdk.flags"}),
    "no newline detector": ({"flags": 0x30000}, {"vmdk.flags"}),
    "zeroed grains": ({"flags": 0x30005}, {"vmdk.flags"}),
    "text transfer": ({"newlines": b"\n \n\n"}, {"vmdk.newline"}),
    "no compression": ({"compression": 0}, {"vmdk.compression"}),
    "unclean": ({"unclean": 1}, {"vmdk.unclean"}),
    "odd capacity": ({"capacity": CAPACITY + 1}, DISPUTED),
    "no capacity": ({"capacity": 0}, DISPUTED),
    "endless capacity": ({"capacity": 1 << 63}, DISPUTED),
    "other capacity": ({"capacity": CAPACITY - 128}, DISPUTED | {"vmdk.grain", "vmdk.table"}),
    "overhead 0": ({"overhead": 0}, {"vmdk.layout"}),
    "overhead behind the file": ({"overhead": 1 << 60}, {"vmdk.layout"}),
    "descriptor behind the grains": ({"descriptor_size": 200}, {"vmdk.layout", "vmdk.padding"}),
    "descriptor elsewhere": ({"descriptor_size": 18}, {"vmdk.descriptor-place"}),
    "no directory": ({"directory_offset": 0}, {"vmdk.layout", "vmdk.directory", "vmdk.table"}),
    "directory behind the file": ({"directory_offset": 1 << 40}, {"vmdk.layout", "vmdk.directory"}),
    "directory at the end, no footer": ({"directory_offset": AT_END}, {"vmdk.footer"}),
    "redundant directory": ({"flags": 0x30003, "redundant_offset": DIRECTORY}, {"vmdk.redundant"}),
    "redundant directory lost": ({"flags": 0x30003, "redundant_offset": 1 << 50}, {"vmdk.redundant", "vmdk.directory"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_header_defect(tmp_path: Path, name: str) -> None:
    fields, expected = HEADERS[name]
    assert checks(report(tmp_path, GOOD.with_fields(**fields))) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"grain_size": 64}, "vmdk.grain-size"),
        ({"grain_size": 0}, "vmdk.grain-size"),
        ({"grain_size": 1 << 62}, "vmdk.grain-size"),
        ({"grain_size": 100}, "vmdk.grain-size"),
        ({"entries_per_table": 256}, "vmdk.table-size"),
        ({"entries_per_table": 0}, "vmdk.table-size"),
        ({"entries_per_table": 0xFFFFFFFF}, "vmdk.table-size"),
        ({"descriptor_offset": 0}, "vmdk.descriptor"),
        ({"descriptor_offset": 1 << 62}, "vmdk.layout"),
        ({"descriptor_size": 1 << 62}, "vmdk.layout"),
    ],
)
def test_header_defect_with_consequences(tmp_path: Path, fields: dict[str, int], expected: str) -> None:
    result = report(tmp_path, GOOD.with_fields(**fields))
    assert expected in checks(result)
    assert not result.ok


DESCRIPTORS = {
    "first line": ("# Disk DescriptorFile", "# Disk Descriptor", {"vmdk.descriptor"}),
    "byte order mark": ("# Disk DescriptorFile", "\ufeff# Disk DescriptorFile", {"vmdk.descriptor"}),
    "empty first line": ("# Disk DescriptorFile", "\n# Disk DescriptorFile", {"vmdk.descriptor"}),
    "version": ("version=1", "version=2", {"vmdk.descriptor"}),
    "createType": ('"streamOptimized"', '"monolithicSparse"', {"vmdk.descriptor"}),
    "key twice": ("version=1", "version=1\nversion=1", {"vmdk.descriptor"}),
    "rubbish": ("version=1", "version=1\nrubbish", {"vmdk.descriptor"}),
    "CR LF": ("version=1\n", "version=1\r\n", {"vmdk.descriptor"}),
    "CID is none": ("CID=0a1b2c3d", "CID=ffffffff", {"vmdk.cid", "vmdk.ddb"}),
    "CID unset": ("CID=0a1b2c3d", "CID=fffffffe", {"vmdk.cid", "vmdk.ddb"}),
    "CID no number": ("CID=0a1b2c3d", "CID=xyz", {"vmdk.cid", "vmdk.ddb"}),
    "CID missing": ("CID=0a1b2c3d\n", "", {"vmdk.cid", "vmdk.ddb"}),
    "parent": ("parentCID=ffffffff", "parentCID=12345678", {"vmdk.cid"}),
    "no extent": ('RW 81920 SPARSE "sample-disk1.vmdk"\n', "", {"vmdk.extent"}),
    "two extents": ("# The Disk", 'RW 81920 SPARSE "b.vmdk"\n# The Disk', {"vmdk.extent"}),
    "extent of other size": ("RW 81920", "RW 81921", {"vmdk.extent"}),
    "flat extent": ("SPARSE", "FLAT", {"vmdk.extent"}),
    "extent elsewhere": ('"sample-disk1.vmdk"', '"../../etc/passwd"', {"vmdk.extent"}),
    "ide": ("lsilogic", "ide", {"vmdk.adapter"}),
    "no adapter": ('ddb.adapterType = "lsilogic"\n', "", {"vmdk.adapter"}),
    "no tools version": ('ddb.toolsVersion = "2147483647"\n', "", {"vmdk.ddb"}),
    "geometry": ('heads = "255"', 'heads = "16"', {"vmdk.ddb"}),
    "longContentID": ("aabb0a1b2c3d", "aabb00000000", {"vmdk.ddb"}),
}


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptor_defect(tmp_path: Path, name: str) -> None:
    old, new, expected = DESCRIPTORS[name]
    text = DESCRIPTOR.replace(old, new, 1)
    assert text != DESCRIPTOR
    result = report(tmp_path, replace(GOOD, descriptor=text))
    assert checks(result) == expected


def test_descriptor_that_goes_on_after_a_nul(tmp_path: Path) -> None:
    assert checks(report(tmp_path, replace(GOOD, descriptor=DESCRIPTOR + "\0more"))) == {"vmdk.padding"}


def with_piece(number: int, piece: bytes) -> Disk:
    return replace(GOOD, pieces={number: piece})


PACKED = zlib.compress(content(1))
GRAINS: dict[str, tuple[Disk, set[str]]] = {
    "no zlib stream": (with_piece(1, grain(128, b"", packed=b"rubbish")), {"vmdk.inflate"}),
    "wrong checksum": (with_piece(1, grain(128, b"", packed=PACKED[:-1] + b"\0")), {"vmdk.inflate"}),
    "breaks off": (with_piece(1, grain(128, b"", packed=PACKED[:-4])), {"vmdk.inflate"}),
    "too short": (with_piece(1, grain(128, content(1)[:-1])), {"vmdk.inflate"}),
    "too long": (with_piece(1, grain(128, content(1) + b"x")), {"vmdk.inflate"}),
    "zlib bomb": (with_piece(1, grain(128, bytes(GRAIN * 500))), {"vmdk.inflate"}),
    "more than its stream": (with_piece(1, grain(128, b"", packed=PACKED + b"more")), {"vmdk.inflate"}),
    "zeros": (with_piece(1, grain(128, bytes(GRAIN))), {"vmdk.zero-grain"}),
    "padding": (with_piece(1, grain(128, content(1), pad=b"x")), {"vmdk.padding"}),
    "LBA between grains": (with_piece(1, grain(129, content(1))), {"vmdk.grain", "vmdk.table"}),
    "LBA behind the disk": (with_piece(639, grain(CAPACITY, content(1))), {"vmdk.grain", "vmdk.table"}),
    "LBA beyond all bounds": (with_piece(639, grain(AT_END, content(1))), {"vmdk.grain", "vmdk.table"}),
    "out of order": (replace(GOOD, grains=(1, 0, 5, 600, 639)), {"vmdk.grain-order"}),
    "twice": (with_piece(1, grain(128, content(1)) * 2), {"vmdk.grain-order", "vmdk.table"}),
    "hardly compressed": (
        with_piece(1, grain(128, b"", packed=zlib.compress(random.Random(1).randbytes(GRAIN + 1000)))),
        {"vmdk.inflate", "vmdk.oversize"},
    ),
    "no grain at all": (with_piece(1, grain(128, content(1), size=1 << 31)), {"vmdk.marker"}),
    "unknown marker": (replace(GOOD, before={600: marker(0, 7)}), {"vmdk.marker"}),
    "endless marker": (replace(GOOD, before={600: marker(1 << 60, 1)}), {"vmdk.truncated"}),
    "table of one sector": (
        replace(GOOD, before={600: marker(1, 1) + sectors(b"x")}),
        {"vmdk.marker", "vmdk.directory"},
    ),
    "marker's padding": (
        replace(GOOD, before={600: marker(4, 1, rest=b"x") + bytes(2048)}),
        {"vmdk.padding", "vmdk.directory"},
    ),
    "no end": (replace(GOOD, end=b""), {"vmdk.eos"}),
    "end of zeros": (replace(GOOD, end=bytes(SECTOR * 5)), {"vmdk.eos"}),
    "end in the middle": (replace(GOOD, before={600: END}), {"vmdk.trailing", "vmdk.table"}),
    "something after the end": (replace(GOOD, end=END + sectors(b"x")), {"vmdk.trailing"}),
    "end marker with text": (replace(GOOD, end=marker(0, 0, rest=b"x")), {"vmdk.marker"}),
    "end inside a sector": (replace(GOOD, end=b"\0" * 100), {"vmdk.truncated"}),
    "entry off by one": (replace(GOOD, entries={1: 1 + FRONT}), {"vmdk.table"}),
    "entry missing": (replace(GOOD, entries={600: 0}), {"vmdk.table"}),
    "entry for no grain": (replace(GOOD, entries={7: FRONT}), {"vmdk.table"}),
    "entry of a zeroed grain": (replace(GOOD, entries={7: 1}), {"vmdk.table"}),
    "entry behind the capacity": (replace(GOOD, entries={700: FRONT}), {"vmdk.table"}),
    "no table": (replace(GOOD, directory={1: 0}), {"vmdk.directory"}),
    "table behind the file": (replace(GOOD, directory={1: 1 << 31}), {"vmdk.directory"}),
    "one table twice": (replace(GOOD, directory={1: FIRST_TABLE}), {"vmdk.directory"}),
    "other footer": (replace(FOOTED, footer_fields={"capacity": 1}), {"vmdk.footer"}),
    "footer that knows nothing": (replace(FOOTED, footer_fields={"directory_offset": AT_END}), {"vmdk.footer"}),
    "footer that is wrong": (replace(FOOTED, footer_fields={"directory_offset": 40}), {"vmdk.directory"}),
    "no footer": (replace(FOOTED, without_footer=True), {"vmdk.footer"}),
    "footer of two sectors": (replace(FOOTED, footer_marker=(2, 3)), {"vmdk.marker", "vmdk.footer", "vmdk.eos"}),
    "footer without an end": (replace(FOOTED, end=b""), {"vmdk.eos"}),
    "something after the footer": (
        replace(FOOTED, end=marker(1, 1) + bytes(SECTOR) + END),
        {"vmdk.footer", "vmdk.marker"},
    ),
    "table announced too long": (replace(FOOTED, table_marker=(5, 1)), {"vmdk.marker"}),
    "directory announced as table": (replace(FOOTED, directory_marker=(1, 1)), {"vmdk.marker"}),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAINS)
def test_grain_or_table_defect(tmp_path: Path, name: str) -> None:
    disk, expected = GRAINS[name]
    assert checks(report(tmp_path, disk)) == expected


def test_finding_names_sector_and_says_what_to_do(tmp_path: Path) -> None:
    finding = only(report(tmp_path, with_piece(0, grain(0, content(0)[:-1]))), "vmdk.inflate")
    assert finding.where == f"sample-disk1.vmdk: sector {FRONT}"
    assert finding.message == "inflates to 65,535 bytes instead of 65,536"
    assert "make it again" in finding.hint


def test_wrong_table_entry_says_where_the_grain_is(tmp_path: Path) -> None:
    finding = only(report(tmp_path, replace(GOOD, entries={0: 99})), "vmdk.table")
    assert finding.where == f"sample-disk1.vmdk: sector {FIRST_TABLE}, entry 0"
    assert finding.message == f"grain table 0 has the grain of LBA 0 at sector 99; it is at sector {FRONT}"


def test_last_grain_of_an_odd_capacity_may_be_short(tmp_path: Path) -> None:
    disk = replace(GOOD, pieces={639: grain(639 * 128, content(639)[: 100 * SECTOR])})
    assert "vmdk.inflate" in checks(report(tmp_path, disk))
    short = disk.with_fields(capacity=CAPACITY - 28)
    assert "vmdk.inflate" not in checks(report(tmp_path, short))


def test_header_padding(tmp_path: Path) -> None:
    data = GOOD.build()
    assert checks(report(tmp_path, data[:500] + b"x" + data[501:])) == {"vmdk.padding"}


def test_many_findings_of_one_kind_are_counted_not_listed(tmp_path: Path) -> None:
    rubbish = Disk(grains=tuple(range(640)), pieces={n: grain(n * 128, b"", packed=b"rubbish") for n in range(640)})
    found = [finding for finding in report(tmp_path, rubbish).findings if finding.check == "vmdk.inflate"]
    assert len(found) == 26
    assert found[-1].message == "and at least 615 more of this kind"


@pytest.mark.parametrize("disk", [GOOD, FOOTED], ids=["directory in front", "footer"])
def test_disk_cut_anywhere_is_found_although_the_manifest_agrees(tmp_path: Path, disk: Disk) -> None:
    data = disk.build()
    cuts = sorted({*range(0, len(data), 5 * SECTOR), *range(0, 3000, 100), *range(len(data) - 2600, len(data), 100)})
    for cut in cuts:
        result = report(tmp_path, data[:cut])
        assert not result.ok, f"cut at {cut}"
        assert any(finding.check.startswith("vmdk.") for finding in result.findings), f"cut at {cut}"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"KDMV", "a truncated VMDK"),
        (b"", "of no format known here"),
        (b"# Disk DescriptorFile\nversion=1\n", "the text descriptor of a VMDK"),
        (b"COWD" + bytes(600), "an ESX sparse VMDK"),
        (b"\x1f\x8b" + bytes(600), "a gzip file"),
        (bytes(510) + b"\x55\xaa" + bytes(1024), "a raw disk with an MBR"),
        (bytes(32769) + b"CD001" + bytes(1024), "an ISO image"),
        (header(version=1, flags=3, descriptor_offset=0), "a VMDK of the kind sparse"),
    ],
)  # fmt: skip
def test_disk_of_another_format_is_named(tmp_path: Path, data: bytes, kind: str) -> None:
    finding = only(report(tmp_path, data), "vmdk.format")
    assert finding.where == "sample-disk1.vmdk"
    assert finding.message.startswith(f"not a streamOptimized VMDK but {kind}")
