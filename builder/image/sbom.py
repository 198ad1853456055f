"""What software an image holds, as others' tools read it: SPDX 2.3 and CycloneDX 1.6, both JSON.

Made from the build manifest alone, so that `verify` can hold one against the other, and with no clock and no random
number: the same image gives the same text. Rules: spdx.github.io/spdx-spec/v2.3, cyclonedx.org/docs/1.6/json,
github.com/package-url/purl-spec (type deb).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from builder.image.plan import RELEASES

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "hapx-build")
# An identity is a name, a version and an architecture: SPDX allows no colon, plus or tilde in an identifier.
_ANY_BUT_ID = re.compile(r"[^A-Za-z0-9.-]")


def package_url(package: Mapping[str, Any], release: str) -> str:
    """A Debian package of a release (a codename) as a package URL: pkg:deb/debian/NAME@VERSION?arch=…&distro=…"""
    from packageurl import PackageURL

    qualifiers = {"arch": str(package["arch"]), "distro": f"debian-{RELEASES.get(release, release)}"}
    return PackageURL("deb", "debian", package["name"], package["version"], qualifiers).to_string()


def timestamp(manifest: Mapping[str, Any]) -> str:
    """The date of a bake: the SOURCE_DATE_EPOCH it was made with, as ISO 8601 in UTC."""
    date = datetime.fromtimestamp(int(manifest["inputs"]["source_date_epoch"]), UTC)
    return date.strftime("%Y-%m-%dT%H:%M:%SZ")


def spdx(manifest: Mapping[str, Any], ova: str) -> dict[str, Any]:
    """The packages of a build manifest as an SPDX 2.3 document; `ova` is the file's name."""
    release, tools = manifest["inputs"]["release"], manifest["tools"]
    packages = []
    for package in manifest["packages"]:
        locator = {
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package_url(package, release),
        }
        packages.append(
            {
                "SPDXID": _spdx_id(package),
                "name": package["name"],
                "versionInfo": package["version"],
                "supplier": "Organization: Debian",
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": "NOASSERTION",
                "copyrightText": "NOASSERTION",
                "externalRefs": [locator],
            }
        )
    appliance = {
        "SPDXID": "SPDXRef-Appliance",
        "name": manifest["name"],
        "versionInfo": manifest["version"],
        "packageFileName": ova,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "supplier": "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "checksums": [{"algorithm": "SHA256", "checksumValue": manifest["ova"]["sha256"]}],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    }
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": manifest["name"],
        "documentNamespace": f"https://spdx.org/spdxdocs/{manifest['name']}-{_identity(manifest, 'spdx')}",
        "creationInfo": {"created": timestamp(manifest), "creators": [f"Tool: hapx-build-{tools['hapx-build']}"]},
        "documentDescribes": ["SPDXRef-Appliance"],
        "packages": [appliance, *packages],
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Appliance"),
            *(_relationship("SPDXRef-Appliance", "CONTAINS", package["SPDXID"]) for package in packages),
        ],
    }


def cyclonedx(manifest: Mapping[str, Any], ova: str) -> dict[str, Any]:
    """The packages of a build manifest as a CycloneDX 1.6 document; `ova` is the file's name."""
    inputs, tools = manifest["inputs"], manifest["tools"]
    urls = [(package, package_url(package, inputs["release"])) for package in manifest["packages"]]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_identity(manifest, 'cyclonedx')}",
        "version": 1,
        "metadata": {
            "timestamp": timestamp(manifest),
            "lifecycles": [{"phase": "build"}],
            "tools": {
                "components": [
                    {"type": "application", "name": name, "version": str(version)}
                    for name, version in sorted(tools.items())
                    if version
                ]
            },
            "component": {
                "type": "operating-system",
                "bom-ref": ova,
                "name": manifest["name"],
                "version": manifest["version"],
                "hashes": [{"alg": "SHA-256", "content": manifest["ova"]["sha256"]}],
            },
        },
        "components": [
            {
                "type": "library",
                "bom-ref": url,
                "supplier": {"name": "Debian"},
                "name": package["name"],
                "version": package["version"],
                "purl": url,
            }
            for package, url in urls
        ],
        "dependencies": [{"ref": ova, "dependsOn": [url for _, url in urls]}],
        "compositions": [{"aggregate": "complete", "assemblies": [ova]}],
    }


def urls_of_spdx(document: Mapping[str, Any]) -> set[str]:
    """The package URLs an SPDX document names; raises KeyError, TypeError or AttributeError where it is none."""
    references = (each for package in document["packages"] for each in package.get("externalRefs", ()))
    return {str(each["referenceLocator"]) for each in references if each["referenceType"] == "purl"}


def urls_of_cyclonedx(document: Mapping[str, Any]) -> set[str]:
    """The package URLs a CycloneDX document names; raises KeyError or TypeError where it is none."""
    return {str(component["purl"]) for component in document["components"]}


def digests_of_spdx(document: Mapping[str, Any]) -> set[str]:
    """The SHA-256 of what an SPDX document describes; raises as `urls_of_spdx`."""
    sums = (each for package in document["packages"] for each in package.get("checksums", ()))
    return {str(each["checksumValue"]) for each in sums if each["algorithm"] == "SHA256"}


def digests_of_cyclonedx(document: Mapping[str, Any]) -> set[str]:
    """The SHA-256 of what a CycloneDX document describes; raises as `urls_of_cyclonedx`."""
    return {str(each["content"]) for each in document["metadata"]["component"]["hashes"] if each["alg"] == "SHA-256"}


def urls_of_manifest(manifest: Mapping[str, Any]) -> Iterable[str]:
    """The package URLs of what a build manifest lists, in its order."""
    return (package_url(package, manifest["inputs"]["release"]) for package in manifest["packages"])


def _spdx_id(package: Mapping[str, Any]) -> str:
    # "+" and "~" are told apart: libstdc++ and libstdc-- would not be one package.
    plain = _ANY_BUT_ID.sub(lambda match: f"-{ord(match[0]):x}-", f"{package['name']}.{package['arch']}")
    return f"SPDXRef-Package-{plain}"


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _identity(manifest: Mapping[str, Any], kind: str) -> uuid.UUID:
    """An identity of this document's own, that another bake of the same image has too."""
    return uuid.uuid5(_NAMESPACE, f"{kind}:{manifest['ova']['sha256']}")
