"""One run at a time on a hypervisor: to each of two, what the other is making would be what a killed one left."""

from __future__ import annotations

from contextlib import AbstractContextManager

from builder.crew import Crew
from builder.hypervisor import Hypervisor
from builder.progress import Reporter


def alone(host: Hypervisor, reporter: Reporter, crew: Crew | None = None) -> AbstractContextManager[None]:
    """`Hypervisor.alone`, which tells a person what it waits for; a thread of a crew waits as long as that goes on."""
    told = False

    def waits() -> None:
        nonlocal told
        if crew is not None:
            crew.go_on()
        if not told:
            told = True
            reporter.note(f"{host.where}: another run of hapx-build is at work there: waiting for it")

    return host.alone(on_wait=waits)
