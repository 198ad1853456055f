"""Values given to the variables of a template: on a command line, in the environment, in files.

Slow to import, as `hcl` is.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import Problem
from builder.image import constraint, hcl
from builder.image.constraint import Kind
from builder.image.template import Template, Variable

# Name, value, line (0 where it is not known).
Entry = tuple[str, hcl.Value, int]


@dataclass(slots=True)
class Assignments:
    """What was given so far, typed, a later value in place of an earlier one; and everything that was wrong with it."""

    template: Template
    values: dict[str, object] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _tried: set[str] = field(default_factory=set)

    def text(self, name: str, text: str, where: str) -> None:
        """A value as text, from a command line or the environment.

        Strings and numbers are taken as they are, and so is everything for a variable that has neither type nor
        default; all else is an HCL expression (Packer's expressionFromVariableDefinition).
        """
        if (variable := self._variable(name, where)) is None:
            return
        kind = _type(variable)
        value: hcl.Value = text
        if not (kind.kind in {Kind.STRING, Kind.NUMBER} or (kind.kind is Kind.ANY and variable.required)):
            try:
                value = hcl.constant(hcl.expression(text))
            except hcl.HclError:
                got = "" if variable.sensitive else f", got {constraint.short(text)}"
                self.problems.append(Problem(where, f"expected {kind}{got}", _how(kind)))
                return
        self._take(variable, value, where)

    def value(self, name: str, value: object, where: str) -> None:
        """A value that has a type already: a plain one of Python's."""
        if (variable := self._variable(name, where)) is not None:
            self._take(variable, _from_python(value), where)

    def file(self, path: Path) -> None:
        """All values in a file, HCL or JSON by its name."""
        readers: dict[str, Callable[[str], Iterator[Entry]]] = {".hcl": _hcl_entries, ".json": _json_entries}
        if path.suffix not in readers:
            said = "a file of variables is HCL or JSON"
            self.problems.append(Problem(str(path), said, "call it *.pkrvars.hcl or *.pkrvars.json"))
            return
        try:
            for name, value, line in readers[path.suffix](hcl.text(path)):
                where = f"{hcl.where(path, line)}: {name}"
                if (variable := self._variable(name, where)) is not None:
                    self._take(variable, value, where)
        except hcl.HclError as error:
            self.problems.append(Problem(hcl.where(path, error.line), error.message))

    def finish(self) -> None:
        """No more is given: a variable that needs a value and got none, not even a wrong one, is a problem."""
        for name, variable in self.template.variables.items():
            if variable.required and name not in self._tried:
                said = variable.description or f"declared in {variable.where}"
                self.problems.append(Problem(f"--var {name}", f"this variable needs a value: {said}"))

    def _variable(self, name: str, where: str) -> Variable | None:
        found = self.template.variables.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self.template.variables, n=1)
            hint = f"did you mean {near[0]}?" if near else "--list-vars shows which there are"
            self.problems.append(Problem(where, "no such variable", hint))
        else:
            self._tried.add(name)
        return found

    def _take(self, variable: Variable, value: hcl.Value, where: str) -> None:
        try:
            plain = constraint.plain(constraint.convert(value, _type(variable)))
            json.dumps(plain, ensure_ascii=False).encode()
        except constraint.MismatchError as error:
            said = f"expected {error.expected}" if variable.sensitive else str(error)
            self.problems.append(Problem(where, said))
        except UnicodeEncodeError:
            self.problems.append(Problem(where, "not text in UTF-8"))
        else:
            self.values[variable.name] = plain


def _type(variable: Variable) -> constraint.Type:
    return constraint.read(hcl.expression(variable.type))


def _how(kind: constraint.Type) -> str:
    """How a value of such a type is written after --var."""
    match kind.kind:
        case Kind.BOOL:
            return "it is written true or false"
        case Kind.MAP | Kind.OBJECT:
            return 'it is written {name = "value"}'
        case Kind.LIST | Kind.SET | Kind.TUPLE:
            return 'it is written ["value", "value"]'
        case _:
            return "it is written as in HCL, a string in quotes"


def _hcl_entries(text: str) -> Iterator[Entry]:
    root = hcl.parse(text)
    for block in root.blocks:
        raise hcl.HclError(f'a "{block.kind}" block in a file of values, which are written name = value', block.line)
    for attribute in root.attributes.values():
        yield attribute.name, hcl.constant(attribute.expression), attribute.line


def _json_entries(text: str) -> Iterator[Entry]:
    def unique(pairs: list[tuple[str, hcl.Value]]) -> dict[str, hcl.Value]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise hcl.HclError(f"{max(names, key=names.count)!r} is set twice", 0)
        return found

    def number(digits: str) -> hcl.Value:
        return hcl.number(digits, 0)

    try:
        root = json.loads(text, parse_int=number, parse_float=number, parse_constant=number, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise hcl.HclError(f"not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise hcl.HclError("nested too deeply", 0) from None
    if not isinstance(root, dict):
        raise hcl.HclError('not an object {"name": value, …}', 1)
    for name, value in root.items():
        if name != "//":  # HCL's way to write a comment in JSON
            yield name, value, 0


def _from_python(value: object) -> hcl.Value:
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return hcl.number(repr(value))
        case Mapping():
            return {str(key): _from_python(each) for key, each in value.items()}
        case list() | tuple():
            return [_from_python(each) for each in value]
        case _:
            return str(value)
