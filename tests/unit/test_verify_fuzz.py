"""Damaged OVAs, at random: `verify` always comes to an end with a report, and no change goes unnoticed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from builder.image.verify import CHECKS, Report, verify
from tests.unit.verify_samples import Disk, Member, manifest, ova

# Grains that compress, so that most of the bytes mean something.
SMALL = Disk(grains=(1, 3, 5, 601, 639))
SMALL_FOOTED = Disk(grains=(1, 3, 5, 601, 639), at_end=True)


@contextmanager
def written(data: bytes) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "sample.ova")
        path.write_bytes(data)
        yield path


def read(data: bytes) -> Report:
    """Verify, and check what holds for every report."""
    with written(data) as path:
        report = verify(path, threads=2)
    assert report.size == len(data)
    assert report.sha256 == hashlib.sha256(data).hexdigest()
    for finding in report.findings:
        assert finding.severity is CHECKS[finding.check].severity
        assert finding.where
        assert finding.message
        assert str(finding).isprintable()
    return report


@functools.cache
def sample(at_end: bool) -> bytes:
    return ova(disk=SMALL_FOOTED if at_end else SMALL)


def changed(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    result = bytearray(data)
    for place, new in changes:
        at = place % len(result)
        result[at : at + len(new)] = new[: len(result) - at]
    return bytes(result)


PIECES = st.lists(st.tuples(st.integers(0, 1 << 40), st.binary(min_size=1, max_size=24)), min_size=1, max_size=4)


@settings(max_examples=400, deadline=None)
@given(at_end=st.booleans(), changes=PIECES)
def test_no_change_goes_unnoticed(at_end: bool, changes: list[tuple[int, bytes]]) -> None:
    good = sample(at_end)
    bad = changed(good, changes)
    report = read(bad)
    checksums = [header + 148 for header in headers(good)]
    # A checksum can be written with spaces or zeros in front: the same number in other bytes.
    where = [at for at in range(len(good)) if good[at] != bad[at]]
    if any(not any(start <= at < start + 8 for start in checksums) for at in where):
        assert report.findings
    if any(hashed(good, at) for at in where):
        assert not report.ok


def headers(data: bytes) -> list[int]:
    with written(data) as path:
        return [member.offset - 512 for member in verify(path).members]


@functools.cache
def places(data: bytes) -> tuple[tuple[int, int], ...]:
    with written(data) as path:
        members = verify(path).members
    return tuple((member.offset, member.offset + member.size) for member in members if member.name != "sample.mf")


def hashed(data: bytes, at: int) -> bool:
    """Whether the manifest stands for this byte."""
    return any(start <= at < end for start, end in places(data))


@settings(max_examples=300, deadline=None)
@given(at_end=st.booleans(), changes=PIECES, cut=st.none() | st.integers(0, 1 << 20), more=st.binary(max_size=600))
def test_damaged_disk_with_a_right_manifest(
    at_end: bool, changes: list[tuple[int, bytes]], cut: int | None, more: bytes
) -> None:
    disk = changed((SMALL_FOOTED if at_end else SMALL).build(), changes)
    if cut is not None:
        disk = disk[: cut % len(disk)] + more
    read(ova(disk=disk))


NUMBERS = st.sampled_from([0, 1, 2, 7, 127, 128, 511, 512, 1 << 31, (1 << 32) - 1, 1 << 53, (1 << 64) - 1])
SHORT = ["version", "flags", "entries_per_table"]
LONG = ["capacity", "grain_size", "descriptor_offset", "descriptor_size", "redundant_offset", "overhead"]
LONG.append("directory_offset")


@settings(max_examples=300, deadline=None)
@given(
    at_end=st.booleans(),
    fields=st.dictionaries(st.sampled_from(LONG), NUMBERS),
    small=st.dictionaries(st.sampled_from(SHORT), NUMBERS.map(lambda number: number % (1 << 32))),
    in_footer=st.booleans(),
)
def test_headers_that_lie(at_end: bool, fields: dict[str, int], small: dict[str, int], in_footer: bool) -> None:
    values: dict[str, int | bytes] = {**fields, **small}
    disk = Disk(grains=SMALL.grains, at_end=at_end, **{"footer_fields" if in_footer else "fields": values})  # type: ignore[arg-type]
    read(ova(disk=disk))


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 200), st.text(max_size=20)), min_size=1, max_size=4
    )
)
def test_damaged_descriptor_with_a_right_manifest(pieces: list[tuple[int, int, str]]) -> None:
    def damaged(text: str) -> str:
        for place, length, new in pieces:
            at = place % len(text)
            text = text[:at] + new.encode(errors="replace").decode() + text[at + length :]
        return text

    read(ova(disk=SMALL, descriptor=damaged))


@settings(max_examples=200, deadline=None)
@given(changes=PIECES, name=st.text(max_size=30), cut=st.integers(0, 2000))
def test_damaged_manifest_and_names(changes: list[tuple[int, bytes]], name: str, cut: int) -> None:
    def members(parts: list[Member]) -> list[Member]:
        lines = changed(parts[1].data, changes)
        named = Member(name, b"data", {"name": name.encode(errors="replace")[:100]})
        listed = manifest([(name, b"data")]).encode(errors="replace")
        return [parts[0], Member("sample.mf", lines[:cut] + listed), parts[2], named]

    read(ova(disk=SMALL, members=members))


@settings(max_examples=200, deadline=None)
@given(
    fields=st.dictionaries(
        st.sampled_from(["name", "mode", "uid", "gid", "size", "mtime", "kind", "link", "magic", "prefix"]),
        st.binary(max_size=12),
    ),
    index=st.integers(0, 2),
)
def test_headers_of_the_archive_that_lie(fields: dict[str, bytes], index: int) -> None:
    fields = {name: value[:1] if name == "kind" else value for name, value in fields.items()}

    def members(parts: list[Member]) -> list[Member]:
        parts[index] = Member(parts[index].name, parts[index].data, fields)
        return parts

    read(ova(disk=SMALL, members=members))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=3000))
def test_anything_at_all(data: bytes) -> None:
    assert not read(data).ok
