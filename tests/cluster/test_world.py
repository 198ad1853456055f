"""What the tests' clusters are made of is gone when they are, even when whoever made them is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import container, lab
from tests.cluster.observers import wait_until

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
_MAKE = """
import sys, time
from pathlib import Path
from tests.cluster import lab
with lab.create(Path(sys.argv[1]), Path(sys.argv[2])) as made:
    made.start("node1")
    print(made.world.pid, made.nodes["node1"].leader, flush=True)
    time.sleep(60)
"""


def test_nothing_is_left_of_a_run_that_is_killed(cluster_root: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _MAKE, str(cluster_root), str(tmp_path / "lab")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as maker:
        assert maker.stdout is not None
        pids = [int(pid) for pid in maker.stdout.readline().split()]
        assert len(pids) == 2
        maker.kill()
    for pid in pids:
        wait_until(lambda pid=pid: not running(pid), 15, f"process {pid} has ended")  # type: ignore[misc]
    container.tidy(lab.PREFIX)
    assert not [path for base in container.hierarchies() for path in base.glob(f"{lab.PREFIX}-{maker.pid}-*")]
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def running(pid: int) -> bool:
    """Whether a process runs: one that has ended may still wait to be asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False
