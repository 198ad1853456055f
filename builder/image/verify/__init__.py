"""Reads an OVA back without trusting whoever wrote it, and lists everything that is not as it should be.

The file is read once, from front to back, as an importer reads it: the members of the archive one after the other,
their digests and the one of the whole file on the way, grains inflated in threads. Nothing in it can make the reader
take more than bounded memory, write anything, or fail: what is wrong is a finding. See `checks.CHECKS` for
everything that is looked at.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import InputError
from builder.image.verify import manifest as manifests
from builder.image.verify import ovf as ovfs
from builder.image.verify import tar
from builder.image.verify.checks import CHECKS, Check, Finding, Findings, Severity
from builder.image.verify.grains import walk
from builder.image.verify.stream import CHUNK, Stream
from builder.image.verify.tables import compare as compare_tables
from builder.image.verify.vmdk import Disk, identify, read_header

__all__ = ["CHECKS", "Check", "Finding", "Member", "Report", "Severity", "verify"]

LARGEST_TEXT = {".ovf": 4 << 20, ".mf": 256 << 10, ".cert": 256 << 10}  # bytes
NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside the OVA: `offset` and `size` in bytes, SHA-256 of what is there of it."""

    name: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Report:
    """What an OVA holds and what is wrong with it.

    `size` in bytes and `sha256` are those of the whole file; `capacity` is what its disks hold together in bytes, None
    where it has no disk that could be read.
    """

    path: Path
    size: int
    sha256: str
    members: tuple[Member, ...]
    capacity: int | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No error; there may be warnings."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


@dataclass(slots=True)
class _Package:
    """What was read, in the order of the archive.

    `first` is the name of the first member with each of the suffixes .ovf, .mf and .cert, `texts` holds what is in
    these by name, `disks` what the other members are.
    """

    members: list[Member] = field(default_factory=list)
    first: dict[str, str] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)


def verify(path: Path, *, threads: int | None = None, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Read the OVA at `path` and report everything that is wrong with it.

    `threads` inflate grains (default: as many as there are processors for this process); `on_progress` is called with
    the bytes read so far and all of them, in the calling thread.

    Raises InputError when the file is not there, not a regular file or cannot be read, never for what it holds.
    """
    threads = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    findings = Findings()
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: not a regular file", hint="give the path of an OVA")
            with (
                ThreadPoolExecutor(threads, "inflate") as pool,
                Stream(file, status.st_size, on_progress) as stream,
            ):
                try:
                    package = _read(stream, path.name, pool, threads, findings)
                    sha256 = stream.digest()
                    if package.members:
                        _judge(package, stream, path.name, findings)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}", hint="give the path of an OVA that can be read"
        ) from error
    known = [disk.capacity for disk in package.disks.values() if disk.capacity is not None]
    return Report(path, status.st_size, sha256, tuple(package.members), sum(known) if known else None, findings.all())


def _read(stream: Stream, archive: str, pool: ThreadPoolExecutor, threads: int, findings: Findings) -> _Package:
    """One pass over the archive."""
    package = _Package()
    entry: tar.Entry | None = None

    def close() -> None:
        # The digest of a member is complete when the reader is beyond it, which is when the next one comes.
        if entry is not None:
            package.members.append(Member(entry.name, entry.offset, entry.size, stream.member_digest()))

    for following in tar.entries(stream, archive, findings):
        close()
        entry = following
        stream.begin_member(entry.size)
        suffix = next((suffix for suffix in LARGEST_TEXT if entry.name.lower().endswith(suffix)), "")
        if not suffix or suffix in package.first:
            package.disks[entry.name] = _disk(stream, entry, pool, threads, findings)
            continue
        package.first[suffix] = entry.name
        if entry.size > LARGEST_TEXT[suffix]:
            said = f"{entry.size:,} bytes: not read, such a file has some thousand"
            findings.add("tar.too-large", entry.name, "", said)
        else:
            package.texts[entry.name] = bytes(stream.read(entry.size))
    close()
    return package


def _disk(stream: Stream, entry: tar.Entry, pool: ThreadPoolExecutor, threads: int, findings: Findings) -> Disk:
    if kind := identify(stream, entry.size):
        return Disk(kind)
    disk, extent = read_header(stream, entry.size, entry.name, findings)
    if extent is not None:
        walked = walk(stream, extent, pool, threads, findings)
        if walked.complete:
            compare_tables(stream, extent, walked, findings)
    return disk


def _judge(package: _Package, stream: Stream, archive: str, findings: Findings) -> None:
    """What can be said only when everything was read: how the parts fit together."""
    ovf, manifest, certificate = (package.first.get(suffix) for suffix in (".ovf", ".mf", ".cert"))
    descriptor = None
    if ovf is None:
        findings.add("ovf.absent", archive, "", "no descriptor (.ovf) in the archive", hint="an OVA needs one")
    elif ovf in package.texts:
        descriptor = ovfs.examine(package.texts[ovf], ovf, findings)
    files = [file.href for file in descriptor.files] if descriptor is not None else []
    _order(package, findings, archive=archive, ovf=ovf, manifest=manifest, certificate=certificate, files=files)
    if descriptor is not None and ovf is not None:
        _files(package, ovf, descriptor, findings)
        _disks(package, ovf, descriptor, findings)
        listed = {ovf, manifest, certificate, *files}
        for name in (member.name for member in package.members):
            if name not in listed:
                said = "References does not list this file"
                findings.add("tar.extra", name, "", said, hint="list it in References or leave it out")
    if manifest is None:
        said = "no manifest (.mf) in the archive: nothing tells a damaged disk from a good one"
        findings.add("manifest.absent", archive, "", said, hint="make one of `SHA256(name)= hex` lines")
    elif manifest in package.texts:  # else it is too large, which was said
        _manifest(package, stream, manifest, [ovf, *files] if ovf and descriptor is not None else None, findings)
    if certificate in package.texts:
        manifests.certificate(package.texts[certificate], certificate, manifest, findings)


def _order(
    package: _Package,
    findings: Findings,
    *,
    archive: str,
    ovf: str | None,
    manifest: str | None,
    certificate: str | None,
    files: list[str],
) -> None:
    names = list(dict.fromkeys(member.name for member in package.members))
    if ovf is not None and names[0] != ovf:
        said = f"the first member is {names[0]}, not the descriptor {ovf}"
        findings.add("tar.first", archive, "", said, hint="the .ovf first: importers read forward only")
        names.remove(ovf)
        names.insert(0, ovf)
    wanted = [name for name in (ovf, manifest, certificate, *dict.fromkeys(files)) if name is not None]
    right = [name for name in wanted if name in names]
    actual = [name for name in names if name in right]
    signing = [name for name in (manifest, certificate) if name is not None]
    if actual != right and signing and actual == [name for name in right if name not in signing] + signing:
        said = "the manifest stands at the end: whoever reads forward has no digest while the disk goes by"
        findings.add("tar.manifest-last", archive, "", said, hint="put it behind the descriptor")
    elif actual != right:
        said = f"members are {_some(actual)}; the order is {_some(right)}"
        findings.add("tar.order", archive, "", said, hint=".ovf, .mf, .cert, then the files as References lists them")
    for name in signing:
        if ovf is not None and Path(name).stem != Path(ovf).stem:
            said = f"the base name differs from {ovf}, so VMware does not find it"
            findings.add("tar.basename", name, "", said, hint=f"{Path(ovf).stem}{Path(name).suffix}")


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _files(package: _Package, ovf: str, descriptor: ovfs.Descriptor, findings: Findings) -> None:
    sizes = {member.name: member.size for member in package.members}
    for file in descriptor.files:
        where = f"line {file.line}"
        if file.href not in sizes:
            findings.add("tar.missing", ovf, where, f"{file.href} is not in the OVA")
        elif file.size is not None and file.size != sizes[file.href]:
            said = f"ovf:size of {file.href} is {file.size:,}, but it has {sizes[file.href]:,} bytes"
            findings.add("ovf.file-size", ovf, where, said, hint=f'ovf:size="{sizes[file.href]}"')


def _disks(package: _Package, ovf: str, descriptor: ovfs.Descriptor, findings: Findings) -> None:
    hrefs = {file.id: file.href for file in descriptor.files}
    for disk in descriptor.disks:
        name = hrefs.get(disk.file, "")
        found = package.disks.get(name)
        if found is None:
            continue
        if not found.stream_optimized:
            hint = "qemu-img convert to raw, then a streamOptimized VMDK of that: vSphere imports nothing else"
            findings.add("vmdk.format", name, "", f"not a streamOptimized VMDK but {found.kind}", hint=hint)
        elif disk.capacity is not None and disk.capacity != found.capacity:
            said = f"the capacity of {disk.id} is {disk.capacity:,} bytes, {name} has {found.capacity:,}"
            findings.add("ovf.capacity", ovf, f"line {disk.line}", said)


def _manifest(package: _Package, stream: Stream, manifest: str, required: list[str] | None, findings: Findings) -> None:
    members = {member.name: member for member in reversed(package.members)}

    def digest(name: str, algorithm: str) -> str:
        member = members[name]
        return member.sha256 if algorithm == "SHA256" else _digest(stream, member, algorithm)

    lines = manifests.parse(package.texts[manifest], manifest, findings)
    manifests.compare(
        lines,
        manifest,
        required=None if required is None else [name for name in dict.fromkeys(required) if name in members],
        members=members,
        digest=digest,
        findings=findings,
    )


def _digest(stream: Stream, member: Member, algorithm: str) -> str:
    """A digest that was not made on the way: the member is read again."""
    made = hashlib.new(algorithm.lower(), usedforsecurity=False)
    for offset in range(member.offset, member.offset + member.size, CHUNK):
        data = stream.at(offset, min(CHUNK, member.offset + member.size - offset))
        if not data:
            break
        made.update(data)
    return made.hexdigest()
