"""Putting a release where others take it, over anything that keeps files by name.

The layout, below an address: VERSION/ with the files and release.json, which lists them, and latest.json, a copy of the
newest one's. A version is there when its release.json is, which comes last; latest.json moves after that. Whatever is
sent is read back, and its SHA-256 compared.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HapxError, OutputExistsError, UntrustedError
from builder.progress import Reporter
from builder.publish.release import LARGEST, File, Release, parse

INDEX, LATEST = "release.json", "latest.json"


class Store(ABC):
    """Files by name ("0.1.0/hapx-0.1.0-amd64.ova"). Its methods raise of `builder.errors` what a person can act on."""

    @abstractmethod
    def spoken(self, name: str) -> str:
        """What to call a file when talking to people."""

    @abstractmethod
    def read(self, name: str, start: int = 0) -> Iterator[bytes] | None:
        """What a file holds from byte `start` on, piece by piece; None where there is none of that name."""

    @abstractmethod
    def write(self, name: str, source: Path, on_progress: Callable[[int], None]) -> None:
        """Put a file there, whole or not at all; `on_progress` gets the bytes sent so far."""

    @abstractmethod
    def write_text(self, name: str, text: str) -> None:
        """Put a small file there, whole or not at all, in place of what may be there."""

    @contextlib.contextmanager
    def version(self, version: str) -> Iterator[str]:
        """Yields what the names of a version's files begin with while they are sent; after that it is there."""
        yield f"{version}/"

    def text(self, name: str) -> bytes | None:
        """All of a small file; raises HapxError where it is not small."""
        chunks = self.read(name)
        if chunks is None:
            return None
        data = b""
        for chunk in chunks:
            data += chunk
            if len(data) > LARGEST:
                raise HapxError(f"{self.spoken(name)}: larger than any list of what was published")
        return data

    def digest(self, name: str) -> str | None:
        """The SHA-256 of what is there, by reading it; None where nothing is."""
        chunks = self.read(name)
        if chunks is None:
            return None
        made = hashlib.sha256()
        for chunk in chunks:
            made.update(chunk)
        return made.hexdigest()


@dataclass(frozen=True, slots=True)
class Published:
    """Where a release is now: `sent` are the bytes that were sent, `unchanged` says that it was there already."""

    address: str
    version: str
    sha256: str  # of the OVA
    sent: int
    unchanged: bool


class Meter:
    """Tells a reporter how much of all files went, and was read back."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total, self._done = reporter, total, 0

    def within(self, sent: int) -> None:
        """So much of the current file."""
        self._reporter.advance(self._done + sent, self._total, unit="B")

    def whole(self, size: int) -> None:
        """The current file is done."""
        self._done += size
        self.within(0)


def upload(release: Release, folder: Path, store: Store, reporter: Reporter, *, address: str) -> Published:
    """Put a release, whose files are in `folder`, into a store, and move its latest.json.

    What is there with the right digest is not sent again. Raises OutputExistsError where this version is there with
    other bytes, UntrustedError where what arrived is not what was sent, and what the store raises; the version is not
    there then, and latest.json as it was.
    """
    text, index, sent = release.text(), f"{release.version}/{INDEX}", 0
    there = store.text(index)
    if there is not None:
        require_same(release, there, store.spoken(index))
    else:
        with reporter.stage("send", title=f"Send {release.name}"), store.version(release.version) as prefix:
            meter = Meter(reporter, release.size)
            for file in release.files:
                sent += _send(file, folder / file.name, store, prefix + file.name, meter)
                meter.whole(file.size)
            _write_text(store, prefix + INDEX, text)
    with reporter.stage("latest", title=f"{LATEST} is version {release.version}"):
        if store.text(LATEST) != text.encode():
            _write_text(store, LATEST, text)
    return Published(address, release.version, release.ova.sha256, sent, unchanged=there is not None)


def require_same(release: Release, there: bytes, where: str) -> None:
    """Raise OutputExistsError unless the list that is there already is that of this release."""
    if there == release.text().encode():
        return
    hint = "a version never changes once published: give this one another number, or another address"
    known = {file.name: file for file in parse(there, where).files}
    mine = {file.name: file for file in release.files}
    other = sorted(name for name in known.keys() | mine.keys() if known.get(name) != mine.get(name))
    raise OutputExistsError(
        f"{where}: version {release.version} was published before, with other contents: {', '.join(other)}", hint=hint
    )


def _send(file: File, source: Path, store: Store, name: str, meter: Meter) -> int:
    """Send one file where it is not there yet, and read it back; the bytes that were sent."""
    if store.digest(name) == file.sha256:
        return 0
    store.write(name, source, meter.within)
    require_digest(file, store.digest(name), store.spoken(name))
    return file.size


def require_digest(file: File, found: str | None, where: str) -> None:
    """Raise UntrustedError unless what was read back is what was sent."""
    if found != file.sha256:
        said = f"its SHA-256 is {found}" if found else "it is not there"
        raise UntrustedError(
            f"{where}: sent, but when read back {said}, not {file.sha256}",
            hint="something on the way, or the server's disk, changes data: see its log, then publish again",
        )


def _write_text(store: Store, name: str, text: str) -> None:
    store.write_text(name, text)
    if store.text(name) != text.encode():
        raise UntrustedError(
            f"{store.spoken(name)}: sent, but when read back it is something else",
            hint="is somebody else publishing the same version? See what is there, then publish again",
        )
