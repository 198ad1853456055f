"""Nodes lose power: what a client outside sees of it."""

from __future__ import annotations

import pytest

from tests.cluster.lab import Lab
from tests.cluster.results import Results

pytestmark = pytest.mark.slow


def test_power_off_of_the_owner(pair: Lab, results: Results) -> None:
    survivor = pair.other
    since = pair.owner.power_off()
    pair.client.wait_served(since, 15)
    outage = pair.client.outage(since - 0.5)
    results.add("power off, active node", outage, 3.0, owners=pair.owners.seen(since - 0.1))
    assert outage <= 3.0
    assert pair.owners.now() == (survivor.name,)
    pair.start()
    pair.wait_settled()
    assert pair.owners.now() == (survivor.name,)
    pair.assert_one_owner(since)
