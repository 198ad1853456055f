"""Provenance: an in-toto statement that says what the build manifest says, and no more."""

from __future__ import annotations

import json

import jsonschema
import pytest

from builder.image import provenance, sbom
from tests import releases

OVA = "hapx-1.2-amd64.ova"
MANIFEST = releases.manifest("a" * 64, 12)
DIGEST = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]+$"}}
DESCRIPTOR = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "uri": {"type": "string", "format": "uri"}, "digest": DIGEST},
    "anyOf": [{"required": ["uri"]}, {"required": ["digest"]}],
    "additionalProperties": False,
}
# Neither in-toto nor SLSA publish a JSON Schema: this one says what their specifications (v1, v1.0) require.
SCHEMA = {
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "additionalProperties": False,
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "predicateType": {"const": "https://slsa.dev/provenance/v1"},
        "subject": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["digest"], "properties": {"digest": DIGEST}},
        },
        "predicate": {
            "type": "object",
            "required": ["buildDefinition", "runDetails"],
            "properties": {
                "buildDefinition": {
                    "required": ["buildType", "externalParameters"],
                    "properties": {
                        "buildType": {"type": "string", "pattern": "^[a-z]+:"},
                        "externalParameters": {"type": "object"},
                        "internalParameters": {"type": "object"},
                        "resolvedDependencies": {"type": "array", "items": DESCRIPTOR},
                    },
                    "additionalProperties": False,
                },
                "runDetails": {
                    "required": ["builder"],
                    "properties": {
                        "builder": {
                            "required": ["id"],
                            "properties": {
                                "id": {"type": "string", "pattern": "^[a-z]+:"},
                                "version": {"type": "object", "additionalProperties": {"type": "string"}},
                            },
                        }
                    },
                },
            },
        },
    },
}


def test_statement_is_what_the_specifications_require() -> None:
    jsonschema.validate(provenance.statement(MANIFEST, OVA), SCHEMA)


def test_statement_names_the_ova_and_every_package() -> None:
    statement = provenance.statement(MANIFEST, OVA)
    assert provenance.subjects(statement) == {OVA: "a" * 64}
    assert provenance.dependencies(statement) == set(sbom.urls_of_manifest(MANIFEST))


def test_parameters_are_those_of_the_manifest_and_no_other() -> None:
    manifest = json.loads(json.dumps(MANIFEST))
    manifest["inputs"]["password"] = "s3cret"
    manifest["variables"] = {"token": "s3cret"}
    statement = provenance.statement(manifest, OVA)
    assert "s3cret" not in json.dumps(statement)
    parameters = statement["predicate"]["buildDefinition"]["externalParameters"]
    assert (parameters["release"], parameters["disk_size_mib"], parameters["version"]) == ("trixie", 8192, "1.2")


def test_the_same_bake_gives_the_same_statement() -> None:
    again = provenance.statement(releases.manifest("a" * 64, 12), OVA)
    assert json.dumps(again) == json.dumps(provenance.statement(MANIFEST, OVA))


@pytest.mark.parametrize("key", ["_type", "predicateType"])
def test_a_statement_of_another_kind_has_no_subjects(key: str) -> None:
    with pytest.raises(ValueError, match="not an in-toto statement"):
        provenance.subjects(provenance.statement(MANIFEST, OVA) | {key: "https://example.org/v9"})
