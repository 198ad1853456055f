"""`hapx-build import`, `clone`, `start`, `stop`, `destroy`, `ssh`, `console`: the machines of a cluster's nodes."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder import cli_spec
from builder.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.machines import Fleet
    from builder.spec.model import Node

Spec = Annotated[
    Path | None,
    typer.Argument(metavar="[SPEC]", help="The cluster spec (default: seeds/cluster.yaml).", show_default=False),
]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", metavar="NAME", help="A node; repeatable (default: all nodes).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one line an event.")]
SpecOption = Annotated[
    Path | None, typer.Option("--spec", metavar="SPEC", help="The cluster spec (default: seeds/cluster.yaml).")
]


def import_(
    ova: Annotated[str, typer.Argument(metavar="FILE.ova|ADDRESS", help="The OVA.", show_default=False)],
    on: Annotated[
        list[str] | None,
        typer.Option("--on", metavar="URI", help="Where to: ssh://user@host, or a libvirt URI; repeatable (here)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it is called there (default: the file's name).")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="Public key of minisign, or its file: the OVA has to be signed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Import an OVA as a base that nodes are cloned from; verified first, and nothing to do for the same OVA again.

    Takes what `hapx-build publish` takes, for the latest version there, and addresses of one version or of a FILE.ova
    with its .sha256 beside it; what is elsewhere is fetched into dist/.
    """
    from builder.cli import reporting
    from builder.hypervisor import bases, choose
    from builder.hypervisor.alone import alone

    hypervisors = [choose.hypervisor(uri) for uri in on or (None,)]
    with reporting(as_json=as_json) as reporter:
        checked = bases.checked(ova, reporter=reporter, name=name, key=key)
        for hypervisor in hypervisors:
            reporter.begin("import", title=f"Import {checked.base.name} ({hypervisor.where})")
            with alone(hypervisor, reporter):
                done = hypervisor.import_base(
                    checked.path, checked.base, on_progress=lambda done, total: reporter.advance(done, total, unit="B")
                )
            reporter.end()
            said = "imported" if done else "is there already, nothing to do"
            reporter.result(
                f"{hypervisor.where}: {checked.base.name}: {said}",
                **dataclasses.asdict(checked.base),
                host=hypervisor.where,
                changed=done,
            )


def clone(
    spec: Spec = None,
    host: Hosts = None,
    base: Annotated[
        str | None, typer.Option(metavar="NAME", help="The base to clone (default: the newest that was imported).")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Copy the disk, rather than keep only what differs.")] = False,
    as_json: Json = False,
) -> None:
    """Make the machines of nodes: clone, network cards, processors, memory, disks, CD; or change what differs.

    Nothing is started or stopped: a machine that runs is told only what it can take while it does.
    """
    from builder.cli import reporting

    fleet = _fleet(spec)
    nodes = fleet.nodes(host or ())
    with reporting(as_json=as_json) as reporter:
        for done in fleet.clone(nodes, reporter, base=base, linked=not full):
            changed = ", ".join(done.changes) or "as it should be"
            later = f"; once it is off: {', '.join(done.later)}" if done.later else ""
            reporter.result(f"{done.name}: {changed}{later}", **dataclasses.asdict(done))


def start(spec: Spec = None, host: Hosts = None, as_json: Json = False) -> None:
    """Start the machines of nodes, without a window."""
    from builder.cli import reporting

    fleet = _fleet(spec)
    nodes = fleet.nodes(host or ())
    with reporting(as_json=as_json) as reporter:
        started = fleet.start(nodes, reporter)
        said = f"started: {', '.join(started)}" if started else "running already"
        reporter.result(f"{fleet.cluster.name}: {said}", cluster=fleet.cluster.name, started=started)


def stop(
    spec: Spec = None,
    host: Hosts = None,
    timeout: Annotated[
        int, typer.Option(min=0, metavar="SECONDS", help="When to take the power of one that does not shut down.")
    ] = 60,
    as_json: Json = False,
) -> None:
    """Shut the machines of nodes down: by the power button (ACPI), and after a while by taking their power."""
    from builder.cli import reporting

    fleet = _fleet(spec)
    nodes = fleet.nodes(host or ())
    with reporting(as_json=as_json) as reporter:
        stopped = fleet.stop(nodes, reporter, timeout=float(timeout))
        said = f"stopped: {', '.join(stopped)}" if stopped else "none of them ran"
        reporter.result(f"{fleet.cluster.name}: {said}", cluster=fleet.cluster.name, stopped=stopped)


def destroy(
    spec: Spec = None,
    host: Hosts = None,
    bases: Annotated[
        bool, typer.Option("--bases", help="Then the bases on their hosts that no machine hangs on, too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove the machines of nodes, with their disks and CDs; of all nodes, the networks made for them too.

    Only what hapx-build made is ever removed. Secrets stay, and without --bases what was imported.
    """
    from builder.cli import reporting

    fleet = _fleet(spec)
    nodes = fleet.nodes(host or ())
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise UsageError("destroy removes machines and their disks", hint="--yes, where nobody can be asked")
        typer.confirm(f"Remove {', '.join(node.name for node in nodes)}, with their disks?", abort=True)
    with reporting(as_json=as_json) as reporter:
        removed = fleet.destroy(nodes, reporter, with_bases=bases)
        said = f"removed: {', '.join(removed)}" if removed else "there was nothing of it"
        reporter.result(f"{fleet.cluster.name}: {said}", cluster=fleet.cluster.name, removed=removed)


def ssh(
    host: Annotated[str, typer.Argument(metavar="NODE", help="The node.", show_default=False)],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="What to run there (default: a shell).")
    ] = None,
    spec: SpecOption = None,
) -> None:
    """Log in to a node as the spec's first user, through the host it runs on where that is another machine."""
    from builder import remote

    fleet = _fleet(spec)
    (node,) = fleet.nodes((host,))
    _become(remote.node_argv(fleet.cluster, node, command or (), address=_reachable(fleet, node)))


def console(
    host: Annotated[str, typer.Argument(metavar="NODE", help="The node.", show_default=False)],
    spec: SpecOption = None,
) -> None:
    """Show a node's serial console as it is written; Ctrl-C leaves it."""
    fleet = _fleet(spec)
    (node,) = fleet.nodes((host,))
    _become(fleet.on(node).console(node.name))


def _reachable(fleet: Fleet, node: Node) -> str | None:
    """The first of the node's addresses that answers on SSH's port; None to leave it to ssh, for a node elsewhere."""
    from builder import remote

    if node.host is not None:
        return None
    found = remote.addresses(fleet.cluster, node)
    return next((address for address in found if remote.answers(address)), None) if len(found) > 1 else None


def _become(argv: Sequence[str]) -> None:
    """Be that program from now on: it has the terminal, its signals, and says the exit code."""
    from builder import command

    program = command.require(argv[0], package="openssh-client" if argv[0] == "ssh" else "")
    sys.stdout.flush()
    os.execv(program, list(argv))  # noqa: S606 - no shell, and nothing to come back to


def _fleet(spec: Path | None) -> Fleet:
    from builder import machines

    return machines.load(spec or cli_spec.default_spec())
