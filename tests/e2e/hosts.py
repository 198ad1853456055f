"""Hypervisor hosts of a test's own: libvirtd and virtlogd started by hand in a world's namespaces.

Each host has its own files, sockets and state, and its own view of /etc/libvirt, /var/lib/libvirt and /run/libvirt;
bridges and taps of all of them live in the world's network. Whatever they start ends with the world.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.command import Result, run
from tests.cluster.world import World
from tests.virtualbox import chroot

START_SECONDS = 120.0
_FOLDERS = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "run": "/run/libvirt", "log": "/var/log/libvirt"}

# virtlogd has to be there first: libvirtd looks for it when a machine is started.
_START = """
set -eu
folder=$1 cache=$2; shift 2
for each in "$@"; do mkdir -p "${each#*:}"; mount --bind "$folder/${each%%:*}" "${each#*:}"; done
mkdir -p /var/cache/libvirt
mount --bind "$cache" /var/cache/libvirt
virtlogd --pid-file "$folder/virtlogd.pid" &
for try in $(seq 100); do [ ! -S /run/libvirt/virtlogd-sock ] || break; sleep 0.1; done
exec libvirtd --config "$folder/etc/libvirtd.conf" --pid-file "$folder/libvirtd.pid"
"""
_LIBVIRTD = """
unix_sock_dir = "{folder}/sock"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
"""
# A container has no cgroups to give away, and no other user needs to be kept from root's test.
_QEMU = """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
"""


@dataclass(frozen=True, slots=True)
class Host:
    """A host: its connection URI, good from anywhere on this machine, and its folder."""

    uri: str
    folder: Path

    def virsh(self, *arguments: str, check: bool = True) -> Result:
        """Run virsh there."""
        return run(["virsh", "--quiet", "--connect", self.uri, *arguments], check=check, timeout=60)

    def names(self, *arguments: str) -> list[str]:
        """The first word of each line that virsh prints."""
        return [line.split()[0] for line in self.virsh(*arguments).stdout.splitlines() if line.strip()]

    def left(self) -> dict[str, Sequence[str]]:
        """What there is of machines, networks and volumes."""
        pools = self.names("pool-list", "--all", "--name")
        return {
            "machines": self.names("list", "--all", "--name"),
            "networks": self.names("net-list", "--all", "--name"),
            "volumes": [name for pool in pools for name in self.names("vol-list", pool)],
        }


@contextlib.contextmanager
def start(world: World, name: str) -> Iterator[Host]:
    """A host in the world until the block ends; its machines are switched off then."""
    folder = world.folder / name
    for each in (*_FOLDERS, "sock"):
        (folder / each).mkdir(parents=True)
    cache = chroot.cache() / "libvirt"  # what libvirt found out about QEMU, which takes it eight seconds
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "etc" / "libvirtd.conf").write_text(_LIBVIRTD.format(folder=folder))
    (folder / "etc" / "qemu.conf").write_text(_QEMU)
    binds = [f"{each}:{where}" for each, where in _FOLDERS.items()]
    argv = ["unshare", "--mount", "bash", "-c", _START, "start", folder, cache, *binds]
    with (folder / "said").open("wb") as log:
        process = subprocess.Popen(
            world.enter(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    host = Host(f"qemu:///system?socket={folder}/sock/libvirt-sock", folder)
    try:
        _wait_until_up(host, process)
        yield host
    finally:
        if process.poll() is None:
            for machine in host.names("list", "--name"):
                host.virsh("destroy", machine, check=False)
            process.terminate()
        process.wait(30)


def _wait_until_up(host: Host, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while host.virsh("version", check=False).returncode:
        said = (host.folder / "said").read_text()
        assert process.poll() is None, f"libvirtd ended with exit code {process.returncode}: {said}"
        assert time.monotonic() < deadline, f"libvirtd does not answer: {said}"
        time.sleep(0.2)
