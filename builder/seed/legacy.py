"""What the guide's create-image.sh took for a machine: its files, where they lie, and what becomes of them.

Texts pass through byte for byte but for the placeholders. Everything that is wrong in any of the files is found at
once, before anything is made.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from builder.errors import InputError, Problem
from builder.seed import iso, nocloud, placeholders, postconfig, published
from builder.seed.iso import IsoInfo
from builder.seed.postconfig import InterfacePlan, ResourcesPlan, StoragePlan

LARGEST_FILE = 16 << 20
_Part = TypeVar("_Part")
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123
_SSH_KEY = re.compile(r"(?:.*\s)?(?P<type>(?:ssh|ecdsa|sk)-[\w@.-]+)[ \t]+(?P<blob>[A-Za-z0-9+/]+={0,2})(?:\s.*)?")
_YAML_SIGNS = re.compile(r": | #|:$|[\"'\\]")
_INSTANCES = uuid.UUID("6a1d8a0e-52a5-5c1b-8f57-3c0d24f1b7e9")  # the name space of the instance ids made here


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What create-image.sh's flags say. Files are relative to data/<distribution>, the key to the working folder."""

    hostname: str
    ssh_key: Path | None = None
    meta_data: Path = Path("meta-data")
    user_data: Path = Path("user-data")
    network_interfaces: Path | None = None
    interfaces: Path | None = None
    storages: Path | None = None
    resources: Path | None = None
    distribution: str = "debian"
    base_image: str | None = None
    auto_start: bool = True
    new_instance: bool = False


@dataclass(frozen=True, slots=True)
class CreatePlan:
    """A machine as the files describe it: the documents on its CD by name, and its parts; `warnings` are for people."""

    hostname: str
    base_image: str | None
    auto_start: bool
    documents: Mapping[str, bytes] = field(repr=False)  # they may well hold secrets
    interfaces: tuple[InterfacePlan, ...]
    resources: ResourcesPlan | None
    storages: tuple[StoragePlan, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """A file that was read."""

    file: str
    content: bytes


def plan(request: CreateRequest, *, data: Path) -> CreatePlan:
    """Read and check all that the request names, files below the folder `data`; nothing is written.

    Without `new_instance` the instance id (#UUID#) follows from host name, key and files. Raises InputError with every
    problem in any of the files.
    """
    problems: list[Problem] = []
    hostname = request.hostname.lower()
    if not _HOST_NAME.fullmatch(hostname):
        hint = "letters, digits and '-', at most 63, '-' at neither end"
        problems.append(Problem("--hostname", f"{request.hostname!r} is no host name", hint))
    folder = _folder(request.distribution, data, problems)
    files = {"meta-data": request.meta_data, "user-data": request.user_data}
    if request.network_interfaces:
        files["network-config"] = request.network_interfaces
    sources = {name: source for name, path in files.items() if (source := _read(folder / path, problems))}

    values = {"HOSTNAME": hostname.encode()}
    if request.ssh_key:
        values["SSH-PUB-KEY"] = _read_key(request.ssh_key, problems)
    values["UUID"] = str(uuid.uuid4() if request.new_instance else _instance(values, sources)).encode()
    if request.new_instance and not any("UUID" in placeholders.used(source.content) for source in sources.values()):
        problems.append(Problem("--new-instance", "no file holds #UUID#", "'instance-id: #UUID#' in meta-data"))
    documents = {}
    warnings = []
    for name, source in sources.items():
        documents[name] = placeholders.replace(source.content, values)
        problems += _check_document(name, source, values, documents[name])
        problems += _check_key_is_whole(source, values)
        for line, found in published.find(documents[name].decode(errors="replace")):
            warnings.append(f"{source.file}:{line}: this is {found}: everybody has it")

    interfaces = _read_part(request.interfaces, folder, postconfig.interfaces, problems)
    storages = _read_part(request.storages, folder, postconfig.storages, problems)
    resources = _read_part(request.resources, folder, postconfig.resources, problems)
    if problems:
        raise InputError(f"{request.hostname}: what it would be created from is not in order", problems)
    return CreatePlan(
        hostname,
        request.base_image,
        request.auto_start,
        MappingProxyType(documents),
        interfaces or (),
        resources,
        storages or (),
        tuple(warnings),
    )


def write(planned: CreatePlan, folder: Path, *, timestamp: int) -> IsoInfo:
    """Write the machine's CD into a folder, as HOSTNAME-cidata.iso; raises as `iso.write` does."""
    return iso.write(planned.documents, folder / f"{planned.hostname}-cidata.iso", timestamp=timestamp)


def _folder(distribution: str, data: Path, problems: list[Problem]) -> Path:
    folder = data / distribution
    if not folder.is_dir():
        there = sorted(path.name for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
        hint = f"there are: {', '.join(there)}" if there else "run this where the guide's data/ folder is"
        problems.append(Problem("--linux-distribution", f"{folder} is no folder", hint))
    return folder


def _read(path: Path, problems: list[Problem]) -> _Source | None:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.append(Problem(str(path), reason or "cannot be read"))
        return None
    if len(content) > LARGEST_FILE:
        problems.append(Problem(str(path), f"more than {LARGEST_FILE} bytes"))
        return None
    return _Source(str(path), content)


def _read_key(path: Path, problems: list[Problem]) -> bytes:
    """The one public key in a file; nothing, and a problem, where it holds anything else."""
    source = _read(path, problems)
    if source is None:
        return b""
    lines = [line.strip() for line in source.content.decode(errors="replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if any("PRIVATE KEY" in line for line in lines):
        problems.append(Problem(str(path), "this is a private key", "its public half ends in .pub"))
    elif len(keys) != 1:
        problems.append(Problem(str(path), f"{len(keys)} lines that could be keys", "one public key"))
    elif not (match := _SSH_KEY.fullmatch(keys[0])) or not _is_blob_of(match["type"], match["blob"]):
        problems.append(Problem(str(path), "not an SSH public key", "such as ~/.ssh/id_ed25519.pub"))
    elif found := published.name(base64.b64decode(match["blob"])):
        problems.append(Problem(str(path), f"this is {found}: everybody can log in with it", "ssh-keygen makes one"))
    else:
        return keys[0].encode()
    return b""


def _is_blob_of(kind: str, blob: str) -> bool:
    """Whether a public key's blob begins with the name of its type, as RFC 4253, 6.6, has it."""
    try:
        decoded = base64.b64decode(blob, validate=True)
    except binascii.Error:
        return False
    return decoded.startswith(len(kind).to_bytes(4) + kind.encode())


def _check_document(name: str, source: _Source, known: Mapping[str, bytes], rendered: bytes) -> Iterator[Problem]:
    left = []
    if not nocloud.is_compressed(source.content):
        left = list(placeholders.leftovers(source.content, source.file, known))
        yield from left
    for problem in nocloud.check(name, rendered, source.file):
        # A placeholder that is not replaced leaves a comment, and so no value: that is told already.
        if not any(problem.where.startswith(f"{each.where}:") for each in left):
            yield problem


def _check_key_is_whole(source: _Source, values: Mapping[str, bytes]) -> list[Problem]:
    """Whether YAML will take the key for one piece of text wherever it stands: its comment may hold anything."""
    key = values.get("SSH-PUB-KEY", b"").decode()
    if not _YAML_SIGNS.search(key) or not nocloud.is_cloud_config(source.content.decode(errors="replace")):
        return []
    simple = "ssh-ed25519-AAAA"
    counts = []
    for text in (simple, key):
        rendered = placeholders.replace(source.content, {**values, "SSH-PUB-KEY": text.encode()})
        counts.append(sum(text in scalar for scalar in nocloud.scalars(rendered.decode(errors="replace"))))
    if counts[0] == counts[1]:
        return []
    return [Problem(source.file, "YAML would not take the SSH key for one text", "give the key a simpler comment")]


def _instance(values: Mapping[str, bytes], sources: Mapping[str, _Source]) -> uuid.UUID:
    """An instance id that follows from what the node is made of."""
    parts = {**values, **{name: source.content for name, source in sources.items()}}
    digest = hashlib.sha256()
    for name, content in sorted(parts.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return uuid.uuid5(_INSTANCES, digest.hexdigest())


def _read_part(
    path: Path | None, folder: Path, read: Callable[[str, str], tuple[_Part, list[Problem]]], problems: list[Problem]
) -> _Part | None:
    """One of the post-config files; its problems join the others."""
    source = _read(folder / path, problems) if path else None
    if source is None:
        return None
    try:
        text = source.content.decode()
    except UnicodeDecodeError:
        problems.append(Problem(source.file, "not UTF-8 text"))
        return None
    part, found = read(text, source.file)
    problems += found
    return part
