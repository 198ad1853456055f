"""The types that Packer's variables have: read from HCL, told from a default, and values converted to them.

The rules of conversion are those of Packer's own type system (go-cty, "convert"): strings become numbers and booleans
where they spell one, numbers and booleans become strings, an object's further attributes are dropped. Like `hcl`, this
module is slow to import.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from builder.image import hcl
from builder.image.hcl import Node, Value


class Kind(StrEnum):
    """The words for types in HCL."""

    ANY = "any"
    STRING = "string"
    NUMBER = "number"
    BOOL = "bool"
    LIST = "list"
    SET = "set"
    MAP = "map"
    TUPLE = "tuple"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Type:
    """A type: `element` for what is in a list, set or map; `members` by name or, in a tuple, by position."""

    kind: Kind
    element: Type | None = None
    members: tuple[tuple[str, Type], ...] = ()

    def __str__(self) -> str:
        """The type as HCL says it."""
        if self.element is not None:
            return f"{self.kind}({self.element})"
        if self.kind is Kind.TUPLE:
            return f"tuple([{', '.join(str(member) for _, member in self.members)}])"
        if self.kind is Kind.OBJECT:
            inner = ", ".join(f"{name} = {member}" for name, member in self.members)
            return f"object({{ {inner} }})" if inner else "object({})"
        return str(self.kind)


ANY = Type(Kind.ANY)
_PRIMITIVES = {str(kind): Type(kind) for kind in (Kind.ANY, Kind.STRING, Kind.NUMBER, Kind.BOOL)}
_COLLECTIONS = (Kind.LIST, Kind.SET, Kind.MAP)


class MismatchError(ValueError):
    """A value that is not of the type wanted: `path` inside of it ("", "[1]", ".name"), what was wanted, what it is."""

    def __init__(self, path: str, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}{f' at {path}' if path else ''}, got {got}")
        self.path = path
        self.expected = expected
        self.got = got


def read(node: Node) -> Type:
    """The type a `type = …` expression names; raises hcl.HclError where it names none.

    What only later Packers know (optional(…)) reads as any: it is theirs to check.
    """
    unknown = hcl.HclError("not a type: string, number, bool, list(…), set(…), map(…), object({…}) …", node.meta.line)
    if (word := hcl.identifier(node)) is not None:
        if word not in _PRIMITIVES:
            raise unknown
        return _PRIMITIVES[word]
    found = hcl.call(node)
    if found is None or len(found[1]) < 1:
        raise unknown
    name, [argument, *_] = found
    if name in _COLLECTIONS:
        return Type(Kind(name), element=read(argument))
    if name == Kind.TUPLE and (types := hcl.elements(argument)) is not None:
        return Type(Kind.TUPLE, members=tuple((str(index), read(each)) for index, each in enumerate(types)))
    if name == Kind.OBJECT and (fields := hcl.items(argument)) is not None:
        return Type(Kind.OBJECT, members=tuple((key, read(each)) for key, each in fields))
    if name == "optional":
        return ANY
    raise unknown


def infer(value: Value) -> Type:
    """The type of a default, which is the type of a variable that declares none (Packer's rule)."""
    match value:
        case bool():
            return Type(Kind.BOOL)
        case str():
            return Type(Kind.STRING)
        case int() | Decimal():
            return Type(Kind.NUMBER)
        case list():
            return Type(Kind.TUPLE, members=tuple((str(index), infer(each)) for index, each in enumerate(value)))
        case dict():
            return Type(Kind.OBJECT, members=tuple((key, infer(each)) for key, each in value.items()))
        case None:
            return ANY


def convert(value: Value, wanted: Type, path: str = "") -> Value:
    """The value as one of the wanted type; raises MismatchError. null is of every type."""
    if value is None or wanted.kind is Kind.ANY:
        return value
    if wanted.kind in {Kind.STRING, Kind.NUMBER, Kind.BOOL}:
        return _primitive(value, wanted, path)
    if wanted.element is not None and wanted.kind is not Kind.MAP and isinstance(value, list):
        found = [convert(each, wanted.element, f"{path}[{index}]") for index, each in enumerate(value)]
        return _distinct(found) if wanted.kind is Kind.SET else found
    if wanted.element is not None and wanted.kind is Kind.MAP and isinstance(value, dict):
        return {key: convert(each, wanted.element, f"{path}.{key}") for key, each in value.items()}
    if wanted.kind is Kind.TUPLE and isinstance(value, list) and len(value) == len(wanted.members):
        return [
            convert(each, member, f"{path}[{index}]")
            for index, (each, (_, member)) in enumerate(zip(value, wanted.members, strict=True))
        ]
    if wanted.kind is Kind.OBJECT and isinstance(value, dict):
        for name, member in wanted.members:
            if name not in value:
                raise MismatchError(f"{path}.{name}", str(member), "nothing")
        return {name: convert(value[name], member, f"{path}.{name}") for name, member in wanted.members}
    raise MismatchError(path, str(wanted), tell(value))


def plain(value: Value) -> object:
    """The value as JSON and Python have it: fractions become floats."""
    match value:
        case Decimal():
            return float(value)
        case list():
            return [plain(each) for each in value]
        case dict():
            return {key: plain(each) for key, each in value.items()}
        case _:
            return value


def tell(value: Value) -> str:
    """What a value is, in a few words for a message."""
    match value:
        case None:
            return "null"
        case str():
            return f"the string {json.dumps(short(value), ensure_ascii=False)}"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | Decimal():
            return f"the number {short(_digits(value))}"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object with {short(', '.join(value))}" if value else "an empty object"


def short(text: str) -> str:
    """Some text of a user's in a message: one line, 60 characters at most."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def _primitive(value: Value, wanted: Type, path: str) -> Value:
    found: Value = None
    match wanted.kind, value:
        case (Kind.STRING, str()) | (Kind.BOOL, bool()):
            found = value
        case (Kind.STRING, bool()):
            found = str(value).lower()
        case (Kind.STRING, int() | Decimal()):
            found = _digits(value)
        case (Kind.NUMBER, int() | Decimal()) if not isinstance(value, bool):
            found = value
        case (Kind.NUMBER, str()):
            with contextlib.suppress(hcl.HclError):
                found = hcl.number(value)
        case (Kind.BOOL, "true" | "1" | "false" | "0"):
            found = value in {"true", "1"}
    if found is None:
        raise MismatchError(path, str(wanted), tell(value))
    return found


def _digits(value: int | Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _distinct(values: Sequence[Value]) -> list[Value]:
    found: list[Value] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
