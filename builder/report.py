"""What a bake did and made as one web page without anything from elsewhere: no script, no font, no picture to load."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import InputError
from builder.image import manifest, sbom
from builder.image.companions import Companion, beside
from builder.image.verify import CHECKS, Finding, Report, verify
from builder.image.verify import beside as companions

LARGEST_SHOWN = 25  # packages in the picture of sizes; the table has all
_TEMPLATE = Path(__file__).with_name("report.html.j2")
GROUPS = {
    "tar": "the archive",
    "manifest": "the OVA's manifest",
    "cert": "the OVA's certificate",
    "ovf": "the descriptor",
    "vmdk": "the disk",
    "sums": "SHA256SUMS",
    "signature": "the signature",
    "build": "the build manifest",
    "sbom": "lists of packages",
    "provenance": "the provenance",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: where it starts and how long it is in percent, and what it stands for."""

    name: str
    start: float
    length: float
    value: str


def write(ova: Path, output: Path, spec: Path | None, *, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the page on an OVA that `hapx-build image` made, with the picture of the cluster in `spec`; its path.

    The OVA is verified for it. Raises InputError where it, its build manifest or the spec cannot be read.
    """
    path = beside(ova, Companion.MANIFEST)
    known = manifest.read(path)
    if known is None:
        raise InputError(
            f"{path}: no build manifest that can be read", hint="hapx-build image writes it beside the OVA"
        )
    cluster = None
    if spec is not None:
        from builder.spec import load

        cluster = load(spec)
    checked = companions.check(verify(ova, on_progress=on_progress))
    try:
        text = render(known, checked, cluster)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: something is missing in this build manifest: {error!r}", hint="bake again") from None
    output.parent.mkdir(parents=True, exist_ok=True)
    staged = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        staged.write_text(text)
        staged.rename(output)
    finally:
        staged.unlink(missing_ok=True)
    return output


def render(known: Mapping[str, Any], checked: Report, cluster: Any) -> str:
    """The page for a build manifest, what `verify` found, and a cluster (a builder.spec Cluster, or None)."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from builder import topology

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    packages = sorted(known["packages"], key=lambda package: -package["size_kib"])
    return environment.from_string(_TEMPLATE.read_text()).render(
        known=known,
        made=sbom.timestamp(known),
        checked=checked,
        size=f"{checked.size / 1e6:.1f} MB",
        capacity=f"{(checked.capacity or 0) / 2**30:.0f} GiB",
        installed=f"{sum(package['size_kib'] for package in packages) * 1024 / 1e6:.0f} MB",
        seconds=f"{sum(known['stages'].values()):.1f} s",
        stages=stages(known["stages"]),
        sizes=sizes(packages),
        packages=known["packages"],
        groups=groups(checked.findings),
        cluster=cluster,
        topology=Markup(topology.draw(cluster)) if cluster is not None else "",  # noqa: S704 made by ElementTree
    )


def stages(seconds: Mapping[str, float]) -> list[Bar]:
    """The stages, one after the other, over the time of them all."""
    total, start, bars = sum(seconds.values()) or 1.0, 0.0, []
    for name, took in seconds.items():
        bars.append(Bar(name, 100 * start / total, 100 * took / total, f"{took:.1f} s"))
        start += took
    return bars


def sizes(packages: list[dict[str, Any]]) -> list[Bar]:
    """The largest packages by what they take on the disk; `packages` has the largest first."""
    largest = max((package["size_kib"] for package in packages), default=1) or 1
    return [
        Bar(package["name"], 0.0, 100 * package["size_kib"] / largest, f"{package['size_kib'] * 1024 / 1e6:.1f} MB")
        for package in packages[:LARGEST_SHOWN]
    ]


def groups(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    """The groups of checks: how many checks each has, and its findings."""
    counts = Counter(name.partition(".")[0] for name in CHECKS)
    return [
        {
            "name": GROUPS[group],
            "checks": count,
            "looked": group != "signature",  # which takes a key
            "findings": [finding for finding in findings if finding.check.partition(".")[0] == group],
        }
        for group, count in counts.items()
    ]
