"""HCL2 text as plain data: blocks, attributes with their lines, and the values of what is constant.

python-hcl2 parses; its tree rather than its dictionaries is read here, because the tree knows lines and the text as it
was written, and tells the string "var.x" from the expression var.x. Importing this module imports python-hcl2, which is
slow: do so inside functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

import hcl2
from hcl2.utils import process_escape_sequences
from lark import Token, Tree
from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedToken

# Decimal keeps a fraction as it was written; `constraint.plain` makes an ordinary number of it.
Value = str | bool | int | Decimal | list["Value"] | dict[str, "Value"] | None

Node = Tree[Token]

MAX_DIGITS = 300
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TEMPLATE = re.compile(r"(?<!\$)\$\{|(?<!%)%\{")


class HclError(ValueError):
    """Text that is not HCL, or not what is expected of it there; `line` counts from 1, 0 where it is not known."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class NotConstantError(HclError):
    """An expression that calls or refers to something, where only a plain value will do."""

    def __init__(self, line: int) -> None:
        super().__init__("not a constant: functions and variables cannot be used here", line)


@dataclass(frozen=True, slots=True)
class Attribute:
    """`name = expression`: where it stands, and its expression as written (`text`) and as a tree."""

    name: str
    line: int
    text: str
    expression: Node


@dataclass(frozen=True, slots=True)
class Block:
    """`kind "label" … { attributes and blocks }`; the whole text is a block without a kind."""

    kind: str
    labels: tuple[str, ...]
    line: int
    attributes: Mapping[str, Attribute]
    blocks: tuple[Block, ...]


def where(path: Path, line: int) -> str:
    """A place in a file, for a message."""
    return f"{path}:{line}" if line else str(path)


def text(path: Path) -> str:
    """What is in a file; raises HclError where it cannot be read or is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise HclError(f"cannot be read: {error.strerror}", 0) from None
    except UnicodeDecodeError:
        raise HclError("not text in UTF-8", 0) from None


def parse(text: str) -> Block:
    """Read a whole file; raises HclError with the line of the first thing that is wrong."""
    text = text.removeprefix("\ufeff")
    try:
        tree = hcl2.parses_to_tree(text)
        [body] = [child for child in tree.children if isinstance(child, Tree)]
        return _block(text, "", (), 1, body)
    except UnexpectedToken as error:
        last = text.count("\n") + 1
        if error.token.type == "$END" or not isinstance(error.line, int) or error.line > last:
            raise HclError("the text ends too early (is a brace, a bracket or a quote not closed?)", last) from None
        # An operator brings the newline before it along; other text that begins with one follows where a value should.
        found = str(error.token)
        raise HclError(
            _unexpected(found if error.token.type == "STRING_CHARS" else found.strip()), error.line
        ) from None
    except UnexpectedCharacters as error:
        raise HclError(_unexpected(text[error.pos_in_stream or 0 :]), error.line) from None
    except RecursionError:
        raise HclError("nested too deeply", 1) from None
    except LarkError as error:
        raise HclError(str(error).partition("\n")[0], 1) from None


def expression(text: str) -> Node:
    """Read one expression, as after `--var name=`; raises HclError."""
    root = parse(f"value = {text}\n")
    if len(root.attributes) != 1 or root.blocks:
        raise HclError("more than one expression", 1)
    return root.attributes["value"].expression


def number(text: str, line: int = 1) -> int | Decimal:
    """The number that decimal digits, a fraction and an exponent say; raises HclError for anything else.

    A whole number comes back as an int, 1e3 too. Numbers of more than 300 digits are refused.
    """
    if not _NUMBER.fullmatch(text):
        raise HclError(f"{text[:40]!r} is not a number", line)
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("Infinity")
    if len(text) > MAX_DIGITS or not value.is_finite() or abs(value.adjusted()) > MAX_DIGITS:
        raise HclError(f"the number {text[:40]} has too many digits", line)
    return int(value) if value == value.to_integral_value() else value


def constant(node: Node) -> Value:
    """The value of an expression of literals, lists and objects; raises NotConstantError, or HclError."""
    try:
        return _constant(node)
    except RecursionError:
        raise HclError("nested too deeply", node.meta.line) from None


def identifier(node: Node) -> str | None:
    """The bare word that an expression consists of, None where it is anything else."""
    inner = _unwrap(node)
    return str(inner.children[0]) if inner.data == "identifier" else None


def call(node: Node) -> tuple[str, list[Node]] | None:
    """The function an expression calls and its arguments, None where it is anything else."""
    inner = _unwrap(node)
    if inner.data != "function_call":
        return None
    name, *rest = _trees(inner)
    arguments = [each for part in rest if part.data == "arguments" for each in _trees(part)]
    return str(name.children[0]), arguments


def elements(node: Node) -> list[Node] | None:
    """The expressions in a list, None where it is anything else."""
    inner = _unwrap(node)
    return list(_trees(inner)) if inner.data == "tuple" else None


def items(node: Node) -> list[tuple[str, Node]] | None:
    """The keys and expressions in an object, None where it is anything else; HclError for a key that is no constant."""
    inner = _unwrap(node)
    if inner.data != "object":
        return None
    found = []
    for element in _trees(inner):
        key, value = _trees(element)
        found.append((_key(key), value))
    return found


def _block(text: str, kind: str, labels: tuple[str, ...], line: int, body: Node) -> Block:
    attributes: dict[str, Attribute] = {}
    blocks = []
    for child in _trees(body):
        if child.data == "attribute":
            name = _name(child.children[0])
            value = next(reversed(list(_trees(child))))
            if name in attributes:
                first = attributes[name].line
                raise HclError(f"{name!r} is set twice; the first time in line {first}", child.meta.line)
            written = text[value.meta.start_pos : value.meta.end_pos].strip()
            attributes[name] = Attribute(name, child.meta.line, written, value)
        elif child.data == "block":
            *names, inner = _trees(child)
            words = [_label(each) for each in names]
            blocks.append(_block(text, words[0], tuple(words[1:]), child.meta.line, inner))
    return Block(kind, labels, line, attributes, tuple(blocks))


def _trees(node: Node) -> Iterator[Node]:
    """The children that mean something: no punctuation, no comments."""
    for child in node.children:
        if isinstance(child, Tree) and child.data != "new_line_or_comment":
            yield child


def _name(node: Node | Token) -> str:
    return str(node.children[0]) if isinstance(node, Tree) else str(node)


def _label(node: Node) -> str:
    if node.data != "string":
        return _name(node)
    value = _constant(node)
    return value if isinstance(value, str) else ""


def _unwrap(node: Node) -> Node:
    """What is inside of an expression's own wrapping and of parentheses."""
    while node.data == "expr_term":
        [node] = _trees(node)
    return node


def _constant(node: Node) -> Value:
    node = _unwrap(node)
    value: Value
    match node.data:
        case "literal_value":
            value = {"true": True, "false": False}.get(str(node.children[0]))
        case "int_lit" | "float_lit":
            value = number(str(node.children[0]), node.meta.line)
        case "unary_op":
            value = _unary(node)
        case "string":
            value = "".join(_part(part) for part in _trees(node))
        case "heredoc_template" | "heredoc_template_trim":
            value = _heredoc(str(node.children[0]), node.meta.line)
        case "tuple":
            value = [_constant(each) for each in _trees(node)]
        case "object":
            value = {key: _constant(each) for key, each in items(node) or ()}
        case _:
            raise NotConstantError(node.meta.line)
    return value


def _unary(node: Node) -> Value:
    [operand] = _trees(node)
    value = _constant(operand)
    sign = str(node.children[0])
    if sign == "-" and isinstance(value, int | Decimal) and not isinstance(value, bool):
        return -value
    if sign == "!" and isinstance(value, bool):
        return not value
    raise NotConstantError(node.meta.line)


def _part(node: Node) -> str:
    token = node.children[0]
    if not isinstance(token, Token):
        raise NotConstantError(node.meta.line)
    # "$${" and "%%{" stand for the two characters that would begin a template.
    return process_escape_sequences(str(token)[1:] if token.type.startswith("ESCAPED_") else str(token))


def _heredoc(text: str, line: int) -> str:
    """HCL specification, "template expressions": backslashes are literal, the last newline belongs to the value.

    "<<-" takes away the blanks that all lines, empty ones apart, begin with.
    """
    head, *lines, _ = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if any(_TEMPLATE.search(each) for each in lines):
        raise NotConstantError(line)
    if head.startswith("<<-"):
        indent = min((len(each) - len(each.lstrip(" ")) for each in lines if each.strip()), default=0)
        lines = [each[indent:] for each in lines]
    body = "".join(each + "\n" for each in lines)
    return body.replace("$${", "${").replace("%%{", "%{")


def _key(node: Node) -> str:
    [inner] = _trees(node)
    if inner.data == "keyword" or (word := identifier(inner)) is None:
        value = str(inner.children[0]) if inner.data == "keyword" else _constant(inner)
    elif _in_parentheses(inner):
        raise NotConstantError(inner.meta.line)
    else:
        value = word
    if not isinstance(value, str | int | Decimal):
        raise HclError("a key must be a word or a string", node.meta.line)
    return str(value)


def _in_parentheses(node: Node) -> bool:
    return any(isinstance(child, Token) and child.type == "LPAR" for child in node.children)


def _unexpected(text: str) -> str:
    found = text.partition("\n")[0].strip()[:40]
    return f"unexpected {found!r}" if found else "the line ends too early"
