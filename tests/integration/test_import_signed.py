"""`import --key` and `up --key`: by a real minisign, from a real web server and a folder, into a real VirtualBox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder import publish as publishing
from builder.errors import ExitCode
from builder.image import checksums
from builder.progress import Reporter
from builder.publish import address
from tests import releases
from tests.integration import servers
from tests.integration.baking import COMMAND
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

STEM = "hapx-1.2-amd64"


@dataclass
class Published:
    """A version on a web server, whose files lie in `files`; the key that signed it, and one that did not."""

    url: str
    files: Path
    public: Path
    other: Path

    @property
    def ova(self) -> Path:
        return self.files / f"{STEM}.ova"

    @property
    def sums(self) -> Path:
        return self.files / f"{STEM}.SHA256SUMS"

    @property
    def signature(self) -> Path:
        return self.files / f"{STEM}.SHA256SUMS.minisig"

    def relist(self, *, sums: bool = True) -> None:
        """Make every list right again, as whoever may write there can: only the signature tells."""
        if sums:
            names = checksums.parse(self.sums.read_text())
            self.sums.write_text(checksums.text({name: checksums.of_file(self.files / name) for name in names}))
        self.files.joinpath(f"{STEM}.ova.sha256").write_text(f"{checksums.of_file(self.ova)}  {self.ova.name}\n")
        for index in (self.files / "release.json", self.files.parent / "latest.json"):
            release = json.loads(index.read_text())
            there = [file for file in release["files"] if (self.files / file["name"]).exists()]
            for file in there:
                file["sha256"] = checksums.of_file(self.files / file["name"])
            index.write_text(json.dumps({**release, "files": there}))


@pytest.fixture
def published(small_ova: Path, tmp_path: Path) -> Iterator[Published]:
    (tmp_path / "made").mkdir()
    ova = releases.complete(Path(shutil.copy(small_ova, tmp_path / "made" / f"{STEM}.ova")))
    for name in ("minisign", "other"):
        argv = ["minisign", "-G", "-W", "-s", tmp_path / f"{name}.key", "-p", tmp_path / f"{name}.pub"]
        subprocess.run(argv, check=True, capture_output=True)
    subprocess.run([COMMAND, "sign", ova, "--key", tmp_path / "minisign.key"], check=True, capture_output=True)
    (tmp_path / "server").mkdir()
    with servers.nginx(tmp_path / "server") as server:
        url = f"{server.url}/hapx"
        publishing.publish(ova, address.parse(url), Reporter())
        yield Published(url, server.data / "hapx/1.2", tmp_path / "minisign.pub", tmp_path / "other.pub")


@dataclass
class Importer:
    """Runs `hapx-build import`, or another command, with a VirtualBox, in an empty folder."""

    vbox: VBox
    folder: Path

    def run(self, *args: str | Path, command: str = "import") -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PATH": f"{self.vbox.executable.parent}:{os.environ['PATH']}"}
        argv = [COMMAND, command, "--json", *args]
        return subprocess.run(
            argv, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture
def importer(vbox: VBox, tmp_path: Path) -> Importer:
    (tmp_path / "work").mkdir()
    return Importer(vbox, tmp_path / "work")


def test_what_was_signed_with_the_key_becomes_a_base(importer: Importer, published: Published) -> None:
    line = published.public.read_text().splitlines()[1]
    for number, (place, key) in enumerate([
        (published.url, published.public),
        (f"{published.url}/1.2/{STEM}.ova", line),
        (published.files.parent, published.public),
        (published.ova, line),
    ]):  # fmt: skip
        done = importer.run(place, "--key", key, "--name", f"base{number}")
        assert done.returncode == ExitCode.OK, done.stdout
        assert f'"base{number}"' in importer.vbox.manage("list", "vms").stdout
    assert [path.name for path in (importer.folder / "dist").iterdir()] == [f"{STEM}.ova"]


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


# What somebody does who may write where it was published; what is said then, and with which key.
DAMAGES: dict[str, tuple[Callable[[Published], object], str]] = {
    "another key": (lambda it: setattr(it, "public", it.other), "not signed with this key: Signature key id"),
    "no signature": (lambda it: it.signature.unlink(), f"without {STEM}.SHA256SUMS.minisig"),
    "no checksums": (lambda it: it.sums.unlink(), f"without {STEM}.SHA256SUMS"),
    "other checksums": (lambda it: append(it.sums), "not signed with this key: Signature verification failed"),
    "another OVA": (lambda it: append(it.ova), "not signed with this key: Signature verification failed"),
    "another signature": (lambda it: it.signature.write_text("x" * 99), "not signed with this key"),
    "endless checksums": (lambda it: it.sums.write_bytes(b"x" * (2 << 20)), "larger than any that was published"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_anything_else_is_refused_before_it_is_fetched(importer: Importer, published: Published, damage: str) -> None:
    change, said = DAMAGES[damage]
    change(published)
    published.relist(sums=damage == "another OVA")
    for place in (published.url, f"{published.url}/1.2/{STEM}.ova", published.files.parent):
        done = importer.run(place, "--key", published.public)
        assert done.returncode == ExitCode.UNTRUSTED, done.stdout
        assert said in json.loads(done.stdout.splitlines()[-1])["message"]
    assert list(importer.folder.iterdir()) == []
    assert "hapx" not in importer.vbox.manage("list", "vms").stdout


def test_an_ova_that_the_signed_checksums_do_not_list(importer: Importer, published: Published) -> None:
    # The lists around them are right for the new bytes; the signed one is what counts.
    append(published.ova)
    published.relist(sums=False)
    done = importer.run(published.url, "--key", published.public)
    assert done.returncode == ExitCode.UNTRUSTED
    assert "the signed SHA256SUMS: the SHA-256 of" in json.loads(done.stdout.splitlines()[-1])["message"]


def test_a_key_that_is_none(importer: Importer, published: Published) -> None:
    done = importer.run(published.url, "--key", "nowhere.pub")
    assert done.returncode == ExitCode.INPUT
    assert "neither a file nor a public key" in json.loads(done.stdout)["message"]


SPEC = """
name: lab
networks:
  link: {kind: intnet, subnets: [10.56.0.0/24]}
nodes:
  - {name: node01, addresses: {link: 10.56.0.11}}
corosync: {links: [link]}
"""


def test_up_makes_nothing_of_what_another_key_signed(importer: Importer, published: Published) -> None:
    (importer.folder / "lab.yaml").write_text(SPEC)
    done = importer.run("lab.yaml", "--ova", published.url, "--key", published.other, command="up")
    assert done.returncode == ExitCode.UNTRUSTED, done.stdout
    assert "not signed with this key" in json.loads(done.stdout.splitlines()[-1])["message"]
    assert sorted(path.name for path in importer.folder.iterdir()) == ["lab.yaml"]
    assert "{" not in importer.vbox.manage("list", "vms").stdout
    done = importer.run("lab.yaml", "--key", published.public, command="up")
    assert (done.returncode, json.loads(done.stdout)["message"]) == (ExitCode.USAGE, "--key: is for what --ova names")
