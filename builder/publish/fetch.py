"""Fetching an OVA from where `hapx-build publish` put it, or any OVA that has its .sha256 beside."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from builder.errors import InputError, OutputExistsError, UntrustedError
from builder.image import checksums, locks, signature, workplace
from builder.image.companions import Companion, beside
from builder.progress import Reporter
from builder.publish import address as addresses
from builder.publish import open_store, release
from builder.publish.address import Address, Kind
from builder.publish.oci import LATEST as LATEST_TAG
from builder.publish.oci import Registry, release_of
from builder.publish.release import File
from builder.publish.store import INDEX, LATEST, Store

Read = Callable[[File, int], Iterator[bytes] | None]


@dataclass(frozen=True, slots=True)
class _Found:
    """What is to be had: the OVA, what else was published with it, and how any of them is read from a byte on."""

    ova: File
    files: tuple[File, ...]
    read: Read
    where: str


def fetch(address: str, folder: Path, reporter: Reporter, *, key: str | None = None) -> Path:
    """The OVA at `address`, checked; a remote one is put into `folder`, one on this machine stays where it is.

    `address` is a file.ova here, or what `hapx-build publish` takes: then the latest version is meant, or the one whose
    number follows (https://HOST/PATH/0.1.0, oci://REGISTRY/REPOSITORY:0.1.0), or https://HOST/PATH/FILE.ova, whose
    digest is read from FILE.ova.sha256. A download that was interrupted is taken up again. With `key`, minisign's
    public key or its file, the published SHA256SUMS has to be signed with it.

    Raises InputError (nothing there, or not ours), UntrustedError (digest or signature), UnreachableError,
    OutputExistsError (another file has its name in `folder`), NoSpaceError through OSError.
    """
    target = addresses.parse(address)
    if target.kind is Kind.FOLDER and not Path(target.path).is_dir():
        return _checked_here(Path(target.path), key)
    found = _find_oci(target) if target.kind is Kind.OCI else _find(target)
    if key is not None:
        _check_signature(found, key)
    if target.kind is Kind.FOLDER:
        path = Path(found.where)
        _require(found.ova, checksums.of_file(path), found.where)
        return path
    with reporter.stage("fetch", title=f"Fetch {found.ova.name}"):
        return _download(found, folder, reporter)


def _find(target: Address) -> _Found:
    """What a store has at an address: a file, a version, or the latest one."""
    store = open_store(target)
    if target.text.endswith(".ova"):
        parent, _, name = target.text.rstrip("/").rpartition("/")
        return _find_file(open_store(addresses.parse(parent)), unquote(name))
    for index, prefix in ((INDEX, ""), (LATEST, None)):
        if (text := store.text(index)) is not None:
            found = release.parse(text, store.spoken(index))
            folder = f"{found.version}/" if prefix is None else prefix

            def read(file: File, start: int, folder: str = folder) -> Iterator[bytes] | None:
                return store.read(folder + file.name, start)

            return _Found(found.ova, found.files, read, store.spoken(folder + found.ova.name))
    raise InputError(
        f"{target}: neither {INDEX} nor {LATEST} is there: nothing was published here",
        hint="give the address that hapx-build publish was given, or that of a file.ova",
    )


def _find_file(store: Store, name: str) -> _Found:
    """One OVA by its name, with the digest that stands beside it."""
    text = store.text(f"{name}.sha256")
    where = store.spoken(name)
    if text is None:
        raise UntrustedError(
            f"{where}: {name}.sha256 is not beside it: nothing says whether it arrives as it was",
            hint=f"put the output of `sha256sum {name}` there",
        )
    try:
        digest = checksums.parse(text.decode(errors="replace"))[name]
    except (ValueError, KeyError):
        raise InputError(
            f"{where}.sha256: not the digest of {name}", hint="`DIGEST  NAME`, as sha256sum writes it"
        ) from None
    beside_it = [File(f"{name.removesuffix('.ova')}{each}", 0, "") for each in (Companion.SUMS, Companion.SIGNATURE)]

    def read(file: File, start: int) -> Iterator[bytes] | None:
        return store.read(file.name, start)

    return _Found(File(name, 0, digest), tuple(beside_it), read, where)


def _find_oci(target: Address) -> _Found:
    """What a registry has under a tag."""
    registry = Registry(target.host, target.path)
    tag = target.tag or LATEST_TAG
    where = f"{registry.place}:{tag}"
    text = registry.manifest(tag)
    if text is None:
        raise InputError(f"{where}: no such tag, or no such repository", hint="see what was published there")
    found = release_of(text, where)
    return _Found(found.ova, found.files, lambda file, start: registry.blob(file.sha256, start), where)


def _check_signature(found: _Found, key: str) -> None:
    """SHA256SUMS is signed with that key, and lists this OVA."""
    signature.public_key(key)
    with tempfile.TemporaryDirectory(prefix="hapx-") as name:
        for ending in (Companion.SUMS, Companion.SIGNATURE):
            file = next((each for each in found.files if each.name.endswith(ending)), None)
            chunks = found.read(file, 0) if file is not None else None
            if chunks is None:
                lacking = found.ova.name.removesuffix(".ova") + ending
                raise UntrustedError(
                    f"{found.where}: it was published without {lacking}",
                    hint="who made it signs it with hapx-build sign, and publishes after that",
                )
            Path(name, f"X{ending}").write_bytes(_small(chunks, f"{found.where}: its {ending[1:]}"))
        _check_signed(Path(name, "X.ova"), found.ova, key, found.where)


def _small(chunks: Iterator[bytes], what: str) -> bytes:
    """All of a list; raises UntrustedError where it is larger than any of ours."""
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) > release.LARGEST:
            raise UntrustedError(f"{what} is larger than any that was published")
    return data


def _check_signed(ova: Path, file: File, key: str, where: str) -> None:
    """The signature beside `ova` was made with that key, and what it signs lists the file."""
    sums = beside(ova, Companion.SUMS)
    if said := signature.fault(sums, beside(ova, Companion.SIGNATURE), key):
        raise UntrustedError(f"{where}: not signed with this key: {said}", hint="who published it, and with which key?")
    try:
        digest = checksums.parse(sums.read_text()).get(file.name)
    except ValueError as error:
        raise UntrustedError(f"{where}: SHA256SUMS: {error}") from None
    _require(file, digest or "not listed", f"{where}: the signed SHA256SUMS")


def _checked_here(ova: Path, key: str | None) -> Path:
    """An OVA of this machine, held against the digest that stands beside it, where one does."""
    if not ova.is_file():
        raise InputError(f"{ova}: no such file or folder", hint=f"give a file.ova, or an address: {addresses.FORMS}")
    digest = beside(ova, Companion.DIGEST)
    if key is None and not digest.is_file():
        return ova
    file = File(ova.name, ova.stat().st_size, checksums.of_file(ova))
    if key is not None:
        signature.public_key(key)
        missing = [
            path.name for each in (Companion.SUMS, Companion.SIGNATURE) if not (path := beside(ova, each)).is_file()
        ]
        if missing:
            raise UntrustedError(
                f"{ova}: {' and '.join(missing)} not beside it", hint="hapx-build sign makes a signature"
            )
        _check_signed(ova, file, key, str(ova))
    if digest.is_file():
        try:
            said = checksums.parse(digest.read_text())[ova.name]
        except (ValueError, KeyError):
            raise InputError(
                f"{digest}: not the digest of {ova.name}", hint="`DIGEST  NAME`, as sha256sum writes it"
            ) from None
        _require(dataclasses.replace(file, sha256=said), file.sha256, str(ova))
    return ova


def _download(found: _Found, folder: Path, reporter: Reporter) -> Path:
    """The OVA in `folder`, by rename when it is whole; a part of it that is there is gone on with."""
    file = found.ova
    workplace.make(folder)
    target = folder / file.name
    part = folder / f".{file.name}.{file.sha256[:16]}.part"
    with locks.held(part):
        try:
            if target.exists():
                if checksums.of_file(target) == file.sha256:
                    part.unlink(missing_ok=True)
                    return target
                part.unlink(missing_ok=True)
                raise OutputExistsError(f"{target}: another file has this name", hint="take it away, or rename it")
            made = hashlib.sha256()
            with part.open("r+b") as out:
                while chunk := out.read(1 << 20):
                    made.update(chunk)
                chunks = found.read(file, out.tell()) if not file.size or out.tell() < file.size else iter(())
                if chunks is None:
                    raise InputError(f"{found.where}: it is not there any more", hint="publish it again")
                for chunk in chunks:
                    out.write(chunk)
                    made.update(chunk)
                    reporter.advance(out.tell(), file.size, unit="B")
            _require(file, made.hexdigest(), found.where)
            part.rename(target)
        except UntrustedError:
            part.unlink(missing_ok=True)
            raise
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()
    return target


def _require(file: File, found: str, where: str) -> None:
    if found != file.sha256:
        raise UntrustedError(
            f"{where}: the SHA-256 of {file.name} is {found}, and has to be {file.sha256}",
            hint="it was changed after it was published, or damaged on the way: see who could, then fetch it again",
        )
