"""What stands beside an OVA, and every way it may be changed: each is found."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.errors import InputError
from builder.image import checksums, signature
from builder.image.companions import Companion, beside
from builder.image.verify import Report, Severity
from builder.image.verify import beside as companions
from tests import releases

STEM = "hapx-1.2-amd64"


def report(ova: Path) -> Report:
    """What `verify` says of an OVA in which nothing is wrong."""
    return Report(ova, ova.stat().st_size, checksums.of_file(ova), (), None, ())


def found(ova: Path, key: str | None = None) -> set[str]:
    return {finding.check for finding in companions.check(report(ova), key=key).findings}


@pytest.fixture
def ova(tmp_path: Path) -> Path:
    return releases.make(tmp_path / "dist", b"an OVA")


def edited(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON document."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def listed_again(ova: Path) -> None:
    """What somebody does who changes a file and its checksum: only the signature, and the other files, tell."""
    sums = beside(ova, Companion.SUMS)
    names = checksums.parse(sums.read_text())
    sums.write_text(checksums.text({name: checksums.of_file(ova.with_name(name)) for name in names}))


def test_nothing_is_wrong_with_what_was_written(ova: Path) -> None:
    assert found(ova) == set()


def test_nothing_is_asked_of_an_ova_that_stands_alone(tmp_path: Path) -> None:
    alone = tmp_path / "alone.ova"
    alone.write_bytes(b"x")
    assert found(alone) == set()


EDITS: dict[str, tuple[Companion, Callable[[Any], object], set[str]]] = {
    "SPDX lacks a package": (Companion.SPDX, lambda each: each["packages"].pop(), {"sbom.packages"}),
    "SPDX has another version": (
        Companion.SPDX,
        lambda each: each["packages"][1]["externalRefs"][0].update(referenceLocator="pkg:deb/debian/haproxy@9"),
        {"sbom.packages"},
    ),
    "SPDX is of another OVA": (
        Companion.SPDX,
        lambda each: each["packages"][0]["checksums"][0].update(checksumValue="0" * 64),
        {"sbom.digest"},
    ),
    "SPDX is none": (Companion.SPDX, lambda each: each.pop("packages"), {"sbom.format"}),
    "CycloneDX lacks a package": (Companion.CYCLONEDX, lambda each: each["components"].pop(), {"sbom.packages"}),
    "CycloneDX has one more": (
        Companion.CYCLONEDX,
        lambda each: each["components"].append({"purl": "pkg:deb/debian/backdoor@1"}),
        {"sbom.packages"},
    ),
    "CycloneDX is of another OVA": (
        Companion.CYCLONEDX,
        lambda each: each["metadata"]["component"].update(hashes=[]),
        {"sbom.digest"},
    ),
    "CycloneDX has numbers for texts": (
        Companion.CYCLONEDX,
        lambda each: each["components"][0].update(purl=7),
        {"sbom.packages"},
    ),
    "CycloneDX is none": (Companion.CYCLONEDX, lambda each: each.update(components=7), {"sbom.format"}),
    "provenance is of another OVA": (
        Companion.PROVENANCE,
        lambda each: each["subject"][0]["digest"].update(sha256="0" * 64),
        {"provenance.subject"},
    ),
    "provenance has a second subject": (
        Companion.PROVENANCE,
        lambda each: each["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}}),
        {"provenance.subject"},
    ),
    "provenance lacks a package": (
        Companion.PROVENANCE,
        lambda each: each["predicate"]["buildDefinition"]["resolvedDependencies"].pop(),
        {"provenance.packages"},
    ),
    "provenance is another statement": (
        Companion.PROVENANCE,
        lambda each: each.update(predicateType="https://example.org/other"),
        {"provenance.format"},
    ),
    "manifest is of another OVA": (
        Companion.MANIFEST,
        lambda each: each["ova"].update(sha256="0" * 64),
        {"build.digest"},
    ),
    "manifest lacks a package": (
        Companion.MANIFEST,
        lambda each: each["packages"].pop(),
        {"sbom.packages", "provenance.packages"},
    ),
    "manifest has no list of packages": (Companion.MANIFEST, lambda each: each.update(packages=3), {"build.manifest"}),
    "manifest is none": (Companion.MANIFEST, lambda each: each.pop("inputs"), {"build.manifest"}),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_is_found_even_with_its_checksum(
    edit: tuple[Companion, Callable[[Any], object], set[str]], ova: Path
) -> None:
    companion, change, checks = edit
    edited(beside(ova, companion), change)
    assert found(ova) == {"sums.digest", *checks}
    listed_again(ova)
    assert found(ova) == checks


@pytest.mark.parametrize("companion", [Companion.SPDX, Companion.CYCLONEDX, Companion.PROVENANCE, Companion.MANIFEST])
@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b"7", b"{", b"[" * 100_000],
    ids=["empty", "no UTF-8", "a list", "a number", "half", "deep"],
)
def test_a_file_that_cannot_be_read_is_a_finding(companion: Companion, data: bytes, ova: Path) -> None:
    beside(ova, companion).write_bytes(data)
    checks = found(ova)
    assert "sums.digest" in checks
    assert checks & {"sbom.format", "provenance.format", "build.manifest"}


def test_another_ova(ova: Path) -> None:
    ova.write_bytes(b"another OVA")
    assert found(ova) == {"sums.digest", "build.digest", "sbom.digest", "provenance.subject"}


def test_files_that_are_gone(ova: Path) -> None:
    beside(ova, Companion.SPDX).unlink()
    assert found(ova) == {"sums.missing", "sbom.absent"}
    beside(ova, Companion.PROVENANCE).unlink()
    assert found(ova) == {"sums.missing", "sbom.absent", "provenance.absent"}
    beside(ova, Companion.SUMS).unlink()
    assert found(ova) == {"sums.absent", "sbom.absent", "provenance.absent"}
    assert companions.check(report(ova)).ok


def test_checksums_that_are_none_or_not_all(ova: Path) -> None:
    sums = beside(ova, Companion.SUMS)
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if ".spdx.json" not in line))
    assert found(ova) == {"sums.incomplete"}
    sums.write_text("rubbish\n")
    assert found(ova) == {"sums.format"}


def test_the_signature(ova: Path, tmp_path: Path) -> None:
    secret, public, other = (tmp_path / name for name in ("a.key", "a.pub", "b.pub"))
    for key, pub in ((secret, public), (tmp_path / "b.key", other)):
        subprocess.run(["minisign", "-G", "-W", "-s", key, "-p", pub], check=True, capture_output=True)
    assert found(ova, str(public)) == {"signature.absent"}
    signature.sign(beside(ova, Companion.SUMS), beside(ova, Companion.SIGNATURE), key=secret)
    assert found(ova, str(public)) == set()
    assert found(ova, str(other)) == {"signature.wrong"}

    edited(beside(ova, Companion.SPDX), lambda each: each["packages"].pop())
    edited(beside(ova, Companion.CYCLONEDX), lambda each: each["components"].pop())
    edited(
        beside(ova, Companion.PROVENANCE),
        lambda each: each["predicate"]["buildDefinition"]["resolvedDependencies"].pop(),
    )
    edited(beside(ova, Companion.MANIFEST), lambda each: each["packages"].pop())
    listed_again(ova)
    assert found(ova) == set()  # everything was changed, and fits together
    assert found(ova, str(public)) == {"signature.wrong"}  # but for what only its maker can make

    beside(ova, Companion.SUMS).unlink()
    assert "signature.absent" in found(ova, str(public))


def test_a_key_that_is_none(ova: Path) -> None:
    with pytest.raises(InputError, match="neither a file nor a public key"):
        companions.check(report(ova), key="nothing")


def test_severity_and_where(ova: Path) -> None:
    edited(beside(ova, Companion.SPDX), lambda each: each["packages"].pop())
    checked = companions.check(report(ova))
    assert not checked.ok
    assert {(finding.severity, finding.where) for finding in checked.findings} == {
        (Severity.ERROR, f"{STEM}.SHA256SUMS"),
        (Severity.ERROR, f"{STEM}.spdx.json"),
    }
