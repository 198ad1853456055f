"""Clusters form by themselves: in any order, alone, late, from a new disk, with one more node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import lab
from tests.cluster.lab import Lab
from tests.cluster.observers import wait_until
from tests.cluster.results import Results
from tests.cluster.scenario import NOTHING, scenario

pytestmark = pytest.mark.slow

ALONE_SECONDS = 12.0
"""How long a node is alone to see that it does nothing; a pair has the VIP after about that from power on."""


@pytest.fixture(scope="module")
def fresh(cluster_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A pair with its seeds, and a place for a third node; the tests of this module go on from each other."""
    with lab.create(cluster_root, tmp_path_factory.mktemp("forming") / "lab", size=3) as made:
        yield made


def restarted(made: Lab, *first: str) -> None:
    """Everything off, then these on."""
    for node in made.nodes.values():
        node.power_off()
    made.start(*first)


def wait_pacemaker(made: Lab, name: str) -> None:
    """Wait until Pacemaker is there on a node, DC or not."""
    node = made.nodes[name]
    wait_until(lambda: node.is_on and made.state(node) is not None, lab.FORM_SECONDS, f"Pacemaker on {name}", every=1)


def test_a_node_alone_waits_for_its_peer(fresh: Lab) -> None:
    since = time.monotonic()
    fresh.start("node2")
    wait_pacemaker(fresh, "node2")
    time.sleep(ALONE_SECONDS)
    assert fresh.owners.seen(since) == []
    health = fresh.nodes["node2"].health()
    assert (health["quorate"], health["state"]) == (False, "failed")
    fresh.start("node1")
    fresh.wait_settled(lab.FORM_SECONDS)
    fresh.assert_one_owner(since)


def test_what_a_seed_says_is_so_on_every_node(fresh: Lab) -> None:
    fresh.wait_settled(lab.FORM_SECONDS)
    for node in fresh.running:
        assert node.sh("cloud-init status --wait --format json >/tmp/status || :; cat /tmp/status; rm /tmp/status")
        health = node.health()
        assert (health["state"], health["problems"]) == ("healthy", []), node.name
        assert health["generation"] == health["applied"]
        assert len(health["links"]) == 2
        # The network with DHCP has no server, so there is neither a way out nor a name server.
        assert node.sh("ip -4 route show default; ip -4 -o address show dev outside") == ""
        # Nobody logs in by password, no package manager ran, nothing listens that the spec does not name.
        assert "passwordauthentication no" in node.sh("sshd -T")


def test_both_boot_at_once_from_cold(fresh: Lab, results: Results) -> None:
    since = time.monotonic()
    restarted(fresh, "node1", "node2")
    began = time.monotonic()
    fresh.client.wait_served(began, lab.FORM_SECONDS, streak=0.3)
    first = next(each.ended for each in fresh.client.requests(began) if each.good)
    results.add("both boot at once: power on to VIP", first - began, owners=fresh.owners.seen(began))
    fresh.wait_settled()
    fresh.assert_one_owner(since)


def test_one_boots_a_little_later(fresh: Lab) -> None:
    since = time.monotonic()
    restarted(fresh, "node2")
    time.sleep(5)
    fresh.start("node1")
    fresh.wait_settled(lab.FORM_SECONDS)
    fresh.assert_one_owner(since)


def test_force_quorum_lets_a_node_go_on_alone_and_the_other_join_later(fresh: Lab, results: Results) -> None:
    restarted(fresh, "node1")
    wait_pacemaker(fresh, "node1")
    node = fresh.nodes["node1"]
    wait_until(lambda: node.run("hapx", "health", "--json", check=False).returncode == 2, 30, "health says it failed")
    began = time.monotonic()
    said = node.run("hapx", "force-quorum", "--yes", timeout=90)
    assert said.returncode == 0
    fresh.client.wait_served(began, 60)
    assert fresh.owners.now() == ("node1",)
    results.add("hapx force-quorum to VIP", fresh.client.outage(began), owners=fresh.owners.seen(began))
    with scenario(fresh, results, "second node joins late", NOTHING, moves=False):
        fresh.start("node2")
        wait_pacemaker(fresh, "node2")
        fresh.wait_settled(lab.FORM_SECONDS)
    # It was for the lonely hour alone.
    assert node.run("hapx", "force-quorum", "--yes", check=False).returncode != 0


def test_a_node_with_a_new_disk_takes_the_survivors_cib(fresh: Lab, results: Results) -> None:
    lost, survivor = fresh.other, fresh.owner
    survivor.run("crm_attribute", "--name", "maintenance-mode", "--update", "false")
    before = fresh.epoch()
    with scenario(fresh, results, "a node is re-imaged", NOTHING, moves=False):
        lost.power_off()
        lost.new_disk()
        lost.seed(fresh.seeds()[lost.name])
        lost.start()
        wait_pacemaker(fresh, lost.name)
        fresh.wait_settled(lab.FORM_SECONDS)
    assert lost.run("crm_attribute", "--name", "maintenance-mode", "--query", "--quiet").stdout.strip() == "false"
    # The node's own entry in the CIB may be written once more, nothing else.
    assert fresh.epoch() <= before + 2


def test_a_third_node_joins_two(fresh: Lab, results: Results) -> None:
    values = lab.spec(3)
    seeds = fresh.seeds(values)
    with scenario(fresh, results, "a third node joins", NOTHING, moves=False):
        # The passive one first, as with every change.
        for node in (fresh.other, fresh.owner):
            node.seed(seeds[node.name])
            node.run("hapx", "reconcile", timeout=120)
        third = fresh.nodes["node3"]
        third.seed(seeds["node3"])
        third.start()
        wait_pacemaker(fresh, "node3")
        fresh.wait_settled(lab.FORM_SECONDS)
    status = third.sh("corosync-quorumtool -s", check=False)
    assert "Expected votes:   3" in status
    assert "2Node" not in status
    with scenario(fresh, results, "power off, active node of three", 4.0, moves=True):
        fresh.owner.power_off()
