"""`hapx-build diff`: in what two OVAs differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from builder.errors import ExitCode


def diff(
    left: Annotated[Path, typer.Argument(metavar="A.ova", help="An OVA.", show_default=False)],
    right: Annotated[Path, typer.Argument(metavar="B.ova", help="Another one.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: one document.")] = False,
) -> None:
    """Say in what two OVAs differ: members, lines of the descriptor, partitions, files in the image; exit 1 if they do.

    For each file that is not the same: mode, owner, times, extended attributes, contents.
    """
    from builder import present
    from builder.cli import reporting
    from builder.image.diff import compare

    with reporting(as_json=as_json, quiet=as_json) as reporter:
        result = compare(left, right, on_step=lambda title: reporter.begin("diff", title=title))
        reporter.end()
    if as_json:
        present.document(dataclasses.asdict(result) | {"same": result.same})
    else:
        for each in result.differences:
            typer.echo(f"{each.where}: {each.what}")
            for mark, text in (("-", each.left), ("+", each.right)):
                for line in text.splitlines():
                    typer.echo(f"  {mark} {line}")
        count = len(result.differences)
        typer.echo(f"the same, bit for bit: sha256 {result.left_sha256}" if result.same else f"{count} differences")
    if not result.same:
        raise typer.Exit(ExitCode.FINDINGS)
