"""How fast nodes' CDs are written, next to a loop of genisoimage and one of cloud-localds over the same documents.

    python tests/bench/bench_seed.py [--nodes 100] [--runs 5]

Ours are made in one process and are on the disk when it is done (fsync); theirs are a process each, as in a script, and
need not be. The tools take turns, so that whatever else the machine does meets them alike; the medians are shown. One
CD from a cold start is `hapx-build create`, Python's start included.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder.seed import iso

MOST = 1.0  # of the fastest of the others' time
COLD_SECONDS = 0.4


def documents(number: int) -> dict[str, bytes]:
    """A node's documents, as large as those of a cluster's."""
    name = f"hapx-node{number:03d}"
    lines = "".join(f"    server backend{line:02d} 192.0.2.{line}:6443 check fall 3 rise 2\n" for line in range(120))
    return {
        "meta-data": f"instance-id: {name}\nlocal-hostname: {name}\n".encode(),
        "user-data": f"#cloud-config\nwrite_files:\n- path: /etc/haproxy/haproxy.cfg\n  content: |\n{lines}".encode(),
        "network-config": b"version: 2\nethernets:\n" + b"  # one more line\n" * 40,
    }


def ours(folder: Path, nodes: int) -> None:
    """All of them, in this process."""
    media = {folder / f"{number}.iso": documents(number) for number in range(nodes)}
    iso.write_all(media, timestamp=iso.YEAR_1980)


def genisoimage(folder: Path, nodes: int) -> None:
    """The guide's script's way."""
    for number, files in _on_disk(folder, nodes):
        image = folder / f"{number}.iso"
        _run("genisoimage", "-quiet", "-output", image, "-volid", "cidata", "-joliet", "-rock", *files.values())


def cloud_localds(folder: Path, nodes: int) -> None:
    """cloud-image-utils' way."""
    for number, files in _on_disk(folder, nodes):
        network = f"--network-config={files['network-config']}"
        _run("cloud-localds", network, folder / f"{number}.iso", files["user-data"], files["meta-data"])


def _on_disk(folder: Path, nodes: int) -> list[tuple[int, dict[str, Path]]]:
    return [(number, {name: folder / str(number) / name for name in documents(number)}) for number in range(nodes)]


def _run(*argv: object) -> None:
    subprocess.run([str(part) for part in argv], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def timed(make: Callable[[Path, int], None], nodes: int) -> tuple[float, int]:
    """Seconds for all the CDs, and the size of one in bytes; the files that the others need are there before."""
    with tempfile.TemporaryDirectory(prefix="bench-seed-", dir="/var/tmp") as name:
        folder = Path(name)
        for number, files in _on_disk(folder, nodes):
            (folder / str(number)).mkdir()
            for document, path in files.items():
                path.write_bytes(documents(number)[document])
        os.sync()  # what was written before is not to be waited for here
        started = time.monotonic()
        make(folder, nodes)
        seconds = time.monotonic() - started
        return seconds, (folder / "0.iso").stat().st_size


def cold() -> float:
    """Seconds for one CD by the command line."""
    with tempfile.TemporaryDirectory(prefix="bench-seed-", dir="/var/tmp") as name:
        folder = Path(name) / "data/debian"
        folder.mkdir(parents=True)
        for document, content in documents(0).items():
            (folder / document).write_bytes(content)
        command = [Path(sys.executable).with_name("hapx-build"), "create", "-o", "bench", "-n", "network-config"]
        started = time.monotonic()
        subprocess.run(command, cwd=name, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        return time.monotonic() - started


def main() -> None:
    """Measure and print the table; exit 1 where it is slower than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()

    tools: dict[str, Callable[[Path, int], None]] = {"hapx-build": ours}
    if shutil.which("genisoimage"):
        tools["genisoimage"] = genisoimage
    if shutil.which("cloud-localds"):
        tools["cloud-localds"] = cloud_localds
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in tools}
    starts = []
    for _ in range(arguments.runs):
        for name, make in tools.items():
            found[name].append(timed(make, arguments.nodes))
        starts.append(cold())

    medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in found.items()}
    others = [median for name, median in medians.items() if name != "hapx-build"]
    start = statistics.median(starts)
    table = Table(title=f"{arguments.nodes} CDs, median of {arguments.runs}", title_justify="left")
    for heading in ("what", "seconds", "ms each", "bytes each", "hapx-build takes", "wanted"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, median in medians.items():
        ratio = f"{medians['hapx-build'] / median:.2f} of it" if name != "hapx-build" else ""
        each, size = f"{median / arguments.nodes * 1000:.1f}", f"{found[name][0][1]:,}"
        table.add_row(name, f"{median:.2f}", each, size, ratio, f"at most {MOST}" if ratio else "")
    table.add_row("one from a cold start", f"{start:.2f}", "", "", "", f"under {COLD_SECONDS} s")
    Console(width=110).print(table)
    if start >= COLD_SECONDS or any(medians["hapx-build"] > MOST * median for median in others):
        sys.exit(1)


if __name__ == "__main__":
    main()
