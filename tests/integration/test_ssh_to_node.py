"""`hapx-build ssh` to a node that a real sshd on loopback plays; ssh's own configuration leads its address there."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder import remote
from builder.spec import load
from tests.integration.baking import COMMAND
from tests.integration.servers import free_port

SECONDS = 30.0
SPEC = """
name: lab
networks:
  lan: {{kind: bridged, name: br0, subnets: [192.0.2.0/24]}}
nodes:
  - {{name: node01, addresses: {{lan: 192.0.2.11}}, host: {host}}}
users: [{{name: admin}}]
ssh: {{keys: [{key}]}}
corosync: {{links: [lan]}}
"""

# ssh takes its configuration from the user's real home, whatever HOME says. This user plays the node's account.
SSH = """#!/bin/sh
echo "$*" >>{asked}
for each do shift; if [ "$each" = admin ]; then each={user}; fi; set -- "$@" "$each"; done
exec {ssh} -F {config} "$@"
"""


@dataclass
class Played:
    """A node, the folder with its spec, and the environment in which ssh finds it."""

    folder: Path
    environment: dict[str, str]

    def ssh(self, *command: str) -> subprocess.CompletedProcess[str]:
        argv = [str(COMMAND), "ssh", "node01", "--spec", "cluster.yaml", "--", *command]
        return subprocess.run(
            argv, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def new_host_key(self) -> None:
        key = self.folder / "host"
        for path in (key, key.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Played]:
    port = free_port()
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
    played = Played(tmp_path, environment)
    played.new_host_key()
    user = tmp_path / "user"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", user], check=True)
    public = user.with_suffix(".pub").read_text().strip()
    (tmp_path / "cluster.yaml").write_text(SPEC.format(host="null", key=public))
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {user}.pub\nStrictModes no\n"
        "PidFile none\nUsePAM no\nPasswordAuthentication no\n"
    )
    (tmp_path / "config").write_text(
        f"Host 192.0.2.11\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {user}\n  IdentitiesOnly yes\n"
        "  IdentityAgent none\n"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(
        SSH.format(
            asked=tmp_path / "asked", user=getpass.getuser(), ssh=shutil.which("ssh"), config=tmp_path / "config"
        )
    )
    (tmp_path / "bin/ssh").chmod(0o755)
    environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    Path("/run/sshd").mkdir(exist_ok=True)
    with (tmp_path / "log").open("w") as log:
        argv = ["/usr/sbin/sshd", "-D", "-e", "-f", str(tmp_path / "sshd_config")]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield played
    finally:
        process.terminate()
        process.wait(SECONDS)


def test_runs_a_command_there_word_for_word(node: Played) -> None:
    ran = node.ssh("printf", "%s.", "a b", "'", "$HOME", "*")
    assert (ran.returncode, ran.stdout) == (0, "a b.'.$HOME.*."), ran.stderr
    assert " -l admin -- 192.0.2.11 " in (node.folder / "asked").read_text()
    assert node.ssh("sh", "-c", "exit 7").returncode == 7


def test_its_host_key_is_kept_apart_under_its_name(node: Played) -> None:
    assert node.ssh("true").returncode == 0
    known = node.folder / "state/hapx-build/known_hosts/lab"
    assert known.read_text().startswith("node01 ssh-ed25519 ")
    # Another key at the same address: not before somebody says so.
    node.new_host_key()
    ran = node.ssh("true")
    assert ran.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in ran.stderr


def test_a_node_that_the_spec_does_not_have(node: Played) -> None:
    argv = [str(COMMAND), "ssh", "node1", "--spec", "cluster.yaml"]
    ran = subprocess.run(argv, cwd=node.folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 3
    assert "node01" in ran.stderr


@pytest.mark.parametrize(
    ("host", "jump"),
    [
        ("null", None),
        ("ssh://me@far", "me@far"),
        ("ssh://me@far:2222", "me@far:2222"),
        ("ssh://far", "far"),
        ("'ssh://me@[2001:db8::1]:22'", "me@[2001:db8::1]:22"),
        ("qemu+ssh://me@far/system", "me@far"),
        ("'qemu:///system'", None),
    ],
)
def test_through_the_machine_that_it_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, jump: str | None
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "cluster.yaml"
    path.write_text(
        SPEC.format(host=host, key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBdtSpEoYQF2pAwDX4nLWbyM1XIUnSpw2Ex8PHYqg4d2")
    )
    cluster = load(path)
    argv = remote.node_argv(cluster, cluster.nodes[0], ["true"])
    assert argv[-2:] == ["192.0.2.11", "true"]
    assert (argv[argv.index("-J") + 1] if "-J" in argv else None) == jump
