"""Base64 within a text: whole blocks of lines, and words long enough to hold something."""

from __future__ import annotations

import base64
import binascii
import re

_LINE = r"[A-Za-z0-9+/]+={0,2}[ \t]*"
# In both, group 1 is the indentation. Blocks go first: what they hold may lie across their lines.
BLOCK = re.compile(rf"(?m)^([ \t]*){_LINE}(?:\n[ \t]*{_LINE})*$")
WORD = re.compile(r"()[A-Za-z0-9+/]{16,}={0,2}")


def decode(match: re.Match[str]) -> bytes:
    """What a match of BLOCK or WORD holds; nothing where it only looks like base64."""
    try:
        return base64.b64decode("".join(match[0].split()), validate=True)
    except binascii.Error:
        return b""
