"""The placeholders of create-image.sh's files: #HOSTNAME#, #UUID# and #SSH-PUB-KEY#."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from builder.errors import Problem

NAMES = ("HOSTNAME", "UUID", "SSH-PUB-KEY")
_EXACT = re.compile(rb"#(HOSTNAME|UUID|SSH-PUB-KEY)#")
_CLOSED = re.compile(r"#([A-Za-z][A-Za-z0-9_-]*)#")
# YAML takes '#…' for a comment where a value should be: then the value is null.
_VALUE = re.compile(r"^\s*(?:-\s+)*(?:[\w.-]+:\s+|-\s+)#([A-Za-z][A-Za-z0-9_-]*)\s*$")
# s#A#B#, y#A#B# of sed and ${A#B#} of a shell have nothing to do with placeholders.
_PROGRAM = re.compile(r"(?:\$\{\w+#?|\b[sy])$")


def replace(content: bytes, values: Mapping[str, bytes]) -> bytes:
    """The content with every placeholder that has a value replaced by it, as it is; everything else untouched."""
    return _EXACT.sub(lambda match: values.get(match[1].decode(), match[0]), content)


def used(content: bytes) -> set[str]:
    """The placeholders in a content."""
    return {match.decode() for match in _EXACT.findall(content)}


def leftovers(content: bytes, file: str, known: Mapping[str, bytes]) -> Iterator[Problem]:
    """What would be left of placeholders once those of `known` are replaced, misspelt ones too."""
    for number, line in enumerate(content.decode(errors="replace").split("\n"), start=1):
        where = f"{file}:{number}"
        comment = line.lstrip().startswith("#")
        for match in _CLOSED.finditer(line):
            name = match[1]
            if name in known:
                continue
            if name in NAMES:
                yield Problem(where, f"there is nothing to put for #{name}#", "--ssh-pub-keyfile names a key")
            elif meant := _nearest(name):
                yield Problem(where, f"#{name}# is not replaced", f"did you mean #{meant}#?")
            elif name.isupper() and not comment and not _PROGRAM.search(line[: match.start()]):
                yield Problem(where, f"#{name}# is not replaced", "#HOSTNAME#, #UUID# and #SSH-PUB-KEY# are")
        if (open_ended := _VALUE.match(line)) and (meant := _nearest(open_ended[1])):
            yield Problem(where, f"#{open_ended[1]} is a comment here: no value", f"did you mean #{meant}#?")


def _nearest(name: str) -> str | None:
    plain = {known.replace("-", ""): known for known in NAMES}
    found = difflib.get_close_matches(re.sub(r"[_-]", "", name.upper()), plain, n=1, cutoff=0.8)
    return plain[found[0]] if found else None
