"""`hapx-build image --source qemu.cloud`: the same scripts over SSH in a machine that Packer boots, and the same image.

The machine starts from the disk of the baked OVA, so that it installs nothing and needs no network: it has none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.image import checksums
from builder.image.companions import Companion, beside
from tests.e2e.image import Disk
from tests.integration.baking import COMMAND, REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.vms]

SECONDS = 3600.0


def packages(ova: Path) -> dict[str, str]:
    manifest = json.loads(beside(ova, Companion.MANIFEST).read_text())
    return {package["name"]: package["version"] for package in manifest["packages"]}


def test_a_machine_gives_the_image_that_a_bootstrap_gives(
    baked: Path, disk: Disk, tmp_path: Path, note_time: Callable[[str], None]
) -> None:
    base = tmp_path / "base.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", disk.path, base], check=True)
    # A network with nobody in it: Packer reaches the machine by loopback, and the machine nothing.
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv = ["unshare", *user, "--net", "--", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    argv += [COMMAND, "image", "--json", "--source", "qemu.cloud", "--var", f"base_image={base}"]
    argv += ["--var", f"base_checksum=sha256:{checksums.of_file(base)}"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ova = Path(events[-1]["ova"])
    seconds = next(event["seconds"] for event in events if event["event"] == "done" and event["stage"] == "machine")
    sizes = f"{ova.stat().st_size / 1e6:.1f} MB, of a bootstrap {baked.stat().st_size / 1e6:.1f} MB"
    note_time(f"qemu.cloud: {seconds:.0f} s in the machine, {sizes}")

    assert packages(ova) == packages(baked)
    assert ova.stat().st_size < 1.05 * baked.stat().st_size, sizes
    subprocess.run([COMMAND, "verify", ova], check=True, capture_output=True)
    # All that is asked of what a bootstrap gives: nothing of this machine is in it, and all that has to be is.
    hygiene = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/e2e/test_hygiene.py"]
    environment = os.environ | {"HAPX_TEST_OVA": str(ova)}
    checked = subprocess.run(hygiene, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
