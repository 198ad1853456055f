"""Cables are pulled, and switches forget each other."""

from __future__ import annotations

import time

import pytest

from tests.cluster.lab import Lab
from tests.cluster.observers import wait_until
from tests.cluster.results import Results
from tests.cluster.scenario import NOTHING, scenario

pytestmark = pytest.mark.slow


def test_the_link_of_the_address_is_lost(pair: Lab, results: Results) -> None:
    """The nodes go on hearing each other by the second link, and so have the address one after the other."""
    pair.wait_links()
    cut, ring = pair.owner, pair.ring()
    with scenario(pair, results, "link of the VIP down", 5.0, moves=True) as going:
        cut.unplug("public")
        going.wait_served()
        cut.plug("public")
    assert pair.ring() == ring, "the membership was lost with the link"


@pytest.mark.parametrize("which", ["link", "outside"])
def test_another_link_is_lost(pair: Lab, results: Results, which: str) -> None:
    pair.wait_links()
    cut, ring = pair.owner, pair.ring()
    with scenario(pair, results, f"link {which} of the active node down", NOTHING, moves=False):
        cut.unplug(which)
        time.sleep(4)
        cut.plug(which)
    assert pair.ring() == ring


def test_all_links_between_two_nodes_are_lost(pair: Lab, results: Results) -> None:
    """Two nodes alone cannot know which of them is cut off: both take the address until they hear each other again."""
    cut = pair.owner
    with scenario(pair, results, "all links of the active node cut for 8 s, healed", 3.0, settle=True) as going:
        cut.isolate()
        wait_until(lambda: len(pair.owners.now()) == 2, 10, "both take the address")
        going.wait_served()
        healed = cut.join()
        wait_until(lambda: len(pair.owners.now()) == 1, 5, "one owner", every=0.05)
        going.windows.append((going.began, healed + 3.0))
        # Who goes on has said so: clients and switches know where the address is.
        wait_until(
            lambda: {who for _, who in pair.owners.claims(healed)} >= set(pair.owners.now()), 15, "it is announced"
        )
