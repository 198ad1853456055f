"""What is published of one bake: the OVA and what stands beside it, each with its digest, and a list of all that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.errors import InputError, UntrustedError
from builder.image import checksums, manifest
from builder.image.companions import LISTED, Companion, beside

FORMAT = 1
LARGEST = 1 << 20  # bytes of a list
# Names come from servers and become files: nothing that leads out of a folder, or hides in it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=~-]{0,199}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,47}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    """A file by its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """A version, and its files: the OVA first."""

    name: str
    version: str
    files: tuple[File, ...]

    @property
    def ova(self) -> File:
        """The OVA."""
        return self.files[0]

    @property
    def size(self) -> int:
        """All of it, in bytes."""
        return sum(file.size for file in self.files)

    def text(self) -> str:
        """The list as JSON: what `parse` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"


def parse(text: str | bytes, where: str) -> Release:
    """A list that `Release.text` wrote; raises InputError, with `where` it is from, for anything else."""
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError(f"its format is {data['format']!r}, not {FORMAT}")
        return check(data["name"], data["version"], [File(**file) for file in data["files"]])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{where}: not a list of what was published: {error}", hint="is this where hapx-build published to?"
        ) from None


def check(name: str, version: str, files: list[File]) -> Release:
    """A release of values that somebody else gave; raises ValueError or TypeError where they cannot be one."""
    for file in files:
        if not _NAME.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256) or not isinstance(file.size, int):
            raise ValueError(f"{file.name!r} is not a file's name with size and SHA-256")
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
        raise ValueError(f"{name!r}, {version!r}: not a name and a version")
    if len({file.name for file in files}) != len(files) or [each.name[-4:] for each in files].count(".ova") != 1:
        raise ValueError("not exactly one OVA, or a name twice")
    return Release(name, version, tuple(sorted(files, key=lambda file: not file.name.endswith(".ova"))))


def collect(ova: Path, on_progress: Callable[[int, int], None] = lambda _done, _all: None) -> Release:
    """The release of an OVA that `hapx-build image` made: every file is read and held against SHA256SUMS.

    `on_progress` gets bytes read and all of them. Raises InputError where a file is missing, UntrustedError where one
    is not what SHA256SUMS says.
    """
    hint = "publish what hapx-build image made, with the files it wrote beside"
    sums, digest, signature = (beside(ova, each) for each in (Companion.SUMS, Companion.DIGEST, Companion.SIGNATURE))
    needed = [ova, *(beside(ova, companion) for companion in LISTED), digest, sums]
    if missing := [path.name for path in needed if not path.is_file()]:
        raise InputError(f"{ova.parent}: not there: {', '.join(missing)}", hint=hint)
    try:
        listed = checksums.parse(sums.read_text())
        right = listed | {sums.name: checksums.of_file(sums), digest.name: checksums.of_file(digest)}
    except ValueError as error:
        raise UntrustedError(f"{sums}: {error}", hint="bake again, with --force") from None
    if digest.read_text() != f"{listed.get(ova.name)}  {ova.name}\n":
        raise UntrustedError(f"{digest}: not the digest that {sums.name} has", hint="bake again, with --force")
    paths = [*needed, *([signature] if signature.is_file() else [])]
    total, done, files = sum(path.stat().st_size for path in paths), 0, []
    for path in paths:
        found = checksums.of_file(path)
        if path != signature and right.get(path.name) != found:
            raise UntrustedError(
                f"{path}: its SHA-256 is {found}, {sums.name} says {right.get(path.name, 'nothing')}",
                hint="hapx-build verify says more",
            )
        files.append(File(path.name, path.stat().st_size, found))
        done += files[-1].size
        on_progress(done, total)
    return _named(manifest.read(beside(ova, Companion.MANIFEST)), files, ova)


def _named(known: Mapping[str, Any] | None, files: list[File], ova: Path) -> Release:
    try:
        if known is None:
            raise ValueError("its build manifest cannot be read")
        return check(str(known["name"]), str(known["version"]), files)
    except (ValueError, KeyError) as error:
        raise InputError(f"{ova}: {error}", hint="letters, digits and ._+=~- in a name") from None
