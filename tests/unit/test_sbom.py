"""Lists of packages: valid by the formats' own tools, complete, and the same for the same image."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from spdx_tools.spdx.model.document import Document
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from builder.image import sbom
from tests import releases

OVA = "hapx-1.2-amd64.ova"
MANIFEST = releases.manifest("a" * 64, 12)
URLS = {
    "pkg:deb/debian/haproxy@3.0.11-1%2Bdeb13u1?arch=amd64&distro=debian-13",
    "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13",
    "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=debian-13",
    "pkg:deb/debian/openssh-server@1:10.0p1-7~deb13u1?arch=amd64&distro=debian-13",
    "pkg:deb/debian/tzdata@2025b-4%2Bdeb13u1?arch=all&distro=debian-13",
}


def parsed(folder: Path, document: dict[str, Any]) -> Document:
    path = folder / "x.spdx.json"
    path.write_text(json.dumps(document))
    return parse_file(str(path))


def test_spdx_is_valid_and_lists_every_package(tmp_path: Path) -> None:
    document = parsed(tmp_path, sbom.spdx(MANIFEST, OVA))
    assert [message.validation_message for message in validate_full_spdx_document(document)] == []
    found = {reference.locator for package in document.packages for reference in package.external_references}
    assert found == URLS
    (appliance,) = [package for package in document.packages if package.file_name == OVA]
    assert [checksum.value for checksum in appliance.checksums] == ["a" * 64]
    assert document.creation_info.created.isoformat() == "2023-11-14T22:13:20"
    contained = [each for each in document.relationships if each.relationship_type.name == "CONTAINS"]
    assert {each.related_spdx_element_id for each in contained} == {
        package.spdx_id for package in document.packages if package is not appliance
    }


def test_cyclonedx_is_valid_and_lists_every_package() -> None:
    document = sbom.cyclonedx(MANIFEST, OVA)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert {component["purl"] for component in document["components"]} == URLS
    assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]


def test_these_tools_find_what_is_wrong(tmp_path: Path) -> None:
    spdx, cyclonedx = sbom.spdx(MANIFEST, OVA), sbom.cyclonedx(MANIFEST, OVA)
    spdx["packages"][1]["SPDXID"] = spdx["packages"][2]["SPDXID"]
    assert validate_full_spdx_document(parsed(tmp_path, spdx))
    cyclonedx["components"][0]["type"] = "package"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(cyclonedx)) is not None


@pytest.mark.parametrize("package", releases.PACKAGES, ids=lambda package: package["name"])
def test_package_url_says_what_the_package_is(package: dict[str, Any]) -> None:
    url = PackageURL.from_string(sbom.package_url(package, "bookworm"))
    assert (url.type, url.namespace, url.name, url.version) == ("deb", "debian", package["name"], package["version"])
    assert url.qualifiers == {"arch": package["arch"], "distro": "debian-12"}


def test_names_that_differ_by_a_sign_only_stay_apart(tmp_path: Path) -> None:
    package = releases.PACKAGES[0]
    several = [package | {"name": name, "arch": arch} for name in ("g++", "g--", "g-") for arch in ("amd64", "i386")]
    document = parsed(tmp_path, sbom.spdx(MANIFEST | {"packages": several}, OVA))
    assert len({package.spdx_id for package in document.packages}) == 7
    assert validate_full_spdx_document(document) == []


@pytest.mark.parametrize("make", [sbom.spdx, sbom.cyclonedx])
def test_no_clock_and_no_chance(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    once = json.dumps(make(MANIFEST, OVA))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert json.dumps(make(releases.manifest("a" * 64, 12), OVA)) == once
    assert json.dumps(make(releases.manifest("b" * 64, 12), OVA)) != once


def test_what_was_written_is_read_back() -> None:
    for document, urls, digests in (
        (sbom.spdx(MANIFEST, OVA), sbom.urls_of_spdx, sbom.digests_of_spdx),
        (sbom.cyclonedx(MANIFEST, OVA), sbom.urls_of_cyclonedx, sbom.digests_of_cyclonedx),
    ):
        assert urls(document) == URLS == set(sbom.urls_of_manifest(MANIFEST))
        assert digests(document) == {"a" * 64}
