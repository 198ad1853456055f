"""A seed as `hapx reconcile` takes it: from a folder, a CD or an image of one; its documents -> the files it wants.

cloud-init does the whole of a seed at boot. On a running node only what user-data has under `write_files` is done;
what else differs from the seed that the node booted with is told, as it takes a reboot.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import grp
import gzip
import pwd
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hapx.errors import NodeError
from hapx.programs import checked, run

_LABELS = (Path("/dev/disk/by-label/cidata"), Path("/dev/disk/by-label/CIDATA"))
_FOLDER = Path("/var/lib/cloud/seed/nocloud")
_NAMES = ("meta-data", "user-data", "network-config")
# What cloud-init keeps of the instance that it made this node.
_BOOTED = Path("/var/lib/cloud/instance/user-data.txt")
_HEADER = "#cloud-config"
_MAX_BYTES = 64 << 20
# cloudinit.config.cc_write_files: what content may be wrapped in, and what a file is like by default.
_BASE64 = {"b64", "base64"}
_GZIP_BASE64 = {"gz+b64", "gz+base64", "gzip+b64", "gzip+base64"}
_GZIP = {"gz", "gzip"}
_OWNER, _MODE = "root:root", 0o644


@dataclass(frozen=True, slots=True)
class File:
    """A file as the seed wants it."""

    path: Path
    data: bytes = field(repr=False)
    owner: str
    mode: int

    def ids(self) -> tuple[int, int]:
        """The owner's numbers; raises NodeError where this node does not know the names."""
        user, _, group = self.owner.partition(":")
        try:
            uid = pwd.getpwnam(user).pw_uid
            return uid, grp.getgrnam(group).gr_gid if group else -1
        except KeyError as error:
            raise NodeError(f"{self.path}: {error.args[0]}", hint="see `owner` in the seed's write_files") from None


@dataclass(frozen=True, slots=True)
class Seed:
    """What is on a seed: whose it is, the files it wants, and in words what on it takes a reboot."""

    where: str
    host: str | None
    files: tuple[File, ...]
    reboot: tuple[str, ...]


def read(given: str | None) -> Seed | None:
    """The seed of a folder, a device or an image; without one, of the CD, else of cloud-init's own folder, else None.

    Raises NodeError.
    """
    with _opened(given) as folder:
        if folder is None:
            return None
        where = given or str(folder)
        texts = {name: _text(folder / name) for name in _NAMES}
    if texts["user-data"] is None:
        raise NodeError(f"{where}: no user-data on it", hint="a seed is what hapx-build seed-iso writes")
    user_data = parse_user_data(texts["user-data"], where)
    meta_data = _yaml(texts["meta-data"] or "", f"{where}: meta-data")
    host = meta_data.get("local-hostname") if isinstance(meta_data, dict) else None
    return Seed(
        where=where,
        host=str(host) if host is not None else None,
        files=files_of(user_data, where),
        reboot=tuple(_takes_reboot(user_data, texts["network-config"])),
    )


def parse_user_data(text: str, where: str) -> dict[str, Any]:
    """User-data as a mapping; raises NodeError for what only cloud-init understands."""
    if not text.lstrip().lower().startswith(_HEADER):
        raise NodeError(
            f"{where}: user-data is not {_HEADER}, which is all that a running node can apply",
            hint="reboot the node with this seed",
        )
    data = _yaml(text, f"{where}: user-data")
    if not isinstance(data, dict):
        raise NodeError(f"{where}: user-data is not a mapping of names and values")
    return data


def files_of(user_data: dict[str, Any], where: str) -> tuple[File, ...]:
    """The files under write_files, the last where a path is there twice; raises NodeError for what cannot be."""
    found: dict[Path, File] = {}
    for number, entry in enumerate(user_data.get("write_files") or (), 1):
        try:
            file = _file(entry)
        except (KeyError, TypeError, ValueError, OSError, EOFError, binascii.Error, zlib.error) as error:
            said = f"{type(error).__name__}: {error}"
            raise NodeError(f"{where}: user-data: write_files, entry {number}: {said}") from None
        found[file.path] = file
    return tuple(found.values())


def _file(entry: dict[str, Any]) -> File:
    path = Path(entry["path"])
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"path {path} is not absolute")
    if entry.get("append") or entry.get("source"):
        raise ValueError(f"{path}: `append` and `source` are for cloud-init alone: reboot the node with this seed")
    mode = entry.get("permissions", _MODE)
    return File(
        path=path,
        data=_decoded(entry.get("content", ""), str(entry.get("encoding", "text/plain")).lower().strip()),
        owner=str(entry.get("owner", _OWNER)),
        mode=mode if isinstance(mode, int) else int(str(mode), 8),
    )


def _decoded(content: str | bytes, encoding: str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    if encoding in _BASE64 | _GZIP_BASE64:
        data = base64.b64decode(data)
    return gzip.decompress(data) if encoding in _GZIP | _GZIP_BASE64 else data


def _takes_reboot(user_data: dict[str, Any], network: str | None) -> Iterator[str]:
    """What differs, beside files, from what this node booted with."""
    try:
        booted = parse_user_data(_BOOTED.read_text(), str(_BOOTED))
    except (OSError, NodeError):
        return
    for key in sorted(booted.keys() | user_data.keys()):
        if key != "write_files" and booted.get(key) != user_data.get(key):
            yield f"`{key}` in user-data"
    told = _yaml(network, "network-config") if network else None
    with contextlib.suppress(OSError, ValueError):
        import json

        before = json.loads(_BOOTED.with_name("network-config.json").read_text())
        if told is not None and before != told.get("network", told):
            yield "network-config"


@contextlib.contextmanager
def _opened(given: str | None) -> Iterator[Path | None]:
    place = Path(given) if given is not None else _found()
    if place is None or place.is_dir():
        yield place
        return
    if not place.exists():
        raise NodeError(f"{place}: there is no such folder, device or file")
    with tempfile.TemporaryDirectory(prefix="hapx-cd-") as folder:
        loop = ["-o", "loop"] if place.is_file() else []
        hint = "name a folder with the seed's files instead, or see: dmesg"
        checked(["mount", "-o", "ro,nosuid,nodev,noexec", *loop, str(place), folder], hint=hint)
        try:
            yield Path(folder)
        finally:
            run(["umount", folder])


def _found() -> Path | None:
    if (label := next((path for path in _LABELS if path.exists()), None)) is not None:
        return label
    return _FOLDER if (_FOLDER / "user-data").exists() else None


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"{path.name}: {error}", hint="make the seed again: hapx-build seed-iso") from None


def _yaml(text: str, where: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506 - one of the two safe ones
    except yaml.YAMLError as error:
        raise NodeError(f"{where}: {error}", hint="make the seed again: hapx-build seed-iso") from None
