"""One cluster from the baked OVA, from `up` to `destroy`, on two hosts under whatever runs guests here.

The hosts are two libvirtds in one world. One wire joins them, with VLANs on it as in the guide's DMZ: in one the
floating IP alone, with the client, in the other the nodes, with the web servers behind HAProxy. One node boots by BIOS,
one by UEFI. A boot takes minutes where the processor is emulated, so all tests share one cluster, and run in their
order; what each measures is shown in the end. Times here say that it happens; what it takes on a processor is for the
containers' tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.command import Result, run
from tests.cluster import world as worlds
from tests.cluster.observers import Backends, Client, Vlans
from tests.cluster.world import World
from tests.e2e import hosts
from tests.e2e.hosts import Host

pytestmark = [pytest.mark.slow, pytest.mark.vms]

# Addresses of examples (RFC 5737).
VIP = "192.0.2.10"
CLIENT = "192.0.2.1"
GATEWAY = "198.51.100.1"
VLANS = {"vlan41": 41, "vlan43": 43}
SERVERS = (("web1", GATEWAY, 8001), ("web2", GATEWAY, 8002), ("web3", GATEWAY, 8003))
NODES = ("node1", "node2")
UP_SECONDS = 900.0
SETTLE_SECONDS = 240.0
MOVE_SECONDS = 90.0


@dataclass
class Site:
    """The world, its two hosts, a client that asks all the time, and the folder with the spec."""

    world: World
    hosts: dict[str, Host]
    folder: Path
    ova: Path
    client: Client
    artifacts: Path
    first: dict[str, Any] = field(default_factory=dict)

    def write_spec(self, servers: int = 2) -> None:
        """The spec, with that many servers behind HAProxy."""
        spec = {
            "name": "pair",
            "machine": {"cpus": 1, "memory_mib": 1024},
            "networks": {
                "dmz": {"kind": "bridged", "name": "dmz"},
                "vip": {"vlan": 41, "parent": "dmz", "subnets": ["192.0.2.0/24"]},
                "cluster": {"vlan": 43, "parent": "dmz", "subnets": ["198.51.100.0/24"]},
            },
            "nodes": [
                {
                    "name": name,
                    "host": self.hosts[name].uri,
                    "firmware": firmware,
                    "addresses": {"cluster": f"198.51.100.{10 + number}"},
                }
                for number, (name, firmware) in enumerate(zip(NODES, ("bios", "uefi"), strict=True), 1)
            ],
            "vips": [{"address": VIP, "network": "vip"}],
            # Two emulated machines on two busy cores are late now and then without being lost.
            "corosync": {"links": ["cluster"], "token": 10_000},
            "haproxy": {
                "frontends": [{"name": "web", "port": 80, "mode": "http", "backend": "web"}],
                "backends": [
                    {
                        "name": "web",
                        "mode": "http",
                        "servers": [{"name": n, "address": a, "port": p} for n, a, p in SERVERS[:servers]],
                    }
                ],
            },
        }
        (self.folder / "pair.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))

    def hapx(self, command: str, *arguments: str, check: bool = True) -> Result:
        """Run hapx-build in the world, on the spec."""
        program = Path(sys.executable).with_name("hapx-build")
        argv = self.world.enter(["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", self.folder, program, command])
        result = run([*argv, "pair.yaml", *arguments], check=False, timeout=UP_SECONDS + 60)
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    def told(self, command: str, *arguments: str) -> dict[str, Any]:
        """What hapx-build says in the end, as data."""
        lines = self.hapx(command, *arguments, "--json").stdout.splitlines()
        (result,) = [event for event in map(json.loads, lines) if event["event"] == "result"]
        return dict(result)

    def status(self) -> dict[str, Any]:
        """What `status` says; its exit code says the same."""
        result = self.hapx("status", "--json", check=False)
        found = json.loads(result.stdout)
        assert result.returncode == (0 if found["ok"] else 1)
        return dict(found)

    def inside(self, node: str, *argv: str, seconds: float = 60.0) -> str:
        """What a program on a node prints, through the guest agent."""
        from builder.hypervisor.libvirt import Libvirt

        said = Libvirt(self.hosts[node].uri).ask(node, argv, timeout=seconds)
        assert said is not None, f"{node} does not answer"
        return said.strip()

    def holder(self) -> str:
        """The node that holds the floating IP by its own word."""
        (found,) = self.owners()
        return found

    def owners(self) -> list[str]:
        """The nodes that have the floating IP on an interface."""
        return [name for name in NODES if self.holds(name)]

    def holds(self, node: str) -> bool:
        """Whether a node has the floating IP on an interface."""
        return f" {VIP}/" in self.inside(node, "ip", "-4", "address", "show")

    def wait(self, what: str, holds: Callable[[], bool], seconds: float) -> float:
        """Wait for something; the seconds it took."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() < began + seconds, f"{what}: not within {seconds:.0f} s; {self.status()}"
            time.sleep(1)
        return time.monotonic() - began

    def settle(self) -> dict[str, Any]:
        """Wait until the cluster calls itself healthy, and what it then is."""
        found: dict[str, Any] = {}

        def healthy() -> bool:
            found.update(self.status())
            return bool(found["quorate"]) and all(
                node["online"] and node["health"] != "failed" and node["health"] is not None for node in found["nodes"]
            )

        self.wait("healthy", healthy, SETTLE_SECONDS)
        return found


@pytest.fixture(scope="module")
def site(baked: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("libvirtd and network namespaces take root here")
    folder = tmp_path_factory.mktemp("up")
    artifacts = Path(os.environ.get("HAPX_TEST_ARTIFACTS") or pytestconfig.rootpath / "dist" / "test-artifacts")
    artifacts.mkdir(parents=True, exist_ok=True)
    with worlds.create(tmp_path_factory.mktemp("w")) as world:
        vlans = Vlans(world, "wire", VLANS)
        world.ip(
            "link add name dmz type bridge forward_delay 0",
            "link set dev wire master dmz",
            f"address add {CLIENT}/24 dev vlan41",
            f"address add {GATEWAY}/24 dev vlan43",
            *(f"link set dev {name} up" for name in ("dmz", "wire", *VLANS)),
        )
        backends = Backends(world, SERVERS)
        # Fifty requests a second, as containers serve them, would be all that an emulated processor does.
        client = Client(world, VIP, interval=0.2, timeout=3)
        with hosts.start(world, "a") as first, hosts.start(world, "b") as second:
            made = Site(
                world, dict(zip(NODES, (first, second), strict=True)), folder, baked.resolve(), client, artifacts
            )
            made.write_spec()
            yield made
        client.stop()
        backends.stop()
        vlans.stop()


@pytest.fixture(scope="module")
def up(site: Site, note_time: Callable[[str], None]) -> Site:
    """The cluster, up."""
    if not site.first:
        site.first = site.told("up", "--ova", str(site.ova), "--timeout", str(int(UP_SECONDS)))
        note_time(f"up: from the OVA to a pair that serves {site.first['seconds']:.0f} s")
    return site


def test_up_makes_a_cluster_that_serves(up: Site) -> None:
    (vip,) = up.first["vips"]
    assert vip["address"] == VIP
    assert vip["holder"] == up.holder()
    assert {name: words[0] for name, words in up.first["changed"].items()} == dict.fromkeys(NODES, "made")
    assert (up.first["stats_url"], up.first["stats_user"]) == (f"http://{VIP}:32700/", "hapx")
    assert (up.folder / up.first["secrets"]).stat().st_mode & 0o777 == 0o600


def test_a_client_gets_every_server_through_the_floating_ip(up: Site) -> None:
    since = time.monotonic()
    up.client.wait_served(since, 60)
    assert {each.said for each in up.client.requests(since) if each.good} == {"web1", "web2"}


def test_each_machine_is_on_its_own_host(up: Site) -> None:
    assert [host.left()["machines"] for host in up.hosts.values()] == [[name] for name in NODES]


def test_up_again_has_nothing_to_do(up: Site) -> None:
    began = time.monotonic()
    again = up.told("up")
    assert (again["changed"], again["later"]) == ({}, {})
    # It asks both nodes how they are, which takes an emulated one longest.
    assert time.monotonic() - began < SETTLE_SECONDS


def test_status_says_all_of_it(up: Site) -> None:
    found = up.status()
    assert (found["quorate"], found["votes"], found["expected_votes"]) == (True, 2, 2)
    assert [(node["name"], node["machine"], node["online"]) for node in found["nodes"]] == [
        (name, "running", True) for name in NODES
    ]
    assert [node["holds"] for node in found["nodes"] if node["name"] == up.holder()] == [["vip"]]
    text = up.hapx("status", check=False).stdout
    assert f"held by {up.holder()}" in text


def screenshot(site: Site, name: str) -> Path:
    """The statistics page as Debian's Chromium draws it, through the floating IP."""
    (secrets,) = site.folder.glob("*.secrets.yaml")
    password = yaml.safe_load(secrets.read_text())["stats_password"]
    target = site.artifacts / f"stats-{name}.png"
    argv = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,800"]
    argv += [f"--user-data-dir={site.folder / 'chromium'}", f"--screenshot={target}"]
    site.world.run(*argv, f"http://hapx:{password}@{VIP}:32700/", timeout=120)
    dom = site.world.run(*argv[:-1], "--dump-dom", f"http://hapx:{password}@{VIP}:32700/", timeout=120).stdout
    for server in ("web1", "web2"):
        assert server in dom
    assert target.stat().st_size > 10_000
    return target


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_the_statistics_page_opens_in_a_browser_before_and_after_a_planned_move(
    up: Site, note_time: Callable[[str], None]
) -> None:
    before = up.holder()
    screenshot(up, "before")
    since = time.monotonic()
    moved = up.told("failover")
    (target,) = {*NODES} - {before}
    assert (moved["target"], moved["origin"], moved["vips"]) == (target, [before], ["vip"])
    assert up.holder() == target
    up.client.wait_served(since, 60)
    note_time(
        f"planned move: {moved['outage']:.2f} s by hapx-build's own count, {up.client.outage(since):.2f} s the client's"
    )
    assert 0 <= moved["outage"] < MOVE_SECONDS
    constraints = up.inside(target, "cibadmin", "--query", "--scope", "constraints")
    assert "cli-" not in constraints
    screenshot(up, "after")


def test_a_planned_move_to_where_it_is_does_nothing(up: Site) -> None:
    assert up.told("failover", "--node", up.holder())["vips"] == []


def test_a_node_that_is_not_in_the_spec_is_refused(up: Site) -> None:
    result = up.hapx("failover", "--node", "node3", check=False)
    assert (result.returncode, "no such node" in result.stderr) == (3, True)


def test_killed_haproxy_is_back(up: Site, note_time: Callable[[str], None]) -> None:
    active = up.holder()
    since = time.monotonic()
    up.inside(active, "pkill", "-KILL", "-x", "haproxy")
    up.client.wait_served(since + 1, MOVE_SECONDS)
    note_time(f"kill -9 of HAProxy: {up.client.outage(since):.2f} s")
    up.settle()


def test_a_clock_that_jumps_changes_no_membership(up: Site) -> None:
    (passive,) = {*NODES} - {up.holder()}
    before = ring(up, passive)
    for step in ("+1 hour", "-2 hours", "+1 hour"):
        up.inside(passive, "date", "--set", step)
        time.sleep(5)
    assert ring(up, passive) == before
    assert up.settle()["quorate"]


def ring(site: Site, node: str) -> str:
    """Corosync's id of the membership, which grows with each change of it."""
    lines = site.inside(node, "corosync-quorumtool", "-s").splitlines()
    (found,) = [line.split(":")[1].strip() for line in lines if line.startswith("Ring ID")]
    return found


def test_a_paused_machine_comes_back_as_one_of_two_without_the_address(
    up: Site, note_time: Callable[[str], None]
) -> None:
    active = up.holder()
    (other,) = {*NODES} - {active}
    since = time.monotonic()
    up.hosts[active].virsh("suspend", active)
    up.wait("the other holds it", lambda: up.holds(other), MOVE_SECONDS)
    time.sleep(max(0.0, since + 10 - time.monotonic()))
    resumed = time.monotonic()
    up.hosts[active].virsh("resume", active)
    took = up.wait("one owner", lambda: len(up.owners()) == 1, MOVE_SECONDS)
    up.client.wait_served(resumed, MOVE_SECONDS)
    note_time(
        f"paused: {up.client.outage(since):.2f} s without service; resumed: one owner after {took:.1f} s, "
        f"{up.client.outage(resumed):.2f} s without service"
    )
    up.settle()
    assert len(up.owners()) == 1


def test_new_backends_come_without_a_restart(up: Site) -> None:
    boots = {name: up.inside(name, "cat", "/proc/sys/kernel/random/boot_id") for name in NODES}
    up.write_spec(servers=3)
    since = time.monotonic()
    changed = up.told("up")["changed"]
    assert changed == {name: ["CD", "configuration"] for name in NODES}
    fresh = time.monotonic()
    up.client.wait_served(fresh, 60)
    up.wait("web3", lambda: "web3" in {each.said for each in up.client.requests(fresh)}, 60)
    assert [gap for gap in up.client.gaps(since) if gap.seconds > 5] == []
    assert {name: up.inside(name, "cat", "/proc/sys/kernel/random/boot_id") for name in NODES} == boots
    assert up.told("up")["changed"] == {}


@pytest.mark.parametrize(
    ("what", "command"),
    [("kill -9 of Corosync", "pkill -KILL -x corosync"), ("kernel panic", "echo c >/proc/sysrq-trigger")],
)
def test_a_node_that_cannot_go_on_restarts_itself_and_rejoins(
    up: Site, note_time: Callable[[str], None], what: str, command: str
) -> None:
    active = up.holder()
    (other,) = {*NODES} - {active}
    boot = up.inside(active, "cat", "/proc/sys/kernel/random/boot_id")
    since = time.monotonic()
    # Later than the answer of the guest agent, which is gone with the node.
    up.inside(active, "sh", "-c", f"{{ sleep 1; {command}; }} >/dev/null 2>&1 &")
    up.wait("the other holds it", lambda: up.holds(other), MOVE_SECONDS)
    up.client.wait_served(since + 1, MOVE_SECONDS)
    outage = up.client.outage(since)
    up.told("up")
    note_time(f"{what}: {outage:.2f} s; back as a member {time.monotonic() - since:.0f} s after")
    assert up.inside(active, "cat", "/proc/sys/kernel/random/boot_id") != boot
    assert up.owners() == [other]


def test_up_brings_a_node_back_whose_power_was_cut(up: Site, note_time: Callable[[str], None]) -> None:
    active = up.holder()
    (other,) = {*NODES} - {active}
    since = time.monotonic()
    up.hosts[active].virsh("destroy", active)
    up.wait("the other holds it", lambda: up.holds(other), MOVE_SECONDS)
    up.client.wait_served(since + 1, MOVE_SECONDS)
    note_time(f"power cut of the active node: {up.client.outage(since):.2f} s")
    found = up.status()
    assert [node["machine"] for node in found["nodes"] if node["name"] == active] == ["off"]
    assert up.told("up")["changed"] == {active: ["started"]}
    assert up.owners() == [other]


def test_down_and_destroy_leave_nothing(up: Site) -> None:
    """Last, as there is no cluster any more."""
    assert up.told("down")["stopped"] == list(NODES)
    assert up.told("down")["stopped"] == []
    assert up.hapx("destroy", "--yes", "--bases").returncode == 0
    for host in up.hosts.values():
        assert host.left() == {"machines": [], "networks": [], "volumes": []}
    links = json.loads(up.world.run("ip", "-json", "link").stdout)
    assert sorted(link["ifname"] for link in links) == sorted(["dmz", "lo", "wire", *VLANS])
    assert subprocess.run(["pgrep", "-f", f"guest={NODES[0]},"], check=False, capture_output=True).returncode == 1
