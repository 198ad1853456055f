"""Make node and cluster what a seed says, while they run.

At boot (`at_boot`) cloud-init has written the files, and only what is new to the cluster is applied to it, whoever
booted with it: see `merge.due`. What a person calls for (`by_hand`) always is: the files first, judged all together and
written all together, then the programs that read them, then the cluster's configuration. Run again it changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hapx import changes, crm, facts, livecib, membership, prepare, reload, seed
from hapx.changes import Change, Part
from hapx.errors import NodeError
from hapx.facts import FACTS, Facts
from hapx.livecib import Applied
from hapx.programs import run

BOOT_SECONDS = 300.0
HAND_SECONDS = 30.0
_EVERY_SECONDS = 1.0
_LOCK = Path("/run/hapx.lock")


@dataclass(frozen=True, slots=True)
class Done:
    """What a run did: generation, files written, programs told, whether the cluster's configuration changed, notes."""

    generation: str
    seed: str | None
    files: tuple[str, ...]
    reloaded: tuple[str, ...]
    cluster_changed: bool
    notes: tuple[str, ...]


def at_boot(known: Facts, *, seconds: float = BOOT_SECONDS) -> Applied:
    """Wait for a cluster, then apply the payload where it is due. Raises NodeError."""
    wait_for_cluster(seconds)
    with _alone():
        return livecib.apply(prepare.read_payload(), known.generation, only_if_due=True)


def by_hand(known: Facts, given: str | None) -> Done:
    """Apply a seed (see `seed.read`; without any, the files as they are) to node and cluster.

    Raises NodeError: while nothing has changed, where a file is not right or cannot be written; with everything back as
    it was, where a program does not take its new files; with the node changed and the cluster not, where that has no
    quorum or refuses.
    """
    with _alone():
        read = seed.read(given)
        new = known
        planned: tuple[Change, ...] = ()
        notes: list[str] = []
        if read is not None:
            new = check_seed(known, read)
            planned = changes.changes(read.files)
            membership.check(planned, _online())
            changes.check(planned)
            notes += [f"takes a reboot: {what}" for what in read.reboot]
        told = _carry_out(planned)
        wait_for_cluster(HAND_SECONDS)
        applied = livecib.apply(prepare.read_payload(), new.generation)
        notes += _forget({node.name for node in known.nodes} - {node.name for node in new.nodes})
        return Done(
            generation=new.generation,
            seed=read.where if read is not None else None,
            files=tuple(str(change.file.path) for change in planned),
            reloaded=tuple(told),
            cluster_changed=applied.changed,
            notes=(*notes, *applied.notes),
        )


def check_seed(known: Facts, read: seed.Seed) -> Facts:
    """The seed's own facts; raises NodeError where it is another node's, or another cluster's."""
    text = next((file.data.decode(errors="replace") for file in read.files if file.path == FACTS), None)
    if text is None:
        raise NodeError(f"{read.where}: no {FACTS} in it", hint="a seed is what hapx-build seed-iso writes")
    new = facts.parse(text, f"{read.where}: {FACTS}")
    own = facts.own_name()
    if read.host is not None and read.host != own:
        raise NodeError(f"{read.where}: this is the seed of {read.host}, and this node is {own}", hint="take its own")
    if new.cluster != known.cluster:
        raise NodeError(
            f"{read.where}: a seed of the cluster {new.cluster}, and this node is in {known.cluster}",
            hint="a node changes its cluster by being made again",
        )
    if all(node.name != own for node in new.nodes):
        raise NodeError(f"{read.where}: {own} is no node of this cluster any more", hint="shut this node down")
    return new


def wait_for_cluster(seconds: float) -> None:
    """Wait until there are a quorum and a DC; raises NodeError where there are none after `seconds`."""
    deadline = time.monotonic() + seconds
    while (missing := _missing()) and time.monotonic() < deadline:
        time.sleep(_EVERY_SECONDS)
    if missing:
        raise NodeError(f"{missing}: the cluster's configuration stays as it is", hint="see: hapx health")


def _carry_out(planned: Sequence[Change]) -> list[str]:
    """Write, and tell the programs; where one refuses, have everything as it was."""
    changes.write(planned)
    told: list[Part] = []
    said: list[str] = []
    try:
        for part in changes.parts(planned):
            told.append(part)
            if (done := reload.tell(part)) is not None:
                said.append(done)
    except BaseException as error:
        changes.restore(planned)
        for part in told:
            with contextlib.suppress(NodeError):
                reload.tell(part)
        if isinstance(error, NodeError):
            message = f"{error.message}; all files are as they were"
            raise NodeError(message, hint=error.hint, details=error.details) from None
        raise
    return said


def _online() -> list[str]:
    status = _status()
    return [] if status is None else [node.name for node in status.nodes if node.online]


def _forget(names: Iterable[str]) -> list[str]:
    """Have Pacemaker forget nodes that have left the seed; what was done."""
    said = []
    for name in sorted(names):
        result = run(["crm_node", "--force", "--remove", name])
        said.append(f"{name} has left the cluster" if result.ok else f"crm_node --remove {name}: {result.said()[-1:]}")
    return said


def _status() -> crm.Status | None:
    result = run(crm.ARGV, timeout=15.0)
    return crm.parse(result.stdout) if result.ok else None


def _missing() -> str:
    """What there is not for the configuration to be changed; empty where it can be."""
    status = _status()
    if status is None:
        return "Pacemaker does not answer"
    if not status.quorate:
        return "this node has no quorum"
    return "" if status.dc is not None else "the cluster has no coordinator (DC) yet"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One at a time on a node."""
    with _LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError(
                "another hapx reconcile is at work on this node", hint="run it again when that is done"
            ) from None
        yield
