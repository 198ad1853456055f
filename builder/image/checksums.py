"""SHA256SUMS: one `DIGEST  NAME` a line, as sha256sum(1) of GNU coreutils writes and reads it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

# sha256sum writes " *" before names read in binary mode, which on Linux is the same.
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_NAME = re.compile(r"(?!\.)[^/\\\0\r\n]+")


def text(digests: Mapping[str, str]) -> str:
    """The file for these digests by name (flat names), sorted by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def parse(data: str) -> dict[str, str]:
    """Digests by name; raises ValueError that names the first line that is not right, or comes again."""
    digests: dict[str, str] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or not _NAME.fullmatch(match[2]):
            raise ValueError(f"line {number}: not a SHA-256 and the name of a file beside")
        if match[2] in digests:
            raise ValueError(f"line {number}: {match[2]} is listed twice")
        digests[match[2]] = match[1]
    if not digests:
        raise ValueError("it lists nothing")
    return digests


def of_file(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
