"""Threads that work on nodes and hosts at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import TypeVar

_T = TypeVar("_T")
_I = TypeVar("_I")


class Crew:
    """When one fails, or Ctrl-C comes, no further work is begun; what was begun is waited for.

    Of a crew that works `within` another, which a thread of that one calls, the same is true as of that one: it ends
    with it.
    """

    def __init__(self, size: int = 16, *, within: Crew | None = None) -> None:
        self._pool = ThreadPoolExecutor(max_workers=size)
        self._over: threading.Event = threading.Event() if within is None else within._over

    def __enter__(self) -> Crew:
        """Begin."""
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        """Wait for whoever still works."""
        if failed is not None:
            self._over.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def go_on(self) -> None:
        """For work that waits for something; raises CancelledError when no more is to be begun."""
        if self._over.is_set():
            raise CancelledError

    def each(self, items: Iterable[_I], work: Callable[[_I], _T]) -> list[_T]:
        """What `work` gives for each, in order; raises the first error, when all that was begun has ended."""

        def begin(item: _I) -> _T:
            self.go_on()
            try:
                return work(item)
            except BaseException:
                self._over.set()
                raise

        futures = [self._pool.submit(begin, item) for item in items]
        pending = set(futures)
        while pending:  # a short while each, so that Ctrl-C is felt
            _, pending = wait(pending, timeout=0.2)
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error  # what others were cancelled for comes before that
        return [future.result() for future in futures]
