"""Fixtures for tests of what was baked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.image import Disk, FileSystem, extract_disk

TIMES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def disk(baked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """The disk in the baked OVA, raw, to be read only; taken out once a session, in a few seconds."""
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    extract_disk(baked.resolve(), path)
    path.chmod(0o444)
    yield Disk(path)
    path.unlink()


@pytest.fixture(scope="session")
def root(disk: Disk) -> FileSystem:
    """The root file system on that disk."""
    return disk.root


@pytest.fixture(scope="session")
def note_time(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Notes a line on how long something took; all of them are shown when the tests are over."""
    return pytestconfig.stash.setdefault(TIMES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was noted."""
    if lines := config.stash.get(TIMES, []):
        terminalreporter.section("boot times")
        for line in lines:
            terminalreporter.line(line)
