"""What one bake is going to do, said once: the plan that `bake` makes and every stage inside Packer reads."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from builder.errors import InputError, Problem

RELEASES = {"trixie": 13, "bookworm": 12}
ARCHITECTURES = ("amd64",)


@dataclass(frozen=True, slots=True)
class BakePlan:
    """Everything that decides what comes out of a bake, and where it works.

    `root_key` is a digest of what goes into the root file system before provisioning, `key` of all inputs but the
    mirror's state. Sizes are MiB. `epoch` is SOURCE_DATE_EPOCH, or None where the mirror's state is to give the date.
    """

    name: str  # hapx-0.1.0-amd64: the base name of everything that comes out
    source: str  # Packer's: null.bootstrap
    release: str
    arch: str
    mirror: str
    version: str
    hostname: str
    packages: tuple[str, ...]
    disk_size_mib: int
    cpus: int
    memory_mib: int
    epoch: int | None
    template: str  # the folder with the Packer templates, scripts/ and files/
    output: str  # the OVA's path when all is done
    work: str  # a folder of this bake's own, gone afterwards
    staging: str  # a folder on the output's file system, gone afterwards
    cache: str  # root file systems by key
    root_key: str
    refresh_root: bool  # the kept root is not what the mirror would give now
    key: str

    def write(self, path: Path) -> None:
        """Keep the plan as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> BakePlan:
        """The plan that `write` kept."""
        data: dict[str, Any] = json.loads(path.read_text())
        data["packages"] = tuple(data["packages"])
        return cls(**{field.name: data[field.name] for field in fields(cls)})

    @property
    def root(self) -> Path:
        """Where the root file system lies while it is provisioned."""
        return Path(self.work, "root")

    @property
    def disk(self) -> Path:
        """The raw disk."""
        return Path(self.work, "disk.raw")

    @property
    def made(self) -> Path:
        """The OVA where it is written: on the output's disk, with a plain name, whatever the output is called."""
        return Path(self.staging, f"{self.name}.ova")

    @property
    def packer_output(self) -> Path:
        """`made` without its extension, as Packer knows it: Packer takes a path for a pattern, so this one is plain."""
        return Path(self.work, "output", self.name)

    @property
    def root_cache(self) -> Path:
        """Where the root file system is kept for later bakes."""
        return Path(self.cache, "roots", f"{self.release}-{self.arch}-{self.root_key[:16]}")

    def facts(self, stage: str) -> Path:
        """Where a stage leaves what it learned, for the build manifest."""
        return Path(self.work, f"{stage}.json")


PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian policy 5.6.1
_LISTED = re.compile(rf"({PACKAGE.pattern})(?: \[({'|'.join(RELEASES)})\])?")


def read_text(path: Path) -> str:
    """A text file of the template; raises InputError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"{path}: {reason}", hint="a template folder needs this file") from None


def read_packages(path: Path, release: str) -> list[str]:
    """The package names of a packages.list for a release, in its order: one a line, `#` starts a comment.

    A name with a release in brackets is for that release alone, as Debian's control files have it for architectures.
    Raises InputError where the file cannot be read, with every line that is not a package's name.
    """
    lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
    found = [_LISTED.fullmatch(line) for line in lines]
    if problems := [
        Problem(f"{path}:{number}", f"{line!r} is not a package name", "one name a line, # starts a comment")
        for number, (line, match) in enumerate(zip(lines, found, strict=True), 1)
        if line and match is None
    ]:
        raise InputError(f"{path}: this list cannot be used", problems)
    return [match[1] for match in found if match is not None and match[2] in {None, release}]


def digest(*parts: object) -> str:
    """A SHA-256, in hex, over plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def digest_tree(folder: Path) -> str:
    """A SHA-256, in hex, over a folder's files: names, whether executable, contents."""
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            executable = bool(path.stat().st_mode & 0o100)
            entries.append((str(path.relative_to(folder)), executable, hashlib.sha256(path.read_bytes()).hexdigest()))
    return digest(entries)
