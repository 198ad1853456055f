"""Where an image comes from, as others' tools read it: an in-toto statement with SLSA's provenance as its predicate.

Made from the build manifest alone, without a clock: no startedOn, no finishedOn. What a bake was told is in there, its
secrets are not, as no variable's value but those the manifest keeps is. Rules: in-toto's Statement v1
(github.com/in-toto/attestation, spec/v1), slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.image import sbom

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:hapx-build:image:1"
BUILDER = "urn:hapx-build"
# What somebody may say on the command line, of the manifest's inputs; the others follow from the template.
EXTERNAL = ("source", "release", "arch", "mirror", "hostname", "disk_size_mib", "cpus", "memory_mib", "packages")


def statement(manifest: Mapping[str, Any], ova: str) -> dict[str, Any]:
    """The provenance of the OVA of that name, which a build manifest was written for."""
    inputs, tools = manifest["inputs"], manifest["tools"]
    internal = {
        "source_date_epoch": inputs["source_date_epoch"],
        "inputs_key": inputs["key"],
        "root_key": inputs["root_key"],
    }
    packages = zip(manifest["packages"], sbom.urls_of_manifest(manifest), strict=True)
    return {
        "_type": STATEMENT,
        "subject": [{"name": ova, "digest": {"sha256": manifest["ova"]["sha256"]}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    **{name: inputs[name] for name in EXTERNAL if name in inputs},
                    "version": manifest["version"],
                },
                "internalParameters": internal,
                "resolvedDependencies": [
                    {"name": "signed index of the mirror", "digest": {"sha256": inputs["mirror_state"]}},
                    *({"name": package["name"], "uri": url} for package, url in packages),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": BUILDER,
                    "version": {name: str(version) for name, version in sorted(tools.items()) if version},
                },
            },
        },
    }


def subjects(document: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each subject by its name.

    Raises KeyError, TypeError or ValueError where this is no such statement; one of another kind is none.
    """
    if (document["_type"], document["predicateType"]) != (STATEMENT, PREDICATE):
        raise ValueError(f"not an in-toto statement with the predicate {PREDICATE}")
    return {str(subject["name"]): str(subject["digest"]["sha256"]) for subject in document["subject"]}


def dependencies(document: Mapping[str, Any]) -> set[str]:
    """The package URLs of what went into it; raises KeyError or TypeError where this is no such statement."""
    resolved = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {str(each["uri"]) for each in resolved if "uri" in each}
