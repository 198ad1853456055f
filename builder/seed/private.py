"""Files that only their owner can ever read, and that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from builder.errors import of_os_error


def replace(target: Path, data: bytes) -> None:
    """Write a file with mode 0600, in place of what is there; its folder is made where it is missing.

    Nobody sees it half written, and it is on the disk when this returns. Raises NoSpaceError, InputError (no right to
    write there), OSError.
    """
    with _written(target, data) as temporary:
        temporary.replace(target)


def create(target: Path, data: bytes) -> bool:
    """Write a file with mode 0600 where there is none yet; whether this call made it.

    Of several processes that do so at the same time exactly one makes it, and the others find it whole. Raises as
    `replace` does.
    """
    with _written(target, data) as temporary:
        try:
            target.hardlink_to(temporary)
        except FileExistsError:
            return False
        # The next command builds on what stands in it: after a power cut too it must be there.
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return True


@contextlib.contextmanager
def _written(target: Path, data: bytes) -> Iterator[Path]:
    """A new file beside the target with the data on the disk; gone afterwards where it still has this name."""
    # The same ending: whatever keeps the target out of git or a backup keeps this out, should it ever stay behind.
    temporary = target.with_name(f".{secrets.token_hex(8)}{''.join(target.suffixes[-2:])}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)  # a umask may have taken even the owner's rights
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        # The name beside it says nothing to anybody, and write(2) gives none. What exists already can only be a file
        # where a folder should be.
        number = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno
        named = OSError(number, os.strerror(number or 0), str(target))
        raise of_os_error(named) or named from None
