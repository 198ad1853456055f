"""The spec as JSON Schema 2020-12, for editors and other people's programs."""

from __future__ import annotations

import ast
import functools
import inspect
import json
from typing import Any

from pydantic import BaseModel

from builder.spec import model

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of a cluster spec, every key with its description.

    What it says of keys, types, patterns and bounds is what `load` goes by; what takes more than one value to judge
    (an address in its subnet, a name that has to be there) is beyond it.
    """
    schema = model.Cluster.model_json_schema()
    definitions = schema.get("$defs", {})
    for name, definition in {"Cluster": schema, **definitions}.items():
        kind = getattr(model, name)
        definition.pop("title", None)
        if not issubclass(kind, BaseModel):
            continue
        for key, part in definition["properties"].items():
            part.pop("title", None)
            part["description"] = description(kind, key)
            if "patternProperties" in part:  # the names of networks, say: pydantic lets any other name pass here
                part["additionalProperties"] = False
    del schema["description"]
    return {"$schema": DIALECT, "title": "hapx-build cluster spec", **schema}


def text() -> str:
    """The schema as it stands in seeds/cluster.schema.json."""
    return json.dumps(json_schema(), indent=2) + "\n"


def description(kind: type[BaseModel], key: str) -> str:
    """What the model says about a field of one of its classes."""
    return _descriptions()[kind.__name__][key]


@functools.cache
def _descriptions() -> dict[str, dict[str, str]]:
    """The docstrings below the model's fields, by class and field."""
    texts: dict[str, dict[str, str]] = {}
    for kind in ast.parse(inspect.getsource(model)).body:
        if not isinstance(kind, ast.ClassDef):
            continue
        texts[kind.name] = {
            field.target.id: text.value.value
            for field, text in zip(kind.body, kind.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        }
    return texts
