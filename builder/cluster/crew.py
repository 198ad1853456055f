"""Threads that work on nodes and hosts at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

_T = TypeVar("_T")
_I = TypeVar("_I")


class Crew:
    """When one fails, or Ctrl-C comes, no further work is begun; what was begun is waited for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=16)

    def __enter__(self) -> Crew:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for whoever still works."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def each(self, items: Iterable[_I], work: Callable[[_I], _T]) -> list[_T]:
        """What `work` gives for each, in order; raises the first error, when all that was begun has ended."""
        futures = [self._pool.submit(work, item) for item in items]
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            if any(future.exception() for future in done):
                for future in pending:
                    future.cancel()
        for future in futures:
            if not future.cancelled() and (error := future.exception()) is not None:
                raise error
        return [future.result() for future in futures]
