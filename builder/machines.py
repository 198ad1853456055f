"""The machines of one cluster: on which hypervisor each is, its CD, and what is done to several of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import resources
from builder.crew import Crew
from builder.errors import HapxError, InputError, Problem
from builder.hypervisor import Base, Converged, Found, Hypervisor, Machine, State, bases, choose, wanted
from builder.hypervisor.alone import alone
from builder.progress import Reporter
from builder.seed import seeding
from builder.seed.secrets import path_beside
from builder.seed.seeding import ClusterSpec
from builder.seed.templates import Templates
from builder.spec import load as load_spec
from builder.spec.issues import nearest
from builder.spec.loading import spoken
from builder.spec.model import Cluster, Node

CDS = Path("dist")
STOP_SECONDS = 60.0
THREADS = 4  # more VBoxManage at a time wait for one another


@dataclass(frozen=True, slots=True)
class Seen:
    """A node's machine: where it should be and what it is; None where there is none."""

    node: str
    host: str
    found: Found | None


class Fleet:
    """A cluster's nodes and their hypervisors. May be used by several threads at once."""

    def __init__(self, cluster: Cluster, spec: ClusterSpec) -> None:
        self.cluster = cluster
        self.spec = spec
        self._hosts: dict[str | None, Hypervisor] = {}
        self._lock = threading.Lock()

    def on(self, node: Node) -> Hypervisor:
        """The hypervisor that a node's machine is on; the same object for all nodes of a host."""
        with self._lock:
            if node.host not in self._hosts:
                self._hosts[node.host] = choose.hypervisor(node.host)
            return self._hosts[node.host]

    def hosts(self, nodes: Sequence[Node]) -> list[Hypervisor]:
        """The hypervisors of these nodes, each once."""
        return list(dict.fromkeys(self.on(node) for node in nodes))

    def nodes(self, names: Sequence[str] = ()) -> tuple[Node, ...]:
        """The nodes of these names, in the spec's order; all of them where no name is given. Raises InputError."""
        known = [node.name for node in self.cluster.nodes]
        problems = [
            Problem(f"--host {name}", f"no such node in {spoken(self.spec.path)}", nearest(name, known))
            for name in dict.fromkeys(names)
            if name not in known
        ]
        if problems:
            raise InputError("not a node of this cluster", problems)
        return tuple(node for node in self.cluster.nodes if not names or node.name in names)

    def seeds(self, nodes: Sequence[Node], *, reporter: Reporter | None = None) -> dict[str, Path]:
        """The nodes' CDs in dist/, by the nodes' names: made where missing or changed."""
        names = tuple(node.name for node in nodes)
        prepared = seeding.prepare(seeding.SeedRequest((self.spec,), names, output=CDS), Templates())
        if reporter is not None:
            for note in prepared.notes:
                reporter.note(note)
        written = seeding.write_isos(prepared)
        return {seed.documents.host: each.path.absolute() for seed, each in zip(prepared.seeds, written, strict=True)}

    def clone(
        self, nodes: Sequence[Node], reporter: Reporter, *, base: str | None = None, linked: bool = True
    ) -> list[Converged]:
        """Make the nodes' machines, or what differs of them; in the nodes' order.

        From the base of that name, else the newest of each host; a machine that is there keeps the one it has. When
        one fails or Ctrl-C comes, those that were begun are finished, which takes a moment; full copies, which take
        longer, are made one after the other.
        """
        with reporter.stage("look", title="See what is there"):
            chosen = self._bases(nodes, base)
        with reporter.stage("seeds", title="Make the CDs"):
            seeds = self.seeds(nodes, reporter=reporter)
        machines = [
            wanted.machine(self.cluster, node, chosen[node.name], seeds[node.name], linked=linked) for node in nodes
        ]
        with reporter.stage("clone", title="Make the machines"):
            if linked:
                return self.converge(machines, reporter)
            done = []
            for node, machine in zip(nodes, machines, strict=True):
                with alone(self.on(node), reporter):
                    done.append(self.on(node).converge(machine))
            return done

    def converge(self, machines: Sequence[Machine], reporter: Reporter) -> list[Converged]:
        """Make machines of nodes, or what differs of them, on all hosts and of all nodes at once; in their order."""
        hosts = {node.name: self.on(node) for node in self.nodes([machine.name for machine in machines])}

        def work(host: Hypervisor) -> list[Converged]:
            theirs = [machine for machine in machines if hosts[machine.name] is host]
            with alone(host, reporter, crew), Crew(THREADS, within=crew) as its:
                return its.each(theirs, host.converge)

        with Crew() as crew:
            done = {each.name: each for those in crew.each(dict.fromkeys(hosts.values()), work) for each in those}
        return [done[machine.name] for machine in machines]

    def _bases(self, nodes: Sequence[Node], name: str | None) -> dict[str, Base]:
        chosen = {}
        for host in self.hosts(nodes):
            there = host.bases()
            named = {base.name: base for base in there}
            if name is not None and name not in named:
                hint = f"there are: {', '.join(sorted(named)) or 'none'}; hapx-build import makes one"
                raise InputError(f"{host.where}: there is no base {name}", hint=hint)
            have = {each.name: each.base for each in host.machines(self.cluster.name)}
            for node in nodes:
                if self.on(node) is not host:
                    continue
                old = have.get(node.name)
                if name is None and old:
                    chosen[node.name] = named.get(old) or Base(old, "")
                elif not there:
                    where = f" --on {node.host}" if node.host else ""
                    raise InputError(
                        f"{host.where}: there is no base to clone", hint=f"hapx-build import{where} dist/hapx-….ova"
                    )
                else:
                    chosen[node.name] = named[name] if name is not None else bases.newest(there)
        return chosen

    def seen(self, nodes: Sequence[Node]) -> list[Seen]:
        """What machine each node has."""
        found: dict[int, dict[str, Found]] = {}
        for host in self.hosts(nodes):
            found[id(host)] = {each.name: each for each in host.machines(self.cluster.name)}
        return [Seen(node.name, self.on(node).where, found[id(self.on(node))].get(node.name)) for node in nodes]

    def start(self, nodes: Sequence[Node], reporter: Reporter) -> list[str]:
        """Start the nodes' machines that do not run; their names."""
        started = []
        for node in nodes:
            with reporter.stage(f"start {node.name}", title=f"Start {node.name}"):
                if self.on(node).start(node.name):
                    started.append(node.name)
        return started

    def stop(self, nodes: Sequence[Node], reporter: Reporter, *, timeout: float = STOP_SECONDS) -> list[str]:
        """Shut the nodes' machines down that run; their names. After `timeout` seconds each loses its power."""
        stopped = []
        for seen, node in zip(self.seen(nodes), nodes, strict=True):
            if seen.found is None or seen.found.state in (State.OFF, State.SAVED):
                continue
            with reporter.stage(f"stop {node.name}", title=f"Stop {node.name}"):
                if self.on(node).stop(node.name, timeout=timeout):
                    stopped.append(node.name)
        return stopped

    def destroy(self, nodes: Sequence[Node], reporter: Reporter, *, with_bases: bool = False) -> list[str]:
        """Remove the nodes' machines and their CDs; of all nodes, the networks made for them too. What was removed.

        What cannot be removed does not keep the others; then the first error is raised in the end. Without an error the
        bases of their hosts are removed on request, but for those that a machine of whatever cluster hangs on.
        """
        removed = []
        errors: list[HapxError] = []
        for node in nodes:
            try:
                with reporter.stage(f"destroy {node.name}", title=f"Destroy {node.name}"):
                    with alone(self.on(node), reporter):
                        gone = self.on(node).destroy(node.name)
                    removed += [node.name] if gone else []
                (CDS / f"{node.name}{seeding.ISO_SUFFIX}").unlink(missing_ok=True)
            except HapxError as error:
                errors.append(error)
        if not errors and len(nodes) == len(self.cluster.nodes):
            for host in self.hosts(nodes):
                with alone(host, reporter):
                    removed += host.destroy_networks(self.cluster.name)
        if errors:
            raise errors[0]
        if with_bases:
            with reporter.stage("bases", title="Remove the bases that nobody uses"):
                for host in self.hosts(nodes):
                    with alone(host, reporter):
                        removed += _remove_bases(host, reporter)
        return removed


def _remove_bases(host: Hypervisor, reporter: Reporter) -> list[str]:
    removed = []
    for base in host.bases():
        try:
            host.remove_base(base.name)
        except InputError as error:  # machines hang on it
            reporter.note(error.message)
        else:
            removed.append(base.name)
    return removed


def load(path: Path) -> Fleet:
    """The fleet of the spec at `path`; raises InputError with everything that is wrong in it."""
    # What came with hapx-build is nobody's place for secrets: those stay in the working folder.
    foreign = path.is_relative_to(resources.shipped("seeds")) and not path.absolute().is_relative_to(Path.cwd())
    spec = ClusterSpec(path, path_beside(Path(path.name) if foreign else path))
    return Fleet(load_spec(path), spec)
