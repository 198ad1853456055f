"""`up`: from a spec to a cluster that serves. What is there already is kept, what is missing is made.

Every step finds out for itself what is left of it to do, so a run that was cut off is finished by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.cluster import contact, ova
from builder.cluster.contact import Answer
from builder.cluster.health import Health
from builder.cluster.waiting import CONSOLE_LINES, Waiting
from builder.crew import Crew
from builder.errors import CommandError, HapxError
from builder.hypervisor import Base, Hypervisor, State, wanted
from builder.hypervisor.alone import alone
from builder.machines import Fleet
from builder.progress import Reporter
from builder.spec import derived
from builder.spec.model import Node

HEALTHY_SECONDS = 900.0
"""For nodes to boot and to form a cluster; without KVM a boot alone takes minutes."""
RECONCILE_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Request:
    """What `up` is asked for: an OVA, or the one that `ova.choose` finds; who signed it; seconds to wait for health."""

    ova: str | None = None
    key: str | None = None
    timeout: float = HEALTHY_SECONDS


@dataclass(frozen=True, slots=True)
class VipAt:
    """A floating IP and who holds it."""

    address: str
    holder: str | None


@dataclass(frozen=True, slots=True)
class Up:
    """A cluster that serves. `changed` is empty where everything was right already."""

    cluster: str
    vips: tuple[VipAt, ...]
    stats_url: str | None
    stats_user: str | None
    secrets: Path
    """Where the password of the statistics page is."""
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    later: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """What nodes call degraded."""
    seconds: float = 0.0


def warnings(fleet: Fleet) -> list[str]:
    """What a person should know of the spec before: nodes that fail together."""
    by_host: dict[str, list[str]] = {}
    for node in fleet.cluster.nodes:
        by_host.setdefault(derived.host_machine(node) or "this machine", []).append(node.name)
    return [
        f"{' and '.join(names)} are on one host ({host}): when it fails or restarts, all of them do, and the floating "
        "IP with them. Name another `host:` for one of them in the spec"
        for host, names in by_host.items()
        if len(names) > 1
    ]


def up(fleet: Fleet, request: Request, reporter: Reporter) -> Up:
    """Bring the cluster up and wait until it serves; raises HapxError, with what nodes said last, where it does not."""
    began = time.monotonic()
    with Crew() as crew:
        changed: dict[str, list[str]] = {node.name: [] for node in fleet.cluster.nodes}
        bases = _bases(fleet, request, crew, reporter)
        with reporter.stage("seeds", title="Make the nodes' CDs"):
            seeds = fleet.seeds(fleet.cluster.nodes, reporter=reporter)
        with reporter.stage("machines", title="Make the machines"):
            machines = [
                wanted.machine(fleet.cluster, node, bases[node.name], seeds[node.name]) for node in fleet.cluster.nodes
            ]
            converged = fleet.converge(machines, reporter)
        for each in converged:
            changed[each.name] += ["made", *each.changes] if each.created else list(each.changes)
        with reporter.stage("start", title="Switch them on"):
            started = crew.each(fleet.cluster.nodes, lambda node: fleet.on(node).start(node.name))
        for node, did in zip(fleet.cluster.nodes, started, strict=True):
            changed[node.name] += ["started"] if did else []
        waiting = Waiting(fleet, crew, reporter, time.monotonic() + request.timeout)
        with reporter.stage("health", title="Wait until they are a cluster"):
            answers = waiting.for_health()
        generation = ova.generation(fleet)
        outdated = [each for each in answers if each.health is not None and each.health.generation != generation]
        if outdated:
            with reporter.stage("reconcile", title="Give running nodes the new configuration"):
                for node in _passive_first(fleet, outdated):
                    _reconcile(fleet, node)
                    changed[node.name].append("configuration")
                    reporter.note(f"{node.name}: has the new configuration", node=node.name)
                answers = waiting.for_health(generation)
    return _summary(fleet, answers, changed, {each.name: each.later for each in converged}, time.monotonic() - began)


def _bases(fleet: Fleet, request: Request, crew: Crew, reporter: Reporter) -> dict[str, Base]:
    """The base of each node: its own where its machine is there already, else the same for all that are to be made."""
    hosts = fleet.hosts(fleet.cluster.nodes)
    with reporter.stage("look", title="Look what is there"):
        machines = crew.each(hosts, lambda host: host.machines(fleet.cluster.name))
        imported = crew.each(hosts, lambda host: host.bases())
    by_host = {id(host): (found, bases) for host, found, bases in zip(hosts, machines, imported, strict=True)}
    own: dict[str, Base] = {}
    missing = []
    for node in fleet.cluster.nodes:
        found, bases = by_host[id(fleet.on(node))]
        name = next((each.base for each in found if each.name == node.name and each.state is not State.BROKEN), None)
        if name is None:
            missing.append(node)
        else:
            own[node.name] = next((base for base in bases if base.name == name), Base(name, ""))
    if missing or request.ova is not None:
        needing = fleet.hosts(missing or fleet.cluster.nodes)
        common = [by_host[id(host)][1] for host in needing]
        chosen = ova.choose(request.ova, common, reporter, key=request.key)
        if chosen.path is not None:
            path = chosen.path

            def advance(done: int, total: int) -> None:
                if len(needing) == 1:  # of several at once, none is the measure
                    reporter.advance(done, total, unit="B")

            def add(host: Hypervisor) -> bool:
                with alone(host, reporter, crew):
                    return host.import_base(path, chosen.base, on_progress=advance)

            with reporter.stage("import", title=f"Import {chosen.base.name}"):
                crew.each(needing, add)
        for name, base in own.items():
            if request.ova is not None and base != chosen.base:
                reporter.note(
                    f"{name} runs on {base.name} and keeps it; `hapx-build destroy --host {name}` and `up` change that"
                )
        own |= {node.name: chosen.base for node in missing}
    return own


def _passive_first(fleet: Fleet, answers: Sequence[Answer]) -> list[Node]:
    """The nodes, those that hold nothing before those that do."""

    def busy(health: Health | None) -> bool:
        return health is not None and bool(health.holds(health.node))

    ordered = sorted(answers, key=lambda answer: busy(answer.health))
    by_name = {node.name: node for node in fleet.cluster.nodes}
    return [by_name[answer.node] for answer in ordered]


def _reconcile(fleet: Fleet, node: Node) -> None:
    """Have a running node take its new CD; raises HapxError with what it said where it keeps its old one."""
    script = '/usr/sbin/hapx reconcile --json 2>&1; echo "exit code $?"'
    said = contact.ask(fleet, node, ["/bin/sh", "-c", script], timeout=RECONCILE_SECONDS)
    if said is None:
        raise HapxError(f"{node.name}: does not answer any more", hint="hapx-build status")
    *lines, last = said.strip().splitlines() or [""]
    code = int(last.removeprefix("exit code ")) if last.removeprefix("exit code ").isdigit() else -1
    if code != 0:
        raise CommandError(
            f"{node.name}: does not take the new configuration, and goes on with its old one",
            returncode=code,
            hint="the nodes after it were left alone",
            details=lines[-CONSOLE_LINES:],
        )


def _summary(
    fleet: Fleet,
    answers: Sequence[Answer],
    changed: Mapping[str, list[str]],
    later: Mapping[str, tuple[str, ...]],
    seconds: float,
) -> Up:
    cluster = fleet.cluster
    found = next((answer.health for answer in answers if answer.health is not None), None)
    stats = cluster.haproxy.stats if cluster.haproxy.config is None else None
    remarks = [
        f"{answer.node}: {problem.message}"
        for answer in answers
        if answer.health is not None
        for problem in answer.health.problems
    ]
    url = None
    if stats is not None and cluster.vips:
        address = str(cluster.vips[0].address)
        url = f"http://{f'[{address}]' if ':' in address else address}:{stats.port}/"
    return Up(
        cluster=cluster.name,
        vips=tuple(VipAt(vip.address, vip.holder) for vip in (found.vips if found is not None else ())),
        stats_url=url,
        stats_user=stats.user if stats is not None and url is not None else None,
        secrets=fleet.spec.secrets,
        changed={name: tuple(words) for name, words in changed.items() if words},
        later={name: words for name, words in later.items() if words},
        remarks=tuple(remarks),
        seconds=round(seconds, 1),
    )
