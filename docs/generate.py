"""Make the pages of the commands, docs/commands/*.md and docs/man/*.1, from the command line itself.

    python docs/generate.py [FOLDER]

Typer writes the Markdown, help2man (a program of Debian's) the man pages; both know no more than --help.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import typer.main
from typer.cli import get_docs_for_click

from builder import __version__
from builder.cli import app
from builder.command import run

NAME = "hapx-build"
HERE = Path(__file__).resolve().parent


def pages(folder: Path) -> None:
    """Write every page below `folder`; what an earlier version of the command line had goes away."""
    for name in ("commands", "man"):
        kept = folder / name
        kept.mkdir(parents=True, exist_ok=True)
        for old in kept.iterdir():
            old.unlink()
    root = typer.main.get_group(app)
    context = root.make_context(NAME, ["--help"], resilient_parsing=True)
    index = [f"# The commands of {NAME}\n"]
    manual(folder, [], root.help or "")
    for name in root.list_commands(context):
        command = root.commands[name]
        text = get_docs_for_click(obj=command, ctx=context, name=name, call_prefix=NAME)
        (folder / "commands" / f"{name}.md").write_text(text.rstrip() + "\n")
        index.append(f"- [`{NAME} {name}`]({name}.md): {first_sentence(command.help or '')}")
        manual(folder, [name], command.help or "")
        for below in subcommands(command, context):
            manual(folder, [name, below.name or ""], below.help or "")
    (folder / "commands" / "README.md").write_text("\n".join(index) + "\n")


def subcommands(command: typer.core.TyperCommand, context: typer.Context) -> Iterator[typer.core.TyperCommand]:
    """The commands of a group of commands; none of any other."""
    if isinstance(command, typer.core.TyperGroup):
        yield from (command.commands[name] for name in command.list_commands(context))


def manual(folder: Path, words: list[str], text: str) -> None:
    """Write the man page of a command, of which `text` is the description."""
    title = "-".join([NAME, *words])
    argv = ["help2man", "--no-info", f"--version-string={__version__}", "--name", first_sentence(text).rstrip(".")]
    argv += ["--manual", "hapx-build", "--source", f"hapx-build {__version__}", " ".join([NAME, *words])]
    # The command of this very environment; no date, so that the page changes only when the command does. As wide as
    # help2man reads well.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {"PATH": path, "SOURCE_DATE_EPOCH": "0", "COLUMNS": "100", "LC_ALL": "C.UTF-8"}
    page = run(argv, env=env, timeout=60).stdout
    (folder / "man" / f"{title}.1").write_text(page)


def first_sentence(text: str) -> str:
    """What a command is for, in a line."""
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())


if __name__ == "__main__":
    pages(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
