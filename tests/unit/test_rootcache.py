from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from builder.image import rootcache
from builder.image.rootcache import RootState

RELEASE = """Origin: Debian
Codename: {name}
Date: {date}
Valid-Until: Sat, 05 Dec 2026 00:00:00 UTC
"""


def being_made(folder: Path, *, text: str = "a root", date: str = "Sat, 15 Nov 2025 10:20:30 UTC") -> Path:
    """What mmdebstrap leaves for the cache."""
    lists = folder / "apt/lists"
    (lists / "partial").mkdir(parents=True)
    (lists / "m_dists_trixie_InRelease").write_text(RELEASE.format(name="trixie", date=date))
    (lists / "m_dists_trixie_main_binary-amd64_Packages").write_text("large")
    (lists / "lock").touch()
    (folder / "apt/sources.list").write_text("deb http://m trixie main\n")
    (folder / "root.tar").write_text(text)
    return folder


def stored(roots: Path, name: str, **how: str) -> Path:
    making = being_made(roots / f".{name}-making", **how)
    rootcache.store(making, roots / name, seconds=1.5)
    return roots / name


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "roots"
    folder.mkdir(parents=True)
    (folder.parent / "locks").mkdir()
    return folder


def test_what_is_stored_is_loaded(roots: Path) -> None:
    entry = stored(roots, "trixie")
    state = rootcache.load(entry)
    assert state is not None
    assert state.seconds == 1.5
    assert state.size == len("a root")
    assert len(state.mirror_state) == 64
    assert rootcache.tar(entry).read_text() == "a root"
    # Of apt's lists only what is signed stays.
    assert [path.name for path in (entry / "apt/lists").iterdir()] == ["m_dists_trixie_InRelease"]
    assert [path.name for path in roots.iterdir()] == ["trixie"]


def test_a_new_root_takes_the_place_of_the_old_one(roots: Path) -> None:
    stored(roots, "trixie")
    stored(roots, "trixie", text="a newer root")
    assert rootcache.tar(roots / "trixie").read_text() == "a newer root"
    assert [
        path.name for path in (roots / "trixie").iterdir() if path.name not in {"apt", "info.json", "root.tar"}
    ] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "info.json").unlink(),
        lambda entry: (entry / "info.json").write_text(""),
        lambda entry: (entry / "info.json").write_text("[]"),
        lambda entry: (entry / "info.json").write_text('{"mirror_state": "x", "date": 1, "seconds": 1}'),
        lambda entry: (entry / "info.json").write_text('{"mirror_state": "x", "date": "now", "seconds": 1, "size": 6}'),
        lambda entry: (entry / "root.tar").unlink(),
        lambda entry: (entry / "root.tar").write_text("a r"),
        shutil.rmtree,
    ],
)
def test_half_an_entry_is_none(roots: Path, damage: object) -> None:
    entry = stored(roots, "trixie")
    damage(entry)  # type: ignore[operator]
    assert rootcache.load(entry) is None


@pytest.mark.parametrize(
    ("dates", "seconds"),
    [
        (["Sat, 15 Nov 2025 10:20:30 UTC"], 1763202030),
        (["Sat, 15 Nov 2025 10:20:30 +0000", "Sun, 16 Nov 2025 00:00:00 UTC"], 1763251200),
        (["nonsense"], 0),
        (["nonsense", "Thu, 01 Jan 1970 00:00:07 UTC"], 7),
        ([""], 0),
        ([], 0),
    ],
)
def test_the_date_is_that_of_the_newest_index(tmp_path: Path, dates: list[str], seconds: int) -> None:
    lists = tmp_path / "apt/lists"
    lists.mkdir(parents=True)
    (tmp_path / "root.tar").touch()
    for number, date in enumerate(dates):
        (lists / f"m_{number}_InRelease").write_text(RELEASE.format(name="x", date=date))
    assert RootState.of(tmp_path, seconds=0).date == seconds


def test_a_mirror_that_signs_in_a_file_of_its_own_counts_too(tmp_path: Path) -> None:
    making = being_made(tmp_path)
    index = tmp_path / "apt/lists/m_dists_trixie_InRelease"
    index.rename(index.with_name("m_dists_trixie_Release"))
    (tmp_path / "apt/lists/m_dists_trixie_Release.gpg").write_text("a signature")
    assert RootState.of(making, seconds=0).date == 1763202030


def test_the_state_follows_names_and_contents(tmp_path: Path) -> None:
    making = being_made(tmp_path)
    index = tmp_path / "apt/lists/m_dists_trixie_InRelease"
    states = {RootState.of(making, seconds=0).mirror_state}
    index.write_text(index.read_text() + "\n")
    states.add(RootState.of(making, seconds=0).mirror_state)
    index.rename(index.with_name("other_InRelease"))
    states.add(RootState.of(making, seconds=0).mirror_state)
    assert len(states) == 3


def test_the_ones_used_last_are_kept(roots: Path) -> None:
    names = [f"root-{number}" for number in range(rootcache.KEPT + 2)]
    for age, name in enumerate(names[:-1]):
        with rootcache.locked(roots / name):
            stored(roots, name)
        os.utime(roots / name, (1000 + age, 1000 + age))
        if age == rootcache.KEPT - 1:
            rootcache.used(roots / names[0])
    stored(roots, names[-1])
    left = {path.name for path in roots.iterdir()}
    assert names[0] in left
    assert names[-1] in left
    assert len(left) == rootcache.KEPT
    assert {path.name for path in (roots.parent / "locks").iterdir()} <= left


def test_one_that_is_in_use_is_not_taken_away(roots: Path) -> None:
    oldest = stored(roots, "oldest")
    os.utime(oldest, (1, 1))
    with rootcache.locked(oldest, shared=True):
        for number in range(rootcache.KEPT + 1):
            stored(roots, f"root-{number}")
            os.utime(roots / f"root-{number}", (1000 + number, 1000 + number))
        assert oldest.is_dir()
    stored(roots, "another")
    assert not oldest.exists()


def test_leftovers_of_the_same_root_are_swept(roots: Path) -> None:
    for name in (".trixie-left", ".other-left"):
        being_made(roots / name)
    rootcache.sweep(roots / "trixie")
    assert [path.name for path in roots.iterdir()] == [".other-left"]


def test_who_has_to_wait_is_told(roots: Path) -> None:
    entry = roots / "trixie"
    said: list[str] = []
    with rootcache.locked(entry, shared=True), rootcache.locked(entry, shared=True, waiting=lambda: said.append("no")):
        pass
    got = threading.Event()

    def wait() -> None:
        with rootcache.locked(entry, waiting=lambda: said.append("yes")):
            got.set()

    with rootcache.locked(entry):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.3)
    thread.join(10)
    assert got.is_set()
    assert said == ["yes"]


def test_the_state_is_plain_json(roots: Path) -> None:
    entry = stored(roots, "trixie")
    assert json.loads((entry / "info.json").read_text()).keys() == {"mirror_state", "date", "seconds", "size"}
