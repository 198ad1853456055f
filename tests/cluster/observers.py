"""What is seen from outside the cluster: by a client, on the wire, and at the nodes' own interfaces."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from builder import processes
from tests.cluster.world import World

PROGRAMS = Path(__file__).with_name("programs")
CLIENT_INTERVAL = 0.02
CLIENT_TIMEOUT = 0.3
OWNERS_INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the client's: when it began and ended (time.monotonic()), whether it was served, what came."""

    began: float
    ended: float
    good: bool
    said: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without service: from the end of the last request that was served to the end of the next that was."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Owned:
    """Who had the address from when to when."""

    began: float
    ended: float
    nodes: tuple[str, ...]


def end(entered: subprocess.Popen[Any]) -> None:
    """End a program that was started through `World.enter`: nsenter waits for it, and has to be there to hear of it."""
    for process in processes.running():
        if process.parent == entered.pid:
            process.send(signal.SIGKILL)
    entered.wait(10)


class Program:
    """A program of ours in the world, and the JSON lines it says."""

    def __init__(self, world: World, name: str, *argv: object) -> None:
        self._log = (world.folder / f"{name}.jsonl").open("w+b")
        command = world.enter([sys.executable, PROGRAMS / f"{name}.py", *map(str, argv)])
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, start_new_session=True)
        self._read: IO[str] = Path(self._log.name).open()  # noqa: SIM115
        self._half = ""

    def news(self) -> Iterable[list[object]]:
        """What it has said since the last time it was asked."""
        assert self._process.poll() is None, f"{self._process.args} has ended"
        *lines, self._half = (self._half + self._read.read()).split("\n")
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        """End it."""
        end(self._process)
        self._log.close()
        self._read.close()


class Vlans(Program):
    """The VLANs of a wire as interfaces in the world, each by its name, whatever the kernel knows of 802.1Q."""

    def __init__(self, world: World, wire: str, vlans: Mapping[str, int]) -> None:
        super().__init__(world, "vlans", wire, *(f"{name}={number}" for name, number in vlans.items()))
        wait_until(lambda: bool(self.news()), 10, "the VLANs are there")


class Client:
    """Asks the floating IP for a page, all the time: every `interval` seconds, each for `timeout` at most."""

    def __init__(
        self,
        world: World,
        address: str,
        port: int = 80,
        *,
        interval: float = CLIENT_INTERVAL,
        timeout: float = CLIENT_TIMEOUT,
    ) -> None:
        self._program = Program(world, "client", address, port, interval, timeout)
        self._interval = interval
        self._timeout = timeout
        self._requests: list[Request] = []
        self.stop = self._program.stop

    def requests(self, since: float = 0.0) -> list[Request]:
        """Every request that has ended and began after a moment, in the order of their ends."""
        self._requests += [Request(*each) for each in self._program.news()]  # type: ignore[arg-type]
        return [each for each in self._requests if each.began >= since]

    def gaps(self, since: float = 0.0) -> list[Gap]:
        """The times without service since then; the last may go on."""
        gaps: list[Gap] = []
        last, failed = since, False
        for each in self.requests(since):
            if not each.good:
                failed = True
            else:
                if failed:
                    gaps.append(Gap(last, each.ended))
                last, failed = each.ended, False
        if failed:
            gaps.append(Gap(last, time.monotonic()))
        return gaps

    def outage(self, since: float) -> float:
        """The longest time without service since then, in seconds."""
        return max((gap.seconds for gap in self.gaps(since)), default=0.0)

    def wait_served(self, since: float, seconds: float, *, streak: float = 1.0) -> None:
        """Wait until every request of the last `streak` seconds was served."""
        deadline = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            latest = [each.good for each in self.requests(max(since, now - streak - self._timeout))]
            if now - since > streak and len(latest) > streak / self._interval / 4 and all(latest):
                return
            assert now < deadline, f"no service within {seconds} s; lately: {self.requests()[-3:]}"
            time.sleep(0.05)


class Owners:
    """Who has the floating IP."""

    def __init__(self, world: World, address: str, bridge: str, macs: dict[str, str]) -> None:
        self._macs = macs
        names = dict.fromkeys(macs.values())
        self._program = Program(world, "owners", address, bridge, OWNERS_INTERVAL, *names)
        self._has: list[tuple[float, tuple[str, ...]]] = []
        self._claims: list[tuple[float, str]] = []
        self.stop = self._program.stop

    def history(self, since: float = 0.0) -> list[Owned]:
        """Who had the address on an interface, from then until now."""
        self._look()
        ends = [when for when, _ in self._has[1:]] + [time.monotonic()]
        spans = (Owned(max(since, began), end, who) for (began, who), end in zip(self._has, ends, strict=True))
        return [span for span in spans if span.ended > since]

    def now(self) -> tuple[str, ...]:
        """Who has it now."""
        return self.history()[-1].nodes

    def seen(self, since: float = 0.0) -> list[str]:
        """Those who had it one after the other."""
        found: list[str] = []
        for span in self.history(since):
            for name in span.nodes:
                if name not in found[-2:] or (len(span.nodes) == 1 and found[-1] != name):
                    found.append(name)
        return found

    def doubled(self, since: float = 0.0) -> float:
        """How long more than one node had it, in seconds."""
        return sum(span.ended - span.began for span in self.history(since) if len(span.nodes) > 1)

    def claims(self, since: float = 0.0) -> list[tuple[float, str]]:
        """Who said on the wire that it has the address, and when."""
        self._look()
        return [(when, who) for when, who in self._claims if when >= since]

    def _look(self) -> None:
        for when, kind, what in self._program.news():  # type: ignore[misc]
            if kind == "has":
                self._has.append((when, tuple(what)))
            else:
                self._claims.append((when, self._macs.get(what, what)))


class Backends:
    """The web servers behind HAProxy."""

    def __init__(self, world: World, servers: Sequence[tuple[str, str, int]]) -> None:
        argv = [f"{name}={address}:{port}" for name, address, port in servers]
        command = world.enter([sys.executable, PROGRAMS / "backends.py", *argv])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._names = [name for name, _, _ in servers]
        self._expect_ok()

    def tell(self, name: str, *state: object) -> None:
        """One server becomes "well", "slow SECONDS" or "gone"."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, (name, *state))) + "\n")
        self._process.stdin.flush()
        self._expect_ok()

    def tell_all(self, *state: object) -> None:
        """The same for every one."""
        for name in self._names:
            self.tell(name, *state)

    def stop(self) -> None:
        """End them."""
        end(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _expect_ok(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ok\n"


def wait_until(holds: Callable[[], bool], seconds: float, what: str, *, every: float = 0.2) -> float:
    """Wait for something; returns how long it took in seconds, and fails with `what` after `seconds`."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return time.monotonic() - began
