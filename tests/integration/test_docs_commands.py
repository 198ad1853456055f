"""The commands that README.md and docs/ show as code, executed as they are written, one page after the other.

What a reader puts in for what is theirs is put in here, too. What cannot run here is in NOT_HERE, with the reason;
of that, the command line is read all the same. Whatever is in neither is executed, and has to end well.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from builder.cli import app
from builder.command import run
from builder.image import checksums
from tests.integration import servers
from tests.integration.baking import REPOSITORY
from tests.integration.servers import Server
from tests.virtualbox import chroot
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
OVA = "hapx-0.1.0-amd64.ova"
PASSPHRASE = "correct horse battery staple"
SECONDS = 120.0

BOOT = "starts machines: tests/e2e/test_up.py"
RUNNING = "asks nodes that run: tests/e2e/test_up.py"
NODE = "on a node: tests/cluster"
THIS = "would be this very run, or one as long"
NOT_HERE = {
    r"make (test|test-fast|test-vms|lint|bench)\b": THIS,
    r"make image$": "a bake, and packages of this machine: tests/integration/test_make.py",
    r"hapx-build image$": "a bake: the fixture `baked`",
    r"hapx-build (up|start)\b": BOOT,
    r"hapx-build (status|failover|down|ssh|console)\b": RUNNING,
    r"hapx force-quorum$": NODE,
    r"crm node standby NAME$": NODE,
    r"corosync-q(net|device)": "on a third machine; a node takes what it makes: tests/integration/test_seed_on_node.py",
    r"sudo apt-get install": "changes this machine: tests/integration/test_make.py",
}
# What somebody answers who is asked: hapx-build wants a terminal for that, minisign drops what was typed before.
TYPED = {"hapx-build destroy": "y\n"}
PIPED = {"minisign -G": f"{PASSPHRASE}\n{PASSPHRASE}\n"}


@dataclass(frozen=True)
class Place:
    """A folder of somebody who has a checkout, an OVA that was baked in it, VirtualBox and a web server."""

    folder: Path
    vbox: VBox
    server: Server
    digest: str

    def filled(self, line: str) -> str:
        """The line, with this reader's own for what stands for it."""
        for said, meant in {
            "https://images.example.org": self.server.url,
            "https://HOST": self.server.url,
            "sha256:…": f"sha256:{self.digest}",
            "hapx-….ova": OVA,
            "FILE.ova": f"dist/{OVA}",
            "--host NAME": "--host hapx-node01",
        }.items():
            line = line.replace(said, meant)
        # A bake in a virtual machine takes minutes: its plan says that it would start.
        return f"{line} --dry-run" if line.startswith("hapx-build image --source") else line

    def run(self, line: str) -> None:
        """Type a line into a terminal there; it has to end well."""
        programs = f"{self.folder / 'bin'}:{self.vbox.executable.parent}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {
            "PATH": programs,
            "HOME": str(self.folder / "home"),
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "HAPX_SIGN_PASSPHRASE": PASSPHRASE,
        }
        terminal, keyboard = os.openpty()
        try:
            os.write(terminal, answer(TYPED, line).encode())
            piped = answer(PIPED, line)
            done = subprocess.run(
                ["bash", "-c", f'printf %s "$0" | {line}' if piped else line, piped], cwd=self.folder,
                env=environment, stdin=keyboard, capture_output=True, text=True, timeout=SECONDS, check=False,
            )  # fmt: skip
        finally:
            os.close(terminal)
            os.close(keyboard)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def answer(answers: Mapping[str, str], line: str) -> str:
    """What is answered to a command; "" where it asks nothing."""
    return next((text for start, text in answers.items() if line.startswith(start)), "")


@pytest.fixture
def place(
    baked: Path, virtualbox_root: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path / "checkout"
    for name in ("dist", "home", "bin"):
        (folder / name).mkdir(parents=True)
    for name in ("packer", "seeds", ".ci"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("*.secrets.yaml"))
    shutil.copy(REPOSITORY / "Makefile", folder)
    (folder / "bin/hapx-build").symlink_to(Path(sys.executable).with_name("hapx-build"))
    for path in baked.parent.glob(f"{baked.stem}.*"):
        shutil.copy(path, folder / "dist" / path.name)
    for name in ("A.ova", "B.ova", "older.ova"):
        (folder / name).symlink_to(f"dist/{OVA}")
    # Nothing is booted from them: files that are what their checksum says.
    for name in ("debian.qcow2", "netinst.iso"):
        (folder / name).symlink_to(f"dist/{OVA}")
    (tmp_path / "server").mkdir()
    shared = [tmp_path_factory.getbasetemp()]
    with (
        chroot.start(virtualbox_root, tmp_path / "virtualbox", shared, network=True) as vbox,
        servers.nginx(tmp_path / "server") as server,
    ):
        vbox.add_host_only("192.168.56.1/24")
        # Somebody has put the OVA and its digest on a web server, too.
        for path in (folder / "dist" / OVA, folder / "dist" / f"{OVA}.sha256"):
            (server.data / path.name).symlink_to(path)
        yield Place(folder, vbox, server, checksums.of_file(folder / "dist" / OVA))


def commands(page: Path) -> list[str]:
    """The lines that a page shows as code to be typed: of a transcript those after a prompt, of others all."""
    blocks = re.findall(r"(?:(?<=\n\n)(?: {4,}\S.*\n)+)|(?:^```\w*\n(?:.*\n)*?^```$)", page.read_text(), re.MULTILINE)
    found = []
    for block in blocks:
        lines = [line.strip() for line in block.splitlines() if not line.startswith("```")]
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if not prompted and lines[0].split()[0].endswith((":", "/")):
            continue  # YAML, or a list of folders
        found += [part for line in prompted or lines for part in re.sub(r"\s#.*", "", line).strip().split(" && ")]
    return found


def reason(line: str) -> str | None:
    """Why a command cannot run here."""
    return next((why for pattern, why in NOT_HERE.items() if re.match(pattern, line)), None)


def parse(line: str) -> None:
    """Read a command's words as it would, without doing it; raises click's UsageError where it takes no such words."""
    words = shlex.split(line)
    if words[0] == "hapx-build":
        command = typer.main.get_group(app).commands[words[1]]
        command.make_context(words[1], words[2:])
    elif words[0] == "make":
        asked = run(["make", "--directory", str(REPOSITORY), "--question", *words[1:]], timeout=10, check=False)
        assert asked.returncode == 1, asked.stderr  # it would do something; 2: it knows no such target


def test_every_command_of_the_documentation_works_as_it_is_written(place: Place) -> None:
    done, seen, dist = 0, set(), place.folder / "dist"
    for page in PAGES:
        for line in commands(page):
            if reason(line):
                parse(line)
            else:
                place.run(place.filled(line))
                done += 1
                seen.update(path.name for path in dist.iterdir())
    assert done > 20
    # What they say comes out of it; the last ones remove machines and their CDs.
    discs = {f"hapx-node0{number}-cidata.iso" for number in (1, 2)}
    assert seen >= {*discs, OVA.replace(".ova", ".html"), OVA.replace(".ova", ".SHA256SUMS.minisig")}
    assert not discs & {path.name for path in dist.iterdir()}
    assert (place.server.data / "hapx/latest.json").is_file()
    assert OVA.removesuffix(".ova") in place.vbox.manage("list", "vms").stdout


def test_nothing_is_excused_that_is_not_written() -> None:
    lines = [line for page in PAGES for line in commands(page)]
    assert [pattern for pattern in NOT_HERE if not any(re.match(pattern, line) for line in lines)] == []
    assert {line.split()[0] for line in lines} == {
        "hapx-build", "make", "minisign", "hapx", "crm", "sudo",
        "corosync-qdevice-net-certutil", "corosync-qnetd-certutil",
    }  # fmt: skip


def test_a_command_that_is_not_known_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n    hapx-build nonsense   # no\n    $HOME\n\n```sh\nmake nothing && hapx x\n```\n\n    a: b\n"
    )
    assert commands(page) == ["hapx-build nonsense", "$HOME", "make nothing", "hapx x"]
    assert [line for line in commands(page) if reason(line)] == []
    with pytest.raises(KeyError):
        parse("hapx-build nonsense")
