"""`hapx-build seed-iso`: the NoCloud CDs of a cluster's nodes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder import cli_spec
from builder.errors import UsageError

if TYPE_CHECKING:
    from builder.seed.seeding import ClusterSpec


def seed_iso(
    specs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SPEC]...", help="Cluster specs (default: seeds/cluster.yaml).", show_default=False),
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option("--host", metavar="NAME", help="A node to make the CD of; repeatable.")
    ] = None,
    all_hosts: Annotated[bool, typer.Option("--all", help="Make the CDs of all nodes.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Where to: a folder (dist), or a file.iso for one node."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="FOLDER", help="Write the documents as plain files, in FOLDER/NAME/, and no CD."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the documents, secrets masked; write no CD.")] = False,
    new_instance: Annotated[
        bool, typer.Option("--new-instance", help="A fresh instance-id: cloud-init sets the node up once more.")
    ] = False,
    network_version: Annotated[
        int, typer.Option(min=1, max=2, help="Version of network-config; 1 for images with an old cloud-init.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: one line an event, or one document.")] = False,
) -> None:
    """Make the cloud-init CDs of nodes: dist/NAME-cidata.iso, for its owner alone, as secrets are on it.

    The same spec and secrets give the same CD. Secrets are made once per cluster and kept beside the spec.
    """
    from builder.cli import reporting
    from builder.seed import seeding
    from builder.seed.network import Version
    from builder.seed.secrets import path_beside
    from builder.seed.seeding import ClusterSpec
    from builder.seed.templates import Templates

    if all_hosts == bool(host):
        raise UsageError("which nodes?", hint="--host NAME, once or more, or --all")
    ways = {"--output": output is not None, "--dir": folder is not None, "--show": show}
    if len(given := [flag for flag, used in ways.items() if used]) > 1:
        raise UsageError(f"{' and '.join(given)} do not go together", hint="choose one of them")
    request = seeding.SeedRequest(
        tuple(ClusterSpec(path, path_beside(path)) for path in specs) if specs else (_default_spec(),),
        tuple(host or ()),
        output=None if show or folder is not None else output or Path("dist"),
        folder=folder,
        version=Version(network_version),
        new_instance=new_instance,
    )
    with reporting(as_json=as_json, quiet=show) as reporter:
        reporter.begin("documents", title="Make the documents")
        prepared = seeding.prepare(request, Templates())
        reporter.end()
        for note in prepared.notes:
            # People see them whatever becomes of the output; it is not part of it.
            if as_json:
                reporter.note(note)
            else:
                typer.echo(f"note: {note}", err=True)
        if show:
            _print({seed.documents.host: seed.masked() for seed in prepared.seeds}, as_json=as_json)
            return
        reporter.begin("write", title="Write them")
        written = seeding.write_folders(prepared) if folder is not None else seeding.write_isos(prepared)
        reporter.end()
        for seed, result in zip(prepared.seeds, written, strict=True):
            reporter.result(
                f"{result.path}: {result.size / 1e3:.1f} kB" + (f", sha256 {result.sha256}" if result.sha256 else ""),
                **dataclasses.asdict(result),
                host=seed.documents.host,
                instance_id=seed.documents.instance_id,
            )


def _default_spec() -> ClusterSpec:
    """seeds/cluster.yaml; what came with hapx-build is nobody's place for secrets: those stay in the working folder."""
    from builder.seed.secrets import path_beside
    from builder.seed.seeding import ClusterSpec

    path = cli_spec.default_spec()
    return ClusterSpec(path, path_beside(path if path.is_relative_to(Path.cwd()) else Path(path.name)))


def _print(hosts: Mapping[str, Mapping[str, str]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(hosts, indent=2))
        return
    for host, texts in hosts.items():
        for name, text in texts.items():
            typer.echo(f"==> {host}: {name} <==\n{text}")
