"""Import, clone and destroy cut off at each step of VBoxManage's, by kill -9 and by Ctrl-C; then run again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.baking import COMMAND
from tests.virtualbox import chroot
from tests.virtualbox.chroot import VBox, stand_in

pytestmark = pytest.mark.slow

SPEC = """
name: lab
networks:
  link: {kind: intnet, subnets: [10.56.0.0/24]}
nodes:
  - {name: node01, addresses: {link: 10.56.0.11}, disks: [{size_mib: 16}]}
corosync: {links: [link]}
"""

# VBoxManage as hapx-build finds it. At the step that is named it ends hapx-build: by the signal that is named, before
# the real one is started or when that has done its work. Ctrl-C comes to it just as it begins.
SHIM = """#!/bin/sh
step() {{ case " $* " in *" $STEP "*) return 0;; esac; return 1; }}
if [ -n "$STEP" ] && step "$@"; then
    case $HOW in
    before) kill -KILL $PPID; exit 1;;
    after) {real} "$@"; kill -KILL $PPID; exit 1;;
    ctrl-c) kill -INT $PPID;;
    esac
fi
exec {real} "$@"
"""


def cut_off(*steps: str) -> pytest.MarkDecorator:
    """At each step, and after the last; after any other is before the next."""
    return pytest.mark.parametrize(
        ("step", "how"), [*((step, how) for step in steps for how in ("before", "ctrl-c")), (steps[-1], "after")]
    )


def alike(text: str) -> str:
    """Without what differs from machine to machine: UUIDs in names of files, the digest of a CD with secrets."""
    return re.sub(r"(?<=-cidata-)[0-9a-f]{12}", "", re.sub(r"\{[0-9a-f-]+\}", "{}", text))


class Lab:
    """A VirtualBox whose VBoxManage cuts hapx-build off, and hapx-build in a folder of its own."""

    def __init__(self, vbox: VBox, folder: Path) -> None:
        self.vbox = vbox
        self.folder = folder
        stand_in(folder / "bin/VBoxManage", SHIM.format(real=vbox.executable))
        (folder / "cluster.yaml").write_text(SPEC)

    def run(self, *arguments: object, step: str = "", how: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "STEP": step, "HOW": how}
        argv = [COMMAND, *map(str, arguments), "--json"]
        return subprocess.run(
            argv, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def done(self, *arguments: object) -> dict[str, object]:
        """The result of a run that has to end well."""
        ran = self.run(*arguments)
        events = [json.loads(line) for line in ran.stdout.splitlines()]
        assert ran.returncode == 0, events
        return events[-1]

    def names(self) -> list[str]:
        return re.findall(r'^"(.*)" \{', self.vbox.manage("list", "vms").stdout, re.MULTILINE)

    def files(self) -> list[str]:
        """Every file of every machine, without the parts of names that are made at random."""
        folder = self.vbox.home / "VirtualBox VMs"
        found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        return sorted(alike(name) for name in found if not name.endswith("-prev"))

    def machine(self, name: str) -> dict[str, str]:
        """What is the same in each machine that is made alike."""
        found = self.vbox.machine(name)
        return {
            key: alike(value).replace(str(self.vbox.home), "~")
            for key, value in found.items()
            if not re.search("uuid|UUID|ChangeTime", key)
        }


@pytest.fixture
def lab(vbox: VBox, tmp_path: Path) -> Lab:
    return Lab(vbox, tmp_path)


@pytest.fixture(scope="module")
def uncut(
    virtualbox_root: Path, small_ova: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], list[str]]:
    """A node's machine, and all files, as a clone that nobody cuts off leaves them."""
    folder = tmp_path_factory.mktemp("uncut")
    with chroot.start(virtualbox_root, folder / "virtualbox", [tmp_path_factory.getbasetemp()]) as virtualbox:
        lab = Lab(virtualbox, folder)
        lab.done("import", small_ova)
        lab.done("clone", "cluster.yaml")
        return lab.machine("node01"), lab.files()


def settled(lab: Lab) -> None:
    """VirtualBox's daemon ends what a VBoxManage that was killed had begun; not longer than a moment here."""
    time.sleep(0.5)


@cut_off("import", "snapshot")
def test_import(lab: Lab, small_ova: Path, step: str, how: str) -> None:
    cut = lab.run("import", small_ova, step=step, how=how)
    assert cut.returncode == (130 if how == "ctrl-c" else -9)
    settled(lab)
    # The last step may be done before VBoxManage hears of Ctrl-C: then the base is complete, else there is none.
    complete = step == "snapshot" and lab.names() == ["small"] and "SnapshotName" in lab.machine("small")
    if how == "ctrl-c" and not complete:
        assert lab.names() == []
        assert lab.files() == []
    if how == "after":
        assert complete

    assert lab.done("import", small_ova)["changed"] is not complete
    assert lab.names() == ["small"]
    assert lab.machine("small")["SnapshotName"] == "base"
    assert lab.files() == ["hapx/bases/small/Snapshots/{}.vmdk", *lab.files()[1:]]
    assert len(lab.files()) == 3
    assert lab.done("import", small_ova)["changed"] is False


@cut_off("clonevm", "modifyvm", "--type=dvddrive", "createmedium", "--type=hdd")
def test_clone(lab: Lab, small_ova: Path, uncut: tuple[dict[str, str], list[str]], step: str, how: str) -> None:
    lab.done("import", small_ova)
    before = lab.files()
    cut = lab.run("clone", "cluster.yaml", step=step, how=how)
    assert cut.returncode == (130 if how == "ctrl-c" else -9)
    settled(lab)
    if how == "ctrl-c" and lab.names() == ["small"]:
        assert lab.files() == before

    lab.done("clone", "cluster.yaml")
    assert lab.names() == ["small", "node01"]
    machine, files = lab.machine("node01"), lab.files()
    assert lab.done("clone", "cluster.yaml")["changes"] == []

    assert (machine, files) == uncut


@cut_off("unregistervm", "closemedium")
def test_destroy(lab: Lab, small_ova: Path, step: str, how: str) -> None:
    lab.done("import", small_ova)
    before = lab.files()
    lab.done("clone", "cluster.yaml")
    cut = lab.run("destroy", "cluster.yaml", "--yes", step=step, how=how)
    assert cut.returncode == (130 if how == "ctrl-c" else -9)
    settled(lab)
    lab.done("destroy", "cluster.yaml", "--yes")
    assert lab.names() == ["small"]
    assert lab.files() == before


def test_destroy_with_bases(lab: Lab, small_ova: Path) -> None:
    """A base goes with the last cluster that has a machine of it."""
    (lab.folder / "other.yaml").write_text(SPEC.replace("name: lab", "name: other").replace("node01", "node02"))
    lab.done("import", small_ova)
    lab.done("clone", "cluster.yaml")
    lab.done("clone", "other.yaml")
    assert lab.done("destroy", "cluster.yaml", "--yes", "--bases")["removed"] == ["node01"]
    assert lab.names() == ["small", "node02"]
    assert lab.done("destroy", "other.yaml", "--yes", "--bases")["removed"] == ["node02", "small"]
    assert lab.names() == []


def test_destroy_asks(lab: Lab, small_ova: Path) -> None:
    lab.done("import", small_ova)
    lab.done("clone", "cluster.yaml")
    refused = lab.run("destroy", "cluster.yaml")
    assert refused.returncode == 2
    assert "--yes" in json.loads(refused.stdout)["hint"]
    assert lab.names() == ["small", "node01"]


def test_start_without_the_kernel_driver(lab: Lab, small_ova: Path) -> None:
    lab.done("import", small_ova)
    lab.done("clone", "cluster.yaml")
    ran = lab.run("start", "cluster.yaml", "--host", "node01")
    assert ran.returncode == 4
    error = json.loads(ran.stdout.splitlines()[-1])
    assert error["message"] == "this machine: VirtualBox cannot start machines: its kernel driver is not loaded"


def test_an_ova_that_is_not_in_order(lab: Lab, small_ova: Path) -> None:
    """It is verified before VirtualBox sees it."""
    data = bytearray(small_ova.read_bytes())
    data[len(data) // 2] ^= 1
    (lab.folder / "bad.ova").write_bytes(data)
    ran = lab.run("import", "bad.ova")
    assert ran.returncode == 10
    assert lab.names() == []


def test_clone_says_what_is_missing(lab: Lab) -> None:
    ran = lab.run("clone", "cluster.yaml")
    assert ran.returncode == 3
    assert "hapx-build import" in json.loads(ran.stdout.splitlines()[-1])["hint"]
    ran = lab.run("clone", "cluster.yaml", "--host", "node1")
    assert ran.returncode == 3
    assert "node01" in json.loads(ran.stdout.splitlines()[-1])["details"][0]
