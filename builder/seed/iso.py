"""The NoCloud medium: documents in the root of an ISO 9660 image with Joliet and Rock Ridge names."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import gmtime, struct_time
from typing import Any

from builder.epoch import source_date_epoch
from builder.errors import InputError, Problem
from builder.seed import private

REQUIRED = ("meta-data", "user-data")  # cloud-init, NoCloud: both must be there, user-data may be empty
LABEL_LENGTH = 16  # what Joliet's volume identifier holds (32 bytes of UCS-2); ECMA-119 would take 32
NAME_LENGTH = 64  # Joliet's longest name
YEAR_1980 = 315532800
YEAR_2156 = 5869584000  # a directory record counts years from 1900 in one byte (ECMA-119, 9.1.5)
FILE_MODE = 0o100400  # on the mounted CD, only root reads what may be secret
WRITERS = 16  # at a time; more change nothing
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?", re.ASCII)  # readers drop a dot at the end
_LABEL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class IsoInfo:
    """An ISO that was written; `size` in bytes, `sha256` of the whole file."""

    path: Path
    size: int
    sha256: str


def write(documents: Mapping[str, bytes], target: Path, *, timestamp: int, label: str = "cidata") -> IsoInfo:
    """Write documents, by name, onto a NoCloud medium; the file has mode 0600 and replaces what is there.

    The same documents, label and timestamp (seconds since the epoch, for every date in the image) give the same bytes.
    Raises InputError for names or a label that no reader would find, NoSpaceError, OSError.
    """
    _check(documents, target, timestamp, label)
    image = _render(documents, timestamp, label)
    private.replace(target, image)
    return IsoInfo(target, len(image), hashlib.sha256(image).hexdigest())


def write_all(media: Mapping[Path, Mapping[str, bytes]], *, timestamp: int, label: str = "cidata") -> list[IsoInfo]:
    """Write several media, documents by target, as `write` does: in their order, none where one cannot be made.

    What takes time is a disk that says each is on it, and it can be asked for many at once.
    """
    for target, documents in media.items():
        _check(documents, target, timestamp, label)
    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(lambda target: write(media[target], target, timestamp=timestamp, label=label), media))


def default_timestamp() -> int:
    """The date of a CD, in seconds since the epoch: SOURCE_DATE_EPOCH where it is set, else 1980-01-01.

    Never the clock's: a CD is the same on any day. Raises InputError.
    """
    given = source_date_epoch()
    return YEAR_1980 if given is None else given


def _render(documents: Mapping[str, bytes], timestamp: int, label: str) -> bytes:
    import pycdlib

    image = io.BytesIO()
    names = _iso_names(documents)
    with _fixed_clock(timestamp):
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, vol_ident=label, app_ident_str="HAPX-BUILD", joliet=3, rock_ridge="1.09")
        for name, iso_name in names.items():
            iso.add_fp(
                io.BytesIO(documents[name]),
                len(documents[name]),
                f"/{iso_name}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
                file_mode=FILE_MODE,
            )
        iso.write_fp(image)
        iso.close()
    return image.getvalue()


def _iso_names(documents: Collection[str]) -> dict[str, str]:
    """A plain ISO 9660 name for each document, for readers that know neither Rock Ridge nor Joliet."""
    names: dict[str, str] = {}
    for index, name in enumerate(sorted(documents)):
        short = re.sub(r"[^A-Z0-9]", "", name.upper())[:24]
        # What is left of two names may be the same; only a number of ours is set off by an underscore.
        names[name] = f"{short}_{index}" if short in names.values() else short
    return names


def _check(documents: Mapping[str, bytes], target: Path, timestamp: int, label: str) -> None:
    if problems := [*_check_names(documents), *_check_label(label), *_check_timestamp(timestamp)]:
        raise InputError(f"{target}: no NoCloud medium can be made of this", problems)


def _check_names(documents: Mapping[str, bytes]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name in documents:
        if not _NAME.fullmatch(name):
            yield Problem(
                repr(name), "not a name for a document", "letters, digits, '_', '-', and '.' within; no folders"
            )
        elif len(name) > NAME_LENGTH:
            yield Problem(repr(name), f"{len(name)} characters", f"a name has {NAME_LENGTH} at most (Joliet)")
        elif (other := seen.setdefault(name.lower(), name)) != name:
            yield Problem(repr(name), f"differs from {other!r} in case only", "some readers see no difference")
    for name in REQUIRED:
        if name not in documents:
            yield Problem(repr(name), "is missing", "without it cloud-init does not take the medium for its own")


def _check_label(label: str) -> Iterator[Problem]:
    if not _LABEL.fullmatch(label) or len(label) > LABEL_LENGTH:
        hint = f"1 to {LABEL_LENGTH} letters, digits, '_' and '-'; cloud-init looks for cidata"
        yield Problem("volume label", repr(label), hint)


def _check_timestamp(timestamp: int) -> Iterator[Problem]:
    if not 0 <= timestamp < YEAR_2156:
        yield Problem("timestamp", f"{timestamp} seconds", "an ISO's dates reach from 1970 to 2155")


class _Clock:
    """The `time` module as pycdlib sees it: always the same second, in UTC."""

    def __init__(self, seconds: int) -> None:
        self._seconds = float(seconds)

    def time(self) -> float:
        return self._seconds

    def localtime(self, seconds: float | None = None) -> struct_time:
        return gmtime(self._seconds if seconds is None else seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_clock_lock = threading.Lock()


@contextlib.contextmanager
def _fixed_clock(seconds: int) -> Iterator[None]:
    """Within, pycdlib, and nobody else, has a clock that stands still.

    It asks `time` for each date in descriptors, records and Rock Ridge entries, in the local time zone, and offers no
    way to say a date.
    """
    clock = _Clock(seconds)
    with _clock_lock:
        modules = [
            module
            for name, module in sys.modules.items()
            if name.startswith("pycdlib.") and getattr(module, "time", None) is time
        ]
        try:
            for module in modules:
                vars(module)["time"] = clock
            yield
        finally:
            for module in modules:
                vars(module)["time"] = time
