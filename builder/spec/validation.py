"""Plain values -> `Cluster`, or issues in plain words: pydantic judges, its texts stay inside."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from builder.spec.issues import Issue, KeyPath, closest, nearest, shown
from builder.spec.model import Cluster
from builder.spec.scalars import TEXTS

_Said = tuple[str, str]


def validate(value: Any) -> tuple[Cluster | None, list[Issue]]:
    """The cluster that plain values say, or every issue with their keys and types.

    Strict, as the JSON Schema is: text is not a number, "yes" is not true. Beside issues there is a cluster too where
    one is left without the parts they are about: further checks can say more then, in one go.
    """
    cluster, issues = _validate(value)
    if cluster is None and issues:
        cluster, _ = _validate(_repaired(value, issues))
    return cluster, issues


def _validate(value: Any) -> tuple[Cluster | None, list[Issue]]:
    try:
        return Cluster.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    paths = [detail["loc"] for detail in details]
    return None, [_issue(detail) for detail in details if not _follows(detail, paths)]


def _follows(detail: ErrorDetails, paths: Sequence[KeyPath]) -> bool:
    """Whether it only says that a list is too short because its entries are wrong, each of which is said itself."""
    path = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(other) > len(path) and other[: len(path)] == path for other in paths
    )


def _repaired(value: Any, issues: Sequence[Issue]) -> Any:
    """A copy in which keys that nobody knows have the name that was meant, and fields that are wrong are left out."""
    copy = json.loads(json.dumps(value))
    for issue in issues:
        *above, last = _field_of(issue.path)
        parent: Any = copy
        for part in above:
            try:
                parent = parent[part]
            except (KeyError, IndexError, TypeError):
                parent = None
        if not isinstance(parent, dict) or last not in parent:
            continue
        found = parent.pop(last)
        kind = _class_at(tuple(above))
        known = kind.model_fields if kind is not None else {}
        if last not in known and (meant := closest(str(last), known)):
            parent.setdefault(meant, found)
    return copy


def _field_of(path: KeyPath) -> KeyPath:
    """The path cut down to the innermost field of a model that it is in: a list loses no entry, its places stay."""
    for length in range(len(path), 0, -1):
        if isinstance(path[length - 1], str) and _class_at(path[: length - 1]) is not None:
            return path[:length]
    return path[:1] or ("",)


def _class_at(path: KeyPath) -> type[BaseModel] | None:
    """The model at a path; None where there is none."""
    kind: Any = Cluster
    for part in path:
        kind = _bare(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field is not None else None
        else:
            # dict[Name, X] and tuple[X, ...]: what is in them
            arguments = typing.get_args(kind)
            kind = arguments[1 if typing.get_origin(kind) is dict else 0] if arguments else None
    kind = _bare(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _bare(kind: Any) -> Any:
    """A type without Annotated and `| None`."""
    if typing.get_origin(kind) is typing.Annotated:
        return _bare(typing.get_args(kind)[0])
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        inner = [argument for argument in typing.get_args(kind) if argument is not type(None)]
        return _bare(inner[0]) if len(inner) == 1 else kind
    return kind


def _issue(detail: ErrorDetails) -> Issue:
    """One of pydantic's errors in plain words."""
    path: KeyPath = detail["loc"]
    say = _SAY.get(detail["type"])
    message, hint = say(detail, path) if say is not None else (detail["msg"], "")
    if path and path[-1] == "[key]":
        path = path[:-1]
        message = f"the name {shown(path[-1])} {message.partition(', not ')[0]}"
    return Issue(path, message, hint)


def _missing(_detail: ErrorDetails, path: KeyPath) -> _Said:
    from builder.spec.schema import description

    kind = _class_at(path[:-1])
    return "is missing", description(kind, str(path[-1])) if kind is not None else ""


def _unknown(_detail: ErrorDetails, path: KeyPath) -> _Said:
    kind = _class_at(path[:-1])
    return "is no key of a spec here", nearest(str(path[-1]), kind.model_fields if kind is not None else ())


def _not_text(detail: ErrorDetails, _path: KeyPath) -> _Said:
    value = detail["input"]
    if value is None:
        return "is empty", "leave the key out, or give it a value"
    hint = f'in quotes: "{json.dumps(value)}"' if isinstance(value, int | float) else ""
    return f"must be text, not {_kind(value)}", hint


def _pattern(detail: ErrorDetails, _path: KeyPath) -> _Said:
    pattern = detail["ctx"]["pattern"]
    return f"must be {TEXTS.get(pattern, f'like {pattern}')}, not {shown(detail['input'])}", ""


def _not_a_number(detail: ErrorDetails, _path: KeyPath) -> _Said:
    value = detail["input"]
    hint = "without quotes" if isinstance(value, str) and value.isascii() and value.isdigit() else ""
    return f"must be a whole number, not {shown(value) if isinstance(value, str | float) else _kind(value)}", hint


def _not_a_bool(detail: ErrorDetails, _path: KeyPath) -> _Said:
    return f"must be true or false, not {shown(detail['input'])}", ""


def _not_one_of(detail: ErrorDetails, _path: KeyPath) -> _Said:
    choices = str(detail["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
    value = detail["input"]
    close = closest(value, choices) if isinstance(value, str) else None
    return f"must be one of {', '.join(choices)}, not {shown(value)}", f"did you mean {close}?" if close else ""


def _not_a(noun: str, instead: str) -> Callable[[ErrorDetails, KeyPath], _Said]:
    def say(detail: ErrorDetails, _path: KeyPath) -> _Said:
        if detail["input"] is None:
            return "is empty", f"leave the key out, or write {instead}"
        return f"must be {noun}, not {_kind(detail['input'])}", ""

    return say


def _bound(words: str, key: str) -> Callable[[ErrorDetails, KeyPath], _Said]:
    return lambda detail, _path: (words.format(detail["ctx"][key]), "")


def _kind(value: object) -> str:
    """What a value is, in YAML's words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a mapping"


_MAPPING = _not_a("a mapping (key: value)", "its keys below it")
_SAY: dict[str, Callable[[ErrorDetails, KeyPath], _Said]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "string_type": _not_text,
    "string_pattern_mismatch": _pattern,
    "string_too_long": _bound("must be at most {} characters long", "max_length"),
    "int_type": _not_a_number,
    "int_from_float": _not_a_number,
    "bool_type": _not_a_bool,
    "greater_than_equal": _bound("must be {} or more", "ge"),
    "less_than_equal": _bound("must be {} or less", "le"),
    "enum": _not_one_of,
    "literal_error": _not_one_of,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "tuple_type": _not_a("a list (- entry)", "[]"),
    "too_short": _bound("must have at least {} entry", "min_length"),
    "too_long": _bound("must have at most {} entries", "max_length"),
    "spec": lambda detail, _path: (f"{detail['msg']}, not {shown(detail['input'])}", ""),
}
