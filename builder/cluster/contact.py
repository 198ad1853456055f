"""Asking nodes: by the guest agent where the hypervisor has a way to it, else over SSH with the user's key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder import remote
from builder.cluster import health
from builder.cluster.health import Health
from builder.command import run
from builder.errors import CommandTimeoutError, HapxError, InputError
from builder.machines import Fleet
from builder.spec.model import Cluster, Node

SSH_FAILED = 255


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking a node for its health: an answer, or why there is none."""

    node: str
    health: Health | None
    reason: str = ""


def ask(fleet: Fleet, node: Node, argv: Sequence[str], *, timeout: float) -> str | None:
    """What a program prints on the node, run there as root; None where nobody answers (yet). `timeout` in seconds.

    Raises CommandError where the node has no such program, UnreachableError for a host that does not answer.
    """
    said = fleet.on(node).ask(node.name, argv, timeout=timeout)
    if said is not None:
        return said
    if not _may_log_in(fleet.cluster):
        return None
    administrator = fleet.cluster.users[0]
    command = list(argv) if administrator.name == "root" else ["sudo", "-n", *argv]
    try:
        result = run(remote.node_argv(fleet.cluster, node, command, batch=True), timeout=timeout, check=False)
    except (CommandTimeoutError, InputError):  # it has no address of its own, or does not answer there
        return None
    return None if result.returncode == SSH_FAILED else result.stdout


def _may_log_in(cluster: Cluster) -> bool:
    return bool(cluster.ssh.keys or cluster.ssh.trusted_ca or cluster.users[0].keys)


def ask_health(fleet: Fleet, node: Node, *, timeout: float) -> Answer:
    """The node's health; a node that says nothing useful is an answer too."""
    try:
        said = ask(fleet, node, health.COMMAND, timeout=timeout)
    except HapxError as error:
        return Answer(node.name, None, error.message)
    if said is None:
        return Answer(node.name, None, "does not answer")
    found = health.parse(said)
    if found is None:
        first = next(iter(said.split("\n", 1)), "")[:80]
        return Answer(node.name, None, health.refusal(said) or f"answers, but not with its health: {first!r}")
    return Answer(node.name, found)
