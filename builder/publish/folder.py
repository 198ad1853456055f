"""Publishing into a folder: one that is shared, or that a web server shows."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from builder import interrupts
from builder.errors import BusyError, NoSpaceError, OutputExistsError
from builder.image import locks, workplace
from builder.publish.store import Store

CHUNK = 1 << 20


class Folder(Store):
    """A folder. A version is made in a hidden folder beside, which is renamed when all of it is there."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def spoken(self, name: str) -> str:
        """Its path."""
        return str(self._root / name)

    def read(self, name: str, start: int = 0) -> Iterator[bytes] | None:
        """See `Store.read`."""
        try:
            file = (self._root / name).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return None

        def chunks() -> Iterator[bytes]:
            with file:
                file.seek(start)
                while chunk := file.read(CHUNK):
                    yield chunk

        return chunks()

    def write(self, name: str, source: Path, on_progress: Callable[[int], None]) -> None:
        """See `Store.write`."""
        with self._made(self._root / name) as path, source.open("rb") as file, path.open("wb") as copy:
            while chunk := file.read(CHUNK):
                copy.write(chunk)
                on_progress(copy.tell())
            copy.flush()
            os.fsync(copy.fileno())

    def write_text(self, name: str, text: str) -> None:
        """See `Store.write_text`."""
        with self._made(self._root / name) as path:
            path.write_text(text)

    @contextlib.contextmanager
    def version(self, version: str) -> Iterator[str]:
        """A hidden folder that becomes the version; what is whole in it stays for the next try, unless a disk is full.

        Raises BusyError where another process publishes this version here, OutputExistsError where something else has
        its name.
        """
        workplace.make(self._root)
        target, staging = self._root / version, self._root / f".{version}.part"
        if target.exists() or target.is_symlink():
            raise OutputExistsError(
                f"{target}: this is there already, and no version that hapx-build published",
                hint="take it away, or publish to another folder",
            )
        staging.mkdir(exist_ok=True)
        try:
            with locks.held(staging, wait=False), interrupts_after(staging, target):
                yield f"{staging.name}/"
        except BlockingIOError:
            raise BusyError(f"{target}: another process is publishing this version", hint="wait for it") from None
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            shutil.rmtree(staging, ignore_errors=True)
            raise NoSpaceError(
                f"{self._root}: no space left on this disk", hint="free some space there, and publish again"
            ) from None

    @contextlib.contextmanager
    def _made(self, path: Path) -> Iterator[Path]:
        """A file beside `path` that takes its place when the block ends well, and is gone when it does not."""
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            yield staged
            staged.rename(path)
        finally:
            staged.unlink(missing_ok=True)


@contextlib.contextmanager
def interrupts_after(staging: Path, target: Path) -> Iterator[None]:
    """Rename `staging` to `target` when the block ended well, whatever signal comes then."""
    yield
    with interrupts.held():
        for left in staging.glob(".*"):  # half a file of a run that was killed
            left.unlink()
        staging.rename(target)
