"""Finding what may be there only once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from builder.spec.issues import Issue, KeyPath, spell


def repeated(what: str, entries: Iterable[tuple[KeyPath, Hashable]]) -> Iterator[Issue]:
    """An issue for each value that an earlier entry has already; `what` names the kind of value."""
    first: dict[Hashable, KeyPath] = {}
    for path, value in entries:
        if value in first:
            yield Issue(path, f"the {what} {value} is there twice", f"the first is {spell(first[value])}")
        else:
            first[value] = path
