"""The disk of an OVA as qcow2, read where it lies in the tar."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

from builder.command import require, run
from builder.errors import InputError

SECONDS = 3600.0


def workplace() -> Path:
    """Where a disk may lie for a moment: $TMPDIR, else /var/tmp, as /tmp is memory on many machines."""
    return Path(os.environ.get("TMPDIR", "/var/tmp"))  # noqa: S108


def to_qcow2(ova: Path, target: Path) -> int:
    """Write the OVA's one disk as qcow2; its size in bytes, as a guest sees it.

    Raises InputError for what is no OVA with one disk, MissingError (qemu-img), CommandError.
    """
    require("qemu-img", package="qemu-utils")
    try:
        with tarfile.open(ova) as archive:
            disks = [member for member in archive if member.name.endswith(".vmdk")]
    except tarfile.TarError as error:
        raise InputError(f"{ova}: is no OVA: {error}", hint="hapx-build verify says more") from None
    if len(disks) != 1:
        raise InputError(f"{ova}: holds {len(disks)} disks, not one", hint="hapx-build verify says more")
    where = {"driver": "file", "filename": str(ova.absolute())}
    piece = {"driver": "raw", "offset": disks[0].offset_data, "size": disks[0].size, "file": where}
    source = "json:" + json.dumps({"driver": "vmdk", "file": piece})
    run(["qemu-img", "convert", "-O", "qcow2", source, str(target)], timeout=SECONDS)
    told = run(["qemu-img", "info", "--output", "json", str(target)], timeout=60)
    return int(json.loads(told.stdout)["virtual-size"])
