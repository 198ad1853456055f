"""The signals that end a run: each unwinds the stack like Ctrl-C does, so that whatever is half-made is taken away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from builder.errors import ExitCode

EXIT_CODES = {signal.SIGTERM: ExitCode.TERMINATED, signal.SIGHUP: ExitCode.HUNG_UP}


def _unwind(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_CODES[signal.Signals(number)])


def unwind() -> None:
    """From now on SIGTERM, and SIGHUP of a terminal that is closed, raise SystemExit with an exit code of their own.

    What is ignored stays ignored: a run under nohup(1) outlives its terminal.
    """
    for number in EXIT_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _unwind)


def ignore() -> None:
    """From now on Ctrl-C, SIGTERM and SIGHUP do nothing: the run is over, and its last words and exit code stand."""
    for number in (signal.SIGINT, *EXIT_CODES):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP that come within the block are felt after it, once.

    For what must not be left half done. Blocking them in this thread alone would not do: any other thread (the one
    that draws progress) would take them, and Python would still raise here. In another thread than the main one
    nothing is raised by signals anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, *EXIT_CODES)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
