"""Builds Debian sid's VirtualBox once and runs it for a test, in namespaces that end with the test.

`VBoxManage` needs no kernel module for anything but starting a machine: import, clonevm, modifyvm, storageattach,
snapshots and media are the real thing. Its daemon, VBoxSVC, is started by the first command and lingers; each test
gets its own, in a PID namespace that is ended with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.command import Result, require, run

NAMESPACE = Path(__file__).with_name("namespace.sh")

# What the root needs of the whole Debian system: the rest of the tarball is left out.
MEMBERS = ("./usr", "./etc", "./bin", "./sbin", "./lib", "./lib64")

MMDEBSTRAP = (
    "mmdebstrap",
    "--variant=apt",
    "--architectures=amd64",
    "--components=main contrib",  # VirtualBox needs a compiler of its own to build its BIOS, hence contrib
    # -source satisfies "some way to get the kernel module" without building one, as -dkms would.
    "--include=virtualbox,virtualbox-source",
    # sid moves daily; a snapshot of it may be older than its Release file allows.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    # No set-uid program of somebody else's root belongs into a user's cache folder.
    '--customize-hook=find "$1" -xdev -type f -perm /6000 -exec chmod ug-s {} +',
    "--format=tar",
    "sid",
)

BUILD_SECONDS = 1200.0
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class VBox:
    """A VirtualBox of a test's own: no machines yet, files under `home`, and `executable` to run it.

    `executable` is a program on disk named VBoxManage, in a folder of its own that can go to the front of PATH: it
    runs the real one. The folders given to `start` are there under the same paths, and so is the working directory
    where it lies in one of them.
    """

    executable: Path
    home: Path
    pid: int
    """The first process of its namespaces."""

    def manage(self, *args: str | Path, check: bool = True, timeout: float = 120.0) -> Result:
        """VBoxManage with these arguments; raises CommandError unless it succeeds or `check` is off."""
        return run([str(self.executable), *map(str, args)], check=check, timeout=timeout)

    def machine(self, name: str) -> dict[str, str]:
        """What `showvminfo --machinereadable` says of a machine, key by key, without quotes."""
        said = self.manage("showvminfo", name, "--machinereadable").stdout
        # A value goes on to the quote that ends a line: a description may have quotes and several lines.
        pairs = re.finditer(r'^"?([^"=\n]+)"?=(?:"(.*?)"|([^"\n]*))$', said, re.MULTILINE | re.DOTALL)
        return {pair[1]: pair[2] if pair[2] is not None else pair[3] for pair in pairs}

    def wrap(self, script: str, **names: object) -> None:
        """Have a script run as `executable` from now on: `{real}` in it is what ran until now, others are given."""
        real = self.executable.rename(self.executable.with_name("real"))
        stand_in(self.executable, script.format(real=real, **names))

    def add_host_only(self, address: str) -> None:
        """A host-only interface as its kernel driver would have made it, with an address like 192.168.56.1/24.

        For one that was started with a network of its own.
        """
        for words in ("link add vboxnet0 type bridge", f"addr add {address} dev vboxnet0"):
            run(["nsenter", f"--target={self.pid}", "--net", "ip", *words.split()], timeout=STOP_SECONDS)


def stand_in(program: Path, script: str) -> Path:
    """Write a script that is run in a program's place, in a folder for the front of PATH; the script's path."""
    program.parent.mkdir(exist_ok=True)
    program.write_text(script)
    program.chmod(0o755)
    return program


def cache() -> Path:
    """The folder that keeps what tests build once."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hapx-build" / "tests"


def build() -> Path:
    """The root file system with VirtualBox in it: from the cache, else built (a minute, 1 GB, Debian's mirror).

    Raises MissingError where mmdebstrap is not installed, CommandError where it fails.
    """
    key = hashlib.sha256("\0".join([*MMDEBSTRAP, *MEMBERS]).encode()).hexdigest()[:16]
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"virtualbox-{key}"
    with (folder / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        for leftover in folder.glob(f"{target.name}.tmp*"):
            shutil.rmtree(leftover)
        require("mmdebstrap")
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.tmp", dir=folder) as name:
            tarball, root = Path(name, "root.tar"), Path(name, "root")
            root.mkdir(mode=0o755)
            run([*MMDEBSTRAP, str(tarball)], timeout=BUILD_SECONDS)
            # As root or not: everything belongs to who built it, and is root's inside.
            extract = ["tar", "--extract", "--file", str(tarball), "--directory", str(root), "--no-same-owner"]
            run([*extract, *MEMBERS], timeout=BUILD_SECONDS)
            root.rename(target)
    return target


@contextlib.contextmanager
def start(root: Path, work: Path, shared: Sequence[Path], *, network: bool = False) -> Iterator[VBox]:
    """VirtualBox from `root` (see `build`), with its files in the folder `work`, until the block ends.

    `shared` are folders outside that are there inside too, under the same paths; `work` has to lie in one of them.
    With `network` it has a network of its own too, empty but for what the test puts into it (`nsenter --net`).
    Everything runs in one PID and one mount namespace: on leaving, or when this process dies, all of it ends and no
    mount is left. Works as root, and as a user where user namespaces are allowed.
    """
    home, new, programs = (work / name for name in ("home", "root", "bin"))
    for folder in (home, new, programs):
        folder.mkdir(parents=True)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    own_net = ["--net"] if network else []
    argv = [
        "unshare",
        *user,
        *own_net,
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        str(NAMESPACE),
        str(root),
        str(new),
        str(home),
    ]
    argv += [str(folder) for folder in shared]
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        pid = holder.stdout.readline().strip()
        if not pid:
            raise RuntimeError(f"no namespace for VirtualBox: unshare ended with exit code {holder.wait(STOP_SECONDS)}")
        enter = ["nsenter", f"--target={pid}", *own_net, "--mount", "--pid", "--root", "--wd"]
        if user:
            enter += ["--user", "--preserve-credentials"]
        executable = stand_in(programs / "VBoxManage", wrapper(enter, home))
        yield VBox(executable, home, int(pid))
    finally:
        # Process 1 ends when its input closes; the kernel then ends all the others before unshare sees it end.
        holder.stdin.close()
        try:
            holder.wait(STOP_SECONDS)
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()


def wrapper(enter: Sequence[str], home: Path) -> str:
    """The VBoxManage that goes on PATH, as text: enters the namespaces with the command `enter`, runs the real one."""
    environment = [f"HOME={home}", "USER=root", "LOGNAME=root", "LANG=C.UTF-8", "PATH=/usr/bin:/usr/sbin"]
    inside = shlex.join([*enter, "--", "env", "--ignore-environment", *environment])
    return f"""#!/bin/sh
exec {inside} sh -c 'cd "$0" 2>/dev/null; exec VBoxManage "$@"' "$PWD" "$@"
"""
