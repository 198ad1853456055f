"""Fixtures for every kind of test."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.virtualbox import chroot


@pytest.fixture(scope="session")
def virtualbox_root() -> Path:
    """The root file system with VirtualBox in it: built once (a minute), kept in the cache folder."""
    if platform.machine() != "x86_64":
        pytest.skip("Debian has VirtualBox for amd64 only")
    return chroot.build()


@pytest.fixture
def vbox(virtualbox_root: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[chroot.VBox]:
    """A VirtualBox without machines, this test's own; it sees every temporary folder of the run at its own path."""
    with chroot.start(virtualbox_root, tmp_path / "virtualbox", [tmp_path_factory.getbasetemp()]) as virtualbox:
        yield virtualbox
