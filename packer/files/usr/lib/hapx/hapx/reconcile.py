"""The seed's configuration of the cluster, applied to the cluster that runs.

At boot (`at_boot`) only what is new to the cluster is applied, whoever booted with it: see `merge.due`. A person's
`hapx reconcile` always is.
"""

from __future__ import annotations

import time

from hapx import crm, livecib, prepare
from hapx.errors import NodeError
from hapx.facts import Facts
from hapx.livecib import Applied
from hapx.programs import run

BOOT_SECONDS = 300.0
_EVERY_SECONDS = 1.0


def at_boot(facts: Facts, *, seconds: float = BOOT_SECONDS) -> Applied | None:
    """Wait for a cluster, then apply the payload where it is due; None where it was not. Raises NodeError."""
    wait_for_cluster(seconds)
    return livecib.apply(prepare.read_payload(), facts.generation, only_if_due=True)


def wait_for_cluster(seconds: float) -> None:
    """Wait until there are a quorum and a DC; raises NodeError where there are none after `seconds`."""
    deadline = time.monotonic() + seconds
    while (missing := _missing()) and time.monotonic() < deadline:
        time.sleep(_EVERY_SECONDS)
    if missing:
        raise NodeError(missing, hint="see: hapx health")


def _missing() -> str:
    """What there is not for the configuration to be changed; empty where it can be."""
    result = run(crm.ARGV, timeout=15.0)
    if not result.ok:
        return "Pacemaker does not answer"
    status = crm.parse(result.stdout)
    if not status.quorate:
        return "this node has no quorum"
    return "" if status.dc is not None else "the cluster has no coordinator (DC) yet"
