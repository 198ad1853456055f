"""The templates of what goes on a node: ours, each of which a user may replace by one of the same name.

Strict: a name that nobody defined is an error, never an empty string. Secrets reach templates as `Secret` and show
only through the filter `reveal`. YAML is written by the filter `yaml`, never by hand.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import InputError, Problem
from builder.resources import shipped
from builder.seed import yamltext
from builder.seed.secrets import Secret, mask

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from jinja2.exceptions import TemplateError

FOLDER = Path("seeds", "templates")


class Templates:
    """Templates by name ("haproxy.cfg.j2"): from `own` where it has one, else from those that came with hapx-build."""

    def __init__(self, own: Path | None = None) -> None:
        self._own = Path.cwd() / FOLDER if own is None else own
        self._shipped = shipped("seeds") / "templates"
        self._environment = _environment(self._own, self._shipped)
        self._dumped: dict[int, tuple[Any, str]] = {}
        self._environment.filters["yaml"] = self._yaml

    def is_own(self, name: str) -> bool:
        """Whether the user has replaced this template."""
        mine = self._own / name
        return mine.is_file() and not mine.samefile(self._shipped / name)

    def where(self, name: str) -> Path:
        """The file a template is read from."""
        return (self._own if self.is_own(name) else self._shipped) / name

    def render(self, name: str, context: Mapping[str, Any]) -> str:
        """The text of a template, ending in a newline; raises InputError with file and line."""
        return _render(self._environment, name, self.where(name), context)

    def render_file(self, path: Path, context: Mapping[str, Any]) -> str:
        """The same for a template of the user's own outside the folder; it may include its neighbours and ours."""
        from jinja2 import ChoiceLoader, FileSystemLoader

        loader = ChoiceLoader([FileSystemLoader(path.parent), FileSystemLoader([self._own, self._shipped])])
        return _render(self._environment.overlay(loader=loader, cache_size=0), path.name, path, context)

    def _yaml(self, value: Any) -> str:
        # What all nodes share is most of a document, and writing YAML is most of the work.
        held = self._dumped.get(id(value))
        if held is None or held[0] is not value:
            held = self._dumped[id(value)] = (value, yamltext.dump(value).removesuffix("\n"))
        return held[1]


def _environment(own: Path, ours: Path) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - nothing here is HTML
        loader=FileSystemLoader([own, ours]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["reveal"] = _reveal
    return environment


def _reveal(value: Secret) -> str:
    return value.text()


def _render(environment: Environment, name: str, path: Path, context: Mapping[str, Any]) -> str:
    from jinja2.exceptions import TemplateError

    try:
        template: Template = environment.get_template(name)
        text = template.render(context)
    except TemplateError as error:
        problem = Problem(_position(error, path), _message(error, name))
    except UnicodeDecodeError:
        problem = Problem(str(path), "not UTF-8 text")
    except Exception as error:  # whatever a template's own expressions run into
        hidden = mask(str(error), _secrets(context))
        problem = Problem(_position(error, path), f"{type(error).__name__}: {hidden}")
    else:
        return text if text.endswith("\n") else f"{text}\n"
    raise InputError(f"{path}: this template cannot be rendered", [problem])


def _message(error: TemplateError, name: str) -> str:
    from jinja2.exceptions import TemplateNotFound

    if isinstance(error, TemplateNotFound):
        missing = ", ".join(str(each) for each in error.templates)
        return "no such template" if missing == name else f"includes {missing}, which is not there"
    return error.message or type(error).__name__


def _position(error: Exception, path: Path) -> str:
    """File and line of an error: jinja2 puts the template's own lines into the traceback."""
    from jinja2.exceptions import TemplateSyntaxError

    if isinstance(error, TemplateSyntaxError):
        return f"{error.filename or path}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path.suffix)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(path)


def _secrets(value: Any) -> Iterator[Secret]:
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _secrets(each)
