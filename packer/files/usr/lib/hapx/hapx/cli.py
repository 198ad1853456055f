"""The commands of `hapx`: parse, call one function, say what came of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

from hapx.errors import CannotTellError, ExitCode, NodeError, UsageError

if TYPE_CHECKING:
    from hapx.reconcile import Done

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
    health.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="how long what is asked may take until it counts as dead (4)",
    )

    reconcile = add("reconcile", _reconcile, "Make node and cluster what the seed says.")
    source = reconcile.add_mutually_exclusive_group()
    source.add_argument(
        "--seed",
        metavar="FOLDER|DEVICE",
        help="the seed; by default the CD, else cloud-init's, else the files as they are",
    )
    source.add_argument("--boot", action="store_true", help="only what is new to the cluster (at every boot)")
    reconcile.add_argument("--json", action="store_true", help="for programs")

    force = add("force-quorum", _force_quorum, "Let a node go on alone that has booted without its peers.")
    force.add_argument("--yes", action="store_true", help="do not ask")

    add("prepare", _prepare, "Before Pacemaker's first start: its configuration, from the seed (at every boot).")
    return parser


def _seconds(text: str) -> float:
    """A time limit; raises ValueError, of which argparse makes a message."""
    if not 0 < (seconds := float(text)) <= 600:
        raise ValueError
    return seconds


def _health(options: argparse.Namespace) -> int:
    from hapx import facts, health, present

    report = health.look(facts.load(), seconds=options.timeout or health.SECONDS)
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
    if not options.boot:
        done = reconcile.by_hand(known, options.seed)
        if options.json:
            _say(json.dumps(asdict(done), indent=2))
        else:
            _say("\n".join(_done_lines(done)))
        return int(ExitCode.OK)
    applied = reconcile.at_boot(known)
    if not applied.due:
        said = "the cluster has had it: nothing to apply"
    else:
        said = "applied to the cluster" if applied.changed else "the cluster is as it says"
    _say("\n".join([f"generation {known.generation}: {said}", *applied.notes]))
    return int(ExitCode.OK)


def _done_lines(done: Done) -> list[str]:
    if done.seed is None:
        lines = ["no seed here: the files are as they are"]
    else:
        lines = [f"seed: {done.seed}", *(f"wrote {path}" for path in done.files)]
        if not done.files:
            lines.append("files: as the seed says")
    lines += done.reloaded
    lines.append(f"cluster: {'changed' if done.cluster_changed else 'as the seed says'} (generation {done.generation})")
    return [*lines, *(f"note: {note}" for note in done.notes)]


def _force_quorum(options: argparse.Namespace) -> int:
    from hapx import facts, quorum

    known = facts.load()
    plan = quorum.plan(known)
    _say("\n".join(plan.lines))
    if not options.yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to be asked", hint="hapx force-quorum --yes")
        if input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
            raise NodeError("nothing was done")
    quorum.force(plan)
    _say("this node has quorum now: Pacemaker starts the services. See: hapx health")
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
