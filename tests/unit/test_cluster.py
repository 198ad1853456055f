"""up, status, failover and down over a stand-in for a hypervisor: it keeps machines in memory and plays their nodes.

A real hypervisor with real nodes takes minutes (tests/e2e/test_up.py); what it cannot be made to do in a test is played
here: nodes that never answer, disagree, refuse a configuration or come back.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.cluster import failover as failovers
from builder.cluster import waiting
from builder.cluster.contact import Answer
from builder.cluster.down import down
from builder.cluster.failover import failover
from builder.cluster.health import parse
from builder.cluster.outage import Watch
from builder.cluster.ova import generation, newest
from builder.cluster.status import judge, status
from builder.cluster.up import Request, up, warnings
from builder.cluster.waiting import lacking
from builder.command import run
from builder.errors import HapxError, InputError, UnreachableError
from builder.hypervisor import Base, Converged, Found, Machine, Progress, State
from builder.machines import Fleet, load
from builder.progress import Reporter

BASE = Base("hapx-1.2.3-amd64", "ab" * 32)
VIP = "192.0.2.10"


def healthy(node: str, others: Sequence[str], made: str, holder: str | None) -> dict[str, Any]:
    """What `hapx health --json` says on a node of a cluster that serves."""
    names = sorted((node, *others))
    return {
        "state": "healthy",
        "cluster": "pair",
        "node": node,
        "generation": made,
        "applied": made,
        "quorate": True,
        "votes": len(names),
        "expected_votes": len(names),
        "dc": names[0],
        "nodes": [{"name": name, "id": 1, "online": True, "standby": False} for name in names],
        "links": [{"peer": other, "number": 0, "connected": True} for other in others],
        "vips": [{"name": "vip", "address": VIP, "holder": holder}],
        "haproxy": {"alive": True, "backends": [{"name": "web", "up": 2, "total": 2}]},
        "resources": [{"id": "vip", "node": holder, "running": True, "failed": False, "fail_count": 0}],
        "clock": {"synchronised": True, "offset_seconds": 0.0},
        "problems": [],
    }


@dataclass(eq=False)
class Played:
    """The stand-in: a host, its machines, and the cluster that its nodes play."""

    where: str = "this machine"
    imported: list[Base] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    seeds: dict[str, bytes] = field(default_factory=dict)
    has: dict[str, str] = field(default_factory=dict)
    """The generation of each node."""
    holder: str | None = "node1"
    mute: set[str] = field(default_factory=set)
    refuses: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    next_generation: str = ""
    without_seed: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    """Bases that machines of another cluster hang on."""

    def alone(self, *, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def bases(self) -> Sequence[Base]:
        return self.imported

    def import_base(self, ova: Path, base: Base, *, on_progress: Progress | None = None) -> bool:
        self.imported.append(base)
        return True

    def remove_base(self, name: str) -> None:
        if name in self.used:
            raise InputError(f"{name} is the base of another cluster's machine")
        self.imported = [base for base in self.imported if base.name != name]

    def machines(self, cluster: str | None = None) -> Sequence[Found]:
        return [Found("pair", name, state, BASE.name) for name, state in self.states.items()]

    def converge(self, machine: Machine) -> Converged:
        created = machine.name not in self.states
        self.states.setdefault(machine.name, State.OFF)
        before, now = self.seeds.get(machine.name), machine.seed.read_bytes()
        self.seeds[machine.name] = now
        return Converged(machine.name, created, ("CD",) if before not in (None, now) else ())

    def start(self, name: str) -> bool:
        did = self.states[name] is not State.RUNNING
        self.states[name] = State.RUNNING
        self.has.setdefault(name, self.next_generation)
        return did

    def stop(self, name: str, *, timeout: float) -> bool:
        did = self.states[name] is State.RUNNING
        self.states[name] = State.OFF
        return did

    def power_off(self, name: str) -> bool:
        raise NotImplementedError

    def destroy(self, name: str) -> bool:
        return self.states.pop(name, None) is not None

    def destroy_networks(self, cluster: str) -> Sequence[str]:
        return []

    def console(self, name: str) -> Sequence[str]:
        raise NotImplementedError

    def console_tail(self, name: str, lines: int) -> Sequence[str]:
        return ["Kernel panic - not syncing"]

    def ask(self, name: str, argv: Sequence[str], *, timeout: float) -> str | None:
        self.asked.append((name, " ".join(argv)))
        if name in self.mute or self.states.get(name) is not State.RUNNING:
            return None
        if name in self.without_seed:
            tool = Path(__file__).parents[2] / "packer/files/usr/lib/hapx"
            # On a node it is root who asks.
            program = f"import os, sys; sys.path.insert(0, {str(tool)!r}); os.geteuid = lambda: 0; "
            program += "from hapx.cli import main; main()"
            return run([sys.executable, "-c", program, *argv[4:]], check=False).stdout
        if "reconcile" in argv[-1]:
            if name in self.refuses:
                return "haproxy.cfg: line 7: unknown keyword\nexit code 1\n"
            self.has[name] = self.next_generation
            return "{}\nexit code 0\n"
        if "crm_resource" in " ".join(argv):
            self.holder = argv[argv.index("hapx-build") + 1]
            return ""
        others = [other for other, state in self.states.items() if other != name and state is State.RUNNING]
        return json.dumps(healthy(name, others, self.has[name], self.holder))


class Notes(Reporter):
    """Keeps what was noted."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str, **facts: Any) -> None:
        self.notes.append(message)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    monkeypatch.chdir(tmp_path)  # CDs go to dist/ there
    host = Played(imported=[BASE])
    monkeypatch.setattr("builder.hypervisor.choose.hypervisor", lambda _: host)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(failovers, "POLL_SECONDS", 0.01)
    # Nobody has the floating IP: what is asked for it stays on this machine.
    monkeypatch.setattr(failovers, "Watch", lambda *_: Watch("127.0.0.1", 1))
    return host


@pytest.fixture
def fleet(played: Played, tmp_path: Path) -> Fleet:
    return write(played, tmp_path)


def write(played: Played, folder: Path, *, servers: int = 1, hosts: Sequence[str | None] = (None, None)) -> Fleet:
    """A spec, loaded; nodes that start or reconcile from now on have its generation."""
    backend = [{"name": f"web{number}", "address": "192.0.2.1", "port": 8000 + number} for number in range(servers)]
    spec = {
        "name": "pair",
        "networks": {"public": {"kind": "bridged", "name": "br0", "subnets": ["192.0.2.0/24"]}},
        "nodes": [
            {"name": f"node{n}", "addresses": {"public": f"192.0.2.{10 + n}"}} | ({"host": host} if host else {})
            for n, host in enumerate(hosts, 1)
        ],
        "vips": [{"address": VIP, "network": "public"}],
        "corosync": {"links": ["public"]},
        "haproxy": {
            "frontends": [{"name": "web", "port": 80, "backend": "web"}],
            "backends": [{"name": "web", "servers": backend}],
        },
    }
    (folder / "pair.yaml").write_text(yaml.safe_dump(spec))
    found = load(folder / "pair.yaml")
    found.seeds(found.cluster.nodes)
    played.next_generation = generation(found)
    return found


# -- up


def test_up_makes_starts_and_waits(fleet: Fleet, played: Played) -> None:
    result = up(fleet, Request(), Reporter())
    assert result.changed == {"node1": ("made", "started"), "node2": ("made", "started")}
    assert [(vip.address, vip.holder) for vip in result.vips] == [(VIP, "node1")]
    assert (result.stats_url, result.stats_user) == (f"http://{VIP}:32700/", "hapx")
    assert result.secrets.exists()


def test_machines_are_made_on_all_hosts_at_once(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2)

    @dataclass(eq=False)
    class Slow(Played):
        def converge(self, machine: Machine) -> Converged:
            together.wait(10)
            return super().converge(machine)

    hosts = {uri: Slow(uri, imported=[BASE]) for uri in ("qemu+ssh://one/system", "qemu+ssh://two/system")}
    monkeypatch.setattr("builder.hypervisor.choose.hypervisor", hosts.__getitem__)
    fleet = write(played, tmp_path, hosts=list(hosts))
    made = fleet.clone(fleet.cluster.nodes, Reporter())
    assert [(each.name, each.created) for each in made] == [("node1", True), ("node2", True)]
    assert [list(host.states) for host in hosts.values()] == [["node1"], ["node2"]]


def test_up_again_changes_nothing(fleet: Fleet) -> None:
    up(fleet, Request(), Reporter())
    assert up(fleet, Request(), Reporter()).changed == {}


def test_up_goes_on_where_a_run_was_cut_off(fleet: Fleet, played: Played) -> None:
    played.states["node1"] = State.OFF
    assert up(fleet, Request(), Reporter()).changed == {"node1": ("started",), "node2": ("made", "started")}
    assert played.states == {"node1": State.RUNNING, "node2": State.RUNNING}


def test_a_changed_spec_reaches_the_passive_node_first(fleet: Fleet, played: Played, tmp_path: Path) -> None:
    up(fleet, Request(), Reporter())
    played.asked.clear()
    result = up(write(played, tmp_path, servers=2), Request(), Reporter())
    assert result.changed == {"node1": ("CD", "configuration"), "node2": ("CD", "configuration")}
    assert [name for name, said in played.asked if "reconcile" in said] == ["node2", "node1"]


def test_a_node_that_refuses_stops_the_rest(fleet: Fleet, played: Played, tmp_path: Path) -> None:
    up(fleet, Request(), Reporter())
    played.refuses = {"node2"}
    played.asked.clear()
    with pytest.raises(HapxError, match="node2: does not take the new configuration") as caught:
        up(write(played, tmp_path, servers=2), Request(), Reporter())
    assert "haproxy.cfg: line 7: unknown keyword" in caught.value.details
    assert [name for name, said in played.asked if "reconcile" in said] == ["node2"]


def test_a_node_that_never_answers_is_an_error_with_its_console(fleet: Fleet, played: Played) -> None:
    played.mute = {"node2"}
    with pytest.raises(HapxError, match="does not serve") as caught:
        up(fleet, Request(timeout=0.1), Reporter())
    assert "node2: does not answer" in caught.value.details
    assert "  console: Kernel panic - not syncing" in caught.value.details


def test_a_node_that_did_not_find_its_cd_says_so(fleet: Fleet, played: Played) -> None:
    played.without_seed = {"node2"}
    notes = Notes()
    with pytest.raises(HapxError) as caught:
        up(fleet, Request(timeout=0.1), notes)
    assert "node2: this node has no seed yet" in caught.value.details
    assert "node2: this node has no seed yet" in notes.notes


def test_a_machine_that_went_off_is_switched_on_again(fleet: Fleet, played: Played) -> None:
    notes = Notes()
    started = played.start

    def start_and_lose(name: str) -> bool:
        did = started(name)
        if name == "node2" and not any("switched on again" in note for note in notes.notes) and len(played.asked) == 0:
            played.states[name] = State.OFF
        return did

    played.start = start_and_lose  # type: ignore[method-assign]
    up(fleet, Request(), notes)
    assert "node2: was off, and is switched on again" in notes.notes


def test_new_machines_are_made_from_the_newest_ova(fleet: Fleet, tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for name in ("b", "a"):
        (tmp_path / f"{name}.ova").touch()
        time.sleep(0.01)
    assert newest(tmp_path) == str(tmp_path / "a.ova")


@pytest.mark.parametrize(
    ("hosts", "warned"),
    [
        ((None, None), True),
        (("qemu+ssh://one/system", "qemu+ssh://two/system"), False),
        (("ssh://root@one", "ssh://admin@one"), True),
    ],
)
def test_nodes_on_one_host_are_warned_of(
    hosts: Sequence[str | None], warned: bool, played: Played, tmp_path: Path
) -> None:
    found = warnings(write(played, tmp_path, hosts=hosts))
    assert bool(found) is warned
    assert all("node1 and node2 are on one host" in each for each in found)


# -- What a node lacks


@pytest.mark.parametrize(
    ("changed", "lack"),
    [
        ({}, ""),
        ({"quorate": False}, "has no quorum"),
        ({"nodes": []}, "waits for node1, node2"),
        ({"haproxy": {"alive": False}}, "waits for HAProxy"),
        ({"vips": []}, "waits for somebody to hold the floating IP"),
        ({"vips": [{"name": "vip", "address": VIP, "holder": None}]}, f"waits for somebody to hold {VIP}"),
        ({"applied": None}, "applies its configuration"),
        ({"generation": "old", "applied": "old"}, "has an older configuration"),
        ({"state": "failed", "problems": [{"severity": "failed", "message": "links are down"}]}, "links are down"),
        ({"state": "degraded", "problems": [{"severity": "degraded", "message": "clock"}]}, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_node_serves_when_it_lacks_nothing(changed: dict[str, Any], lack: str, fleet: Fleet) -> None:
    said = parse(json.dumps(healthy("node1", ["node2"], "new", "node1") | changed))
    assert lacking(fleet, Answer("node1", said), "new") == lack


def test_health_of_another_kind_is_none() -> None:
    assert [parse(text) for text in ("", "{}", "[]", "usage: hapx", '{"state": 3}')] == [None] * 5


# -- status


def answer(node: str, **changed: Any) -> Answer:
    other = {"node1": "node2", "node2": "node1"}[node]
    return Answer(node, parse(json.dumps(healthy(node, [other], "new", "node1") | changed)))


RUNNING = {"node1": "running", "node2": "running"}


def test_status_of_a_cluster_that_serves(fleet: Fleet) -> None:
    found = judge(fleet, [answer("node1"), answer("node2")], RUNNING)
    assert found.ok
    assert [node.holds for node in found.nodes] == [("vip",), ()]


def test_who_has_quorum_is_believed(fleet: Fleet) -> None:
    lone = answer("node1", quorate=False, dc=None, vips=[{"name": "vip", "address": VIP, "holder": None}])
    found = judge(fleet, [lone, answer("node2", vips=[{"name": "vip", "address": VIP, "holder": "node2"}])], RUNNING)
    assert (found.quorate, found.vips[0].holder) == (True, "node2")


def test_two_owners_are_a_problem(fleet: Fleet) -> None:
    two = answer("node2", vips=[{"name": "vip", "address": VIP, "holder": "node2"}])
    found = judge(fleet, [answer("node1"), two], RUNNING)
    assert not found.ok
    assert [problem.message for problem in found.problems] == [f"{VIP} is held by node1 and node2"]


def test_a_node_that_is_off_is_said_to_be(fleet: Fleet, played: Played) -> None:
    up(fleet, Request(), Reporter())
    played.states["node2"] = State.OFF
    found = status(fleet)
    assert [node.machine for node in found.nodes] == ["running", "off"]
    assert "node2: its machine is off" in [problem.message for problem in found.problems]


def test_a_host_that_does_not_answer_is_part_of_the_picture(fleet: Fleet, played: Played) -> None:
    def lost(*_: object, **__: object) -> Any:
        raise UnreachableError("no libvirt answers there")

    played.machines = lost  # type: ignore[method-assign]
    played.ask = lost  # type: ignore[method-assign]
    found = status(fleet)
    assert (found.quorate, [node.machine for node in found.nodes]) == (None, ["unreachable"] * 2)
    assert not found.ok


# -- failover and down


def test_a_planned_move_goes_to_the_next_node(fleet: Fleet, played: Played) -> None:
    up(fleet, Request(), Reporter())
    moved = failover(fleet, None, Reporter())
    assert (moved.target, moved.origin, moved.vips, played.holder) == ("node2", ("node1",), ("vip",), "node2")
    assert failover(fleet, "node2", Reporter()).vips == ()


def test_a_planned_move_takes_its_constraint_back_on_the_node(fleet: Fleet, played: Played) -> None:
    up(fleet, Request(), Reporter())
    failover(fleet, None, Reporter())
    (script,) = [said for _, said in played.asked if "crm_resource" in said]
    assert script.index("--move") < script.index("--wait") < script.index("--clear")
    assert "--lifetime" in script


@pytest.mark.parametrize(("target", "error"), [("node3", InputError), ("node2", HapxError)])
def test_what_cannot_take_over_is_refused(target: str, error: type[HapxError], fleet: Fleet, played: Played) -> None:
    up(fleet, Request(), Reporter())
    played.states["node2"] = State.OFF
    with pytest.raises(error):
        failover(fleet, target, Reporter())
    assert played.holder == "node1"


def test_bases_go_with_the_cluster_but_for_those_that_others_use(fleet: Fleet, played: Played) -> None:
    played.imported.append(Base("hapx-1.0.0-amd64", "cd" * 32))
    played.used = {"hapx-1.0.0-amd64"}
    up(fleet, Request(), Reporter())
    notes = Notes()
    assert fleet.destroy(fleet.cluster.nodes, notes, with_bases=True) == ["node1", "node2", BASE.name]
    assert [base.name for base in played.imported] == ["hapx-1.0.0-amd64"]
    assert notes.notes == ["hapx-1.0.0-amd64 is the base of another cluster's machine"]


def test_down_shuts_all_down_once(fleet: Fleet, played: Played) -> None:
    up(fleet, Request(), Reporter())
    assert down(fleet, Reporter()) == ("node1", "node2")
    assert down(fleet, Reporter()) == ()


# -- The outage


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        yield listening


def test_an_outage_is_as_long_as_nobody_accepts(server: socket.socket) -> None:
    address, port = server.getsockname()
    with Watch(address, port) as watch:
        assert watch.reached(within=5)
        server.close()
        time.sleep(0.4)
        with socket.create_server((address, port), backlog=1000):
            assert watch.reached(within=5)
    assert 0.35 < watch.longest() < 2


def test_without_an_outage_there_is_hardly_a_gap(server: socket.socket) -> None:
    with Watch(*server.getsockname()) as watch:
        assert watch.reached(within=5)
        time.sleep(0.3)
    assert 0 < watch.longest() < 0.3


def test_an_address_that_nobody_has_is_not_reached() -> None:
    began = threading.active_count()
    with Watch("127.0.0.1", 1) as watch:
        assert not watch.reached(within=0.2)
    assert watch.longest() == 0
    assert threading.active_count() == began
