"""OVAs -> bases: which OVA is meant, whether it is what it should be, and which base is the newest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HapxError, InputError, UntrustedError
from builder.hypervisor import Base
from builder.progress import Reporter

DOWNLOADS = Path("dist")
# What is a name on every hypervisor, in every file system, and no option.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}")


@dataclass(frozen=True, slots=True)
class Checked:
    """An OVA that is what it should be, and the base that it makes."""

    path: Path
    base: Base


def checked(source: str, *, reporter: Reporter, name: str | None = None, key: str | None = None) -> Checked:
    """The OVA of a file or an address, fetched if need be, checked by its .sha256 and by `verify`.

    With `key`, minisign's public key or its file, its SHA256SUMS has to be signed with that. The base is called `name`,
    else like the file without its ending: hapx-<version>-<arch>. Raises InputError, UntrustedError, and what
    `publish.fetch` raises.
    """
    from builder.image.verify import verify
    from builder.publish.fetch import fetch

    path = fetch(source, DOWNLOADS, reporter, key=key)
    called = name or path.name.removesuffix(".ova")
    if not _NAME.fullmatch(called):
        raise InputError(f"{called!r} is no name for a base", hint="letters, digits and . _ + ~ -, at most 100: --name")
    reporter.begin("verify", title=f"Verify {path.name}")
    report = verify(path, on_progress=lambda done, total: reporter.advance(done, total, unit="B"))
    if not report.ok:
        reporter.fail()
        errors = [str(finding) for finding in report.findings if finding.severity == "error"]
        raise UntrustedError(f"{path}: this OVA is not in order", hint=f"hapx-build verify {path}", details=errors)
    reporter.end()
    return Checked(path, Base(called, report.sha256))


def newest(bases: Sequence[Base]) -> Base:
    """The base with the highest version in its name; raises HapxError where there is none."""
    if not bases:
        raise HapxError("there is no base to clone", hint="hapx-build import dist/hapx-….ova")
    return max(bases, key=lambda base: _ordered(base.name))


def _ordered(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts numbers in names by their value, and a "~" before everything, as Debian's versions have it."""
    parts = re.findall(r"\d+|~|[^\d~]+", name)
    return (
        *((1, int(part), "") if part.isdigit() else (-1 if part == "~" else 2, 0, part) for part in parts),
        (0, 0, ""),
    )
