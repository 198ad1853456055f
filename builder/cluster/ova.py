"""Which OVA a cluster's new machines are made from, and which configuration its nodes should have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.hypervisor import Base
from builder.machines import Fleet
from builder.progress import Reporter

FOLDER = Path("dist")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A base, and the OVA to import it from; None where every host has it."""

    base: Base
    path: Path | None


def choose(
    given: str | None, imported: Sequence[Sequence[Base]], reporter: Reporter, *, key: str | None = None
) -> Chosen:
    """The OVA that was named; else the newest in dist/; else a base that every host has; else one baked now.

    `imported` are the bases of each host, `key` is as in `bases.checked`. Raises what that and a bake raise.
    """
    from builder.hypervisor import bases

    source = given or newest(FOLDER)
    if source is None:
        everywhere = set(imported[0]).intersection(*imported[1:]) if imported else set()
        if everywhere:
            return Chosen(bases.newest(sorted(everywhere, key=lambda base: base.name)), None)
        source = str(_bake(reporter))
    checked = bases.checked(source, reporter=reporter, key=key)
    return Chosen(checked.base, checked.path)


def newest(folder: Path) -> str | None:
    """The OVA in a folder that was written last; None where there is none."""
    found = sorted(folder.glob("*.ova"), key=lambda path: path.stat().st_mtime)
    return str(found[-1]) if found else None


def generation(fleet: Fleet) -> str:
    """The generation that the nodes' seeds carry, made from the spec and its secrets."""
    from builder.seed import secrets
    from builder.seed.files import cluster_files, needed_secrets
    from builder.seed.templates import Templates

    *_, facts = cluster_files(
        fleet.cluster, secrets.load(fleet.spec.secrets, needed_secrets(fleet.cluster)), Templates()
    )
    return str(json.loads(facts.as_data()["content"])["generation"])


def _bake(reporter: Reporter) -> Path:
    from builder.image import bake

    return bake.bake(bake.prepare(bake.BakeRequest()), reporter).ova
