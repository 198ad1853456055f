"""The files that stand beside an OVA and what they are called: its name without .ova, then one of these endings."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class Companion(StrEnum):
    """What is beside an OVA, by the ending of its name."""

    DIGEST = ".ova.sha256"
    MANIFEST = ".manifest.json"
    SPDX = ".spdx.json"
    CYCLONEDX = ".cdx.json"
    PROVENANCE = ".provenance.json"
    SUMS = ".SHA256SUMS"
    SIGNATURE = ".SHA256SUMS.minisig"
    REPORT = ".html"


# What SHA256SUMS lists besides the OVA: whoever trusts that file, by its signature, can trust these.
LISTED = (Companion.MANIFEST, Companion.SPDX, Companion.CYCLONEDX, Companion.PROVENANCE)


def beside(ova: Path, companion: Companion) -> Path:
    """Where a companion of this OVA is."""
    return ova.with_name(f"{ova.name.removesuffix('.ova')}{companion}")
