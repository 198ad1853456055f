"""Waiting, bounded, until a cluster serves; and what it said when it does not."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from builder.cluster import contact
from builder.cluster.contact import Answer
from builder.cluster.health import FAILED
from builder.crew import Crew
from builder.errors import HapxError
from builder.hypervisor import State
from builder.machines import Fleet
from builder.progress import Reporter
from builder.spec.model import Node

ASK_SECONDS = 90.0
POLL_SECONDS = 1.0
MOST_SECONDS = 20.0
CONSOLE_LINES = 12
RESTARTS = 2


class Waiting:
    """Waits, bounded, until every node says that the cluster serves."""

    def __init__(self, fleet: Fleet, crew: Crew, reporter: Reporter, deadline: float) -> None:
        self._fleet = fleet
        self._crew = crew
        self._reporter = reporter
        self._deadline = deadline
        self._said: dict[str, str] = {}
        self._restarts = {node.name: 0 for node in fleet.cluster.nodes}

    def for_health(self, generation: str | None = None) -> list[Answer]:
        """The nodes' answers once all is well, and where a generation is given, once all of them have that one."""
        nodes = self._fleet.cluster.nodes
        while True:
            began = time.monotonic()
            answers = self._crew.each(nodes, self._ask)
            lacks = {answer.node: lacking(self._fleet, answer, generation) for answer in answers}
            self._tell(answers, lacks)
            if not any(lacks.values()):
                return answers
            if time.monotonic() > self._deadline:
                raise self._error(answers, lacks)
            # A node that is slow to answer is busy, and not to be kept from what it is waited for: Pacemaker resets a
            # node whose parts do not answer it in time.
            time.sleep(max(POLL_SECONDS, min(2 * (time.monotonic() - began), MOST_SECONDS)))

    def _ask(self, node: Node) -> Answer:
        answer = contact.ask_health(self._fleet, node, timeout=ASK_SECONDS)
        if answer.health is None and self._restarts[node.name] < RESTARTS:
            host = self._fleet.on(node)
            there = next((each for each in host.machines(self._fleet.cluster.name) if each.name == node.name), None)
            if there is not None and there.state is State.OFF and host.start(node.name):
                self._restarts[node.name] += 1
                self._reporter.note(f"{node.name}: was off, and is switched on again", node=node.name)
        return answer

    def _tell(self, answers: Sequence[Answer], lacks: Mapping[str, str]) -> None:
        before = dict(self._said)
        for answer in answers:
            now = lacks[answer.node] or "healthy"
            if self._said.get(answer.node) != now:
                self._said[answer.node] = now
                self._reporter.note(f"{answer.node}: {now}", node=answer.node)
        if self._said != before:
            self._reporter.advance(sum(not lack for lack in lacks.values()), len(lacks))

    def _error(self, answers: Sequence[Answer], lacks: Mapping[str, str]) -> HapxError:
        lines = []
        for node, answer in zip(self._fleet.cluster.nodes, answers, strict=True):
            if not lacks[node.name]:
                continue
            lines.append(f"{node.name}: {lacks[node.name]}")
            if answer.health is not None:
                lines += [f"  {each.severity}: {each.message}" for each in answer.health.problems]
            else:
                lines += [f"  console: {line}" for line in self._tail(node)]
        return HapxError(
            f"the cluster {self._fleet.cluster.name} is up, but does not serve",
            hint="hapx-build status; hapx-build console NODE; `hapx-build up` goes on from here",
            details=lines,
        )

    def _tail(self, node: Node) -> Sequence[str]:
        try:
            return self._fleet.on(node).console_tail(node.name, CONSOLE_LINES)
        except HapxError as error:
            return [error.message]


def lacking(fleet: Fleet, answer: Answer, generation: str | None = None) -> str:
    """What a node still lacks to serve, in a few words; empty where it lacks nothing.

    What it calls degraded does not count: no server behind it that answers, a clock nobody has set.
    """
    return next(_lacks(fleet, answer, generation), "")


def _lacks(fleet: Fleet, answer: Answer, generation: str | None) -> Iterator[str]:
    found = answer.health
    if found is None:
        yield answer.reason
        return
    if not found.quorate:
        yield "has no quorum"
    if away := [node.name for node in fleet.cluster.nodes if not found.online(node.name)]:
        yield f"waits for {', '.join(away)}"
    if not found.haproxy.alive:
        yield "waits for HAProxy"
    homeless = [vip.address for vip in found.vips if vip.holder is None]
    if homeless or len(found.vips) < len(fleet.cluster.vips):
        yield f"waits for somebody to hold {', '.join(homeless) or 'the floating IP'}"
    if generation is not None and found.generation != generation:
        yield "has an older configuration"
    if found.applied != found.generation:
        yield "applies its configuration"
    if found.state == FAILED:
        yield next((each.message for each in found.problems if each.severity == FAILED), "has failed")
