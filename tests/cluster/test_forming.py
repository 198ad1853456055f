"""Clusters form by themselves: in any order, alone, late, from a new disk, with one more node."""

from __future__ import annotations

import time

import pytest

from tests.cluster import lab
from tests.cluster.lab import Lab
from tests.cluster.observers import wait_until
from tests.cluster.results import Results
from tests.cluster.scenario import NOTHING, scenario

pytestmark = pytest.mark.slow

ALONE_SECONDS = 12.0
"""How long a node is alone to see that it does nothing; a pair has the VIP after about that from power on."""


def restarted(made: Lab, *first: str) -> None:
    """Everything off, then these on."""
    for node in made.nodes.values():
        node.power_off()
    made.start(*first)


def wait_pacemaker(made: Lab, name: str) -> None:
    """Wait until Pacemaker is there on a node, DC or not."""
    node = made.nodes[name]
    wait_until(lambda: node.is_on and made.state(node) is not None, lab.FORM_SECONDS, f"Pacemaker on {name}", every=1)


def test_a_node_alone_waits_for_its_peer(cluster: Lab) -> None:
    since = time.monotonic()
    restarted(cluster, "node2")
    wait_pacemaker(cluster, "node2")
    time.sleep(ALONE_SECONDS)
    assert cluster.owners.seen(time.monotonic() - ALONE_SECONDS) == []
    health = cluster.nodes["node2"].health()
    assert (health["quorate"], health["state"]) == (False, "failed"), health
    cluster.start("node1")
    cluster.wait_settled(lab.FORM_SECONDS)
    cluster.assert_one_owner(since)


def test_what_a_seed_says_is_so_on_every_node(cluster: Lab) -> None:
    cluster.wait_settled(lab.FORM_SECONDS)
    for node in cluster.running:
        assert node.sh("cloud-init status --wait --format json >/tmp/status || :; cat /tmp/status; rm /tmp/status")
        health = node.health()
        assert (health["state"], health["problems"]) == ("healthy", []), node.name
        assert health["generation"] == health["applied"]
        assert len(health["links"]) == 2
        # The network with DHCP has no server, so there is neither a way out nor a name server.
        assert node.sh("ip -4 route show default; ip -4 -o address show dev outside") == ""
        # Nobody logs in by password, no package manager ran, nothing listens that the spec does not name.
        assert "passwordauthentication no" in node.sh("sshd -T")


def test_both_boot_at_once_from_cold(cluster: Lab, results: Results) -> None:
    since = time.monotonic()
    restarted(cluster, "node1", "node2")
    began = time.monotonic()
    cluster.client.wait_served(began, lab.FORM_SECONDS, streak=0.3)
    first = next(each.ended for each in cluster.client.requests(began) if each.good)
    results.add("both boot at once: power on to VIP", first - began, owners=cluster.owners.seen(began))
    cluster.wait_settled()
    cluster.assert_one_owner(since)


def test_one_boots_a_little_later(cluster: Lab) -> None:
    since = time.monotonic()
    restarted(cluster, "node2")
    time.sleep(5)
    cluster.start("node1")
    cluster.wait_settled(lab.FORM_SECONDS)
    cluster.assert_one_owner(since)


def test_force_quorum_lets_a_node_go_on_alone_and_the_other_join_later(cluster: Lab, results: Results) -> None:
    restarted(cluster, "node1")
    wait_pacemaker(cluster, "node1")
    node = cluster.nodes["node1"]
    wait_until(lambda: node.run("hapx", "health", "--json", check=False).returncode == 2, 30, "health says it failed")
    began = time.monotonic()
    said = node.run("hapx", "force-quorum", "--yes", timeout=90)
    assert said.returncode == 0
    cluster.client.wait_served(began, 60)
    assert cluster.owners.now() == ("node1",)
    results.add("hapx force-quorum to VIP", cluster.client.outage(began), owners=cluster.owners.seen(began))
    with scenario(cluster, results, "second node joins late", NOTHING, moves=False):
        cluster.start("node2")
        wait_pacemaker(cluster, "node2")
        cluster.wait_settled(lab.FORM_SECONDS)
    # It was for the lonely hour alone.
    assert node.run("hapx", "force-quorum", "--yes", check=False).returncode != 0


def test_a_node_with_a_new_disk_takes_the_survivors_cib(cluster: Lab, results: Results) -> None:
    lost, survivor = cluster.other, cluster.owner
    survivor.run("crm_attribute", "--name", "maintenance-mode", "--update", "false")
    before = cluster.epoch()
    with scenario(cluster, results, "a node is re-imaged", NOTHING, moves=False):
        lost.power_off()
        lost.new_disk()
        lost.seed(cluster.seeds()[lost.name])
        lost.start()
        wait_pacemaker(cluster, lost.name)
        cluster.wait_settled(lab.FORM_SECONDS)
    assert lost.run("crm_attribute", "--name", "maintenance-mode", "--query", "--quiet").stdout.strip() == "false"
    # The node's own entry in the CIB may be written once more, nothing else.
    assert cluster.epoch() <= before + 2


def test_a_third_node_joins_two(pair: Lab, results: Results) -> None:
    seeds = pair.seeds(lab.spec(3))
    try:
        with scenario(pair, results, "a third node joins", NOTHING, moves=False):
            # The passive one first, as with every change.
            for node in (pair.other, pair.owner):
                node.seed(seeds[node.name])
                node.run("hapx", "reconcile", timeout=120)
            pair.nodes["node3"].seed(seeds["node3"])
            pair.start("node3")
            wait_pacemaker(pair, "node3")
            pair.wait_settled(lab.FORM_SECONDS)
        status = pair.nodes["node3"].sh("corosync-quorumtool -s", check=False)
        assert "Expected votes:   3" in status
        assert "2Node" not in status
        with scenario(pair, results, "power off, active node of three", 4.0, moves=True):
            pair.owner.power_off()
    finally:
        pair.anew(lab.spec())
