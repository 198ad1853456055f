"""One family of errors, each with what happened, what to do about it, and the exit code it ends with."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `hapx`; 0 to 2 are also the states that `hapx health` knows."""

    OK = 0  # done, or healthy
    FAILED = 1  # not done, and nothing is worse than before; or degraded
    BROKEN = 2  # health: failed
    UNKNOWN = 3  # cannot tell: no seed, no right to ask
    USAGE = 64  # the command line is wrong (EX_USAGE)


class NodeError(Exception):
    """What any command may raise: `message` says what and where, `hint` what to do, `details` holds further lines."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


class CannotTellError(NodeError):
    """What is asked for cannot be known here."""

    exit_code = ExitCode.UNKNOWN


class UsageError(NodeError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE
