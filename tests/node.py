"""A node without a machine: the baked image's own programs over its own files, in namespaces that end with them.

systemd does not run there: `systemctl` is a stand-in that notes what it is asked, so that whatever calls it goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from builder.command import Result, run
from builder.image.namespace import enter_argv, unshare_argv
from tests.e2e.image import Disk, extract_disk

SECONDS = 300.0
FOLDER = "/run/given"  # where a program inside finds the folder it is given
SYSTEMCTL_LOG = "/run/systemctl.log"

# What is written goes to a tmpfs over the root, and away with it. xattr names of the kernel's own are root's alone.
_OVERLAY = """
set -eu
root=$1 work=$2 options=$3; shift 3
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work$options" "$work/root"
exec "$@"
"""
_SYSTEMCTL = f"""#!/bin/sh
echo "$*" >>{SYSTEMCTL_LOG}
"""
_START = f"""
set -eu
mount -t sysfs sysfs /sys
cat >/usr/local/bin/systemctl
chmod 0755 /usr/local/bin/systemctl
mkdir -p /run/sshd
ip link set lo up
exec bash -eu {FOLDER}/script
"""


def unpack(ova: Path, folder: Path) -> Path:
    """The root file system in an OVA as a folder in `folder`: owners and modes as in the image, but for setuid bits."""
    disk = folder / "disk.raw"
    extract_disk(ova, disk)
    root = folder / "root"
    root.mkdir()
    where = f"{disk}?offset={Disk(disk).root.offset}"
    run(unshare_argv(["debugfs", "-R", f'rdump / "{root}"', where]), timeout=SECONDS)
    disk.unlink()
    return root


def remove(folder: Path) -> None:
    """Remove a folder, whoever owns what is in it."""
    run(unshare_argv(["rm", "-rf", "--one-file-system", folder]), timeout=SECONDS)


def execute(root: Path, script: str, folder: Path, *, env: Mapping[str, str] | None = None) -> Result:
    """Run a bash script over the root; it finds `folder`, writable, at FOLDER, in a network of its own with `lo` up.

    Where the script fails, so does the test, with what was said.
    """
    (folder / "script").write_text(script)
    work = folder / "overlay"
    work.mkdir(exist_ok=True)
    inner = enter_argv(work / "root", ["bash", "-c", _START], binds={folder: FOLDER}, env=env, uid=0)
    options = "" if os.geteuid() == 0 else ",userxattr"
    argv = unshare_argv(["sh", "-c", _OVERLAY, "overlay", root, work, options, *inner])
    result = run(argv, input=_SYSTEMCTL, timeout=SECONDS, check=False)
    assert result.returncode == 0, f"exit code {result.returncode}:\n{result.stdout}{result.stderr}"
    return result
