"""`hapx-build up`, `status`, `failover`, `down`: a whole cluster at once."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder import cli_spec
from builder.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from builder.machines import Fleet

WATCH_SECONDS = 2.0

Spec = Annotated[
    Path | None,
    typer.Argument(metavar="[SPEC]", help="The cluster spec (default: seeds/cluster.yaml).", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one line an event, or one document.")]


def up(
    spec: Spec = None,
    ova: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.ova|URL", help="What to make new machines from (default: the newest in dist/, else a bake)."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Public key of minisign, or its file: the OVA has to be signed."),
    ] = None,
    timeout: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="How long nodes may take to boot and form the cluster.")
    ] = 900,
    as_json: Json = False,
) -> None:
    """Bring a cluster up: bake, import, seeds, machines, start; then wait until it serves.

    What is there already is kept: run it again after a change of the spec, or after it was cut off.
    """
    from builder import present
    from builder.cli import reporting
    from builder.cluster.up import Request, warnings
    from builder.cluster.up import up as bring_up

    if key is not None and ova is None:
        raise UsageError("--key: is for what --ova names", hint="--ova FILE.ova, or where it was published")
    fleet = _fleet(spec)
    with reporting(as_json=as_json) as reporter:
        for warning in warnings(fleet):
            # People see it whatever becomes of the output.
            if as_json:
                reporter.note(warning)
            else:
                typer.echo(f"warning: {warning}", err=True)
        result = bring_up(fleet, Request(ova, key, float(timeout)), reporter)
        reporter.result(present.up(result), **dataclasses.asdict(result))


def status(
    spec: Spec = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Ask again every 2 seconds, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Say how a cluster is: machines, quorum, floating IPs, resources; exit 1 unless all of it is healthy."""
    from builder import present
    from builder.cluster.status import status as look

    fleet = _fleet(spec)
    while watch:
        found = look(fleet)
        if as_json:
            typer.echo(json.dumps(present.status_document(found)))
        else:
            present.status(found, anew=True)
        time.sleep(WATCH_SECONDS)
    found = look(fleet)
    if as_json:
        present.document(present.status_document(found))
    else:
        present.status(found)
    if not found.ok:
        raise typer.Exit(ExitCode.FINDINGS)


def failover(
    spec: Spec = None,
    node: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where to (default: the next node that is ready).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Move the floating IPs to another node, on purpose, and say how long clients went without them."""
    from builder import present
    from builder.cli import reporting
    from builder.cluster.failover import failover as move

    with reporting(as_json=as_json) as reporter:
        moved = move(_fleet(spec), node, reporter)
        reporter.result(present.moved(moved), **dataclasses.asdict(moved))


def down(spec: Spec = None, as_json: Json = False) -> None:
    """Shut down all machines of a cluster, and keep them."""
    from builder.cli import reporting
    from builder.cluster.down import down as shut_down

    fleet = _fleet(spec)
    with reporting(as_json=as_json) as reporter:
        stopped = shut_down(fleet, reporter)
        said = f"shut down: {', '.join(stopped)}" if stopped else "all of them were off"
        reporter.result(f"{fleet.cluster.name}: {said}", cluster=fleet.cluster.name, stopped=stopped)


def _fleet(spec: Path | None) -> Fleet:
    from builder import machines

    return machines.load(spec or cli_spec.default_spec())
