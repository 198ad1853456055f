"""Two runs of hapx-build at once on one real VirtualBox: one waits for the other, and neither undoes what it makes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import remote
from builder.errors import BusyError, ExitCode
from builder.hypervisor.virtualbox import VirtualBox
from tests.integration.baking import COMMAND
from tests.virtualbox.chroot import VBox, stand_in

pytestmark = pytest.mark.slow

SECONDS = 60.0
SPEC = """
name: lab
networks:
  link: {kind: intnet, subnets: [10.56.0.0/24]}
nodes:
  - {name: node01, addresses: {link: 10.56.0.11}, disks: [{size_mib: 16}]}
corosync: {links: [link]}
"""
WAITING = "this machine: another run of hapx-build is at work there: waiting for it"

# VBoxManage as hapx-build finds it: at the step that is named it stays until it is let go, once its work is half done.
SHIM = """#!/bin/sh
case " $* " in *" $STEP "*) "{real}" "$@"; : >{folder}/there; while test ! -e {folder}/go; do sleep 0.05; done; exit 0;;
esac
exec {real} "$@"
"""


class Lab:
    """A VirtualBox, and a folder in which hapx-build runs."""

    def __init__(self, vbox: VBox, folder: Path) -> None:
        self.vbox = vbox
        self.folder = folder
        stand_in(folder / "bin/VBoxManage", SHIM.format(real=vbox.executable, folder=folder))
        (folder / "cluster.yaml").write_text(SPEC)
        self.environment = {
            **os.environ,
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    @contextlib.contextmanager
    def started(self, *arguments: object, step: str = "no step") -> Iterator[subprocess.Popen[str]]:
        argv = [COMMAND, *map(str, arguments), "--json"]
        environment = {**self.environment, "STEP": step}
        process = subprocess.Popen(argv, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            (self.folder / "go").touch()
            process.wait(SECONDS)

    def done(self, *arguments: object) -> None:
        with self.started(*arguments) as process:
            assert ended(process)[-1]["event"] == "result"
        (self.folder / "go").unlink()

    def until_there(self) -> None:
        wait_until((self.folder / "there").exists)

    def names(self) -> list[str]:
        return re.findall(r'^"(.*)" \{', self.vbox.manage("list", "vms").stdout, re.MULTILINE)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def waits(process: subprocess.Popen[str]) -> None:
    """It says that it waits; what it says after that is left to be read."""
    assert process.stdout is not None
    assert any(json.loads(line).get("message") == WAITING for line in process.stdout), process.wait(SECONDS)


def ended(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    """The rest of what it says; it has to end well."""
    said = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == ExitCode.OK, said
    return [json.loads(line) for line in said.splitlines()]


@pytest.fixture
def lab(vbox: VBox, tmp_path: Path) -> Lab:
    return Lab(vbox, tmp_path)


# The step at which the first is held: when VirtualBox has done it and hapx-build does not know yet.
@pytest.mark.parametrize("step", ["clonevm", "modifyvm", "createmedium"])
def test_two_clones_of_one_node(lab: Lab, small_ova: Path, step: str) -> None:
    lab.done("import", small_ova)
    with lab.started("clone", "cluster.yaml", step=step) as first:
        lab.until_there()
        with lab.started("clone", "cluster.yaml", "--host", "node01") as second:
            waits(second)
            (lab.folder / "go").touch()
            assert ended(first)[-1]["created"] is True
            result = ended(second)[-1]
            assert (result["created"], result["changes"], result["later"]) == (False, [], [])
    assert lab.names() == ["small", "node01"]
    assert lab.vbox.machine("node01")["SATA-2-0"].endswith("/node01/disk1.vdi")


@pytest.mark.parametrize("step", ["import", "snapshot"])
def test_two_imports_of_one_ova(lab: Lab, small_ova: Path, step: str) -> None:
    with lab.started("import", small_ova, step=step) as first:
        lab.until_there()
        with lab.started("import", small_ova) as second:
            waits(second)
            (lab.folder / "go").touch()
            assert ended(first)[-1]["changed"] is True
            assert ended(second)[-1]["changed"] is False
    assert lab.names() == ["small"]
    assert lab.vbox.machine("small")["SnapshotName"] == "base"


def test_a_clone_and_the_removal_of_its_node(lab: Lab, small_ova: Path) -> None:
    lab.done("import", small_ova)
    with lab.started("clone", "cluster.yaml", step="modifyvm") as first:
        lab.until_there()
        with lab.started("destroy", "cluster.yaml", "--yes") as second:
            waits(second)
            (lab.folder / "go").touch()
            assert ended(first)[-1]["created"] is True
            assert ended(second)[-1]["removed"] == ["node01"]
    assert lab.names() == ["small"]


def test_a_run_that_was_killed_keeps_nobody_out(lab: Lab, small_ova: Path) -> None:
    lab.done("import", small_ova)
    with lab.started("clone", "cluster.yaml", step="clonevm") as first:
        lab.until_there()
        with lab.started("clone", "cluster.yaml") as second:
            waits(second)
            first.send_signal(signal.SIGKILL)
            assert ended(second)[-1]["changes"] != []
    assert lab.names() == ["small", "node01"]


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(remote, "WAIT", 0.3)
    waited: list[str] = []
    with (
        VirtualBox().alone(on_wait=lambda: waited.append("first")),
        pytest.raises(BusyError, match="this machine: another run of hapx-build is at work there"),
        VirtualBox().alone(on_wait=lambda: waited.append("second")),
    ):
        pass
    with VirtualBox().alone(on_wait=lambda: waited.append("third")):
        pass
    assert set(waited) == {"second"}
