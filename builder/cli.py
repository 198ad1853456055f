"""The command line: parse, call one function, present. A command imports what it needs, so that --help is quick."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from builder import (
    __version__,
    cli_cluster,
    cli_create,
    cli_diff,
    cli_machines,
    cli_publish,
    cli_seed,
    cli_spec,
    interrupts,
)
from builder.errors import (
    ExitCode,
    HapxError,
    HungUpError,
    InterruptedByUserError,
    TerminatedError,
    UsageError,
    of_os_error,
)
from builder.progress import JsonReporter, QuietReporter, Reporter, TerminalReporter

app = typer.Typer(
    name="hapx-build",
    help="Bakes, packages, seeds and clones a self-forming HAProxy cluster appliance.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON: one line an event, or one document.")]


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"hapx-build {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What every command takes."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


@app.command()
def image(
    source: Annotated[str, typer.Option(help="Packer source to bake with.")] = "null.bootstrap",
    release: Annotated[str | None, typer.Option(help="Debian release: trixie or bookworm.")] = None,
    arch: Annotated[str | None, typer.Option(help="Debian architecture: amd64.")] = None,
    var: Annotated[
        list[str] | None,
        typer.Option("--var", metavar="NAME=VALUE", help="Set a variable of the template; repeatable."),
    ] = None,
    var_file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Set variables from a .pkrvars.hcl or .json; repeatable.")
    ] = None,
    list_vars: Annotated[bool, typer.Option("--list-vars", help="List the variables and leave.")] = False,
    snapshot: Annotated[
        str | None, typer.Option(metavar="TIME", help="Debian as it was then (20260401T083000Z): needs --var mirror=.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="Where to: a folder (dist), or a file.ova.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Bake again and replace what is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and Packer's command, and leave.")] = False,
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Keep the work folder, to look into it.")] = False,
    as_json: Json = False,
) -> None:
    """Bake the appliance: Debian, HAProxy, Corosync and Pacemaker, through Packer, into an OVA."""
    from builder import present
    from builder.image import bake

    if list_vars:
        present.variables(bake.list_variables(), as_json=as_json)
        return
    request = bake.BakeRequest(
        source,
        release,
        arch,
        tuple(var or ()),
        tuple(var_file or ()),
        output,
        snapshot,
        force=force,
        keep_work=keep_work,
    )
    job = bake.prepare(request)
    if dry_run:
        present.plan(job, as_json=as_json)
        return
    with reporting(as_json=as_json) as reporter:
        outcome = bake.bake(job, reporter)
        reporter.result(present.outcome(outcome), **dataclasses.asdict(outcome))


@app.command()
def verify(
    ova: Annotated[Path, typer.Argument(metavar="FILE.ova", help="The OVA to check.", show_default=False)],
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="KEY", help="Public key of minisign, or its file: the signature has to be there."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check an OVA, whoever made it, and what stands beside it; exit 1 when anything is wrong.

    Tar, manifest, descriptor and disk; checksums, lists of packages, provenance, and with --key the signature.
    """
    from builder import present
    from builder.image.verify import beside
    from builder.image.verify import verify as check

    with reporting(as_json=as_json, quiet=as_json) as reporter:
        reporter.begin("verify", title=f"Read {ova.name}")
        report = check(ova, on_progress=lambda done, total: reporter.advance(done, total, unit="B"))
        report = beside.check(report, key=key)
        reporter.end()
    present.report(report, as_json=as_json)
    if not report.ok:
        raise typer.Exit(ExitCode.FINDINGS)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has and lacks for each command, and what would install it; exit 1 when something lacks."""
    from builder import doctor as doctors
    from builder import present

    checks = doctors.examine()
    present.checks(checks, as_json=as_json)
    if any(check.failed for check in checks):
        raise typer.Exit(ExitCode.FINDINGS)


app.command()(cli_create.create)
app.command()(cli_diff.diff)
app.command()(cli_seed.seed_iso)
app.command()(cli_publish.sign)
app.command()(cli_publish.publish)
app.command()(cli_publish.report)
app.add_typer(cli_spec.app)
app.command("import")(cli_machines.import_)
app.command()(cli_machines.clone)
app.command()(cli_machines.start)
app.command()(cli_machines.stop)
app.command()(cli_machines.destroy)
app.command()(cli_machines.ssh)
app.command()(cli_machines.console)
app.command()(cli_cluster.up)
app.command()(cli_cluster.status)
app.command()(cli_cluster.failover)
app.command()(cli_cluster.down)


@contextlib.contextmanager
def reporting(*, as_json: bool, quiet: bool = False) -> Iterator[Reporter]:
    """The reporter for where the output goes: JSON lines, a person's terminal, or anything else."""
    reporter: Reporter
    if quiet:
        reporter = Reporter()
    elif as_json:
        reporter = JsonReporter()
    else:
        reporter = TerminalReporter() if sys.stdout.isatty() else QuietReporter()
    try:
        yield reporter
    finally:
        reporter.close()


def fail(error: HapxError, *, as_json: bool) -> NoReturn:
    """Show an error where errors go, and end with its exit code."""
    # A terminal that was closed, or a pipe that nobody reads any more, does not change how this ended.
    with contextlib.suppress(OSError):
        if as_json:
            facts: dict[str, Any] = {"event": "error", "exit_code": int(error.exit_code), "message": error.message}
            typer.echo(json.dumps({**facts, "hint": error.hint, "details": error.details}))
        else:
            typer.echo(f"error: {error.message}", err=True)
            for line in error.details:
                typer.echo(f"  {line}", err=True)
            if error.hint:
                typer.echo(f"hint: {error.hint}", err=True)
    sys.exit(error.exit_code)


def main() -> None:
    """The entry point: every error becomes a message and an exit code here, and nowhere else."""
    interrupts.unwind()
    as_json = "--json" in sys.argv
    try:
        try:
            code = app(standalone_mode=False)
        finally:
            # The run is over, and only its last words are left: another Ctrl-C must not cut them off, or change the
            # exit code to that of a program that a signal killed.
            interrupts.ignore()
    except HapxError as error:
        fail(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except SystemExit as ended:
        code = ended.code
    except typer.TyperException as error:
        fail(UsageError(str(error), hint="hapx-build --help"), as_json=as_json)
    except BrokenPipeError:
        sys.exit(ExitCode.FAILED)
    except Exception as error:
        if isinstance(error, OSError) and (explained := of_os_error(error)) is not None:
            fail(explained, as_json=as_json)
        details = traceback.format_exc().splitlines()
        unexpected = HapxError(f"defect in hapx-build: {error}", hint="please report this, with the lines above")
        unexpected.details = tuple(details)
        unexpected.exit_code = ExitCode.INTERNAL
        fail(unexpected, as_json=as_json)
    match code:
        case ExitCode.INTERRUPTED:
            fail(InterruptedByUserError("interrupted"), as_json=as_json)
        case ExitCode.TERMINATED:
            fail(TerminatedError("ended by SIGTERM"), as_json=as_json)
        case ExitCode.HUNG_UP:
            fail(HungUpError("ended, as its terminal was closed (SIGHUP)"), as_json=as_json)
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


if __name__ == "__main__":
    main()
