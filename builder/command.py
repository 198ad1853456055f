"""The only way to run an external program: argv, environment, timeout, cancellation, log.

A program always runs in a session of its own with its input closed. When this process is interrupted (Ctrl-C,
SIGTERM turned into an exception by `cli.main`) or the time is over, the program gets SIGTERM and `grace` seconds to
clean up after itself; then whatever it left running gets SIGTERM and the same again, and what is still there SIGKILL:
nothing of ours goes on running behind the user's back (`processes` says whom this reaches).
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
from typing import IO, Protocol, cast

from builder.errors import CommandError, CommandTimeoutError, MissingError
from builder.processes import KILL_SECONDS, POLL_SECONDS, Tree

TAIL_LINES = 20
CHUNK = 1 << 16
# A program that has ended may have left its output to a child in the background: it is listened to that much longer,
# and then for no more than a pipe can hold (/proc/sys/fs/pipe-max-size) of what the program itself may have written.
LINGER_SECONDS = 0.5
PIPE_BYTES = 1 << 20


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
    return Path(found).absolute() if found else None


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
    except (MissingError, CommandError, CommandTimeoutError):
        return None
    match = re.search(pattern, result.stdout + result.stderr)
    return match.group(1) if match else None


def tied(argv: Sequence[str], *, number: signal.Signals = signal.SIGTERM) -> list[str]:
    """The command that runs `argv` and is sent a signal when the process that started it is gone.

    For what works long: a killed process cannot stop what it started (prctl(2), PR_SET_PDEATHSIG; Linux only).
    """
    return ["setpriv", "--pdeathsig", number.name.removeprefix("SIG"), "--", *argv]


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
    on_errors: Callable[[str], None] | None = None,
    log: IO[str] | None = None,
    check: bool = True,
    grace: float = 10.0,
    first: Callable[[str], bool] | None = None,
) -> Result:
    """Run one program to its end.

    `timeout` and `grace` are seconds; `env` is added to this process' environment; `input` is its standard input
    (closed when None). With `on_line`, each line of its output and errors, merged, goes to the callback as it comes;
    `log` gets the same lines. `on_errors` is for a program that writes how far it is on a line that does not end: it
    gets all of the program's errors so far whenever there are more. `check` raises CommandError for any exit code but
    0. `first` is for a program that ends its children without asking: it picks, by the name of the file they execute,
    those of its descendants that get SIGTERM, and half of `grace`, before the program itself does.

    Raises MissingError (no such program), CommandError (it could not be started, or failed), CommandTimeoutError;
    KeyboardInterrupt and whatever else is raised meanwhile passes through after the program has ended.
    """
    argv = [str(part) for part in argv]
    if (path := which(argv[0])) is None:
        hint = "" if os.sep in argv[0] else f"sudo apt-get install {argv[0]}"
        raise MissingError(f"{argv[0]}: this program is not installed", hint=hint)
    streaming = on_line is not None or log is not None
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def take(line: str) -> None:
        tail.append(line)
        if log is not None:
            log.write(line + "\n")
            log.flush()
        if on_line is not None:
            on_line(line)

    stdout: _Sink = _Lines(take) if streaming else _Text()
    stderr: _Sink = _Text(on_errors)
    started = time.monotonic()
    deadline = None if timeout is None else started + timeout
    try:
        process = subprocess.Popen(
            [str(path), *argv[1:]],
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if streaming else subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _unstartable(argv, cwd, error) from None
    try:
        _talk(process, (input or "").encode(errors="surrogateescape"), stdout, stderr, deadline)
        process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, TimeoutError):
        stop(process, grace=grace, first=first)
        said = stdout.close()
        tail.extend((stderr.close() or said).splitlines())
        raise CommandTimeoutError(
            f"{argv[0]}: no end after {timeout:g} seconds, so it was stopped",
            details=[f"command: {format_argv(argv)}", *tail],
        ) from None
    except BaseException:
        stop(process, grace=grace, first=first)
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    result = Result(tuple(argv), process.returncode, stdout.close(), stderr.close(), time.monotonic() - started)
    if result.returncode < 0:
        # It was killed and could not see to its children: those that stayed with it must not outlive it.
        stop(process, grace=grace, first=first)
    if check and result.returncode != 0:
        tail.extend((result.stderr or result.stdout).splitlines())
        raise failure(result, tail)
    return result


@contextlib.contextmanager
def beside(argv: Sequence[str], *, grace: float = 10.0) -> Iterator[Callable[[float], str]]:
    """Run a program beside the block: its input is closed after that, and soon when this process is killed.

    Yields what waits that many seconds for the next line of its output and gives it, without its end: it raises
    CommandError (the program ended before, with what it said), CommandTimeoutError. Raises as `run` does.
    """
    argv = [str(part) for part in argv]
    path = require(argv[0])
    try:
        process = subprocess.Popen(
            [str(path), *argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _unstartable(argv, None, error) from None
    closing, output, errors = (cast("IO[bytes]", each) for each in (process.stdin, process.stdout, process.stderr))
    pending = bytearray()

    def line(timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while b"\n" not in pending:
            with selectors.DefaultSelector() as selector:
                selector.register(output, selectors.EVENT_READ)
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise CommandTimeoutError(
                        f"{argv[0]}: nothing said within {timeout:g} seconds",
                        details=[f"command: {format_argv(argv)}"],
                    )
            if not (chunk := os.read(output.fileno(), CHUNK)):
                ended = Result(tuple(argv), process.wait(grace), "", "", 0.0)
                raise failure(ended, (errors.read() or b"").decode(errors="replace").splitlines())
            pending.extend(chunk)
        found, _, rest = bytes(pending).partition(b"\n")
        pending[:] = rest
        return found.decode(errors="replace")

    try:
        yield line
    finally:
        closing.close()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            stop(process, grace=grace)
        finally:
            output.close()
            errors.close()


def failure(result: Result, tail: Sequence[str] = ()) -> CommandError:
    """The error for a program that ended badly, with the last lines of what it said."""
    if result.returncode < 0:
        ended = f"ended by {_signal_name(-result.returncode)}"
    else:
        ended = f"exit code {result.returncode}"
    return CommandError(
        f"{Path(result.argv[0]).name}: {ended}",
        returncode=result.returncode,
        details=[f"command: {format_argv(result.argv)}", *tail],
    )


def stop(process: subprocess.Popen[bytes], *, grace: float, first: Callable[[str], bool] | None = None) -> None:
    """End a program that `run` started, and all that it started: SIGTERM, `grace` seconds, SIGKILL.

    The order: its descendants that `first` picks (see `run`), the program, then who is left of its descendants. A
    second Ctrl-C meanwhile goes straight to SIGKILL.
    """

    def drain() -> None:
        # Somebody has to read what it says while it cleans up, or it blocks on a full pipe.
        _drain(process)

    tree = Tree(process.pid)
    deadline = time.monotonic() + grace
    try:
        if first is not None:
            tree.terminate(lambda each: first(each.program()), seconds=grace / 2, meanwhile=drain)
        if process.poll() is None:
            process.terminate()
        while process.poll() is None and time.monotonic() < deadline:
            tree.look()
            drain()
            time.sleep(POLL_SECONDS)
        tree.terminate(lambda _: True, seconds=grace, meanwhile=drain)
    finally:
        tree.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)


class _Sink(Protocol):
    """Takes what a program writes, in pieces of any length, and gives what is to be kept of it in the end."""

    def feed(self, chunk: bytes) -> None: ...

    def close(self) -> str: ...


class _Text:
    """Keeps everything; `tell` gets it whenever it is more."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._chunks: list[bytes] = []
        self._tell = tell

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        if self._tell is not None:
            self._tell(self.close())

    def close(self) -> str:
        text = b"".join(self._chunks).decode(errors="replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")


class _Lines:
    """Hands each line on as soon as it is complete, and keeps nothing."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._pending: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._pending.append(line)
            self._flush()
        if rest:
            self._pending.append(rest)

    def close(self) -> str:
        if self._pending:
            self._flush()
        return ""

    def _flush(self) -> None:
        line = b"".join(self._pending).decode(errors="replace").rstrip("\r")
        self._pending.clear()
        self._take(line)


def _talk(process: subprocess.Popen[bytes], data: bytes, stdout: _Sink, stderr: _Sink, deadline: float | None) -> None:
    """Write the input and read the outputs, all at once, until they end; TimeoutError at `deadline` (monotonic)."""
    view = memoryview(data)
    with selectors.DefaultSelector() as selector:
        for stream, sink in ((process.stdout, stdout), (process.stderr, stderr)):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, sink)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        ended: float | None = None
        late = 0
        while selector.get_map():
            now = time.monotonic()
            if ended is None and process.poll() is not None:
                ended = now
            if ended is None and deadline is not None and now >= deadline:
                raise TimeoutError
            ready = selector.select(POLL_SECONDS)
            if ended is not None and now >= ended + LINGER_SECONDS and (not ready or late > PIPE_BYTES):
                return
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    view = _write(key.fd, view)
                    if not view:
                        selector.unregister(key.fileobj)
                        process.stdin.close()
                elif chunk := os.read(key.fd, CHUNK):
                    key.data.feed(chunk)
                    late += len(chunk) if ended is not None else 0
                else:
                    selector.unregister(key.fileobj)


def _write(descriptor: int, data: memoryview) -> memoryview:
    """Write what fits; what is left of it, nothing where nobody reads any more."""
    try:
        return data[os.write(descriptor, data[:CHUNK]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


def _drain(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdout, process.stderr):
        if stream is None or stream.closed:
            continue
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while selector.select(0) and os.read(stream.fileno(), CHUNK):
                pass


def _unstartable(argv: Sequence[str], cwd: Path | None, error: OSError | ValueError) -> CommandError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if cwd is not None and not Path(cwd).is_dir():
        reason = f"its working directory {cwd} is not a folder"
    return CommandError(
        f"{argv[0]}: could not be started: {reason}", returncode=126, details=[f"command: {format_argv(argv)}"]
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal without a name of its own
        return f"signal {number}"
