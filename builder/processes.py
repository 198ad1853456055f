"""The processes a program started: found through /proc, and ended in order.

A program's own process group is not enough. A child that opens a session of its own (every program that
`command.run` starts does) is outside of it, and a parent that is killed leaves its children to init, so the chain of
parents breaks just when it is needed. A `Tree` is therefore looked up before the first signal and kept up to date:
it holds what was seen as a descendant once, and whatever lives in a session that one of these belongs to. A daemon that
left its parent *and* its session by itself (VBoxSVC, say, which serves the user's other machines too) is not in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05
KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process of /proc; `started` (clock ticks since boot) tells it from a later one with the same pid."""

    pid: int
    parent: int
    session: int
    started: int

    @property
    def identity(self) -> tuple[int, int]:
        """What stays the same as long as it runs (its parent may end, its session may change)."""
        return self.pid, self.started

    def program(self) -> str:
        """The name of the file it executes, "" where that is not ours to see or it is gone."""
        try:
            return Path(f"/proc/{self.pid}/exe").readlink().name
        except OSError:
            return ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that is gone, or is not ours to signal, is left alone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)


def running() -> list[Process]:
    """Every process of this machine that has not ended."""
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names, many times a second
        if not entry.isdigit():
            continue
        try:
            # "pid (name) state parent group session …": the name may hold blanks and parentheses.
            text = Path(f"/proc/{entry}/stat").read_bytes()
        except OSError:
            continue  # it ended while we looked
        fields = text.rpartition(b")")[2].split()
        if fields[0] not in {b"Z", b"X"}:
            found.append(Process(int(entry), int(fields[1]), int(fields[3]), int(fields[19])))
    return found


class Tree:
    """What descends from a program that leads a session of its own, that program included."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self._known: set[tuple[int, int]] = set()
        self._sessions = {leader}
        self.look()

    def look(self) -> list[Process]:
        """Who is running now."""
        others = running()
        members: list[Process] = []
        pids: set[int] = set()
        sessions = set(self._sessions)
        grew = True
        while grew:
            found = [
                process
                for process in others
                if process.identity in self._known or process.parent in pids or process.session in sessions
            ]
            members += found
            pids |= {process.pid for process in found}
            sessions |= {process.session for process in found}
            others = [process for process in others if process.pid not in pids]
            grew = bool(found)
        # What has ended is forgotten: its number, or its session's, may soon be somebody else's.
        self._known = {process.identity for process in members}
        self._sessions = {process.session for process in members}
        return members

    def terminate(self, choose: Callable[[Process], bool], *, seconds: float, meanwhile: Callable[[], None]) -> None:
        """SIGTERM, once each, to those whom `choose` picks, until none of them is left.

        Newcomers are told too, the program itself never. Waits `seconds` at most and calls `meanwhile` while it does.
        """
        told: set[tuple[int, int]] = set()
        deadline = time.monotonic() + seconds
        while chosen := [process for process in self.look() if process.pid != self.leader and choose(process)]:
            for process in chosen:
                if process.identity not in told:
                    process.send(signal.SIGTERM)
                    told.add(process.identity)
            if time.monotonic() >= deadline:
                return
            meanwhile()
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """SIGKILL to everybody until none is left; gives up after five seconds (a process in uninterruptible I/O)."""
        deadline = time.monotonic() + KILL_SECONDS
        while (left := self.look()) and time.monotonic() < deadline:
            for process in left:
                process.send(signal.SIGKILL)
            time.sleep(POLL_SECONDS / 5)
