"""A folder of Packer templates: its variables and sources, and whether what a user gave fits them.

Everything is checked here, before Packer starts, and by Packer's own rules (1.6.6, hcl2template/types.variables.go), so
that one run tells everything that is wrong and what is reported is what runs.

Packer reads, in one folder and not below it: `*.pkr.hcl` (and `*.pkr.json`, which is refused here), then values from
`PKR_VAR_name` in the environment, `*.auto.pkrvars.hcl`, `*.auto.pkrvars.json`, the files and the variables on its
command line; what comes later wins.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import InputError, Problem

ENVIRONMENT_PREFIX = "PKR_VAR_"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of a template.

    `type` is as written in HCL; where none is written, the type of the default, "any" without either. `default` is a
    plain value, or the expression as text, "${env(…)}", where only Packer can tell its value. `where` is file:line.
    """

    name: str
    type: str
    default: object
    description: str
    sensitive: bool
    required: bool
    where: str


@dataclass(frozen=True, slots=True)
class Template:
    """A folder of templates: its variables by name, and the sources, "type.name", that its builds use."""

    folder: Path
    variables: Mapping[str, Variable]
    sources: tuple[str, ...]


def inspect(folder: Path) -> Template:
    """Read the templates in a folder; raises InputError with every problem found, file and line each."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", hint="a folder with Packer templates (*.pkr.hcl) is wanted")
    from builder.image.declarations import Declarations

    found = Declarations()
    paths = _files(folder, ".pkr.hcl")
    for path in paths:
        found.read(path)
    for path in _files(folder, ".pkr.json"):
        found.problems.append(Problem(str(path), "a template in JSON", "write it as HCL, in a file *.pkr.hcl"))
    if not paths and not found.problems:
        raise InputError(f"{folder}: no Packer templates (*.pkr.hcl) in this folder")
    sources = found.used()
    if found.problems:
        raise InputError(f"{folder}: these templates cannot be used", found.problems)
    return Template(folder, found.variables, sources)


def resolve(
    template: Template,
    *,
    assignments: Sequence[str] = (),
    files: Sequence[Path] = (),
    overrides: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The typed values of all variables that are not left to their defaults, by name.

    In order, the later wins: the environment, the folder's *.auto.pkrvars files, `files` (HCL or JSON), `assignments`
    ("name=value" as after --var), `overrides` (plain values). Raises InputError with every problem there is: unknown
    names, values of the wrong type, files that cannot be read, variables without a default that got no value.
    """
    from builder.image.assignments import Assignments

    given = Assignments(template)
    for name in sorted(template.variables):
        if (text := os.environ.get(f"{ENVIRONMENT_PREFIX}{name}")) is not None:
            given.text(name, text, f"{ENVIRONMENT_PREFIX}{name} in the environment")
    automatic = [*_files(template.folder, ".auto.pkrvars.hcl"), *_files(template.folder, ".auto.pkrvars.json")]
    for path in [*automatic, *files]:
        given.file(path)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if equals and name:
            given.text(name, text, f"--var {name}")
        else:
            given.problems.append(Problem(f"--var {assignment}", "no value", "it is written --var name=value"))
    for name, value in (overrides or {}).items():
        given.value(name, value, name)
    given.finish()
    if given.problems:
        raise InputError("these variables cannot be used", given.problems)
    return {name: given.values[name] for name in template.variables if name in given.values}


def describe(template: Template) -> list[dict[str, object]]:
    """A row for each variable, by name: name, type, default (None for a secret), required, sensitive, description."""
    return [
        {
            "name": variable.name,
            "type": variable.type,
            "default": None if variable.sensitive else variable.default,
            "required": variable.required,
            "sensitive": variable.sensitive,
            "description": variable.description,
        }
        for _, variable in sorted(template.variables.items())
    ]


def secrets(template: Template, values: Mapping[str, object]) -> tuple[str, ...]:
    """Every text in the values and defaults of the sensitive variables, the longest first: what no log may show."""
    found: set[str] = set()
    for variable in template.variables.values():
        if variable.sensitive:
            found.update(_texts(values.get(variable.name, variable.default)))
    return tuple(sorted(found - {""}, key=lambda text: (-len(text), text)))


def write_var_file(values: Mapping[str, object], path: Path) -> None:
    """Write values as a .pkrvars.json that only its owner can ever read, in place of what is there."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2)
            file.write("\n")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for each in value.values():
                yield from _texts(each)
        case list():
            for each in value:
                yield from _texts(each)


def _files(folder: Path, suffix: str) -> list[Path]:
    """The files that Packer finds in a folder, in its order: by name, not in sub-folders."""
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.name.endswith(suffix) and not path.is_dir())
    return []
