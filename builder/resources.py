"""Where packer/ and seeds/ are: the user's own in the working folder, or those that came with hapx-build."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str, *, holds: str) -> Path:
    """The folder `name` ("packer", "seeds"): the working folder's where it has files like `holds`, else our own."""
    mine = Path.cwd() / name
    if any(mine.glob(holds)):
        return mine
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
