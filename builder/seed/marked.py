"""YAML together with the lines it stands on, and errors that say which."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_NO_CHARACTER = re.compile(r"\\U(?!000|0010)[0-9A-Fa-f]{8}")


class NotYamlError(Exception):
    """The text is not YAML: `line`, counted from 1, and what a parser says of it.

    What it says can quote the text: for a file of secrets only the line may be told.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def compose(text: str) -> Any:
    """The root node of a YAML text, None where it is empty; raises NotYamlError.

    A node knows its `start_mark.line`, a scalar its `value` as it was written.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        message = ", ".join(part for part in (error.context, error.problem) if part)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"character U+{error.character:04X} is not allowed"
    except (OverflowError, ValueError):
        # ruamel.yaml makes a character of any eight digits.
        beyond = _NO_CHARACTER.search(text)
        line = text.count("\n", 0, beyond.start()) + 1 if beyond else 1
        message = "an escape that stands for no character"
    except RecursionError:
        line, message = 1, "nested too deeply"
    raise NotYamlError(line, message.replace("\x00", "NUL"))


def entries(node: Any) -> Iterator[tuple[str, Any, int]]:
    """The entries of a mapping node: key as it was written, value's node, line of the key counted from 1."""
    for key, value in node.value:
        text = key.value if is_scalar(key) else "(not a name)"
        yield text, value, key.start_mark.line + 1


def is_mapping(node: Any) -> bool:
    """Whether a node is a mapping."""
    return node is not None and node.id == "mapping"


def is_scalar(node: Any) -> bool:
    """Whether a node is a single value."""
    return node is not None and node.id == "scalar"


def is_null(node: Any) -> bool:
    """Whether a node is a value that means nothing: left out, `~`, or null."""
    return node is None or node.tag == "tag:yaml.org,2002:null"
