"""Addresses: what they lead to, and those that lead nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import ExitCode, InputError
from builder.publish import address, oci
from builder.publish.address import Kind

PASSWORD = "hunter2hunter2"


@pytest.mark.parametrize(
    ("text", "kind", "host", "path", "tag"),
    [
        ("/srv/images", Kind.FOLDER, "", "/srv/images", ""),
        ("file:///srv/my%20images", Kind.FOLDER, "", "/srv/my images", ""),
        ("https://example.org/images/", Kind.HTTP, "example.org", "images", ""),
        ("http://[::1]:8080/x/y", Kind.HTTP, "[::1]:8080", "x/y", ""),
        ("s3://my-bucket", Kind.S3, "my-bucket", "", ""),
        ("s3://my.bucket/a/b/", Kind.S3, "my.bucket", "a/b", ""),
        ("oci://registry.example.org/team/hapx", Kind.OCI, "registry.example.org", "team/hapx", ""),
        ("oci://localhost:5000/hapx:1.2", Kind.OCI, "localhost:5000", "hapx", "1.2"),
    ],
)
def test_where_it_leads(text: str, kind: Kind, host: str, path: str, tag: str) -> None:
    found = address.parse(text)
    assert (found.kind, found.host, found.path, found.tag, str(found)) == (kind, host, path, tag, text)


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert address.parse("images").path == str(tmp_path / "images")


@pytest.mark.parametrize(
    "text",
    [
        "ftp://example.org/x",
        "https:///x",
        "http://[::1/x",
        "http://example.org:99999/x",
        "file://host/x",
        "s3:///x",
        "s3://No_Bucket/x",
        "oci://example.org",
        "oci://example.org/UPPER",
        "oci://example.org/x:not/a/tag",
        "oci://example.org/x:",
        "https://example.org/x?token=1",
        "https://example.org/x#y",
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(InputError) as refused:
        address.parse(text)
    assert refused.value.exit_code is ExitCode.INPUT
    assert "oci://REGISTRY/REPOSITORY" in refused.value.hint


@pytest.mark.parametrize("scheme", ["https", "s3", "oci", "ftp"])
@pytest.mark.parametrize("rest", [f"me:{PASSWORD}@example.org/x", f"{PASSWORD}@example.org/x"])
def test_a_password_is_refused_and_not_repeated(scheme: str, rest: str) -> None:
    with pytest.raises(InputError, match="a user name or a password") as refused:
        address.parse(f"{scheme}://{rest}")
    assert PASSWORD not in refused.value.message + refused.value.hint + "".join(refused.value.details)


def test_a_signed_url_is_refused_and_its_signature_not_repeated() -> None:
    with pytest.raises(InputError) as refused:
        address.parse(f"https://example.org/x?X-Amz-Signature={PASSWORD}")
    assert PASSWORD not in refused.value.message + refused.value.hint


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("hapx-1.2-amd64.ova", "application/ovf"),
        ("hapx-1.2-amd64.ova.sha256", "text/plain"),
        ("hapx-1.2-amd64.spdx.json", "application/spdx+json"),
        ("hapx-1.2-amd64.cdx.json", "application/vnd.cyclonedx+json"),
        ("hapx-1.2-amd64.provenance.json", "application/vnd.in-toto+json"),
        ("hapx-1.2-amd64.SHA256SUMS", "text/plain"),
        ("hapx-1.2-amd64.SHA256SUMS.minisig", "application/vnd.hapx-build.minisig.v1"),
        ("something else", "application/octet-stream"),
    ],
)
def test_media_types(name: str, media_type: str) -> None:
    assert oci.media_type(name) == media_type


def test_a_version_as_a_tag() -> None:
    assert oci.tag_of("1.2+rc3") == "1.2_rc3"
