"""What stands beside an OVA: checksums, lists of packages, provenance, signature. Read offline, and not trusted.

SHA256SUMS says what the other files have to be, a signature who says so, and the build manifest what the lists of
packages and the provenance have to say.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builder.image import checksums, manifest, provenance, sbom, signature
from builder.image.companions import LISTED, Companion, beside
from builder.image.verify import Report
from builder.image.verify.checks import Findings

LARGEST = 16 << 20  # bytes of a companion
_CHANGED = "the file was changed after it was made, or comes from another build"


def check(report: Report, *, key: str | None = None) -> Report:
    """The report on an OVA with what is wrong with the files beside it.

    An OVA that nothing stands beside gets no finding, unless `key` is given: the public key (a file, or the key itself)
    that its SHA256SUMS has to be signed with. Raises InputError for a key that is none, and MissingError where there
    is a signature to check and no minisign.
    """
    findings = Findings()
    ova = report.path
    there = {companion: path for companion in Companion if (path := beside(ova, companion)).is_file()}
    if key is not None:
        _signature(ova, there, key, findings)
    if any(companion in there for companion in LISTED):
        _sums(report, there, findings)
        _documents(report, there, findings)
    return dataclasses.replace(report, findings=(*report.findings, *findings.all()))


def _signature(ova: Path, there: Mapping[Companion, Path], key: str, findings: Findings) -> None:
    signature.public_key(key)
    name = beside(ova, Companion.SIGNATURE).name
    if Companion.SUMS not in there or Companion.SIGNATURE not in there:
        lacking = Companion.SUMS if Companion.SUMS not in there else Companion.SIGNATURE
        said = f"{beside(ova, lacking).name} is not there: nothing says whose OVA this is"
        findings.add("signature.absent", ova.name, "", said, hint="hapx-build sign makes it")
    elif said := signature.fault(there[Companion.SUMS], there[Companion.SIGNATURE], key):
        findings.add("signature.wrong", name, "", f"not a signature of {there[Companion.SUMS].name}: {said}")


def _sums(report: Report, there: Mapping[Companion, Path], findings: Findings) -> None:
    ova = report.path
    path = there.get(Companion.SUMS)
    if path is None:
        said = f"{beside(ova, Companion.SUMS).name} is not there: nothing tells a changed file from the right one"
        findings.add("sums.absent", ova.name, "", said, hint="hapx-build image writes it")
        return
    try:
        listed = checksums.parse(_read(path))
    except ValueError as error:
        findings.add("sums.format", path.name, "", str(error), hint="`DIGEST  NAME` a line, as sha256sum writes it")
        return
    digests = {ova.name: report.sha256}
    for name in listed:
        if name != ova.name and ova.with_name(name).is_file():
            digests[name] = checksums.of_file(ova.with_name(name))
    for name, digest in listed.items():
        if name not in digests:
            findings.add("sums.missing", path.name, "", f"{name} is listed, and is not there")
        elif digests[name] != digest:
            said = f"SHA-256 of {name} is {digests[name]}, this file says {digest}"
            findings.add("sums.digest", path.name, "", said, hint=_CHANGED)
    wanted = [ova.name, *(beside(ova, companion).name for companion in LISTED if companion in there)]
    for name in wanted:
        if name not in listed:
            findings.add("sums.incomplete", path.name, "", f"nothing says what {name} has to be")


def _documents(report: Report, there: Mapping[Companion, Path], findings: Findings) -> None:
    """The manifest against the OVA, then what follows from the manifest against it."""
    ova = report.path
    path = there.get(Companion.MANIFEST)
    whole = manifest.read(path) if path is not None else None
    if whole is None or path is None:
        said = "not the build manifest of hapx-build" if path is not None else "it is not there"
        findings.add("build.manifest", beside(ova, Companion.MANIFEST).name, "", said)
        return
    if whole["ova"]["sha256"] != report.sha256:
        said = f"it was written for an OVA with SHA-256 {whole['ova']['sha256']}, this one has {report.sha256}"
        findings.add("build.digest", path.name, "", said, hint=_CHANGED)
    try:
        packages = set(sbom.urls_of_manifest(whole))
    except (KeyError, TypeError, ValueError, AttributeError):
        findings.add("build.manifest", path.name, "", "it has no list of packages that can be read")
        return
    spdx, cyclonedx = there.get(Companion.SPDX), there.get(Companion.CYCLONEDX)
    for file, urls_of, digests_of in (
        (spdx, sbom.urls_of_spdx, sbom.digests_of_spdx),
        (cyclonedx, sbom.urls_of_cyclonedx, sbom.digests_of_cyclonedx),
    ):
        if file is not None and (read := _parse(file, "sbom.format", findings, urls_of, digests_of)) is not None:
            urls, digests = read
            _same(file.name, "sbom.packages", urls, packages, findings)
            if digests != {report.sha256}:
                said = f"it describes SHA-256 {', '.join(sorted(digests)) or 'of nothing'}, the OVA has {report.sha256}"
                findings.add("sbom.digest", file.name, "", said, hint=_CHANGED)
    if (file := there.get(Companion.PROVENANCE)) is not None:
        both = _parse(file, "provenance.format", findings, provenance.subjects, provenance.dependencies)
        if both is not None:
            subjects, sources = both
            if subjects != {ova.name: report.sha256}:
                told = ", ".join(f"{name} ({digest})" for name, digest in subjects.items()) or "nothing"
                said = f"its subject is {told}, not {ova.name} ({report.sha256})"
                findings.add("provenance.subject", file.name, "", said, hint=_CHANGED)
            _same(file.name, "provenance.packages", sources, packages, findings)
    for companion in (Companion.SPDX, Companion.CYCLONEDX, Companion.PROVENANCE):
        if companion not in there:
            kind = "provenance.absent" if companion is Companion.PROVENANCE else "sbom.absent"
            findings.add(kind, ova.name, "", f"{beside(ova, companion).name} is not there")


def _same(file: str, check: str, found: set[str], right: set[str], findings: Findings) -> None:
    for url in sorted(right - found):
        findings.add(check, file, "", f"{url} is in the build manifest, and not here", hint=_CHANGED)
    for url in sorted(found - right):
        findings.add(check, file, "", f"{url} is here, and not in the build manifest", hint=_CHANGED)


def _parse(
    file: Path, check: str, findings: Findings, *readers: Callable[[Mapping[str, Any]], Any]
) -> list[Any] | None:
    """What readers find in a JSON document; None, and a finding, where it cannot be read for them."""
    try:
        document = json.loads(_read(file))
        return [read(document) for read in readers]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        findings.add(check, file.name, "", f"cannot be read: {type(error).__name__}: {error}")
        return None


def _read(file: Path) -> str:
    """The text of a companion; raises ValueError where it is larger than any can be, or not UTF-8."""
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file.stat().st_size:,} bytes: such a file has some hundred thousand")
    return file.read_text(encoding="utf-8")
