"""What is wrong with a spec, said by key path; `loading` adds the file and the line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""Keys and list places from the top of the spec: ("nodes", 0, "name")."""

_SHOWN_CHARACTERS = 40
_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong: where, what, and what to do."""

    path: KeyPath
    message: str
    hint: str = ""
    absence: bool = False
    """Whether it says that something is not there: beside another error that may be no more than its consequence."""


def spell(path: KeyPath) -> str:
    """A key path as people write it: nodes[0].addresses.public."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]{0,62}", part):
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text


def shown(value: object) -> str:
    """A value as an error quotes it: on one line, cut where it is long, and nothing of what may be a private key."""
    if isinstance(value, str) and "PRIVATE" in value.upper():
        return "(a private key)"
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def closest(name: str, names: Iterable[str]) -> str | None:
    """Of `names` the one that was probably meant by a name that is not among them."""
    return next(iter(difflib.get_close_matches(name.lower(), sorted(set(names)), n=1, cutoff=0.6)), None)


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for a name that is not among `names`: the one that was probably meant, or those there are."""
    known = sorted(set(names))
    if not known:
        return "there are none"
    if close := closest(name, known):
        return f"did you mean {close}?"
    more = ", …" if len(known) > _SHOWN_NAMES else ""
    return f"there {'is' if len(known) == 1 else 'are'}: {', '.join(known[:_SHOWN_NAMES])}{more}"
