"""Commands for nodes in a real VirtualBox: what `status` says of machines that are off, and what `console` shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import ExitCode
from tests.integration.baking import COMMAND
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

SECONDS = 60.0
SPEC = """
name: lab
networks:
  link: {kind: intnet, subnets: [10.56.0.0/24]}
nodes:
  - {name: node01, addresses: {link: 10.56.0.11}}
  - {name: node02, addresses: {link: 10.56.0.12}}
corosync: {links: [link]}
"""


@dataclass
class Lab:
    """A folder with a spec, in which hapx-build runs."""

    vbox: VBox
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PATH": f"{self.vbox.executable.parent}:{os.environ['PATH']}"}

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        argv = [str(COMMAND), *map(str, arguments)]
        return subprocess.run(
            argv, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def done(self, *arguments: object) -> None:
        ran = self.run(*arguments)
        assert ran.returncode == ExitCode.OK, ran.stderr


@pytest.fixture
def lab(vbox: VBox, small_ova: Path, tmp_path: Path) -> Lab:
    (tmp_path / "cluster.yaml").write_text(SPEC)
    made = Lab(vbox, tmp_path)
    made.done("import", small_ova)
    made.done("clone", "cluster.yaml", "--host", "node01")
    return made


def test_status(lab: Lab) -> None:
    ran = lab.run("status", "cluster.yaml", "--json")
    assert ran.returncode == ExitCode.FINDINGS
    nodes = json.loads(ran.stdout)["nodes"]
    assert [(each["name"], each["host"], each["machine"]) for each in nodes] == [
        ("node01", "this machine", "off"),
        ("node02", "this machine", "absent"),
    ]
    lab.done("clone", "cluster.yaml")
    text = lab.run("status", "cluster.yaml").stdout
    assert all(word in text for word in ("node01", "node02", "off"))


def test_console(lab: Lab) -> None:
    """From its first line on, and what comes then; Ctrl-C leaves it."""
    log = Path(lab.vbox.machine("node01")["CfgFile"]).with_name("console.log")
    log.write_text("one\n")
    argv = [str(COMMAND), "console", "node01", "--spec", "cluster.yaml"]
    with subprocess.Popen(
        argv, cwd=lab.folder, env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "one\n"
            with log.open("a") as file:
                file.write("two\n")
            assert process.stdout.readline() == "two\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == -signal.SIGINT
        finally:
            process.kill()


def test_console_of_no_machine(lab: Lab) -> None:
    ran = lab.run("console", "node02", "--spec", "cluster.yaml")
    assert ran.returncode == ExitCode.INPUT
    assert "there is no machine node02" in ran.stderr
    assert "hapx-build clone --host node02" in ran.stderr
