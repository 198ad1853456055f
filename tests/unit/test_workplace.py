from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from builder.errors import BusyError, InputError, MissingError, NoSpaceError
from builder.image import locks, workplace

Usage = namedtuple("Usage", "total used free")


def elsewhere(*lines: str) -> subprocess.Popen[str]:
    """Another process that does this, says a line, and waits to be ended."""
    program = "\n".join(["from pathlib import Path", "from builder.image import locks, workplace", *lines])
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


HOLD = ("print('ready', flush=True)", "import time", "time.sleep(60)")


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def test_a_folder_is_gone_afterwards_however_that_came(tmp_path: Path) -> None:
    work = tmp_path / "hapx-bake-1"
    with workplace.folder(work, locked=True):
        (work / "root/deep").mkdir(parents=True)
        (work / "root/file").touch(mode=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), workplace.folder(work):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with workplace.folder(work, keep=True):
        (work / "file").touch()
    assert (work / "file").exists()


def test_a_folder_is_open_to_the_accounts_of_an_image_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with workplace.folder(tmp_path / "work"):
            assert (tmp_path / "work").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    here = f"Path({str(tmp_path)!r})"
    names = {name: tmp_path / f"{workplace.PREFIX}{name}" for name in ("killed", "alive")}
    dead = elsewhere(
        f"context = workplace.folder({here} / '{names['killed'].name}', locked=True)", "context.__enter__()", *HOLD
    )
    alive = elsewhere(
        f"context = workplace.folder({here} / '{names['alive'].name}', locked=True)", "context.__enter__()", *HOLD
    )
    kept = tmp_path / workplace.new_name(kept=True)
    kept.mkdir()
    killed(dead)
    assert {path.name for path in tmp_path.iterdir()} == {*(path.name for path in names.values()), kept.name}
    workplace.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names["alive"].name, kept.name}
    killed(alive)
    workplace.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_who_looks_after_a_folder_hears_that_its_process_is_gone(tmp_path: Path) -> None:
    holder = elsewhere(
        f"context = workplace.folder(Path({str(tmp_path / 'work')!r}), locked=True)", "context.__enter__()", *HOLD
    )
    gone = threading.Event()
    workplace.when_abandoned(tmp_path / "work", gone.set)
    assert not gone.wait(0.5)
    killed(holder)
    assert gone.wait(5)


def test_names_are_nobody_elses() -> None:
    names = {workplace.new_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(workplace.PREFIX) for name in names)
    assert not workplace.new_name(kept=True).startswith(workplace.PREFIX)


def test_a_second_bake_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    output, log = tmp_path / "a.ova", tmp_path / "a.log"
    holder = elsewhere(
        f"context = workplace.locked(Path({str(output)!r}), Path({str(log)!r}))",
        "file = context.__enter__()",
        "file.write('process 4711, hapx-build 1\\n')",
        "file.flush()",
        *HOLD,
    )
    with pytest.raises(BusyError, match=r"process 4711, hapx-build 1") as caught, workplace.locked(output, log):
        pass
    assert str(output) in caught.value.message
    killed(holder)
    with workplace.locked(output, log) as file:
        assert log.read_text() == "process 4711, hapx-build 1\n"  # what was said before is there until somebody bakes
        file.truncate(0)
        file.write("process 2\n")
    assert log.read_text() == "process 2\n"


def test_a_log_that_nobody_wrote_to_is_taken_away(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with workplace.locked(tmp_path / "a.ova", log):
        assert log.exists()
    assert not log.exists()
    log.write_text("of an earlier bake\n")
    with workplace.locked(tmp_path / "a.ova", log):
        pass
    assert log.read_text() == "of an earlier bake\n"


def test_a_lock_is_on_what_has_the_name_now(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []

    def second() -> None:
        with locks.held(path):
            order.append("second")
            assert path.exists()

    with locks.held(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
        path.unlink()  # who waits must not be content with the file that is gone
    thread.join(10)
    assert order == ["first", "second"]
    assert path.exists()


def test_a_lock_can_be_asked_for_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = locks.held(path, shared=True), locks.held(path, shared=True, wait=False)
    with first, second, pytest.raises(BlockingIOError), locks.held(path, wait=False):
        pass
    with locks.held(path, wait=False):
        pass


@pytest.mark.parametrize(
    ("value", "folder"),
    [(None, "/var/tmp"), ("", "/var/tmp"), ("{}", "{}"), (".", "{}")],
)
def test_where_work_folders_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TMPDIR", raising=False)
    if value is not None:
        monkeypatch.setenv("TMPDIR", value.format(tmp_path))
    assert workplace.temporary_folder() == Path(folder.format(tmp_path))


@pytest.mark.parametrize("value", ["/nonexistent", "/etc/passwd", "/tmp/a b", "/tmp/a'b", "/tmp/$a", "/tmp/[a]"])
def test_where_work_folders_cannot_go(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TMPDIR", value)
    with pytest.raises(InputError, match="TMPDIR=") as caught:
        workplace.temporary_folder()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("xdg", "expected"),
    [("/x", "/x/hapx-build"), ("", "/home/me/.cache/hapx-build"), ("relative", "/home/me/.cache/hapx-build")],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, xdg: str, expected: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert workplace.cache_folder() == Path(expected)


def test_a_user_without_a_home_has_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(MissingError) as caught:
        workplace.cache_folder()
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_room_is_counted_once_for_each_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workplace.shutil, "disk_usage", lambda path: Usage(100, 50, 50))
    one, other = tmp_path / "one", tmp_path / "not/yet/there"
    one.mkdir()
    workplace.require_space([(one, 25), (other, 25)], hint="")
    with pytest.raises(NoSpaceError) as caught:
        workplace.require_space([(one, 25), (other, 26)], hint="elsewhere")
    assert f"{one}, {tmp_path}: " in caught.value.message
    assert caught.value.hint == "elsewhere"


def test_the_fullest_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {"a": Usage(10**9, 0, 10**9), "b": Usage(2 * 10**9, 0, 3 * 10**6)}
    for name in rooms:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(workplace.shutil, "disk_usage", lambda path: rooms[Path(path).name])
    error = workplace.full({"TMPDIR": tmp_path / "a", "--output": tmp_path / "b/later"}, doing="disk")
    assert error.message == f"disk: no space left on the disk of {tmp_path}/b/later (3 of 2,000 MB free)"
    assert "--output" in error.hint


def test_removing_what_is_not_there_is_no_matter(tmp_path: Path) -> None:
    workplace.remove(tmp_path / "nothing")


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(InputError, match="/proc/nothing"):
        workplace.make(Path("/proc/nothing/below"))


def test_a_signal_does_not_stop_the_tidying_up(tmp_path: Path) -> None:
    work = tmp_path / "work"
    process = elsewhere(
        "import builder.interrupts, time, shutil",
        "builder.interrupts.unwind()",
        "real = shutil.rmtree",
        "def slow(*args, **flags):",
        "    print('removing', flush=True); time.sleep(1); real(*args, **flags)",
        "shutil.rmtree = slow",
        f"with workplace.folder(Path({str(work)!r}), locked=True):",
        f"    Path({str(work / 'file')!r}).touch()",
        "    print('ready', flush=True)",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "removing\n"
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.wait(10) == 143
    process.stdout.close()
    assert not work.exists()
