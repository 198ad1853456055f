"""How long a cold `hapx-build` takes to answer: a process of its own each time, beside a bare Python.

python tests/bench/bench_cli.py [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

COMMAND = str(Path(sys.executable).with_name("hapx-build"))
TARGETS = {"--help": 200.0}  # milliseconds
CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "--help": [COMMAND, "--help"],
    "--version": [COMMAND, "--version"],
    "image --help": [COMMAND, "image", "--help"],
    "image --list-vars": [COMMAND, "image", "--list-vars"],
    "image --dry-run": [COMMAND, "image", "--dry-run"],
}


def milliseconds(argv: list[str], folder: Path) -> float:
    """One run, from start to exit."""
    started = time.perf_counter()
    subprocess.run(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    table = Table(title=f"milliseconds, {runs} runs")
    for heading in ("", "median", "least", "most", "at most"):
        table.add_column(heading, justify="left" if not heading else "right")
    with tempfile.TemporaryDirectory() as name:
        for case, argv in CASES.items():
            took = [milliseconds(argv, Path(name)) for _ in range(runs)]
            numbers = (statistics.median(took), min(took), max(took))
            target = f"{TARGETS[case]:.0f}" if case in TARGETS else ""
            table.add_row(case, *(f"{number:.0f}" for number in numbers), target)
    Console().print(table)


if __name__ == "__main__":
    main()
