"""VirtualBox on another host: a real sshd on loopback, with keys of its own, whose sessions land beside VirtualBox."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from builder import remote
from builder.errors import BusyError, InputError, MissingError, UnreachableError
from builder.hypervisor import Base, wanted
from builder.hypervisor.virtualbox import VirtualBox
from builder.seed import iso
from builder.spec import load
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

SPEC = """
name: lab
networks:
  link: {kind: intnet, subnets: [10.56.0.0/24]}
nodes:
  - {name: node01, addresses: {link: 10.56.0.11}, host: "%s", disks: [{size_mib: 16}]}
corosync: {links: [link]}
"""


@dataclass(frozen=True)
class Server:
    """An sshd, and the folder with its keys and the client's configuration."""

    uri: str
    folder: Path
    vbox: VBox


def keygen(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(
    vbox: VBox, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    folder = tmp_path / "ssh"
    folder.mkdir()
    host_key, user_key = keygen(folder / "host"), keygen(folder / "user")
    port = free_port()
    # Sessions see the file systems, the processes and the home that VirtualBox has there, and nothing else.
    session = folder / "session"
    enter = ["nsenter", f"--target={vbox.pid}", "--mount", "--pid", "--root", "--wd", "--", "env", "-i"]
    environment = [f"HOME={vbox.home}", "USER=root", "LOGNAME=root", "LANG=C.UTF-8", "PATH=/usr/bin:/usr/sbin"]
    inside = shlex.join([*enter, *environment, "sh", "-c", 'cd && exec sh -c "$0"'])
    session.write_text(
        f'#!/bin/sh\necho "$SSH_ORIGINAL_COMMAND" >>{folder}/asked\nexec {inside} "$SSH_ORIGINAL_COMMAND"\n'
    )
    session.chmod(0o755)
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host_key}\nAuthorizedKeysFile {user_key}.pub\nStrictModes no\n"
        f"PidFile none\nUsePAM no\nPasswordAuthentication no\nForceCommand {session}\n"
    )
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    (folder / "config").write_text(
        f"Host *\n  IdentityFile {user_key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile none\n"
    )
    # ssh takes its configuration from the user's real home, whatever HOME says.
    programs = folder / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    # A socket's path is short.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("r")))
    Path("/run/sshd").mkdir(exist_ok=True)
    sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(sshd, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while not remote.answers("127.0.0.1", port=port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Server(f"ssh://{os.environ.get('USER', 'root')}@127.0.0.1:{port}", folder, vbox)
    finally:
        process.terminate()
        process.wait(10)


def asked(server: Server) -> list[str]:
    return (server.folder / "asked").read_text().splitlines()


def test_a_node_from_import_to_destroy(server: Server, small_ova: Path, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(SPEC % server.uri)
    cluster = load(path)
    documents = {"meta-data": b"instance-id: one\n", "user-data": b"#cloud-config\n"}
    seed = iso.write(documents, tmp_path / "outside/node01-cidata.iso", timestamp=iso.YEAR_1980).path
    base = Base("hapx-1.0", hashlib.sha256(small_ova.read_bytes()).hexdigest())
    host = VirtualBox(server.uri)
    assert host.where == server.uri

    assert host.import_base(small_ova, base)
    assert not host.import_base(small_ova, base)
    assert list(host.bases()) == [base]
    # The copy of the OVA has done its work.
    assert not list((server.vbox.home / ".cache/hapx-build").glob("*"))

    machine = wanted.machine(cluster, cluster.nodes[0], base, seed)
    assert host.converge(machine).created
    there = server.vbox.machine("node01")
    assert (there["intnet1"], there["groups"], there["cpus"]) == ("link", "/hapx/lab", "2")
    assert Path(there["SATA-1-0"]).is_relative_to(server.vbox.home)
    assert Path(there["SATA-1-0"]).read_bytes() == seed.read_bytes()
    assert Path(there["SATA-1-0"]).stat().st_mode & 0o777 == 0o600
    assert there["SATA-2-0"].endswith("/disk1.vdi")

    again = host.converge(machine)
    assert (again.created, again.changes, again.later) == (False, (), ())
    changed = host.converge(dataclasses.replace(machine, cpus=1))
    assert changed.changes == ("CPUs: 1",)

    folder = Path(there["CfgFile"]).parent
    (folder / "console.log").write_text("one\ntwo\n")
    assert host.console_tail("node01", 1) == ["two"]
    assert host.console("node01")[0] == "ssh"
    with pytest.raises(MissingError, match="its kernel driver is not loaded"):
        host.start("node01")

    assert host.destroy("node01")
    host.remove_base(base.name)
    assert "node01" not in server.vbox.manage("list", "vms").stdout
    assert not [path for path in (server.vbox.home / "VirtualBox VMs").rglob("*") if path.is_file()]


def test_files_are_copied_when_they_changed(server: Server, tmp_path: Path) -> None:
    place = remote.Ssh(server.uri)
    source, target = tmp_path / "it's a file", PurePosixPath("some where/it's a 'file'")
    for content in (b"one\0\xff", b"two"):
        source.write_bytes(content)
        assert place.put(source, target, mode=0o640)
        assert (server.vbox.home / target).read_bytes() == content
        assert not place.put(source, target, mode=0o640)
    assert (server.vbox.home / target).stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (server.vbox.home / "some where").iterdir()] == ["it's a 'file'"]


def test_one_connection_for_all_commands(server: Server) -> None:
    place = remote.Ssh(server.uri)
    for number in range(5):
        assert place.run(["echo", f"{number} $HOME 'x'"], timeout=20).stdout == f"{number} $HOME 'x'\n"
    log = (server.folder / "log").read_text()
    assert log.count("Accepted publickey") == 1
    assert len(asked(server)) == 5


# Another run on another machine, for all that this one knows: takes the lock, says so, and keeps it.
HOLDER = """
import sys, time
from builder.hypervisor.virtualbox import VirtualBox
with VirtualBox(sys.argv[1]).alone(on_wait=lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is the host's, whoever comes from wherever; it goes with the run that held it, killed or not."""
    waited: list[str] = []
    other = subprocess.Popen([sys.executable, "-c", HOLDER, server.uri], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        monkeypatch.setattr(remote, "WAIT", 0.5)
        with (
            pytest.raises(BusyError, match="another run of hapx-build is at work there"),
            VirtualBox(server.uri).alone(on_wait=lambda: waited.append("in vain")),
        ):
            pass
        monkeypatch.setattr(remote, "WAIT", 30.0)
        with VirtualBox(server.uri).alone(on_wait=lambda: (waited.append("for a while"), other.kill())[0]):
            assert (server.vbox.home / ".cache/hapx-build/virtualbox.lock").exists()
    finally:
        other.kill()
        other.wait(10)
    with VirtualBox(server.uri).alone(on_wait=lambda: waited.append("not any more")):
        pass
    assert list(dict.fromkeys(waited)) == ["in vain", "for a while"]


def test_nobody_listens(server: Server) -> None:
    uri = f"ssh://root@127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError, match="nobody listens for SSH there"):
        VirtualBox(uri).bases()


def test_unknown_host_key(server: Server) -> None:
    (server.folder / "known_hosts").write_text("")
    with pytest.raises(UnreachableError, match="its host key is not known here") as error:
        VirtualBox(server.uri).bases()
    assert "connect once by hand" in error.value.hint


def test_changed_host_key(server: Server) -> None:
    known = server.folder / "known_hosts"
    known.write_text(
        known.read_text().split()[0] + " " + keygen(server.folder / "other").with_suffix(".pub").read_text()
    )
    with pytest.raises(UnreachableError, match="its host key is not the one that is known"):
        VirtualBox(server.uri).bases()


def test_key_that_the_host_does_not_take(server: Server) -> None:
    config = server.folder / "config"
    config.write_text(config.read_text().replace("ssh/user", f"ssh/{keygen(server.folder / 'stranger').name}"))
    with pytest.raises(UnreachableError, match="it refuses this user"):
        VirtualBox(server.uri).bases()


def test_host_without_virtualbox(server: Server) -> None:
    session = server.folder / "session"
    session.write_text('#!/bin/sh\nPATH=/nowhere exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    with pytest.raises(MissingError, match="VBoxManage is not installed there"):
        VirtualBox(server.uri).bases()


@pytest.mark.parametrize(
    "uri", ["ssh://", "ssh://-oProxyCommand=x", "ssh://host/path", "ssh://host:port", "https://host", "ssh://-x@host"]
)
def test_addresses_of_no_host(uri: str) -> None:
    with pytest.raises(InputError):
        VirtualBox(uri)
