"""A bake's files without a bake: what `hapx-build image` writes beside an OVA, for an OVA of any bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from builder.image import attest
from builder.image.companions import beside

EPOCH = 1_700_000_000
PACKAGES = (
    {"name": "haproxy", "version": "3.0.11-1+deb13u1", "arch": "amd64", "size_kib": 4711},
    {"name": "libc6", "version": "2.41-12", "arch": "amd64", "size_kib": 12999},
    {"name": "libstdc++6", "version": "14.2.0-19", "arch": "amd64", "size_kib": 2795},
    {"name": "openssh-server", "version": "1:10.0p1-7~deb13u1", "arch": "amd64", "size_kib": 1925},
    {"name": "tzdata", "version": "2025b-4+deb13u1", "arch": "all", "size_kib": 1500},
)


def manifest(sha256: str, size: int, *, version: str = "1.2", name: str = "") -> dict[str, Any]:
    """A build manifest, of the shape that `builder.image.manifest.compose` gives it."""
    return {
        "format": 1,
        "name": name or f"hapx-{version}-amd64",
        "version": version,
        "inputs": {
            "key": "1" * 64,
            "root_key": "2" * 64,
            "mirror_state": "3" * 64,
            "source": "null.bootstrap",
            "release": "trixie",
            "arch": "amd64",
            "mirror": "",
            "hostname": "hapx",
            "disk_size_mib": 8192,
            "cpus": 2,
            "memory_mib": 1024,
            "packages": ["haproxy", "openssh-server"],
            "source_date_epoch": EPOCH,
        },
        "tools": {"hapx-build": "0.1.0", "packer": "1.6.6", "mmdebstrap": "1.3.5", "libdeflate": None},
        "ova": {"path": "/x/hapx.ova", "size": size, "sha256": sha256, "members": [], "vmdk": {}},
        "packages": [dict(package) for package in PACKAGES],
        "stages": {"unpack": 2.14, "10-packages": 0.2, "disk": 2.8, "package": 2.2},
    }


def complete(ova: Path, *, version: str = "1.2") -> Path:
    """Write beside an OVA what `hapx-build image` would; its path again."""
    data = ova.read_bytes()
    made = manifest(hashlib.sha256(data).hexdigest(), len(data), version=version)
    for companion, text in attest.texts(made, json.dumps(made, indent=2) + "\n", ova).items():
        beside(ova, companion).write_text(text)
    return ova


def make(folder: Path, data: bytes, *, version: str = "1.2") -> Path:
    """An OVA of these bytes, and all that stands beside it, in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ova = folder / f"hapx-{version}-amd64.ova"
    ova.write_bytes(data)
    return complete(ova, version=version)
