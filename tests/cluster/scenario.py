"""One failure from its beginning to a settled cluster: what the client saw, who had the address, what is noted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.cluster.lab import Lab
from tests.cluster.results import Results

# The client's requests take turns of 20 ms, and one that is lost may be noticed a little after the fact.
BEFORE = 0.05
NOTHING = 0.15
"""Seconds without service that count as none: a few requests of the client's."""


@dataclass
class Scenario:
    """A failure that is going on."""

    lab: Lab
    began: float
    served_within: float
    windows: list[tuple[float, float]]
    outage: float = 0.0

    def wait_served(self) -> float:
        """Wait until the client is served again without a break; the longest time it was not, in seconds."""
        self.lab.client.wait_served(self.began, self.served_within)
        self.outage = self.lab.client.outage(self.began - BEFORE)
        return self.outage


@contextlib.contextmanager
def scenario(
    lab: Lab,
    results: Results,
    name: str,
    budget: float,
    *,
    served_within: float = 20.0,
    moves: bool | None = None,
    settle: bool = True,
) -> Iterator[Scenario]:
    """A failure is made in the block; afterwards all that always holds is seen to.

    The client is without service for at most `budget` seconds, no two nodes have the address at a time (but in the
    block's `windows`), and then the cluster settles with all nodes that are on. `moves`: whether the address has to be
    on another node then, or on the same; None: either.
    """
    before = lab.owner.name
    going = Scenario(lab, time.monotonic(), served_within, [])
    yield going
    going.wait_served()
    if settle:
        lab.forget_failures()
        lab.wait_settled()
    # Whatever came later, while nodes came back, counts as well.
    outage = lab.client.outage(going.began - BEFORE)
    owners = lab.owners.seen(going.began - BEFORE)
    results.add(name, outage, budget, owners=owners, doubled=lab.owners.doubled(going.began))
    assert outage <= budget, f"{outage:.2f} s without service, owners {owners}\n{lab.words()}"
    lab.assert_one_owner(going.began, windows=going.windows)
    if moves is not None:
        assert (lab.owner.name != before) == moves, f"the address went {owners}"
