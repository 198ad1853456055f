"""The texts that are written beside an OVA: packages, provenance, checksums. All of them follow from the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.image import checksums, provenance, sbom
from builder.image.companions import Companion, beside


def texts(manifest: Mapping[str, Any], manifest_text: str, ova: Path) -> dict[Companion, str]:
    """Every companion of `ova` that follows from its build manifest; `manifest_text` is the manifest's file."""
    name, digest = ova.name, manifest["ova"]["sha256"]
    made = {
        Companion.MANIFEST: manifest_text,
        Companion.SPDX: _json(sbom.spdx(manifest, name)),
        Companion.CYCLONEDX: _json(sbom.cyclonedx(manifest, name)),
        Companion.PROVENANCE: _json(provenance.statement(manifest, name)),
    }
    stem = name.removesuffix(".ova")
    digests = {f"{stem}{kind}": hashlib.sha256(text.encode()).hexdigest() for kind, text in made.items()}
    return {
        **made,
        Companion.DIGEST: f"{digest}  {name}\n",
        Companion.SUMS: checksums.text({name: digest, **digests}),
    }


def wrong(manifest: Mapping[str, Any], ova: Path) -> Path | None:
    """The first companion that is not there as its build manifest, which is beside it, wants it; None for none."""
    path = beside(ova, Companion.MANIFEST)
    try:
        right = texts(manifest, path.read_text(), ova)
    except (OSError, KeyError, TypeError, ValueError):
        return path
    for companion, text in right.items():
        path = beside(ova, companion)
        if not path.is_file() or path.read_bytes() != text.encode():
            return path
    return None


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
