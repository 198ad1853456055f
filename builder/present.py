"""How results look: tables and lines for people, JSON documents for machines. The only module that draws tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from builder.command import format_argv

if TYPE_CHECKING:
    from builder.cluster.failover import Moved
    from builder.cluster.status import ClusterStatus
    from builder.cluster.up import Up
    from builder.doctor import Check
    from builder.image.bake import Bake, Outcome
    from builder.image.verify import Report
    from builder.publish import Published

_CONSOLE = Console(highlight=False, soft_wrap=True, emoji=False)
_STYLES = {"ok": "green", "note": "yellow", "warning": "yellow", "healthy": "green", "degraded": "yellow"}


def document(data: Any) -> None:
    """A JSON document on standard output."""
    _CONSOLE.print(json.dumps(data, indent=2, default=str), markup=False)


def variables(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """The variables of the Packer template."""
    if as_json:
        document(rows)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "type", "default", "description"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in rows:
        default = "(required)" if row["required"] else json.dumps(row["default"])
        table.add_row(row["name"], row["type"], Text(default), Text(row["description"]))
    _CONSOLE.print(table, soft_wrap=False)


def plan(job: Bake, *, as_json: bool) -> None:
    """What a bake would do, and the Packer command that does it."""
    if as_json:
        document({"plan": asdict(job.plan), "variables": job.shown_values, "command": job.argv})
        return
    from builder.image.machine import MACHINES

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # nothing is cut off: these are paths and digests
    if booted := MACHINES.get(job.plan.source):
        start = {"boots": job.shown_values[booted.base], "which is": job.shown_values["base_checksum"]}
    else:
        start = {"mirror": job.plan.mirror or "mmdebstrap's default", "cached root": job.plan.root_cache}
    rows: dict[str, object] = {
        "source": job.plan.source,
        "Debian": f"{job.plan.release}, {job.plan.arch}",
        **start,
        "packages": f"{len(job.plan.packages)} and what they depend on",
        "disk": f"{job.plan.disk_size_mib} MiB",
        "machine": f"{job.plan.cpus} processors, {job.plan.memory_mib} MiB of memory",
        "template": job.plan.template,
        "work": job.plan.work,
        "output": job.output,
    }
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    _CONSOLE.print(table, soft_wrap=False)
    _CONSOLE.print()
    _CONSOLE.print(format_argv(job.argv), markup=False)


def outcome(result: Outcome) -> str:
    """One line on what a bake made."""
    size = f"{result.size / 1e6:.1f} MB"
    if result.unchanged:
        return f"{result.ova}: nothing changed since it was made ({size}, sha256 {result.sha256})"
    kept = f"; work folder: {result.work}" if result.work is not None else ""
    return f"{result.ova}: {size}, sha256 {result.sha256}{kept}"


def published(result: Published) -> str:
    """One line on where an OVA is now."""
    what = "it was there already" if result.unchanged else f"{result.sent / 1e6:.1f} MB sent"
    return f"{result.address}: version {result.version} ({what}, sha256 {result.sha256})"


def report(result: Report, *, as_json: bool) -> None:
    """What `verify` found."""
    if as_json:
        document(asdict(result) | {"ok": result.ok})
        return
    for finding in result.findings:
        head = Text(f"{finding.severity}: ", style=_STYLES.get(finding.severity, "red"))
        _CONSOLE.print(head + Text(f"{finding.where}: {finding.message} [{finding.check}]", style="default"))
        if finding.hint:
            _CONSOLE.print(Text(f"  hint: {finding.hint}", style="dim"))
    size = f"{result.size / 1e6:.1f} MB, sha256 {result.sha256}"
    errors = sum(finding.severity == "error" for finding in result.findings)
    verdict = "in order" if result.ok else f"{errors} error{'s' if errors != 1 else ''}"
    _CONSOLE.print(f"{result.path}: {verdict} ({size})", markup=False)


def checks(found: Sequence[Check], *, as_json: bool) -> None:
    """What `doctor` found, and the commands that would mend it."""
    from builder import doctor

    if as_json:
        document(doctor.to_json(found))
        return
    for purpose in dict.fromkeys(check.needed_by[0] for check in found):
        _CONSOLE.print(Text(purpose, style="bold"))
        for check in found:
            if check.needed_by[0] != purpose:
                continue
            mark = Text(f"  {check.status:<8} ", style=_STYLES.get(check.status, "red" if check.failed else "yellow"))
            name = f"{check.name} {check.version}".strip()
            _CONSOLE.print(mark + Text(f"{name:<24} {check.detail or check.path}", style="default"))
            if check.hint:
                _CONSOLE.print(Text(f"{'':11}{check.hint}", style="dim"))
    if install := doctor.install_commands(found):
        _CONSOLE.print("\nThis installs what is missing:")
        for line in install:
            _CONSOLE.print(f"  {line}", markup=False)


def up(result: Up) -> str:
    """What a cluster that was brought up is, in a few lines."""
    lines = [f"{name}: {', '.join(words)}" for name, words in result.changed.items()]
    lines += [
        f"{name}: waits for its machine to be off (hapx-build stop, then up): {', '.join(words)}"
        for name, words in result.later.items()
    ]
    lines += [f"degraded: {remark}" for remark in result.remarks]
    lines += [f"VIP      {vip.address}, held by {vip.holder}" for vip in result.vips]
    if result.stats_url is not None:
        lines.append(f"stats    {result.stats_url}, user {result.stats_user}, password in {result.secrets}")
    did = "serves" if result.changed else "serves; nothing had to be done"
    lines.append(f"{result.cluster} {did} ({result.seconds:.1f} s)")
    return "\n".join(lines)


def moved(result: Moved) -> str:
    """What a planned move did, in one line."""
    if not result.vips:
        return f"{result.target} holds everything already"
    origin = " and ".join(result.origin)
    outage = (
        f"{result.outage * 1000:.0f} ms without an answer"
        if result.outage is not None
        else "the outage could not be measured, as this machine does not reach the floating IP"
    )
    return f"{', '.join(result.vips)}: {origin} -> {result.target}; {outage}"


def status_document(found: ClusterStatus) -> dict[str, Any]:
    """A cluster's status as JSON has it."""
    return {"ok": found.ok, **asdict(found)}


def status(found: ClusterStatus, *, anew: bool = False) -> None:
    """A cluster's status for people; `anew` on a screen that is empty but for it."""
    if anew:
        _CONSOLE.clear()
    quorum = {True: "has quorum", False: "no quorum", None: "no node answers"}[found.quorate]
    votes = (
        f" ({found.votes} of {found.expected_votes} votes), DC {found.dc or 'none'}"
        if found.quorate is not None
        else ""
    )
    _CONSOLE.print(Text(found.cluster, style="bold") + Text(f": {quorum}{votes}", style="default"))
    table = Table(box=None, pad_edge=False)
    for heading in ("node", "machine", "health", "member", "HAProxy", "links", "holds", "host"):
        table.add_column(heading)
    for node in found.nodes:
        own = node.health or "-"
        member = "standby" if node.standby else "online" if node.online else "offline"
        links = f"{sum(link.connected for link in node.links)}/{len(node.links)}" if node.health else "-"
        alive = "-" if node.health is None else "up" if node.haproxy else "down"
        health = Text(own, style=_STYLES.get(own, "red"))
        table.add_row(node.name, node.machine, health, member, alive, links, ", ".join(node.holds), node.host)
    _CONSOLE.print(table, soft_wrap=False)
    for vip in found.vips:
        _CONSOLE.print(f"{vip.name}  {vip.address}  held by {vip.holder or 'nobody'}", markup=False)
    backends = {backend.name: backend for node in found.nodes for backend in node.backends}
    for backend in backends.values():
        _CONSOLE.print(f"backend {backend.name}  {backend.up} of {backend.total} servers up", markup=False)
    for resource in found.resources:
        if resource.failed or resource.fail_count:
            state = "failed" if resource.failed else "running" if resource.running else "stopped"
            line = f"resource {resource.id} on {resource.node or '-'}  {state}, {resource.fail_count} failures"
            _CONSOLE.print(line, markup=False)
    for problem in found.problems:
        head = Text(f"{problem.severity}: ", style=_STYLES.get(problem.severity, "red"))
        _CONSOLE.print(head + Text(problem.message, style="default"))
        if problem.hint:
            _CONSOLE.print(Text(f"  hint: {problem.hint}", style="dim"))
