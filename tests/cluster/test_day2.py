"""A running pair is told something new, or the same again."""

from __future__ import annotations

import copy
import subprocess
import time

import pytest

from tests.cluster.container import Container
from tests.cluster.lab import VIP, Lab
from tests.cluster.observers import end, wait_until
from tests.cluster.results import Results
from tests.cluster.scenario import NOTHING, scenario

pytestmark = pytest.mark.slow


def reconcile(node: Container, seed: dict[str, bytes], *, check: bool = True) -> int:
    """A new seed and `hapx reconcile`: its exit code."""
    node.seed(seed)
    return node.run("hapx", "reconcile", timeout=120, check=check).returncode


def test_the_same_seed_again_changes_nothing(pair: Lab, results: Results) -> None:
    seeds = pair.seeds()
    for node in pair.running:
        reconcile(node, seeds[node.name])
    pair.wait_settled()
    before = pair.epoch()
    with scenario(pair, results, "the seed applied three times", NOTHING, moves=False):
        for _ in range(3):
            for node in pair.running:
                reconcile(node, seeds[node.name])
    assert pair.epoch() == before


def test_changed_backends_keep_open_connections(pair: Lab, results: Results) -> None:
    before = copy.deepcopy(pair.values)
    changed = copy.deepcopy(before)
    del changed["haproxy"]["backends"][0]["servers"][0]
    slow = pair.world.enter(["curl", "--silent", "--no-buffer", f"http://{VIP}/slowly"])
    connection = subprocess.Popen(slow, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert connection.stdout is not None
    try:
        name = connection.stdout.readline().strip()
        assert name.startswith("web")
        with scenario(pair, results, "backends changed on the running pair", NOTHING, moves=False):
            seeds = pair.seeds(changed)
            for node in (pair.other, pair.owner):
                reconcile(node, seeds[node.name])
            wait_until(lambda: only_from(pair, "web2"), 10, "answers from web2 alone")
        # Still the same connection, a while after HAProxy was told: it goes on.
        for _ in range(10):
            assert connection.stdout.readline().strip() == name
        assert connection.poll() is None
    finally:
        end(connection)
        connection.stdout.close()
        seeds = pair.seeds(before)
        for node in pair.running:
            reconcile(node, seeds[node.name])
    pair.wait_settled()


def only_from(pair: Lab, name: str) -> bool:
    """Whether a whole second's answers came from one server."""
    since = time.monotonic()
    time.sleep(1)
    return {each.said for each in pair.client.requests(since)} == {name}


def test_a_seed_with_a_bad_haproxy_configuration_is_refused_whole(pair: Lab, results: Results) -> None:
    templates = pair.world.folder / "templates"
    good = pair.seeds()
    (templates / "haproxy.cfg.j2").write_text("nonsense\n{% include 'haproxy-monitor.cfg.j2' %}\n")
    bad = pair.seeds()
    (templates / "haproxy.cfg.j2").unlink()
    owner = pair.owner
    try:
        with scenario(pair, results, "a bad seed is refused", NOTHING, moves=False):
            files = owner.sh("sha256sum /etc/haproxy/haproxy.cfg /etc/hapx/cluster.json")
            assert reconcile(owner, bad[owner.name], check=False) != 0
            assert owner.sh("sha256sum /etc/haproxy/haproxy.cfg /etc/hapx/cluster.json") == files
    finally:
        owner.seed(good[owner.name])
