"""The only way to run an external program: argv, environment, timeout, cancellation, log.

A program always runs in a process group of its own with its input closed. When this process is interrupted (Ctrl-C,
SIGTERM turned into an exception by `cli.main`) or the time is over, the program gets SIGTERM, `grace` seconds to clean
up after itself, and then its whole group gets SIGKILL: nothing of ours goes on running behind the user's back.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.errors import CommandError, CommandTimeoutError, MissingError

TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Result:
    """What a program did: its exit code (negative: the signal that ended it), its output as text, its time in seconds.

    `stdout` and `stderr` are empty where the output went line by line to a callback instead.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    seconds: float


def which(program: str) -> Path | None:
    """The program's path, looked for where root would look too (Debian keeps mke2fs and sfdisk out of users' PATH)."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(program, path=path)
    return Path(found) if found else None


def require(program: str, *, package: str = "") -> Path:
    """The program's path; raises MissingError that names the Debian package when it is not installed."""
    found = which(program)
    if found is None:
        hint = f"sudo apt-get install {package or program}"
        raise MissingError(f"{program}: this program is not installed", hint=hint)
    return found


def version(program: str | Path, *flags: str, pattern: str = r"(\d+(?:\.\d+)+)") -> str | None:
    """The version a program prints with `flags` (default: --version), or None where it says none within 10 seconds."""
    try:
        result = run([str(program), *(flags or ("--version",))], timeout=10, check=False)
    except (MissingError, CommandTimeoutError):
        return None
    match = re.search(pattern, result.stdout + result.stderr)
    return match.group(1) if match else None


def format_argv(argv: Sequence[str]) -> str:
    """The command as a person would type it into a shell."""
    return shlex.join(argv)


def run(
    argv: Sequence[str],
    *,
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    on_line: Callable[[str], None] | None = None,
    log: IO[str] | None = None,
    check: bool = True,
    grace: float = 10.0,
) -> Result:
    """Run one program to its end.

    `timeout` and `grace` are seconds; `env` is added to this process' environment; `input` is its standard input
    (closed when None). With `on_line`, each line of its output and errors, merged, goes to the callback as it comes;
    `log` gets the same lines. `check` raises CommandError for any exit code but 0.

    Raises MissingError (no such program), CommandError, CommandTimeoutError; KeyboardInterrupt and whatever else is
    raised meanwhile passes through after the program has ended.
    """
    argv = [str(part) for part in argv]
    if (path := which(argv[0])) is None:
        raise MissingError(f"{argv[0]}: this program is not installed", hint=f"sudo apt-get install {argv[0]}")
    streaming = on_line is not None or log is not None
    started = time.monotonic()
    process = subprocess.Popen(
        [str(path), *argv[1:]],
        cwd=cwd,
        env={**os.environ, **env} if env else None,
        stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if streaming else subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    stdout = stderr = ""
    try:
        if streaming:
            _feed(process, input)
            for line in _lines(process, deadline=None if timeout is None else started + timeout):
                tail.append(line)
                if log is not None:
                    log.write(line + "\n")
                    log.flush()
                if on_line is not None:
                    on_line(line)
            process.wait(None if timeout is None else max(0.1, started + timeout - time.monotonic()))
        else:
            stdout, stderr = process.communicate(input, timeout)
            tail.extend((stderr or stdout).splitlines())
    except (subprocess.TimeoutExpired, TimeoutError):
        stop(process, grace=grace)
        raise CommandTimeoutError(
            f"{argv[0]}: no end after {timeout:.0f} seconds, so it was stopped",
            details=[f"command: {format_argv(argv)}", *tail],
        ) from None
    except BaseException:
        stop(process, grace=grace)
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    result = Result(tuple(argv), process.returncode, stdout, stderr, time.monotonic() - started)
    if check and result.returncode != 0:
        raise failure(result, tail)
    return result


def failure(result: Result, tail: Sequence[str] = ()) -> CommandError:
    """The error for a program that ended badly, with the last lines of what it said."""
    if result.returncode < 0:
        ended = f"ended by {signal.Signals(-result.returncode).name}"
    else:
        ended = f"exit code {result.returncode}"
    return CommandError(
        f"{Path(result.argv[0]).name}: {ended}",
        returncode=result.returncode,
        details=[f"command: {format_argv(result.argv)}", *tail],
    )


def stop(process: subprocess.Popen[str], *, grace: float) -> None:
    """End a program that `run` started: SIGTERM to it, `grace` seconds, SIGKILL to what is left of its group."""
    if process.poll() is None:
        process.terminate()
        deadline = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < deadline:
            # Somebody has to read what it says while it cleans up, or it blocks on a full pipe.
            _drain(process)
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _feed(process: subprocess.Popen[str], text: str | None) -> None:
    if text is None or process.stdin is None:
        return
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text)
        process.stdin.close()


def _drain(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdout, process.stderr):
        if stream is None or stream.closed:
            continue
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while selector.select(0):
                if not os.read(stream.fileno(), 65536):
                    break


def _lines(process: subprocess.Popen[str], *, deadline: float | None) -> Iterator[str]:
    """Each line of the merged output; raises TimeoutError when the deadline (monotonic seconds) passes."""
    assert process.stdout is not None  # noqa: S101 - for the type checker: run() asked for a pipe
    descriptor = process.stdout.fileno()
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            if not selector.select(left):
                continue
            chunk = os.read(descriptor, 65536)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").rstrip("\r")
    if pending:
        yield pending.decode(errors="replace")
