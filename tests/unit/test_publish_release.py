"""What is published: collected, checked, listed; and lists that others wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.errors import InputError, UntrustedError
from builder.image.companions import Companion, beside
from builder.publish import oci, release
from tests import releases

STEM = "hapx-1.2-amd64"


@pytest.fixture
def ova(tmp_path: Path) -> Path:
    return releases.make(tmp_path / "dist", b"an OVA")


def test_everything_that_belongs_to_it_and_nothing_else(ova: Path) -> None:
    (ova.parent / f"{STEM}.log").write_text("a log")
    (ova.parent / f"{STEM}.html").write_text("a report")
    found = release.collect(ova)
    endings = (".ova", ".manifest.json", ".spdx.json", ".cdx.json", ".provenance.json", ".ova.sha256", ".SHA256SUMS")
    assert [file.name for file in found.files] == [f"{STEM}{ending}" for ending in endings]
    assert (found.name, found.version, found.ova.size) == (STEM, "1.2", 6)
    beside(ova, Companion.SIGNATURE).write_text("a signature")
    assert {file.name for file in release.collect(ova).files} - {file.name for file in found.files} == {
        f"{STEM}.SHA256SUMS.minisig"
    }


def test_what_is_listed_is_read_back(ova: Path) -> None:
    found = release.collect(ova)
    assert release.parse(found.text(), "x") == found
    assert oci.release_of(oci.manifest(found), "x") == found


@pytest.mark.parametrize("ending", [".manifest.json", ".spdx.json", ".ova.sha256", ".SHA256SUMS", ".ova"])
def test_a_file_that_is_gone(ending: str, ova: Path) -> None:
    (ova.parent / f"{STEM}{ending}").unlink()
    with pytest.raises(InputError, match=f"not there: .*{ending}"):
        release.collect(ova)


@pytest.mark.parametrize("ending", [".manifest.json", ".cdx.json", ".ova.sha256", ".SHA256SUMS", ".ova"])
def test_a_file_that_was_changed(ending: str, ova: Path) -> None:
    with (ova.parent / f"{STEM}{ending}").open("a") as file:
        file.write("x")
    with pytest.raises(UntrustedError):
        release.collect(ova)


def no_ova(data: Any) -> None:
    data["files"] = [file for file in data["files"] if not file["name"].endswith(".ova")]


BAD: dict[str, Callable[[Any], object]] = {
    "a name that leads out": lambda data: data["files"][1].update(name="../../etc/passwd"),
    "a name with a folder": lambda data: data["files"][1].update(name="a/b"),
    "a hidden name": lambda data: data["files"][1].update(name=".bashrc"),
    "a name that is none": lambda data: data["files"][1].update(name=7),
    "a version that leads out": lambda data: data.update(version="../x"),
    "no OVA": no_ova,
    "two OVAs": lambda data: data["files"].append(dict(data["files"][0], name="y.ova")),
    "a name twice": lambda data: data["files"].append(data["files"][1]),
    "no digest": lambda data: data["files"][0].update(sha256="?"),
    "no size": lambda data: data["files"][0].update(size="large"),
    "something more": lambda data: data["files"][0].update(more=1),
    "another format": lambda data: data.update(format=2),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_list_that_is_none(change: Callable[[Any], object], ova: Path) -> None:
    data = json.loads(release.collect(ova).text())
    change(data)
    with pytest.raises(InputError, match=r"^https://example\.org/latest\.json: not a list of what was published"):
        release.parse(json.dumps(data), "https://example.org/latest.json")


@pytest.mark.parametrize("text", ["", "<html>", "7", "[]", "{}", "[" * 100_000], ids=lambda text: text[:6])
def test_a_text_that_is_no_list(text: str) -> None:
    with pytest.raises(InputError, match="not a list of what was published"):
        release.parse(text, "x")
    with pytest.raises(InputError, match="not an appliance"):
        oci.release_of(text.encode(), "x")


def test_an_artifact_of_others() -> None:
    with pytest.raises(InputError, match="not an appliance that hapx-build published"):
        oci.release_of(json.dumps({"schemaVersion": 2, "artifactType": "application/x", "layers": []}).encode(), "x")
