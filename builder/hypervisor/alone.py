"""One run at a time on a hypervisor: to each of two, what the other is making would be what a killed one left."""

from __future__ import annotations

from contextlib import AbstractContextManager

from builder.hypervisor import Hypervisor
from builder.progress import Reporter


def alone(host: Hypervisor, reporter: Reporter) -> AbstractContextManager[None]:
    """`Hypervisor.alone`, which tells a person what it waits for."""
    return host.alone(
        on_wait=lambda: reporter.note(f"{host.where}: another run of hapx-build is at work there: waiting for it")
    )
