"""Fixtures for every kind of test."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.command import run
from builder.errors import ExitCode
from tests import node
from tests.virtualbox import chroot

BAKE_SECONDS = 3600.0


def pytest_configure() -> None:
    """Take Ctrl-C as it is at a terminal: in the background (`make test &`, nohup) a shell has it ignored, and every
    program that a test starts, to interrupt it, would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _signals_left_as_they_were() -> Iterator[None]:
    """A test that leaves a signal ignored or handled breaks others far away from it: say which test it was."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture(scope="session")
def baked() -> Path:
    """The OVA that the real command bakes from this checkout; kept in the cache folder while nothing changes.

    HAPX_TEST_OVA names another one to test instead.
    """
    return baked_ova()


def baked_ova() -> Path:
    """What the fixture `baked` is, for benchmarks too."""
    if given := os.environ.get("HAPX_TEST_OVA"):
        return Path(given)
    command = str(Path(sys.executable).with_name("hapx-build"))
    argv = [command, "image", "--json", "--output", f"{chroot.cache() / 'image'}/"]
    result = run(argv, check=False, timeout=BAKE_SECONDS)
    if result.returncode == ExitCode.EXISTS:
        result = run([*argv, "--force"], check=False, timeout=BAKE_SECONDS)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    if result.returncode != ExitCode.OK:
        said = [event for event in events if event["event"] == "error"]
        raise RuntimeError(f"hapx-build image: exit code {result.returncode}: {json.dumps(said, indent=2)}")
    (outcome,) = [event for event in events if event["event"] == "result"]
    return Path(outcome["ova"])


@pytest.fixture(scope="session")
def node_root(baked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root file system of the baked image as a folder, to be read only: `node.run` runs its programs over it."""
    folder = tmp_path_factory.mktemp("node")
    yield node.unpack(baked.resolve(), folder)
    node.remove(folder)


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
