"""Fixtures for tests of a running cluster, and the table of what they measured."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import lab
from tests.cluster.lab import Lab
from tests.cluster.results import Results

RESULTS = pytest.StashKey[Results]()


@pytest.fixture(scope="session")
def cluster_root(request: pytest.FixtureRequest) -> Path:
    """The baked root, where this machine can run containers from it."""
    if os.geteuid() != 0:
        pytest.skip("containers that boot take root here: overlay mounts, network namespaces and cgroups")
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("no systemd-nspawn here (Debian's systemd-container)")
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.decode().strip()}")
    root: Path = request.getfixturevalue("node_root")
    return root


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Results:
    """Where measured outages go."""
    return pytestconfig.stash.setdefault(RESULTS, Results())


@pytest.fixture(scope="session")
def cluster(cluster_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A pair with its seeds, perhaps switched off, and a place for a third node: the one cluster of all tests."""
    with lab.create(cluster_root, tmp_path_factory.mktemp("cluster") / "lab", size=3) as made:
        yield made


@pytest.fixture
def pair(cluster: Lab) -> Lab:
    """The shared pair, settled: both nodes are on, all agree, no failure is remembered. So it is left, too."""
    cluster.start()
    if cluster.trouble():
        cluster.wait_settled(lab.FORM_SECONDS)
    return cluster


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was measured, and keep it as JSON."""
    found = config.stash.get(RESULTS, None)
    if found is not None and found.runs:
        terminalreporter.section("failures, as a client outside sees them")
        terminalreporter.line(found.table())
        terminalreporter.line(f"also in {found.keep()}")
