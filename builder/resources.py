"""Where packer/ and seeds/ are: the user's own in the working folder, or those that came with hapx-build."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str, *, holds: str) -> Path:
    """The folder `name` ("packer", "seeds"): the working folder's where it has files like `holds`, else our own."""
    mine = Path.cwd() / name
    return mine if any(mine.glob(holds)) else shipped(name)


def shipped(name: str) -> Path:
    """Our own folder `name` ("packer", "seeds"), as it came with hapx-build."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
