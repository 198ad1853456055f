"""A place where clusters are tested: namespaces of its own for mounts, processes and the network.

Everything that a test starts runs in there, every address exists in there alone, and all of it ends with process 1 of
the place: when the block is left, and also when whoever holds it is killed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.command import Result, run

STOP_SECONDS = 20.0

# The outer /proc is still there when the process id is read. bash reaps what is left to it while it waits in `read`.
_HOLD = """
set -eu
read -r pid _ </proc/self/stat
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p /run/netns
mount -t tmpfs -o mode=755 tmpfs /run/netns
ip link set lo up
echo "$pid"
read -r _ || exit 0
"""


@dataclass(frozen=True, slots=True)
class World:
    """The namespaces, by the process id of their process 1, and a folder for what belongs to them."""

    pid: int
    folder: Path

    def enter(self, argv: Sequence[str | Path]) -> list[str]:
        """The command that runs another one in there."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--", *map(str, argv)]

    def run(self, *argv: str | Path, check: bool = True, timeout: float = 60.0) -> Result:
        """Run a program in there."""
        return run(self.enter(argv), check=check, timeout=timeout)

    def ip(self, *lines: str) -> None:
        """What `ip -batch` is told, line by line: all of it, in a few milliseconds."""
        run(self.enter(["ip", "-batch", "-"]), input="".join(f"{line}\n" for line in lines), timeout=60)

    def inside(self, path: Path) -> Path:
        """A path of in there, for this process, which does not see what is mounted there."""
        return Path(f"/proc/{self.pid}/root{path}")


@contextlib.contextmanager
def create(folder: Path) -> Iterator[World]:
    """Namespaces until the block ends; `folder` is an empty one for them."""
    argv = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "bash", "-c", _HOLD]
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        said = holder.stdout.readline().strip()
        if not said:
            raise RuntimeError(f"no namespaces: unshare ended with exit code {holder.wait(STOP_SECONDS)}")
        yield World(int(said), folder)
    finally:
        # Process 1 ends when its input closes; the kernel then ends all the others before unshare sees it end.
        holder.stdin.close()
        try:
            holder.wait(STOP_SECONDS)
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()
