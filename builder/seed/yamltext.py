"""Data as YAML text: readable, and the same data again for whoever reads it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ruamel.yaml import YAML

# Wider than any line: a folded line is one that a person cannot search for.
_WIDTH = 1 << 20
# cloud-init and netplan read YAML 1.1, where `no`, 0644 and 52:54:00:12:34:56 mean something else than they say.
_VERSION = (1, 1)
_HEADER = "%YAML 1.1\n---\n"
_ITEM = "  - "
_PRINTABLE = "\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_LINE = re.compile(f"[{_PRINTABLE}]*")
_LINES = re.compile(f"(?=\\S)[{_PRINTABLE}\n]*(?<=\\S)\n?")


def dump(data: Any) -> str:
    """Dicts, lists, strings, numbers, booleans and None as block style YAML; texts of several lines as they are.

    Every text comes back with its final newline, or without, as it is in the data, whatever blank lines follow. A
    single value is one line, to stand behind a key.
    """
    if not isinstance(data, dict | list | tuple):
        return dump([_one_line(data)]).removeprefix(_ITEM)
    text = io.StringIO()
    _writer().dump(_styled(data), text)
    return text.getvalue().removeprefix(_HEADER)


def _writer() -> YAML:
    """A writer for one text: after an error it would remember what it was about to write."""
    from ruamel.yaml import YAML

    writer = YAML()
    writer.version = _VERSION
    writer.width = _WIDTH
    writer.indent(mapping=2, sequence=4, offset=2)
    return writer


def _one_line(value: Any) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(value) if isinstance(value, str) and not _LINE.fullmatch(value) else value


def _styled(data: Any) -> Any:
    """The data with a style for each text: a block for lines that a block says exactly, else the writer's choice."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

    if isinstance(data, dict):
        return {_styled(key): _styled(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_styled(value) for value in data]
    if not isinstance(data, str) or isinstance(data, DoubleQuotedScalarString) or _LINE.fullmatch(data):
        return data
    return LiteralScalarString(data) if _LINES.fullmatch(data) else DoubleQuotedScalarString(data)
