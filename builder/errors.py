"""One family of errors, each with what happened, what to do about it, and the exit code it ends with."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `hapx-build`; documented in the README, never renumbered."""

    OK = 0
    FINDINGS = 1  # verify, doctor: the answer is "no"
    USAGE = 2  # the command line is wrong
    INPUT = 3  # a file or a variable of the user's is wrong
    MISSING = 4  # a program or a feature of this machine is missing
    FAILED = 5  # a program we started failed
    NO_SPACE = 6  # a disk is full
    BUSY = 7  # somebody else is doing this right now
    EXISTS = 8  # the output is already there
    UNREACHABLE = 9  # a mirror or a host does not answer
    UNTRUSTED = 10  # a signature or a digest is wrong
    TIMEOUT = 11  # a program took longer than it may
    INTERNAL = 70  # a defect of ours (EX_SOFTWARE)
    HUNG_UP = 129  # SIGHUP: the terminal was closed
    INTERRUPTED = 130  # Ctrl-C
    TERMINATED = 143  # SIGTERM


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input: where it stands, what is wrong, what would be right."""

    where: str  # "seeds/cluster.yaml:12: nodes[0].id", or a flag, or a variable's name
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """One line for a person."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class HapxError(Exception):
    """What every command of hapx-build may raise; `cli.main` turns it into a message and an exit code.

    `message` says what and where, `hint` what to do, `details` holds further lines (a log's tail, say).
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


class UsageError(HapxError):
    """Flags that do not go together."""

    exit_code = ExitCode.USAGE


class InputError(HapxError):
    """A file or a variable of the user's is wrong; every problem found, not only the first."""

    exit_code = ExitCode.INPUT

    def __init__(self, message: str, problems: Sequence[Problem] = (), *, hint: str = "") -> None:
        super().__init__(message, hint=hint, details=[str(problem) for problem in problems])
        self.problems = tuple(problems)


class MissingError(HapxError):
    """A program, or something this machine would have to be able to do, is not there."""

    exit_code = ExitCode.MISSING


class CommandError(HapxError):
    """A program that was started failed."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, returncode: int, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint, details=details)
        self.returncode = returncode


class CommandTimeoutError(HapxError):
    """A program took longer than it may and was ended."""

    exit_code = ExitCode.TIMEOUT


class NoSpaceError(HapxError):
    """A disk is full."""

    exit_code = ExitCode.NO_SPACE


class BusyError(HapxError):
    """Another run holds what this one needs."""

    exit_code = ExitCode.BUSY


class OutputExistsError(HapxError):
    """The output is there already and nobody said --force."""

    exit_code = ExitCode.EXISTS


class UnreachableError(HapxError):
    """A mirror or a host does not answer."""

    exit_code = ExitCode.UNREACHABLE


class UntrustedError(HapxError):
    """A signature or a digest is wrong: what came is not what was meant."""

    exit_code = ExitCode.UNTRUSTED


class InterruptedByUserError(HapxError):
    """Ctrl-C; told after everything half-made was taken away."""

    exit_code = ExitCode.INTERRUPTED


class TerminatedError(HapxError):
    """SIGTERM; told after everything half-made was taken away."""

    exit_code = ExitCode.TERMINATED


class HungUpError(HapxError):
    """SIGHUP; told after everything half-made was taken away."""

    exit_code = ExitCode.HUNG_UP


_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


def of_os_error(error: OSError) -> HapxError | None:
    """The error a person can act on, for a file that could not be read or written; None where it is not theirs."""
    where = f"{error.filename2 or error.filename}: " if error.filename is not None else ""
    if error.errno in _FULL:
        return NoSpaceError(f"{where}no space left on the disk", hint="free some space, or choose another place")
    if error.errno in _REFUSED:
        return InputError(f"{where}{error.strerror}", hint="choose another place, or see who may read and write there")
    if error.errno == errno.EIO:
        return HapxError(f"{where}{error.strerror}", hint="see what the kernel says of this disk (dmesg)")
    return None
