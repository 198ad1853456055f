"""A file read once from front to back, hashed on the way.

Two digests grow as the reader moves on, each in a thread of its own (hashlib lets go of the interpreter's lock): the
one of the whole file, and the one of the member that is being read.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

CHUNK = 4 << 20  # bytes read at once
AHEAD = 4  # chunks that wait for a digest before the reader waits for it


class _Digest:
    """A SHA-256 that is fed in another thread, in order."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._hash = hashlib.sha256()
        self._waiting: deque[Future[None]] = deque()

    def update(self, data: memoryview) -> None:
        if not data:
            return
        self._waiting.append(self._pool.submit(self._hash.update, data))
        if len(self._waiting) > AHEAD:
            self._waiting.popleft().result()

    def hexdigest(self) -> str:
        while self._waiting:
            self._waiting.popleft().result()
        return self._hash.hexdigest()


class Stream(AbstractContextManager["Stream"]):
    """Sequential reading of `size` bytes of an open, unbuffered file.

    `peek`, `read` and `skip` give less than asked for only where the file ends. `at` reads elsewhere, for the tables
    of a disk, and leaves the position alone. Every method may raise OSError.
    """

    def __init__(self, file: io.FileIO, size: int, on_progress: Callable[[int, int], None] | None = None) -> None:
        self.position = 0  # of the next byte that `read` gives
        self.size = size
        self._file = file
        self._on_progress = on_progress
        self._buffer = memoryview(b"")
        self._at = 0  # in the buffer
        self._loaded = 0  # bytes taken from the file so far
        self._pools = ThreadPoolExecutor(1, "sha256-file"), ThreadPoolExecutor(1, "sha256-member")
        self._digest = _Digest(self._pools[0])
        self._member = _Digest(self._pools[1])
        self._member_end = 0

    def __enter__(self) -> Self:
        """The stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the threads."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def peek(self, count: int) -> memoryview:
        """The next `count` bytes, which stay where they are."""
        while len(self._buffer) - self._at < count:
            chunk = self._load()
            if not chunk:
                break
            rest = self._buffer[self._at :]
            self._buffer = memoryview(b"".join((rest, chunk))) if rest else chunk
            self._at = 0
        return self._buffer[self._at : self._at + count]

    def read(self, count: int) -> memoryview:
        """The next `count` bytes."""
        data = self.peek(count)
        self._at += len(data)
        self.position += len(data)
        return data

    def chunks(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes, piece by piece."""
        while count > 0 and (data := self.read(min(count, len(self._buffer) - self._at or CHUNK))):
            count -= len(data)
            yield data

    def skip(self, count: int) -> None:
        """Go over the next `count` bytes."""
        for _ in self.chunks(count):
            pass

    def begin_member(self, size: int) -> None:
        """The next `size` bytes are a member: its digest starts here."""
        self._member = _Digest(self._pools[1])
        self._member_end = self.position + size
        self._member.update(self._buffer[self._at : self._at + size])

    def member_digest(self) -> str:
        """SHA-256 of the member that was begun last; call it when the position has passed its end."""
        return self._member.hexdigest()

    def digest(self) -> str:
        """SHA-256 of the whole file: what was not read yet is read now."""
        self.skip(self.size)
        return self._digest.hexdigest()

    def at(self, offset: int, count: int) -> bytes:
        """`count` bytes from anywhere in the file, fewer where it ends."""
        if not 0 <= offset < self.size:
            return b""
        return os.pread(self._file.fileno(), min(count, self.size - offset), offset)

    def _load(self) -> memoryview:
        chunk = memoryview(self._file.read(min(CHUNK, self.size - self._loaded)) or b"")
        if not chunk:
            return chunk
        self._digest.update(chunk)
        self._member.update(chunk[: max(0, self._member_end - self._loaded)])
        self._loaded += len(chunk)
        if self._on_progress is not None:
            self._on_progress(min(self._loaded, self.size), self.size)
        return chunk
