"""The clock, as chrony sees it."""

from __future__ import annotations

from dataclasses import dataclass

ARGV = ("chronyc", "-n", "-c", "tracking")
_UNKNOWN = "Not synchronised"


@dataclass(frozen=True, slots=True)
class Clock:
    """Whether it follows a server, and how far it is from what that says, in seconds; None where nobody knows."""

    synchronised: bool | None
    offset_seconds: float | None


def parse(text: str) -> Clock:
    """What `chronyc -c tracking` says: the offset is its fifth field, the leap status its last (chronyc(1))."""
    fields = text.strip().split(",")
    if len(fields) < 14:
        return Clock(None, None)
    synchronised = fields[-1] != _UNKNOWN
    try:
        return Clock(synchronised, float(fields[4]) if synchronised else None)
    except ValueError:
        return Clock(synchronised, None)
