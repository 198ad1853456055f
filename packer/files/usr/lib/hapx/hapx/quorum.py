"""Let a node go on alone: one that booted without its peers has no quorum, and starts nothing (votequorum(5)).

That is as it should be, as the peers may be alive beyond a cut wire. Only a person can know that they are not; what a
node can see for itself, that nobody answers for a floating IP, is seen to first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from hapx import corosync, wire
from hapx.errors import NodeError
from hapx.facts import Facts
from hapx.programs import checked, run

_SECONDS = 10.0
_EVERY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done: in words, and the command."""

    lines: tuple[str, ...]
    argv: tuple[str, ...]


def plan(known: Facts) -> Plan:
    """What there is to do; raises NodeError where it is not needed, or a floating IP is alive, or nobody can say."""
    quorum = _ask()
    if quorum is None:
        raise NodeError("Corosync does not answer", hint="systemctl start corosync pacemaker")
    if quorum.quorate:
        raise NodeError("this node has quorum already: nothing was done", hint="see: hapx health")
    for vip in known.vips:
        if (holder := wire.holder(vip)) is not None:
            raise NodeError(
                f"{vip.name} ({vip.address}) is alive: {holder} answers for it on {vip.interface}, so nothing was done",
                hint="a peer serves: mend the links between the nodes (corosync-cfgtool -n)",
            )
    free = [f"  {vip.name} ({vip.address}): nobody answers for it on {vip.interface}" for vip in known.vips]
    lines = (
        f"This node has {quorum.votes} of {quorum.expected_votes} votes and waits for its peers.",
        *free,
        "Forced, it starts the services alone. Be sure that the other nodes are off:",
        "one that is on, but cut off, would serve as well, with the same address.",
    )
    if waits_for_all():
        return Plan(lines, ("corosync-cmapctl", "-s", "quorum.cancel_wait_for_all", "u8", "1"))
    return Plan(lines, ("corosync-quorumtool", "-e", str(quorum.votes)))


def force(planned: Plan) -> None:
    """Do it, and wait until the node is quorate; raises NodeError where it is not."""
    checked(planned.argv)
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if (quorum := _ask()) is not None and quorum.quorate:
            return
        time.sleep(_EVERY_SECONDS)
    raise NodeError("Corosync still has no quorum", hint="see: corosync-quorumtool -s")


def waits_for_all() -> bool:
    """Whether what is missing is not votes, but to have seen all nodes once."""
    said = run(["corosync-cmapctl", "-g", "runtime.votequorum.wait_for_all_status"], timeout=5.0).stdout
    return said.strip().endswith("= 1")


def _ask() -> corosync.Quorum | None:
    return corosync.parse_quorum(run(corosync.QUORUM_ARGV, timeout=5.0).stdout)
