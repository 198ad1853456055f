"""What is run on other machines, in a shell of this one: by the programs of GNU, and by those that others have."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import command, remote

SECONDS = 20.0


@pytest.fixture(params=["flock", "perl"])
def hold(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], contextlib.AbstractContextManager[Callable[[float], str]]]:
    """Runs the script that takes the lock, waiting that many seconds, where there is only the one program for it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("sh", "mkdir", "cat", request.param):
        (programs / program).symlink_to(shutil.which(program) or program)
    monkeypatch.chdir(tmp_path)

    @contextlib.contextmanager
    def run(seconds: int) -> Iterator[Callable[[float], str]]:
        inside = ["env", f"PATH={programs}", str(programs / "sh"), "-c", remote._HOLD, "a name.lock", str(seconds)]
        with command.beside(inside) as line:
            yield line

    return run


def test_one_has_the_lock(hold: Callable[[int], contextlib.AbstractContextManager[Callable[[float], str]]]) -> None:
    with hold(1) as first:
        assert first(SECONDS) == "held"
        with hold(1) as second:
            assert [second(SECONDS), second(SECONDS)] == ["waiting", "busy"]
    with hold(1) as third:
        assert third(SECONDS) == "held"


def test_the_next_has_it_after_that(
    hold: Callable[[int], contextlib.AbstractContextManager[Callable[[float], str]]],
) -> None:
    with contextlib.ExitStack() as stack:
        with hold(1) as first:
            assert first(SECONDS) == "held"
            second = stack.enter_context(hold(15))
            assert second(SECONDS) == "waiting"
        assert second(SECONDS) == "held"
