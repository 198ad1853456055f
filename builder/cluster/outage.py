"""How long clients go without an answer: TCP connections to a floating IP, one after the other, a few at a time."""

from __future__ import annotations

import errno
import itertools
import selectors
import socket
import threading
import time
from types import TracebackType

EVERY = 0.02
"""Seconds between two connections."""
PATIENCE = 0.5
"""Seconds until a connection that is not accepted counts as lost: the kernel's own second try comes after one."""


class Watch:
    """Connects to an address and port every 20 ms in a thread of its own, from `with` to its end.

    A connection is an answer where it is accepted. Nothing is sent.
    """

    def __init__(self, address: str, port: int) -> None:
        self._to = (address, port)
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._answers: list[float] = []
        self._asked = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outage", daemon=True)

    def __enter__(self) -> Watch:
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join()

    def reached(self, *, within: float) -> bool:
        """Whether an answer comes within that many seconds from now."""
        began, deadline = time.monotonic(), time.monotonic() + within
        while time.monotonic() < deadline:
            if self._answers and self._answers[-1] >= began:
                return True
            time.sleep(EVERY)
        return False

    def longest(self) -> float:
        """The longest time, in seconds, between two connections made that were both answered."""
        answers = sorted(self._answers)
        return max((later - earlier for earlier, later in itertools.pairwise(answers)), default=0.0)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            following = time.monotonic()
            while not self._stop.is_set():
                now = time.monotonic()
                if now >= following:
                    self._connect(selector, now)
                    following = max(following + EVERY, now)
                for key, _ in selector.select(max(0.0, following - time.monotonic())):
                    connection: socket.socket = key.fileobj  # type: ignore[assignment]
                    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        self._answers.append(key.data)
                    self._close(selector, connection)
                for key in list(selector.get_map().values()):
                    if now - key.data > PATIENCE:
                        self._close(selector, key.fileobj)  # type: ignore[arg-type]
            for key in list(selector.get_map().values()):
                self._close(selector, key.fileobj)  # type: ignore[arg-type]

    def _connect(self, selector: selectors.BaseSelector, now: float) -> None:
        connection = socket.socket(self._family, socket.SOCK_STREAM)
        connection.setblocking(False)
        # Closed, it is gone at once: thousands in TIME_WAIT would use up this machine's ports.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if connection.connect_ex(self._to) in (0, errno.EINPROGRESS):
            selector.register(connection, selectors.EVENT_WRITE, now)
        else:
            connection.close()

    @staticmethod
    def _close(selector: selectors.BaseSelector, connection: socket.socket) -> None:
        selector.unregister(connection)
        connection.close()
