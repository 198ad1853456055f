"""What the templates of one folder declare: variables, sources, and which of these their builds use.

Slow to import, as `hcl` is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import Problem
from builder.image import constraint, hcl
from builder.image.template import Variable

NAMES = {"variable": 1, "variables": 0, "source": 2, "build": 0}  # how many labels each kind of block has


@dataclass(slots=True)
class Declarations:
    """What was read so far, and everything that was wrong with it."""

    variables: dict[str, Variable] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)  # source: where it stands
    builds: dict[str, tuple[str, str]] = field(default_factory=dict)  # name in a build: source, and where it is named
    problems: list[Problem] = field(default_factory=list)

    def read(self, path: Path) -> None:
        """Take one file in."""
        try:
            root = hcl.parse(hcl.text(path))
        except hcl.HclError as error:
            self.problems.append(Problem(hcl.where(path, error.line), error.message))
            return
        for block in root.blocks:
            try:
                self._block(block, path)
            except hcl.HclError as error:
                self.problems.append(Problem(hcl.where(path, error.line), error.message))

    def used(self) -> tuple[str, ...]:
        """The sources that builds use, by the names they have there; one that is not declared is a problem."""
        for source, where in self.builds.values():
            if source not in self.declared:
                known = ", ".join(sorted(self.declared)) or "none"
                self.problems.append(Problem(where, f"source {source!r} is not declared", f"there is: {known}"))
        return tuple(self.builds)

    def _block(self, block: hcl.Block, path: Path) -> None:
        match block.kind, block.labels:
            case "variable", (name,):
                self._declare(_variable(block, name, path))
            case "variables", ():
                for attribute in block.attributes.values():
                    default, kind = _default(attribute, None)
                    where = hcl.where(path, attribute.line)
                    self._declare(Variable(attribute.name, str(kind), default, "", False, False, where))
            case "source", (kind, name):
                self._source(f"{kind}.{name}", hcl.where(path, block.line))
            case "build", ():
                self._build(block, path)
            case kind, labels if kind in NAMES:
                raise hcl.HclError(f'a "{kind}" block takes {NAMES[kind]} names, not {len(labels)}', block.line)

    def _declare(self, variable: Variable) -> None:
        if (known := self.variables.setdefault(variable.name, variable)) is not variable:
            said = f"variable {variable.name!r} is declared twice"
            self.problems.append(Problem(variable.where, said, f"first in {known.where}"))

    def _source(self, source: str, where: str) -> None:
        if (known := self.declared.setdefault(source, where)) is not where:
            self.problems.append(Problem(where, f"source {source!r} is declared twice", f"first in {known}"))

    def _build(self, block: hcl.Block, path: Path) -> None:
        """Its `sources = […]` and its own source blocks, which may give a source another name."""
        if (attribute := block.attributes.get("sources")) is not None:
            named = hcl.constant(attribute.expression)
            for each in named if isinstance(named, list) else [named]:
                source = _reference(each, attribute.line)
                self.builds[source] = (source, hcl.where(path, attribute.line))
        for inner in block.blocks:
            if inner.kind == "source":
                source = _reference(inner.labels[0] if len(inner.labels) == 1 else None, inner.line)
                name = inner.attributes.get("name")
                local = hcl.constant(name.expression) if name is not None else None
                shown = f"{source.partition('.')[0]}.{local}" if isinstance(local, str) and local else source
                self.builds[shown] = (source, hcl.where(path, inner.line))


def _variable(block: hcl.Block, name: str, path: Path) -> Variable:
    declared, given, description, sensitive = (
        block.attributes.get(each) for each in ("type", "default", "description", "sensitive")
    )
    kind = constraint.read(declared.expression) if declared is not None else None
    default: object = None
    if given is not None:
        default, kind = _default(given, kind)
    return Variable(
        name=name,
        type=declared.text if declared is not None else str(kind or constraint.ANY),
        default=default,
        description=str(hcl.constant(description.expression)) if description is not None else "",
        sensitive=sensitive is not None and hcl.constant(sensitive.expression) is True,
        required=given is None,
        where=hcl.where(path, block.line),
    )


def _default(given: hcl.Attribute, kind: constraint.Type | None) -> tuple[object, constraint.Type]:
    """A default as a plain value, and its variable's type; raises hcl.HclError where it is not of the declared type."""
    try:
        value = hcl.constant(given.expression)
        kind = kind or constraint.infer(value)
        return constraint.plain(constraint.convert(value, kind)), kind
    except hcl.NotConstantError:
        return f"${{{given.text}}}", kind or constraint.ANY
    except constraint.MismatchError as error:
        raise hcl.HclError(f"the default: {error}", given.line) from None


def _reference(value: hcl.Value, line: int) -> str:
    """The "type.name" of a source as builds name it: "source.type.name", or the same without the first word."""
    parts = value.removeprefix("source.").split(".") if isinstance(value, str) else []
    if len(parts) != 2 or not all(parts):
        raise hcl.HclError('a source is named "source.type.name"', line)
    return ".".join(parts)
