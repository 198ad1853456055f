"""The build manifest: what went into an image, what it holds, how long each stage took; JSON beside the OVA."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from builder import __version__, command
from builder.image.plan import BakePlan

FORMAT = 1


def installed_packages(root: Path) -> list[dict[str, str | int]]:
    """Every installed package of a root file system: name, version, architecture, installed size in KiB.

    Reads dpkg's status file (deb-control(5) stanzas) rather than running the root's dpkg, so it works for any root.
    """
    packages: list[dict[str, str | int]] = []
    for stanza in (root / "var/lib/dpkg/status").read_text(errors="replace").split("\n\n"):
        lines = (line.partition(":") for line in stanza.splitlines() if line and not line[0].isspace())
        fields = {name: value.strip() for name, _, value in lines}
        if fields.get("Status", "").endswith(" installed"):
            packages.append(
                {
                    "name": fields["Package"],
                    "version": fields["Version"],
                    "arch": fields["Architecture"],
                    "size_kib": int(fields.get("Installed-Size", "0")),
                }
            )
    return sorted(packages, key=lambda package: (package["name"], package["arch"]))


def compose(
    plan: BakePlan,
    *,
    packer: str,
    mirror_state: str,
    epoch: int,
    ova: Mapping[str, Any],
    stages: Mapping[str, float],
) -> dict[str, Any]:
    """The manifest of a finished bake. `packer` is Packer's version, `stages` seconds by stage, `epoch` seconds."""
    return {
        "format": FORMAT,
        "name": plan.name,
        "version": plan.version,
        "inputs": {
            "key": plan.key,
            "root_key": plan.root_key,
            "mirror_state": mirror_state,
            "source": plan.source,
            "release": plan.release,
            "arch": plan.arch,
            "mirror": plan.mirror,
            "hostname": plan.hostname,
            "disk_size_mib": plan.disk_size_mib,
            "cpus": plan.cpus,
            "memory_mib": plan.memory_mib,
            "packages": list(plan.packages),
            "source_date_epoch": epoch,
        },
        "tools": {
            "hapx-build": __version__,
            "packer": packer,
            "mmdebstrap": command.version("mmdebstrap"),
            "libdeflate": metadata.version("deflate"),
            "python": platform.python_version(),
        },
        "ova": dict(ova),
        "packages": installed_packages(plan.root),
        "stages": {name: round(seconds, 2) for name, seconds in stages.items()},
    }


def read(path: Path) -> dict[str, Any] | None:
    """A manifest that `compose` made, or None where there is none that can be read."""
    try:
        data = json.loads(path.read_text())
        told = (data["inputs"]["key"], data["inputs"]["mirror_state"], data["ova"]["sha256"])
        whole = data["format"] == FORMAT and all(isinstance(text, str) for text in told)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return data if whole else None
