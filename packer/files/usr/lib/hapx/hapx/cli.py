"""The commands of `hapx`: parse, call one function, say what came of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from hapx.errors import CannotTellError, ExitCode, NodeError, UsageError

_EPILOG = """exit codes: 0 done, or healthy; 1 not done, or degraded; 2 failed; 3 cannot tell (no seed yet, not root);
64 the command line is wrong"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    as_json = "--json" in arguments
    try:
        options = _parser().parse_args(arguments)
        if os.geteuid() != 0:
            raise CannotTellError(
                f"hapx {options.command}: only root may ask the cluster", hint=f"sudo hapx {' '.join(arguments)}"
            )
        command: Callable[[argparse.Namespace], int] = options.run
        return int(command(options))
    except NodeError as error:
        _say_error(error, as_json)
        return int(error.exit_code)
    except BrokenPipeError:
        # Whoever read this has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130


def _parser() -> _Parser:
    parser = _Parser(prog="hapx", description="This node of the cluster, and its cluster.", epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    health = add("health", _health, "How the cluster is, and what to do about it.")
    health.add_argument("--json", action="store_true", help="for programs")

    reconcile = add("reconcile", _reconcile, "Make node and cluster what the seed says.")
    reconcile.add_argument("--boot", action="store_true", help="only what is new to the cluster (at every boot)")
    reconcile.add_argument("--json", action="store_true", help="for programs")

    add("prepare", _prepare, "Before Pacemaker's first start: its configuration, from the seed (at every boot).")
    return parser


def _health(options: argparse.Namespace) -> int:
    from hapx import facts, health, present

    report = health.look(facts.load())
    if options.json:
        _say(json.dumps(report.as_data(), indent=2))
    else:
        _say(present.report(report))
    return int(report.state.exit_code)


def _prepare(_options: argparse.Namespace) -> int:
    from hapx import facts, prepare

    made = prepare.prepare(facts.load())
    _say("rendered the CIB from the seed" if made else "there is a CIB: nothing to prepare")
    return int(ExitCode.OK)


def _reconcile(options: argparse.Namespace) -> int:
    from hapx import facts, reconcile

    known = facts.load()
    applied = reconcile.at_boot(known)
    if applied is None:
        _say(f"the cluster has run generation {known.generation} before: nothing to apply")
    else:
        _say(f"generation {known.generation}: {'applied' if applied.changed else 'nothing to change'}")
        for note in applied.notes:
            _say(note)
    return int(ExitCode.OK)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _say_error(error: NodeError, as_json: bool) -> None:
    if as_json:
        data = {"error": {"message": error.message, "hint": error.hint, "details": list(error.details)}}
        _say(json.dumps(data, indent=2))
        return
    lines = [f"hapx: {error.message}", *(f"  {line}" for line in error.details)]
    if error.hint:
        lines.append(f"  -> {error.hint}")
    sys.stderr.write("\n".join(lines) + "\n")
