"""The node's own tool on a running pair: what it applies, what it leaves alone, what it refuses, what it says."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.command import Result
from tests.cluster import lab
from tests.cluster.conftest import cluster_root  # noqa: F401 - a fixture
from tests.cluster.container import Container
from tests.cluster.lab import Lab
from tests.cluster.observers import wait_until

pytestmark = pytest.mark.slow

CIB = "/var/lib/pacemaker/cib"


@pytest.fixture(scope="module")
def pair(cluster_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:  # noqa: F811
    with lab.create(cluster_root, tmp_path_factory.mktemp("tool") / "lab") as made:
        made.start()
        made.wait_settled(lab.FORM_SECONDS)
        yield made


def hapx(node: Container, *argv: str) -> Result:
    return node.run("hapx", *argv, check=False, timeout=90)


def health(node: Container) -> dict[str, Any]:
    result = hapx(node, "health", "--json")
    said: dict[str, Any] = json.loads(result.stdout)
    assert {"healthy": 0, "degraded": 1, "failed": 2}[said["state"]] == result.returncode
    return said


def hand(node: Container, made: Lab, values: dict[str, Any]) -> None:
    """Put the seed of a spec beside the node's own; the spec is not the cluster's yet."""
    before = made.values
    documents = made.seeds(values)[node.name]
    made.values = before
    for name, content in documents.items():
        node.run("sh", "-c", f"mkdir -p /root/seed; cat >/root/seed/{name}", input=content.decode())


def reconcile(node: Container, made: Lab, values: dict[str, Any]) -> Result:
    hand(node, made, values)
    return hapx(node, "reconcile", "--seed", "/root/seed")


def everywhere(made: Lab, values: dict[str, Any]) -> None:
    for node in made.running:
        result = reconcile(node, made, values)
        assert result.returncode == 0, result.stderr


def with_frontend(values: dict[str, Any], port: int, **more: object) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    changed["haproxy"]["frontends"].append(
        {"name": f"web{port}", "port": port, "mode": "http", "backend": "web", **more}
    )
    return changed


def files(node: Container) -> str:
    return node.sh("find /etc -type f -newer /proc/1 -exec sha256sum {} + | sort; sha256sum /etc/haproxy/haproxy.cfg")


def test_three_runs_leave_the_epoch_as_it_is(pair: Lab) -> None:
    node = pair.owner
    epochs = [pair.epoch()]
    for _ in range(3):
        result = hapx(node, "reconcile")
        assert (result.returncode, result.stderr) == (0, "")
        epochs.append(pair.epoch())
    assert len(set(epochs)) == 1
    assert health(node)["state"] == "healthy"


def test_a_new_backend_is_served_without_a_break_and_nobody_is_cut_off(pair: Lab) -> None:
    began = time.monotonic()
    owner = pair.owner.name
    pair.owner.sh(
        "(sleep 3; printf 'GET / HTTP/1.0\\r\\n\\r\\n') | timeout 8 socat -t5 - TCP:192.0.2.10:80 >/run/slow 2>&1 &"
    )
    everywhere(pair, with_frontend(pair.values, 8080))
    assert "200" in pair.owner.sh("curl -sS -o /dev/null -w '%{http_code}' http://192.0.2.10:8080/")
    pair.wait_settled()
    assert pair.owner.name == owner
    assert pair.client.outage(began) < 0.15
    wait_until(lambda: "200 OK" in pair.owner.sh("cat /run/slow"), 10, "an answer on a connection of before")
    assert {health(node)["state"] for node in pair.running} == {"healthy"}
    everywhere(pair, pair.values)


def test_two_nodes_at_the_same_time_make_one_change(pair: Lab) -> None:
    wanted = copy.deepcopy(pair.values)
    wanted["vips"].append({"name": "second", "address": "192.0.2.20", "network": "public"})
    for node in pair.running:
        hand(node, pair, wanted)
    results: list[Result] = []
    threads = [
        threading.Thread(target=lambda node=node: results.append(hapx(node, "reconcile", "--seed", "/root/seed")))  # type: ignore[misc]
        for node in pair.running
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.returncode for result in results] == [0, 0], results
    assert sorted("cluster: changed" in result.stdout for result in results) == [False, True]
    pair.wait_settled()
    node = pair.owner
    node.sh("crm configure primitive dummy ocf:pacemaker:Dummy; crm configure location mine second 5: node1")
    everywhere(pair, pair.values)
    shown = node.sh("crm configure show")
    assert "dummy" in shown
    assert "second" not in shown
    assert "mine" not in shown
    node.sh("crm resource stop dummy; crm_resource --wait; crm configure delete dummy")
    pair.wait_settled()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (with_frontend(lab.spec(), 81, options=["nonsense here"]), "unknown keyword 'nonsense'"),
        ({**lab.spec(), "corosync": {"links": ["public", "link"], "port": 5505}}, "mcastport from 5405 to 5505"),
        (with_frontend(lab.spec(), 8099), "port 8099: Address already in use"),
        (with_frontend(lab.spec(), 81, options=["bind 203.0.113.9:82"]), "port 82: Cannot assign requested address"),
    ],
    ids=["wrong", "not while it runs", "port taken", "address not here"],
)
def test_a_seed_that_will_not_do_changes_nothing(pair: Lab, values: dict[str, Any], said: str) -> None:
    node = pair.other
    node.sh("setsid socat TCP4-LISTEN:8099,fork /dev/null </dev/null >/dev/null 2>&1 &")
    try:
        before, epoch = files(node), pair.epoch()
        result = reconcile(node, pair, values)
        assert result.returncode == 1
        assert said in result.stderr
        assert (files(node), pair.epoch()) == (before, epoch)
        assert health(node)["haproxy"]["alive"]
    finally:
        node.sh("pkill -x socat")
        pair.wait_settled()


def test_a_node_that_missed_a_change_does_not_undo_it(pair: Lab) -> None:
    old = pair.values
    newer = copy.deepcopy(old)
    newer["vips"].append({"name": "second", "address": "192.0.2.20", "network": "public"})
    stays, misses = pair.owner, pair.other
    assert reconcile(stays, pair, newer).returncode == 0
    misses.power_off()
    misses.new_disk()
    misses.seed(pair.seeds(old)[misses.name])
    misses.start()
    pair.wait_settled()
    wait_until(lambda: "nothing to apply" in misses.sh("journalctl -b -u hapx-reconcile -o cat"), 30, "its boot's word")
    assert "second" in {vip["name"] for vip in health(stays)["vips"] if vip["holder"]}
    said = health(misses)
    assert said["state"] == "degraded"
    assert said["applied"] != said["generation"]
    everywhere(pair, old)
    assert health(misses)["state"] == "healthy"


def test_a_damaged_cib_is_pacemakers_affair_and_all_is_there_again(pair: Lab) -> None:
    for node in pair.running:
        node.power_off()
    for node in pair.nodes.values():
        folder = pair.world.inside(node.folder / "disk/upper") / CIB.removeprefix("/")
        for path in folder.iterdir():
            path.unlink() if path.name != "cib.xml" else path.write_bytes(path.read_bytes()[:500])
    pair.start()
    pair.wait_settled(lab.FORM_SECONDS)
    wait_until(lambda: health(pair.owner)["state"] == "healthy", 30, "a healthy pair")


def test_a_lone_node_goes_on_when_told_and_not_while_the_address_is_alive(pair: Lab) -> None:
    alone, other = pair.nodes.values()
    assert "has quorum already" in hapx(alone, "force-quorum", "--yes").stderr
    for node in (alone, other):
        node.power_off()
    alone.start()
    wait_until(lambda: hapx(alone, "health").returncode == 2, 60, "a node without quorum")
    wait_until(lambda: health(alone)["votes"] == 1 and health(alone)["dc"] is not None, 60, "Pacemaker")
    assert not health(alone)["quorate"]
    pair.world.ip(f"address add {lab.VIP}/32 dev public")
    try:
        refused = hapx(alone, "force-quorum", "--yes")
        assert (refused.returncode, "is alive" in refused.stderr) == (1, True)
    finally:
        pair.world.ip(f"address del {lab.VIP}/32 dev public")
    assert hapx(alone, "force-quorum").returncode == 64
    assert hapx(alone, "force-quorum", "--yes").returncode == 0
    wait_until(lambda: health(alone)["vips"][0]["holder"] == alone.name, 30, "the VIP")
    other.start()
    pair.wait_settled(lab.FORM_SECONDS)
    assert pair.owner is alone


def test_a_node_says_that_it_has_no_packet_filter(pair: Lab) -> None:
    node = pair.other
    node.sh("cp -p /etc/nftables.conf /root/kept; echo nonsense >>/etc/nftables.conf")
    try:
        assert node.run("systemctl", "restart", "hapx-firewall", check=False).returncode != 0
        said = health(node)
        assert (said["state"], [each["message"] for each in said["problems"]]) == (
            "degraded",
            ["the packet filter is not loaded: this node lets everything in"],
        )
    finally:
        node.sh("mv /root/kept /etc/nftables.conf; systemctl restart hapx-firewall")
    assert health(node)["state"] == "healthy"


def test_a_node_says_what_hangs_in_five_seconds(pair: Lab) -> None:
    node = pair.other
    node.sh("pkill -STOP pacemaker-based")
    try:
        began = time.monotonic()
        said = health(node)
        assert time.monotonic() - began < 7
        assert said["state"] == "failed"
        assert said["quorate"]
        assert [each["message"] for each in said["problems"] if each["severity"] == "failed"] == [
            "Pacemaker does not answer: nothing is managed here"
        ]
    finally:
        node.sh("pkill -CONT pacemaker-based")
    pair.wait_settled()
