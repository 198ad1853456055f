"""Corosync as its own tools show it: membership, votes, links."""

from __future__ import annotations

import re
from dataclasses import dataclass

QUORUM_ARGV = ("corosync-quorumtool", "-s")
LINKS_ARGV = ("corosync-cmapctl", "-m", "stats")
_NUMBER = r"^{name}:\s+(\d+)"
_CONNECTED = re.compile(r"^stats\.knet\.node(\d+)\.link(\d+)\.connected \(u8\) = (\d)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Quorum:
    """Votes: whether those that are here suffice, how many they are, and how many there would be of all nodes."""

    quorate: bool
    votes: int
    expected_votes: int


def parse_quorum(text: str) -> Quorum | None:
    """What `corosync-quorumtool -s` says, whatever it exits with; None where it says nothing of the kind."""
    found = {
        name: re.search(_NUMBER.format(name=name), text, re.MULTILINE) for name in ("Total votes", "Expected votes")
    }
    total, expected = found["Total votes"], found["Expected votes"]
    if total is None or expected is None:
        return None
    return Quorum(bool(re.search(r"^Quorate:\s+Yes", text, re.MULTILINE)), int(total[1]), int(expected[1]))


def parse_links(text: str) -> dict[tuple[int, int], bool]:
    """Whether each link is connected, by node id and the link's number, from `corosync-cmapctl -m stats`."""
    return {(int(node), int(link)): value == "1" for node, link, value in _CONNECTED.findall(text)}
