"""How fast nodes are made, and what they take on the disk: `hapx-build clone` next to the guide's way, in one run.

    python tests/bench/bench_clone.py [--nodes 10] [--ova FILE]

The guide's way is what its create-image.sh and post-config scripts do in VirtualBox for a node of the load balancer: a
full `clonevm --mode all`, the CD, one modifyvm for a network card, two for processors and memory. Both clone the same
base, an OVA as it is baked (HAPX_TEST_OVA names one; else it is baked, which takes minutes), and leave it the number of
processors it has, which the scripts cannot lower. A real VirtualBox does it, in a root file system of its own
(tests/virtualbox).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from builder.command import run
from builder.hypervisor import bases
from builder.hypervisor.virtualbox import VirtualBox
from builder.machines import load
from builder.progress import Reporter
from tests.virtualbox import chroot

FASTER = 10.0
SMALLER = 500.0

SPEC = """
name: bench
machine: {cpus: 2, memory_mib: 512}
networks:
  dmz: {kind: intnet, subnets: [10.56.0.0/24]}
nodes:
"""


def spec(folder: Path, nodes: int) -> Path:
    """A cluster of that many nodes."""
    path = folder / "cluster.yaml"
    lines = [f"  - {{name: node{number:02d}, addresses: {{dmz: 10.56.0.{number + 10}}}}}" for number in range(nodes)]
    path.write_text(SPEC + "\n".join(lines) + "\ncorosync: {links: [dmz]}\n")
    return path


def used(folder: Path) -> int:
    """Bytes that files take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def guides(manage: str, base: str, cd: Path, name: str) -> None:
    """One node, as the guide's scripts make it."""
    for argv in (
        ["clonevm", base, "--mode", "all", "--name", name, "--register"],
        ["storageattach", name, "--storagectl", "SATA", "--port", "1", "--type", "dvddrive", "--medium", str(cd)],
        ["modifyvm", name, "--nic1", "intnet", "--intnet1", "dmz"],
        ["modifyvm", name, "--cpu-hotplug", "on"],
        ["modifyvm", name, "--cpus", "2", "--memory", "512", "--vram", "33"],
    ):
        run([manage, *argv], timeout=600)


def main() -> None:
    """Measure and print the table; exit 1 where it is not as much better as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--ova", type=Path, default=os.environ.get("HAPX_TEST_OVA"))
    arguments = parser.parse_args()
    ova = arguments.ova or _bake()

    with tempfile.TemporaryDirectory(prefix="bench-clone-", dir="/var/tmp") as name:
        work = Path(name)
        with chroot.start(chroot.build(), work / "virtualbox", [work, Path(ova).resolve().parent]) as vbox:
            os.environ["PATH"] = f"{vbox.executable.parent}:{os.environ['PATH']}"
            os.chdir(work)
            machines = vbox.home / "VirtualBox VMs"
            fleet = load(spec(work, arguments.nodes))
            host = VirtualBox()
            checked = bases.checked(str(Path(ova).resolve()), reporter=Reporter())
            host.import_base(checked.path, checked.base)
            before = used(machines)

            started = time.monotonic()
            fleet.clone(fleet.cluster.nodes, Reporter())
            ours = time.monotonic() - started
            our_bytes = used(machines) - before

            cd = work / "dist/node00-cidata.iso"
            before = used(machines)
            os.sync()  # what was written before is not to be waited for here
            started = time.monotonic()
            for number in range(arguments.nodes):
                guides(str(vbox.executable), checked.base.name, cd, f"guide{number:02d}")
            theirs = time.monotonic() - started
            their_bytes = used(machines) - before

    faster, smaller = theirs / ours, their_bytes / our_bytes
    table = Table(title=f"{arguments.nodes} nodes of one base", title_justify="left")
    for heading in ("how", "seconds", "ms each", "KiB each on disk"):
        table.add_column(heading, justify="left" if heading == "how" else "right")
    for how, seconds, size in (("hapx-build clone", ours, our_bytes), ("the guide's scripts", theirs, their_bytes)):
        each = f"{seconds / arguments.nodes * 1000:.0f}"
        table.add_row(how, f"{seconds:.2f}", each, f"{size / arguments.nodes / 1024:,.0f}")
    table.add_row("better by", f"{faster:.1f}x", "", f"{smaller:,.0f}x")
    table.add_row("wanted", f"{FASTER:.0f}x", "", f"{SMALLER:.0f}x")
    Console(width=110).print(table)
    if faster < FASTER or smaller < SMALLER:
        sys.exit(1)


def _bake() -> Path:
    command = str(Path(sys.executable).with_name("hapx-build"))
    folder = chroot.cache() / "image"
    run([command, "image", "--output", f"{folder}/", "--force"], timeout=3600)
    return next(folder.glob("*.ova"))


if __name__ == "__main__":
    main()
