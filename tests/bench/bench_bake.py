"""How long a bake takes beside a bare mmdebstrap of the same packages from the same mirror, in the same run.

    python tests/bench/bench_bake.py [--runs N] [--release trixie]

Everything happens in a folder and with a cache of its own. A run is: mmdebstrap alone, a cold bake (empty cache),
a bake after a change in a provisioning script (the root comes from the cache), and a bake where nothing changed.
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
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder.image.plan import read_packages

PACKER = Path(__file__).resolve().parents[2] / "packer"


def timed(argv: list[str], *, cwd: Path, env: dict[str, str]) -> float:
    """Seconds that a program takes; its output goes to a log beside."""
    started = time.monotonic()
    with (cwd / "bench.log").open("a") as log:
        subprocess.run(argv, cwd=cwd, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def one_run(folder: Path, release: str) -> dict[str, float]:
    """The seconds of each kind of bake, once."""
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    packages = ",".join(read_packages(PACKER / "packages.list", release))
    seconds = {}
    bare = ["mmdebstrap", "--variant=minbase", f"--include={packages}", release, str(folder / "bare.tar")]
    seconds["bare mmdebstrap"] = timed(bare, cwd=folder, env=env)
    (folder / "bare.tar").unlink()

    shutil.copytree(PACKER, folder / "packer")
    bake = [sys.executable, "-m", "builder.cli", "image", "--release", release]
    seconds["cold bake"] = timed(bake, cwd=folder, env=env)
    script = folder / "packer/scripts/30-system.sh"
    script.write_text(script.read_text() + "\n# changed\n")
    seconds["provisioning changed"] = timed([*bake, "--force"], cwd=folder, env=env)
    seconds["nothing changed"] = timed(bake, cwd=folder, env=env)
    (ova,) = (folder / "dist").glob("*.ova")
    seconds["OVA in MB"] = ova.stat().st_size / 1e6
    return seconds


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--release", default="trixie")
    arguments = parser.parse_args()
    found: list[dict[str, float]] = []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="bench-bake-", dir="/var/tmp") as name:
            folder = Path(name)
            folder.chmod(0o755)
            found.append(one_run(folder, arguments.release))

    medians = {name: statistics.median(run[name] for run in found) for name in found[0]}
    bare, cold = medians["bare mmdebstrap"], medians["cold bake"]
    title = f"Debian {arguments.release}, median of {arguments.runs}, {os.cpu_count()} processors"
    table = Table(title=title, title_justify="left")
    for heading in ("what", "seconds", "ratio", "wanted"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    table.add_row("bare mmdebstrap", f"{bare:.1f}", "", "")
    table.add_row("cold bake, OVA included", f"{cold:.1f}", f"{cold / bare:.2f} of mmdebstrap", "at most 1.25")
    warm, same = medians["provisioning changed"], medians["nothing changed"]
    table.add_row("provisioning changed", f"{warm:.1f}", f"{warm / cold:.2f} of cold", "at most 0.40")
    table.add_row("nothing changed", f"{same:.2f}", f"{same / cold:.3f} of cold", "at most 1.5 s")
    table.add_row("the OVA", "", f"{medians['OVA in MB']:.1f} MB", "at most 230 MB")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
