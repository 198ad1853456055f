"""Files that a spec names."""

from __future__ import annotations

from pathlib import Path


class UnreadableError(Exception):
    """A file cannot be read; the message says why, without its name."""


def located(name: str, folder: Path) -> Path:
    """The absolute path of what a spec in `folder` names; ~ is a home. Raises UnreadableError."""
    try:
        return folder.absolute() / Path(name).expanduser()
    except RuntimeError:
        raise UnreadableError("nobody's home") from None


def read_text(path: Path, *, limit: int) -> str:
    """A regular file's text: at most `limit` bytes of UTF-8. Raises UnreadableError."""
    try:
        if not path.is_file():
            raise UnreadableError("is no regular file" if path.exists() else "no such file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UnreadableError(error.strerror or "cannot be read") from None
    if len(data) > limit:
        raise UnreadableError(f"larger than {limit >> 10} KiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableError("is no UTF-8 text") from None
