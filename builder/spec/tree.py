"""YAML 1.2 text -> plain values, with the line of each; whatever the text is, faults and never an exception.

Scalars are read by YAML 1.2's core schema (10.3) and nothing else: no dates, no base 60, `yes` and `no` are text. Tags
other than the core schema's and merge keys are refused. The work is bounded before it is done: bytes, depth, nodes, and
nodes again after aliases are followed, so that a few lines cannot stand for millions.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from builder.spec.issues import KeyPath, shown

MAX_BYTES = 1 << 20
MAX_DEPTH = 20  # a spec has seven levels
MAX_NODES = 20_000  # a thousand servers with their options are about 12,000

_CORE = "tag:yaml.org,2002:"
_CORE_TAGS = {
    _CORE + name for name in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map", "merge", "value")
}
_MEANINGS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"|~|null|Null|NULL"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
"""The core schema of YAML 1.2 (10.3.2): what a scalar without quotes is; anything else is text."""
_MAX_NUMBER = 30  # characters: no number of a spec is that long, and Python's int() has a limit of its own
_UNUSABLE = re.compile("[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f]")

# What ruamel.yaml says, and what it means to somebody who is editing a spec.
_PLAIN = (
    (r"character '\\t'", "a tab: YAML is indented with spaces", ""),
    (r"character '(.)' that cannot start", "a value cannot begin with {0}", "put it in quotes"),
    (
        r"mapping values are not allowed",
        "a colon where no key can stand",
        "indent it like its neighbours; quote text with ': '",
    ),
    (r"could not find expected ':'", "a key without a colon, or a line that is indented wrongly", ""),
    (r"expected <block end>", "this line is indented differently from those it belongs to", ""),
    (r"expected ',' or '[\]}]'", "a bracket or a brace is not closed", ""),
    (r"expected the node content", "a value is missing", ""),
    (r"unexpected end of stream", "a quote is not closed", ""),
    (r"undefined alias ('.*')", "an alias without its anchor: {0}", ""),
    (r"found another document", "a second document begins here (---): a spec is one", ""),
    (r"duplicate anchor|second occurrence", "an anchor that is there twice", ""),
    (r"unknown escape character ('.')", "a backslash in double quotes means something else: {0}", "use single quotes"),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the text itself: line (from 1), what, what to do, and the key path where there is one."""

    line: int
    message: str
    hint: str = ""
    path: KeyPath = ()


@dataclass(slots=True)
class Tree:
    """What a YAML text says.

    `value` holds dicts with text keys, lists, and scalars; `lines` the line, from 1, that the key or the list entry at
    a path stands on; `readable` says whether there was YAML at all, with or without faults.
    """

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    readable: bool = False
    _nodes: int = 0

    def line(self, path: KeyPath) -> int:
        """The line of a path, or of the nearest part around it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _TooMuchError(Exception):
    """More depth or more nodes than a spec can have."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def decode(data: bytes) -> str | Fault:
    """The text of a file, which has to be UTF-8 without a byte order mark; else the fault."""
    if len(data) > MAX_BYTES:
        return Fault(1, f"larger than {MAX_BYTES >> 20} MiB", "is this a cluster spec?")
    for mark, name in (
        (codecs.BOM_UTF8, "UTF-8"),
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if data.startswith(mark):
            return Fault(1, f"begins with a byte order mark ({name})", "save it as UTF-8 without one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Fault(line, f"not UTF-8: byte 0x{data[error.start]:02x}", "save it as UTF-8")


def parse(text: str) -> Tree:
    """Read a YAML text."""
    tree = Tree()
    try:
        root = _compose(text)
        if isinstance(root, Fault):
            tree.faults.append(root)
        elif root is None:
            tree.faults.append(Fault(1, "is empty", "start from one of the specs in seeds/"))
        else:
            tree.lines[()] = root.start_mark.line + 1
            tree.value = _plain(tree, root, (), 0)
            tree.readable = True
    except _TooMuchError as error:
        tree.faults.append(Fault(error.line, str(error), "is this a cluster spec?"))
    return tree


def _compose(text: str) -> Any:
    """ruamel.yaml's node graph (None for an empty text), or the fault that keeps it from being one."""
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import Composer
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    class Bounded(Composer):
        """Counts as it composes: ruamel.yaml knows no bounds, and Python's stack ends in the middle of its work."""

        depth = nodes = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """One node and what is below it."""
            self.depth, self.nodes = self.depth + 1, self.nodes + 1
            if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
                line = self.parser.peek_event().start_mark.line + 1
                what = (
                    f"nested deeper than {MAX_DEPTH} levels" if self.depth > MAX_DEPTH else f"over {MAX_NODES} values"
                )
                raise _TooMuchError(line, what)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = Bounded
    try:
        return yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if "end of stream" in (error.problem or "") and error.context_mark is not None:
            mark = error.context_mark  # where the quote was opened says more than where the file ended
        return Fault(mark.line + 1 if mark is not None else 1, *_in_plain_words(error.problem or error.context or ""))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return Fault(line, f"a character that YAML does not allow: U+{error.character:04X}")
    except _TooMuchError:
        raise
    except Exception as error:  # ruamel.yaml lets others out for odd input: ValueError from chr() for "\U00110000"
        return Fault(1, f"not YAML: {shown(str(error))}")


def _in_plain_words(problem: str) -> tuple[str, str]:
    for pattern, message, hint in _PLAIN:
        if match := re.search(pattern, problem):
            return message.format(*match.groups()), hint
    return f"not YAML: {problem}", ""


def _plain(tree: Tree, node: Any, path: KeyPath, depth: int) -> Any:
    """The plain value of a node; its lines and faults go into `tree`."""
    line = node.start_mark.line + 1
    tree._nodes += 1
    if tree._nodes > MAX_NODES or depth > MAX_DEPTH:
        raise _TooMuchError(line, "its aliases stand for more than a spec can hold")
    tag = str(node.tag)
    if tag not in _CORE_TAGS:
        tree.faults.append(Fault(line, f"a tag ({shown(tag)})", "a spec needs none: leave it out", path))
        return None
    if node.id == "sequence":
        values = []
        for place, entry in enumerate(node.value):
            tree.lines[*path, place] = entry.start_mark.line + 1
            values.append(_plain(tree, entry, (*path, place), depth + 1))
        return values
    if node.id == "mapping":
        mapping: dict[str, Any] = {}
        for key, entry in _entries(tree, node, path):
            mapping[key] = _plain(tree, entry, (*path, key), depth + 1)
        return mapping
    return _scalar(tree, node, tag, path)


def _entries(tree: Tree, node: Any, path: KeyPath) -> Iterator[tuple[str, Any]]:
    """A mapping's entries with usable keys, each once; a key is its text, whatever a scalar like it would mean."""
    for key, entry in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar" or _UNUSABLE.search(key.value):
            tree.faults.append(Fault(line, "a key has to be text", "", path))
        elif key.value == "<<" and key.style is None:
            hint = "repeat the lines, or set what all nodes have under machine"
            tree.faults.append(Fault(line, "a merge key (<<), which YAML 1.2 does not have", hint, path))
        elif (*path, key.value) in tree.lines:
            first = tree.lines[*path, key.value]
            hint = f"the first is on line {first}"
            tree.faults.append(Fault(line, "is there twice", hint, (*path, key.value)))
        else:
            tree.lines[*path, key.value] = line
            yield key.value, entry


def _scalar(tree: Tree, node: Any, tag: str, path: KeyPath) -> Any:
    text: str = node.value
    line = node.start_mark.line + 1
    if match := _UNUSABLE.search(text):
        tree.faults.append(Fault(line, f"a control character: U+{ord(match[0]):04X}", "", path))
        return None
    if node.style is not None or tag == _CORE + "str":
        return text
    if len(text) <= _MAX_NUMBER:
        for pattern, meaning in _MEANINGS:
            if pattern.fullmatch(text):
                return meaning(text)
    return text
