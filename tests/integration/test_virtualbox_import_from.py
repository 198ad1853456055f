"""`hapx-build import` of a file and from a real HTTPS server, into a real VirtualBox, and how far it says it is.

The server is nginx on loopback, with a certificate that the test made and that only this test's hapx-build trusts.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import ExitCode
from builder.image import checksums
from tests.integration import servers
from tests.integration.baking import COMMAND
from tests.integration.servers import Server
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

NAME = "hapx-1.2-amd64"
SECONDS = 60.0
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    " -addext subjectAltName=IP:127.0.0.1"
)
# VBoxManage as hapx-build finds it, which takes its time with an import: in the words of the real one, up to a fifth.
SLOW = """#!/bin/sh
case " $* " in
*" import "*) printf '%s\\n' '0%...100%' 'Interpreting x...' OK. >&2; printf %s '0%...10%...20%...' >&2
    while test ! -e {go}; do sleep 0.05; done;;
esac
exec {real} "$@"
"""


@dataclass
class Importer:
    """Runs `hapx-build import` with a VirtualBox, in a folder of its own."""

    vbox: VBox
    folder: Path
    certificate: Path

    @property
    def environment(self) -> dict[str, str]:
        programs = f"{self.vbox.executable.parent}:{os.environ['PATH']}"
        return os.environ | {"PATH": programs, "REQUESTS_CA_BUNDLE": str(self.certificate), "TERM": "xterm"}

    def run(self, source: object, *more: str) -> subprocess.CompletedProcess[str]:
        argv = [str(COMMAND), "import", str(source), *more]
        return subprocess.run(
            argv, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def result(self, source: object) -> dict[str, object]:
        """The result of an import that has to go well."""
        ran = self.run(source, "--json")
        assert ran.returncode == ExitCode.OK, ran.stdout
        return dict(json.loads(ran.stdout.splitlines()[-1]))

    def refused(self, source: object) -> tuple[int, str]:
        """The exit code and the message; nothing is there after it, neither here nor in VirtualBox."""
        ran = self.run(source, "--json")
        assert self.bases() == []
        assert not list(self.folder.glob("dist/*"))
        return ran.returncode, str(json.loads(ran.stdout.splitlines()[-1])["message"])

    def bases(self) -> list[str]:
        return re.findall(r'^"(.*)" \{', self.vbox.manage("list", "vms").stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, and its key, in one file."""
    folder = tmp_path_factory.mktemp("certificate")
    argv = [*CERTIFICATE.split(), "-keyout", folder / "key", "-out", folder / "crt"]
    subprocess.run(argv, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "crt").read_text() + (folder / "key").read_text())
    return folder / "both.pem"


@pytest.fixture
def server(certificate: Path, small_ova: Path, tmp_path: Path) -> Iterator[Server]:
    """An HTTPS server with an OVA and its .sha256."""
    (tmp_path / "server").mkdir()
    with servers.nginx(tmp_path / "server", certificate=certificate) as running:
        ova = Path(shutil.copy(small_ova, running.data / f"{NAME}.ova"))
        ova.with_name(f"{NAME}.ova.sha256").write_text(f"{checksums.of_file(ova)}  {ova.name}\n")
        yield running


@pytest.fixture
def importer(vbox: VBox, certificate: Path, tmp_path: Path) -> Importer:
    (tmp_path / "work").mkdir()
    return Importer(vbox, tmp_path / "work", certificate)


def url(server: Server, port: int | None = None) -> str:
    return f"https://127.0.0.1:{port or server.port}/{NAME}.ova"


class TestHttps:
    def test_becomes_a_base(self, importer: Importer, server: Server) -> None:
        digest = checksums.of_file(server.data / f"{NAME}.ova")
        first = importer.result(url(server))
        assert {key: first[key] for key in ("name", "sha256", "changed")} == {
            "name": NAME,
            "sha256": digest,
            "changed": True,
        }
        assert importer.vbox.machine(NAME)["description"].endswith(digest)
        assert importer.result(url(server))["changed"] is False
        assert importer.bases() == [NAME]
        assert [path.name for path in (importer.folder / "dist").iterdir()] == [f"{NAME}.ova"]

    def test_a_certificate_that_nobody_trusts(self, importer: Importer, server: Server, tmp_path: Path) -> None:
        argv = [*CERTIFICATE.split(), "-keyout", tmp_path / "key", "-out", tmp_path / "other"]
        subprocess.run(argv, check=True, capture_output=True)
        importer.certificate = tmp_path / "other"
        code, message = importer.refused(url(server))
        assert (code, "the server's certificate is not trusted" in message) == (ExitCode.UNTRUSTED, True)

    def test_another_checksum(self, importer: Importer, server: Server) -> None:
        (server.data / f"{NAME}.ova.sha256").write_text(f"{'0' * 64}  {NAME}.ova\n")
        code, message = importer.refused(url(server))
        assert (code, f"has to be {'0' * 64}" in message) == (ExitCode.UNTRUSTED, True)

    def test_no_checksum(self, importer: Importer, server: Server) -> None:
        (server.data / f"{NAME}.ova.sha256").unlink()
        code, message = importer.refused(url(server))
        assert (code, f"{NAME}.ova.sha256 is not beside it" in message) == (ExitCode.UNTRUSTED, True)

    def test_the_checksum_of_something_else(self, importer: Importer, server: Server) -> None:
        (server.data / f"{NAME}.ova.sha256").write_text(f"{'0' * 64}  other.ova\n")
        code, message = importer.refused(url(server))
        assert (code, f"not the digest of {NAME}.ova" in message) == (ExitCode.INPUT, True)

    def test_no_ova(self, importer: Importer, server: Server) -> None:
        (server.data / f"{NAME}.ova").unlink()
        code, message = importer.refused(url(server))
        assert (code, "it is not there any more" in message) == (ExitCode.INPUT, True)

    def test_breaks_off(self, importer: Importer, server: Server) -> None:
        """In the middle of the OVA; the server's next answer is a whole one."""
        size = (server.data / f"{NAME}.ova").stat().st_size
        with breaking(server.port, after=size // 2) as port:
            code, message = importer.refused(url(server, port))
            assert (code, "the connection failed" in message) == (ExitCode.UNREACHABLE, True)
        assert importer.result(url(server))["changed"] is True

    def test_nobody_there(self, importer: Importer, server: Server) -> None:
        server.kill()
        code, message = importer.refused(url(server))
        assert (code, "the connection failed" in message) == (ExitCode.UNREACHABLE, True)


class TestFile:
    def test_with_its_checksum(self, importer: Importer, server: Server) -> None:
        assert importer.result(server.data / f"{NAME}.ova")["changed"] is True
        assert importer.bases() == [NAME]
        assert not (importer.folder / "dist").exists()

    def test_another_checksum(self, importer: Importer, server: Server) -> None:
        (server.data / f"{NAME}.ova.sha256").write_text(f"{'0' * 64}  {NAME}.ova\n")
        code, message = importer.refused(server.data / f"{NAME}.ova")
        assert (code, f"has to be {'0' * 64}" in message) == (ExitCode.UNTRUSTED, True)

    def test_is_not_there(self, importer: Importer) -> None:
        path = importer.folder / "nowhere.ova"
        assert importer.refused("nowhere.ova") == (ExitCode.INPUT, f"{path}: no such file or folder")


class TestHowFarItIs:
    def test_for_machines(self, importer: Importer, small_ova: Path) -> None:
        ran = importer.run(small_ova, "--json")
        events = [json.loads(line) for line in ran.stdout.splitlines()]
        told = [(each["done"], each["total"]) for each in events if each.get("stage") == "import" and "done" in each]
        size = small_ova.stat().st_size
        assert told == sorted(set(told))
        assert told[-1] == (size, size)

    def test_for_nobody(self, importer: Importer, small_ova: Path) -> None:
        ran = importer.run(small_ova)
        assert (ran.stdout, ran.stderr) == ("this machine: small: imported\n", "")

    def test_for_a_person(self, importer: Importer, small_ova: Path, tmp_path: Path) -> None:
        """On a terminal: a bar while VirtualBox works, the time it took in the end."""
        importer.vbox.wrap(SLOW, go=tmp_path / "go")
        ours, theirs = pty.openpty()
        argv = [str(COMMAND), "import", str(small_ova)]
        with subprocess.Popen(
            argv, cwd=importer.folder, env=importer.environment, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            try:
                while_it_works = shown(ours, until="━")
                (tmp_path / "go").touch()
                after = shown(ours, until="imported")
            finally:
                (tmp_path / "go").touch()
                process.wait(SECONDS)
                os.close(ours)
        assert "Import small (this machine)" in while_it_works
        assert re.search(r"✓\S* Import small \(this machine\) .*\d\.\d s", after)
        assert process.returncode == ExitCode.OK


def shown(terminal: int, *, until: str) -> str:
    """What is written to a terminal up to a word."""
    said = b""
    deadline = time.monotonic() + SECONDS
    while until.encode() not in said:
        assert time.monotonic() < deadline, said.decode(errors="replace")
        if select.select([terminal], [], [], 1)[0]:
            said += os.read(terminal, 65536)
    return said.decode(errors="replace")


@contextlib.contextmanager
def breaking(port: int, *, after: int) -> Iterator[int]:
    """A port whose connections go on to another one, and break off when so many bytes have come back."""

    def carry(source: socket.socket, target: socket.socket, room: int) -> None:
        with contextlib.suppress(OSError):
            while room > 0 and (data := source.recv(min(room, 16384))):
                target.sendall(data)
                room -= len(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = listening.accept()[0]
                    server = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
                    for ends in ((client, server, 1 << 30), (server, client, after)):
                        threading.Thread(target=carry, args=ends, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
