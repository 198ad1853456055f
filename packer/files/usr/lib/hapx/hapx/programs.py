"""The only way to run a program: an argv list, no input unless given, an end in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hapx.errors import NodeError

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = 30.0
# A killed program is given that long to be gone. One that the kernel holds (a dead disk) is not waited for.
_GONE_SECONDS = 1.0
# What a program has said that ended long ago is still to be read when another one has used up the time.
_READ_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Result:
    """What a program did; `returncode` is None where it had not ended in time, and was killed."""

    argv: tuple[str, ...]
    returncode: int | None
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.returncode == 0

    def said(self) -> list[str]:
        """What it said, errors first, line by line."""
        return [line for line in (self.stderr + "\n" + self.stdout).splitlines() if line.strip()]


class Running:
    """A program at work; `result` waits for it."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bool = False) -> None:
        self.argv = tuple(argv)
        self._process: subprocess.Popen[str] | None = None
        self._error = ""
        try:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={"PATH": PATH, "LC_ALL": "C.UTF-8", **(env or {})},
                start_new_session=True,
            )
        except OSError as error:
            self._error = f"{self.argv[0]}: {error.strerror}"

    def result(self, deadline: float, given: str | None = None) -> Result:
        """What it did, no later than `deadline` (of time.monotonic), when it and its children are killed."""
        if self._process is None:
            return Result(self.argv, 127, "", self._error)
        try:
            out, err = self._process.communicate(given, timeout=max(_READ_SECONDS, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            return Result(self.argv, None, "", "")
        except BaseException:
            self.kill()
            raise
        return Result(self.argv, self._process.returncode, out, err)

    def kill(self) -> None:
        """End it, and what it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=_GONE_SECONDS)


def run(
    argv: Sequence[str], *, timeout: float = SECONDS, given: str | None = None, env: Mapping[str, str] | None = None
) -> Result:
    """Run a program to its end, or to that of `timeout` seconds; it never raises for what the program does.

    `given` is its standard input, `env` is added to a minimal environment.
    """
    deadline = time.monotonic() + timeout
    return Running(argv, env=env, stdin=given is not None).result(deadline, given)


def checked(
    argv: Sequence[str],
    *,
    timeout: float = SECONDS,
    given: str | None = None,
    env: Mapping[str, str] | None = None,
    hint: str = "",
) -> Result:
    """The same for a program that has to end well; raises NodeError where it does not."""
    result = run(argv, timeout=timeout, given=given, env=env)
    if not result.ok:
        raise failure(result, timeout=timeout, hint=hint)
    return result


def failure(result: Result, *, timeout: float = SECONDS, hint: str = "") -> NodeError:
    """The error for a program that did not end well."""
    name = " ".join(result.argv[:2])
    if result.returncode is None:
        return NodeError(f"{name}: no end after {timeout:g} seconds, so it was stopped", hint=hint)
    return NodeError(f"{name}: exit code {result.returncode}", hint=hint, details=result.said()[-20:])
