"""The ISO's bytes, its file, and what is refused; tests/integration/test_seed_iso_readers.py reads it back."""

import hashlib
import multiprocessing
import os
import stat
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pycdlib.dates
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import InputError
from builder.seed import iso, private

STAMP = 1_700_000_000
DOCUMENTS = {"user-data": b"#cloud-config\n", "meta-data": b"instance-id: i\n", "network-config": b"version: 2\n" * 500}


def image(documents: dict[str, bytes], folder: Path, **options) -> bytes:
    written = iso.write(documents, folder / "seed.iso", **{"timestamp": STAMP} | options)
    content = written.path.read_bytes()
    assert (written.size, written.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    return content


class TestTheSameBytes:
    def test_in_whatever_order_the_documents_come(self, tmp_path):
        turned = dict(reversed(DOCUMENTS.items()))
        assert list(turned) != list(DOCUMENTS)
        assert image(turned, tmp_path) == image(DOCUMENTS, tmp_path)

    @pytest.mark.parametrize("years", [-20, 1, 50])
    def test_on_another_day(self, tmp_path, monkeypatch, years):
        today = image(DOCUMENTS, tmp_path)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + years * 31_556_952)
        assert datetime.now(UTC).year != time.gmtime(time.time()).tm_year
        assert image(DOCUMENTS, tmp_path) == today

    @pytest.mark.parametrize("zone", ["Asia/Kolkata", "Pacific/Auckland", "America/St_Johns"])
    def test_in_another_time_zone(self, tmp_path, monkeypatch, zone):
        here = image(DOCUMENTS, tmp_path)
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            assert time.timezone != 0
            assert image(DOCUMENTS, tmp_path) == here
        finally:
            monkeypatch.undo()
            time.tzset()

    @pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
    def test_under_another_umask(self, tmp_path, umask):
        mine = image(DOCUMENTS, tmp_path)
        before = os.umask(umask)
        try:
            assert image(DOCUMENTS, tmp_path) == mine
        finally:
            os.umask(before)

    @pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else takes root")
    def test_for_another_user(self, tmp_path):
        def make(folder: Path) -> None:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            image(DOCUMENTS, folder)

        with tempfile.TemporaryDirectory(prefix="hapx-iso-", dir="/tmp") as name:
            Path(name).chmod(0o777)
            somebody = multiprocessing.get_context("fork").Process(target=make, args=(Path(name),))
            somebody.start()
            somebody.join(30)
            theirs = Path(name) / "seed.iso"
            assert theirs.stat().st_uid == 65534
            assert theirs.read_bytes() == image(DOCUMENTS, tmp_path)

    def test_from_several_threads(self, tmp_path):
        def make(number: int) -> bytes:
            return image(DOCUMENTS, tmp_path / str(number), timestamp=STAMP + number % 4)

        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(make, range(32)))
        assert len(set(images)) == 4
        assert images == images[:4] * 8


class TestAnotherImage:
    """What goes in is told apart."""

    @pytest.mark.parametrize(
        "changed",
        [
            {"timestamp": STAMP + 1},
            {"label": "CIDATA"},
            {"documents": DOCUMENTS | {"meta-data": b"instance-id: j\n"}},
            {"documents": DOCUMENTS | {"vendor-data": b""}},
        ],
        ids=["date", "label", "content", "document"],
    )
    def test_for_another(self, tmp_path, changed):
        assert image(**{"documents": DOCUMENTS, "folder": tmp_path} | changed) != image(DOCUMENTS, tmp_path)


def test_the_clock_is_nobody_elses_business(tmp_path):
    class Meddling(dict[str, bytes]):
        def __getitem__(self, name: str) -> bytes:
            seen.append((pycdlib.dates.time.time(), time.time()))
            return super().__getitem__(name)

    seen: list[tuple[float, float]] = []
    image(Meddling(DOCUMENTS), tmp_path)
    assert {inside for inside, _ in seen} == {float(STAMP)}
    assert all(outside > STAMP for _, outside in seen)
    assert pycdlib.dates.time is time


def test_it_is_no_larger_than_its_documents_need(tmp_path):
    sectors = sum(-(-len(content) // 2048) for content in DOCUMENTS.values())
    overhead = 16 + 4 + 2 * 4 + 3  # system area, descriptors, two path tables, two folders and Rock Ridge's area
    assert len(image(DOCUMENTS, tmp_path)) == (sectors + overhead) * 2048


class TestTheFile:
    def test_nobody_else_can_read_it_at_any_time(self, tmp_path, monkeypatch):
        modes: set[int] = set()
        fsync = os.fsync

        def look(descriptor: int) -> None:
            modes.update(stat.S_IMODE(path.lstat().st_mode) for path in tmp_path.iterdir())
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", look)
        previous = os.umask(0)
        try:
            image(DOCUMENTS, tmp_path)
        finally:
            os.umask(previous)
        assert modes == {0o600}
        assert stat.S_IMODE((tmp_path / "seed.iso").stat().st_mode) == 0o600

    def test_it_takes_the_place_of_what_is_there_at_once(self, tmp_path):
        target = tmp_path / "seed.iso"
        target.write_bytes(b"the old one")
        target.chmod(0o644)
        with target.open("rb") as reader:
            image(DOCUMENTS, tmp_path)
            assert reader.read() == b"the old one"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600

    def test_a_link_is_replaced_and_not_followed(self, tmp_path):
        (tmp_path / "elsewhere").write_bytes(b"untouched")
        (tmp_path / "seed.iso").symlink_to("elsewhere")
        image(DOCUMENTS, tmp_path)
        assert (tmp_path / "elsewhere").read_bytes() == b"untouched"
        assert not (tmp_path / "seed.iso").is_symlink()

    def test_its_folder_is_made(self, tmp_path):
        assert image(DOCUMENTS, tmp_path / "not" / "there")

    def test_a_folder_in_its_place(self, tmp_path):
        (tmp_path / "seed.iso").mkdir()
        with pytest.raises(InputError, match=r"seed\.iso: Is a directory"):
            image(DOCUMENTS, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["seed.iso"]

    def test_interrupted_it_leaves_the_old_one(self, tmp_path, monkeypatch):
        target = tmp_path / "seed.iso"
        target.write_bytes(b"the old one")

        def interrupt(_descriptor: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(private.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            image(DOCUMENTS, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["seed.iso"]
        assert target.read_bytes() == b"the old one"


BOTH = {"user-data": b"", "meta-data": b""}


class TestRefused:
    @pytest.mark.parametrize(
        ("documents", "told"),
        [
            ({"user-data": b""}, "'meta-data': is missing"),
            ({"meta-data": b""}, "'user-data': is missing"),
            (BOTH | {"a/b": b""}, "'a/b': not a name"),
            (BOTH | {"..": b""}, "'..': not a name"),
            (BOTH | {"": b""}, "'': not a name"),
            (BOTH | {".hidden": b""}, "'.hidden': not a name"),
            (BOTH | {"dot.": b""}, "'dot.': not a name"),
            (BOTH | {"naïve": b""}, "'naïve': not a name"),
            (BOTH | {"new\nline": b""}, r"'new\nline': not a name"),
            (BOTH | {"x" * 65: b""}, "65 characters"),
            (BOTH | {"User-Data": b""}, "differs from 'user-data' in case only"),
        ],
    )
    def test_documents(self, tmp_path, documents, told):
        with pytest.raises(InputError) as caught:
            image(documents, tmp_path)
        assert told in "\n".join(caught.value.details)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("label", ["", "x" * 17, "ci data", "cïdata", "a/b"])
    def test_labels(self, tmp_path, label):
        with pytest.raises(InputError) as caught:
            image(DOCUMENTS, tmp_path, label=label)
        assert "volume label" in str(caught.value.details)

    @pytest.mark.parametrize("stamp", [-1, 5869584000])
    def test_dates(self, tmp_path, stamp):
        with pytest.raises(InputError) as caught:
            image(DOCUMENTS, tmp_path, timestamp=stamp)
        assert "1970 to 2155" in str(caught.value.details)

    def test_everything_at_once(self, tmp_path):
        with pytest.raises(InputError) as caught:
            image({"a/b": b"", "c/d": b""}, tmp_path, label="", timestamp=-1)
        assert len(caught.value.problems) == 6

    @pytest.mark.parametrize("stamp", [0, 5869583999])
    def test_the_first_and_the_last_date_are_taken(self, tmp_path, stamp):
        assert image(DOCUMENTS, tmp_path, timestamp=stamp)


@given(st.sets(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), max_size=40))
def test_plain_names_are_short_and_all_different(names):
    short = iso._iso_names(names)
    assert short.keys() == names
    assert len(set(short.values())) == len(names)
    assert all(0 < len(name) <= 30 and name.replace("_", "A").isalnum() for name in short.values())


class TestSeveral:
    def test_are_what_each_alone_would_be(self, tmp_path):
        media = {tmp_path / f"{n}.iso": DOCUMENTS | {"meta-data": f"instance-id: {n}\n".encode()} for n in range(40)}
        written = iso.write_all(media, timestamp=STAMP)
        assert [each.path for each in written] == list(media)
        for each in written:
            assert each.path.read_bytes() == image(media[each.path], tmp_path / "alone")

    def test_none_is_made_where_one_cannot_be(self, tmp_path):
        media = {tmp_path / "a.iso": DOCUMENTS, tmp_path / "b.iso": {"user-data": b""}}
        with pytest.raises(InputError, match=r"b\.iso"):
            iso.write_all(media, timestamp=STAMP)
        assert not list(tmp_path.iterdir())


class TestDefaultTimestamp:
    def test_it_is_not_the_clock(self, monkeypatch):
        monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
        assert datetime.fromtimestamp(iso.default_timestamp(), UTC) == datetime(1980, 1, 1, tzinfo=UTC)

    def test_source_date_epoch_goes_before(self, monkeypatch):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        assert iso.default_timestamp() == 1_700_000_000

    @pytest.mark.parametrize("text", ["", "yesterday", "-1", "1.5", "²"])
    def test_nonsense(self, monkeypatch, text):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
        with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
            iso.default_timestamp()
