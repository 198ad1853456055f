"""Programs that run inside a root file system, or over its files, as its root: with or without being root here.

As root a mount namespace is enough. Anybody else gets a user namespace whose root is the caller and whose other
accounts are the caller's range in /etc/subuid, so ownership inside the image comes out the same either way
(user_namespaces(7), newuidmap(1)). All mounts live and die with the namespace: nothing to undo, nothing left behind.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

# Mounts what programs expect around a root, then enters it. The view of the root for mke2fs comes first: a bind mount
# made before anything is mounted over the root shows the root alone.
_ENTER = """
set -eu
root=$1 view=$2; shift 2
if [ "$view" = yes ]; then mount --bind "$root" "$root/mnt"; fi
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755,nosuid tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=0755,nosuid tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid tmpfs "$root/tmp"
mkdir "$root/run/lock"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@"
"""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def unshare_argv(argv: Sequence[str | Path], *, uid: int | None = None) -> list[str]:
    """The command that runs `argv` with the rights of the image's root, without network, in mounts of its own.

    `uid` is who runs it (default: this process). When the command is ended, everything it started ends with it.
    """
    flags = ["--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--net"]
    if (os.geteuid() if uid is None else uid) != 0:
        flags += ["--user", "--map-root-user", "--map-auto"]
    return ["unshare", *flags, "--", *map(str, argv)]


def enter_argv(
    root: Path,
    argv: Sequence[str | Path],
    *,
    binds: Mapping[Path, str] | None = None,
    env: Mapping[str, str] | None = None,
    view: bool = False,
    uid: int | None = None,
) -> list[str]:
    """The command that runs `argv` inside the root file system `root`.

    `binds` maps folders here to paths below /run inside; `env` is all that the program gets besides PATH and HOME.
    With `view` the root's own files, nothing mounted over them, are at /mnt inside.
    """
    mounts = [part for here, inside in (binds or {}).items() for part in (str(here), inside)]
    variables = {"PATH": PATH, "HOME": "/root", **(env or {})}
    inside = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items()), *map(str, argv)]
    script = ["sh", "-c", _ENTER, "enter", str(root), "yes" if view else "no", *mounts, "--", *inside]
    return unshare_argv(script, uid=uid)
