"""`hapx-build spec`: check, show and describe cluster specs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder import resources
from builder.errors import ExitCode

app = typer.Typer(
    name="spec",
    invoke_without_command=True,
    rich_markup_mode=None,
)

Spec = Annotated[
    Path | None,
    typer.Argument(metavar="[SPEC]", help="The cluster spec (default: seeds/cluster.yaml).", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def default_spec() -> Path:
    """seeds/cluster.yaml: the working folder's, or the one that came with hapx-build."""
    return resources.folder("seeds", holds="cluster.yaml") / "cluster.yaml"


@app.callback()
def options(context: typer.Context) -> None:
    """Check and show a cluster spec, or print its JSON Schema."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


@app.command()
def check(spec: Spec = None, as_json: Json = False) -> None:
    """Check a cluster spec: every error at once, with its line; exit 3 when there is any."""
    from builder.spec import load
    from builder.spec.loading import spoken

    path = spec or default_spec()
    cluster = load(path)
    if as_json:
        from builder import present

        present.document({"spec": str(path), "ok": True, "cluster": cluster.name})
        return
    nodes, vips = len(cluster.nodes), len(cluster.vips)
    typer.echo(f"{spoken(path)}: in order (cluster {cluster.name}, nodes: {nodes}, floating IPs: {vips})")


@app.command()
def show(spec: Spec = None, as_json: Json = False) -> None:
    """Print a cluster spec with every default and everything that is derived from it, as YAML."""
    from builder.spec import load
    from builder.spec.show import spelled_out, to_yaml

    values = spelled_out(load(spec or default_spec()))
    if as_json:
        from builder import present

        present.document(values)
    else:
        typer.echo(to_yaml(values), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a cluster spec, for editors."""
    from builder.spec.schema import text

    typer.echo(text(), nl=False)
