"""The guide's post-config files: a machine's network cards, processors and memory, and additional disks.

They are YAML, a mapping of machine parts by any name. Everything that is wrong in one is found at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from builder.errors import Problem
from builder.seed.marked import NotYamlError, compose, entries, is_mapping, is_null, is_scalar

# VBoxManage modifyvm: --nic1 to --nic8, --cpus up to 64, --memory from 4 MiB to 2 TiB.
SLOTS = range(1, 8 + 1)
PROCESSORS = range(1, 64 + 1)
MEMORY_MIB = range(4, 2 * 1024 * 1024 + 1)
# VBoxManage storageattach: 30 ports of a SATA controller; port 0 holds the base machine's own disk.
PORTS = range(1, 29 + 1)
SIZES_MIB = range(1, 2 * 1024 * 1024 + 1)  # VDI and VMDK end at 2 TiB
FORMATS = ("VDI", "VMDK", "VHD")
VARIANTS = ("Standard", "Fixed", "Split2G", "Stream", "ESX", "Formatted", "RawDisk")


class NicType(StrEnum):
    """What a network card is plugged into."""

    NAT = "nat"
    INTNET = "intnet"
    HOSTONLY = "hostonly"


@dataclass(frozen=True, slots=True)
class InterfacePlan:
    """A network card: its slot from 1, and the internal network's or the host-only adapter's name (none for NAT)."""

    slot: int
    type: NicType
    name: str | None


@dataclass(frozen=True, slots=True)
class ResourcesPlan:
    """Virtual processors, and memory in MiB."""

    processors: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class StoragePlan:
    """An additional disk: its port on the SATA controller, its size in MiB, VBoxManage's format and variant."""

    port: int
    size_mib: int
    format: str
    variant: str


def interfaces(text: str, file: str) -> tuple[tuple[InterfacePlan, ...], list[Problem]]:
    """The network cards in a post-config-interfaces text, and what is wrong with it; `file` is its name."""
    problems: list[Problem] = []
    plans = []
    taken: dict[int, str] = {}
    for part in _parts(text, file, problems):
        slot = part.number("id", SLOTS, taken)
        kind = part.choice("type", list(NicType))
        key = {"intnet": "name", "hostonly": "adapter"}.get(kind or "")
        name = part.text(key) if key else None
        part.done(also=("name", "adapter"))  # a NAT card may carry a name along, the scripts never looked at it
        if slot and kind and (name or not key):
            plans.append(InterfacePlan(slot, NicType(kind), name))
    return tuple(plans), problems


def resources(text: str, file: str) -> tuple[ResourcesPlan | None, list[Problem]]:
    """Processors and memory in a post-config-resources text, and what is wrong with it; `file` is its name."""
    problems: list[Problem] = []
    root = _root(text, file, problems)
    if root is None:
        return None, problems
    part = _Part(root, file, problems)
    processors = part.number("processors", PROCESSORS)
    memory = part.number("memory", MEMORY_MIB)
    part.done()
    return (ResourcesPlan(processors, memory) if processors and memory else None), problems


def storages(text: str, file: str) -> tuple[tuple[StoragePlan, ...], list[Problem]]:
    """The additional disks in a post-config-storages text, and what is wrong with it; `file` is its name."""
    problems: list[Problem] = []
    plans = []
    taken: dict[int, str] = {}
    for part in _parts(text, file, problems):
        port = part.number("id", PORTS, taken)
        size = part.number("size", SIZES_MIB)
        format_ = part.choice("format", FORMATS)
        variant = part.choice("variant", VARIANTS, several=True)
        part.done()
        if port and size and format_ and variant:
            plans.append(StoragePlan(port, size, format_, variant))
    return tuple(plans), problems


class _Part:
    """One mapping of a file, read field by field; what is wrong goes to `problems`."""

    def __init__(self, node: Any, file: str, problems: list[Problem], name: str = "") -> None:
        self.name = name
        self._file = file
        self._line = node.start_mark.line + 1
        self._problems = problems
        self._read: set[str] = set()
        self._fields: dict[str, tuple[Any, int]] = {}
        for key, value, line in entries(node):
            if key in self._fields:
                self._report(line, key, f"stands here twice, first in line {self._fields[key][1]}")
            else:
                self._fields[key] = (value, line)

    def number(self, key: str, allowed: range, taken: dict[int, str] | None = None) -> int | None:
        """A whole number; `taken` knows who has which, where each may have it only once."""
        text = self.text(key)
        if text is None:
            return None
        line = self._fields[key][1]
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", text) or (number := int(text)) not in allowed:
            self._report(line, key, f"{text!r}", f"a whole number, {allowed[0]} to {allowed[-1]}")
            return None
        if taken is not None and (other := taken.setdefault(number, self.name)) != self.name:
            self._report(line, key, f"{number} is {other}'s already")
            return None
        return number

    def choice(self, key: str, options: Sequence[str], *, several: bool = False) -> str | None:
        """One of several words, or `several` of them between commas, in whatever case."""
        text = self.text(key)
        if text is None:
            return None
        by_lower = {option.lower(): option for option in options}
        words = text.split(",") if several else [text]
        for word in words:
            if word.strip().lower() not in by_lower:
                hint = _nearest(word, options) or f"one of {', '.join(options)}"
                self._report(self._fields[key][1], key, f"{word!r}", hint)
                return None
        return ",".join(by_lower[word.strip().lower()] for word in words)

    def text(self, key: str) -> str | None:
        """A value as it was written."""
        self._read.add(key)
        if key not in self._fields:
            self._report(self._line, key, "is missing")
            return None
        node, line = self._fields[key]
        if not is_scalar(node) or is_null(node) or not node.value.strip():
            self._report(line, key, "has no value")
            return None
        return str(node.value)

    def done(self, also: Sequence[str] = ()) -> None:
        """Every field was read: report those nobody knows."""
        known = [*sorted(self._read), *also]
        for key, (_, line) in self._fields.items():
            if key not in known:
                hint = _nearest(key, known) or f"known here: {', '.join(sorted(set(known)))}"
                self._report(line, key, "is not known", hint)

    def _report(self, line: int, key: str, message: str, hint: str = "") -> None:
        path = f"{self.name}.{key}" if self.name else key
        self._problems.append(Problem(f"{self._file}:{line}: {path}", message, hint))


def _parts(text: str, file: str, problems: list[Problem]) -> Iterator[_Part]:
    """The mappings in a mapping."""
    root = _root(text, file, problems)
    if root is None:
        return
    seen: dict[str, int] = {}
    for name, node, line in entries(root):
        if (first := seen.setdefault(name, line)) != line:
            problems.append(Problem(f"{file}:{line}: {name}", f"stands here twice, first in line {first}"))
        elif is_mapping(node):
            yield _Part(node, file, problems, name)
        else:
            problems.append(Problem(f"{file}:{line}: {name}", "has no fields", "such as 'id: 1', each on its own line"))


def _root(text: str, file: str, problems: list[Problem]) -> Any:
    try:
        root = compose(text)
    except NotYamlError as error:
        problems.append(Problem(f"{file}:{error.line}", error.message))
        return None
    if is_mapping(root) and root.value:
        return root
    problems.append(Problem(f"{file}:1", "holds nothing" if is_null(root) else "not a mapping of names and values"))
    return None


def _nearest(word: str, options: Sequence[str]) -> str:
    by_lower = {option.lower(): option for option in options}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"did you mean {by_lower[found[0]]}?" if found else ""
