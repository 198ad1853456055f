"""How fast an OVA is written, next to `qemu-img convert` making only the VMDK of the same disk in the same run.

    python tests/bench/bench_ova.py [--disk FILE | --root FOLDER-OR-TAR] [--runs 3]

Without --disk it makes one: an ext4 file system with the files of --root, or with some 700 MB of this machine's /usr.
The tools take turns, so that whatever else the machine does meets them alike; the medians are shown. The time is what
a user waits for, fsync and digests of the OVA included; CPU is the processor time of all threads, which other load
disturbs less.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder import command
from builder.image import ova, vmdk
from builder.image.ovf import Appliance

SAMPLE = 700_000_000
MIB = 1 << 20


@dataclass
class Tool:
    """What is measured: `make` writes a file and says where; seconds and CPU seconds of each run."""

    name: str
    make: Callable[[], Path]
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    size: int = 0

    def run(self) -> None:
        started, before = time.perf_counter(), cpu_seconds()
        made = self.make()
        self.seconds.append(time.perf_counter() - started)
        self.cpu.append(cpu_seconds() - before)
        self.size = made.stat().st_size
        made.unlink()


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def sample(source: Path, folder: Path, limit: int) -> None:
    """Copy files from all over `source`, the same every time, as many as fit into `limit` bytes."""
    files = [
        path
        for top, _, names in os.walk(source)
        for name in names
        if (path := Path(top, name)).is_file() and not path.is_symlink() and os.access(path, os.R_OK)
    ]
    for path in sorted(files, key=lambda path: (zlib.crc32(os.fsencode(path)), path)):
        limit -= path.stat().st_size
        if limit < 0:
            break
        copy = folder / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def make_disk(root: Path | None, folder: Path) -> Path:
    tree = folder / "root"
    tree.mkdir()
    if root is None:
        sample(Path("/usr"), tree, SAMPLE)
    elif root.is_dir():
        tree = root
    else:
        command.run(["tar", "--extract", "--file", str(root), "--directory", str(tree), "--exclude", "./dev/*"])
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(4096 * MIB)
    command.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk)])
    if tree != root:
        shutil.rmtree(tree)
    return disk


def tools(disk: Path, folder: Path) -> list[Tool]:
    appliance = Appliance(name="bench", product="Benchmark")

    def qemu_img() -> Path:
        target = folder / "qemu.vmdk"
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
        command.run([*convert, str(disk), str(target)])
        return target

    def only_vmdk() -> Path:
        target = folder / "hapx.vmdk"
        with target.open("wb") as file:
            vmdk.write(disk, file, name=target.name)
        return target

    def whole_ova() -> Path:
        return ova.write(disk, folder / "hapx.ova", appliance, timestamp=0).path

    return [
        Tool("qemu-img: VMDK", qemu_img),
        Tool("hapx-build: VMDK", only_vmdk),
        Tool("hapx-build: OVA", whole_ova),
    ]


def table(disk: Path, measured: list[Tool]) -> Table:
    reference = measured[0]
    allocated = disk.stat().st_blocks * 512 / 1e6
    cores = len(os.sched_getaffinity(0))
    result = Table(title=f"{disk.name}: {allocated:,.0f} MB of data, {cores} cores, level {vmdk.DEFAULT_LEVEL}")
    result.add_column("tool")
    for heading in ("seconds", "times faster", "CPU s", "of its CPU", "MB", "size"):
        result.add_column(heading, justify="right")
    seconds, cpu = statistics.median(reference.seconds), statistics.median(reference.cpu)
    for tool in measured:
        result.add_row(
            tool.name,
            f"{statistics.median(tool.seconds):.2f}",
            f"{seconds / statistics.median(tool.seconds):.2f}",
            f"{statistics.median(tool.cpu):.2f}",
            f"{100 * statistics.median(tool.cpu) / cpu:.0f} %",
            f"{tool.size / 1e6:.1f}",
            f"{100 * (tool.size / reference.size - 1):+.1f} %",
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare writing an OVA with qemu-img's conversion of the same disk.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--disk", type=Path, help="a raw disk image")
    source.add_argument("--root", type=Path, help="a folder or a tar to make a disk of; default: a sample of /usr")
    parser.add_argument("--runs", type=int, default=3, help="how often each tool runs (default: 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-ova-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name)
        disk = arguments.disk or make_disk(arguments.root, folder)
        command.run(["md5sum", str(disk)])  # into the page cache, for everybody alike
        measured = tools(disk, folder)
        for _ in range(arguments.runs):
            for tool in measured:
                tool.run()
        Console(width=max(100, Console().width)).print(table(disk, measured))


if __name__ == "__main__":
    main()
