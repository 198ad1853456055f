"""`hapx-build sign`, `publish` and `report`: what happens to an OVA once it is baked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from builder import cli_spec

Ova = Annotated[
    Path, typer.Argument(metavar="FILE.ova", help="The OVA that `hapx-build image` made.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one line an event.")]


def sign(
    ova: Ova,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Secret key of minisign (default: HAPX_SIGN_KEY, …_FILE)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign the SHA256SUMS beside an OVA with minisign, and by that all that it lists.

    The key's passphrase comes from HAPX_SIGN_PASSPHRASE or the file that HAPX_SIGN_PASSPHRASE_FILE names.
    """
    from builder.cli import reporting
    from builder.image import signature
    from builder.image.companions import Companion, beside
    from builder.publish import release

    with reporting(as_json=as_json) as reporter:
        with reporter.stage("check", title="Check the files and their digests"):
            release.collect(ova, lambda done, total: reporter.advance(done, total, unit="B"))
        made = beside(ova, Companion.SIGNATURE)
        with reporter.stage("sign", title="Sign their checksums"):
            signature.sign(beside(ova, Companion.SUMS), made, key=key)
        reporter.result(f"{made}: signed", signature=made)


def publish(
    ova: Ova,
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="A folder, http(s)://HOST/PATH (PUT), s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY[:TAG].",
            show_default=False,
        ),
    ],
    as_json: Json = False,
) -> None:
    """Put an OVA and what stands beside it where others take it: under its version, and as the latest one.

    Checked before and read back after; taken up again where it was interrupted; a version never changes.
    """
    from builder import present
    from builder import publish as publishing
    from builder.cli import reporting

    target = publishing.address.parse(address)
    with reporting(as_json=as_json) as reporter:
        published = publishing.publish(ova, target, reporter)
        reporter.result(present.published(published), **dataclasses.asdict(published))


def report(
    ova: Ova,
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="SPEC", help="Cluster spec to draw (default: seeds/cluster.yaml)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to (default: beside the OVA, .html).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what a bake did and made as a web page: stages, packages, checks, and a picture of the cluster."""
    from builder import report as reports
    from builder.cli import reporting
    from builder.image.companions import Companion, beside

    with reporting(as_json=as_json) as reporter:
        reporter.begin("verify", title=f"Read {ova.name}")
        made = reports.write(
            ova,
            output or beside(ova, Companion.REPORT),
            spec or cli_spec.default_spec(),
            on_progress=lambda done, total: reporter.advance(done, total, unit="B"),
        )
        reporter.end()
        reporter.result(str(made), report=made)
