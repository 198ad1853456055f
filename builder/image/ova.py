"""The OVA: a tar of descriptor, manifest and disk, written in one pass with no copy of the disk in between.

The descriptor and the manifest come first in the tar (VirtualBox and vSphere read forward only) yet need the VMDK's
size and digest. Their sizes are known beforehand, so the VMDK is streamed behind room left for them, and they are
written last. The archive is USTAR as DSP0243 asks for, ends in whole 10240-byte records as GNU tar's and bsdtar's do,
and has empty user and group names: importers look at none.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

from builder.errors import HapxError, InputError, NoSpaceError
from builder.image import ovf, vmdk
from builder.image.ovf import Appliance
from builder.image.vmdk import VmdkInfo

BLOCK = tarfile.BLOCKSIZE
USTAR_MAX_SIZE = 8**11  # eleven octal digits
LARGEST_VMDK = 10**13 - 1  # as many digits as any size up to vmdk.MAX_CAPACITY and more has
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive: its size in bytes and its digest."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class OvaInfo:
    """An OVA that was written; `size` in bytes, `sha256` of the whole file, the members in their order."""

    path: Path
    size: int
    sha256: str
    members: tuple[Member, ...]
    vmdk: VmdkInfo


def write(
    disk: Path,
    target: Path,
    appliance: Appliance,
    *,
    timestamp: int,
    level: int = vmdk.DEFAULT_LEVEL,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> OvaInfo:
    """Write the raw image `disk` as an OVA to `target`, which appears whole or not at all; an older one is replaced.

    Names inside come from `appliance.name`. `timestamp` (seconds since the epoch) is every member's time; `level`,
    `threads` and `on_progress` are those of `vmdk.write`. The same disk, appliance and timestamp give the same bytes.

    Raises InputError (disk, target, timestamp), NoSpaceError with the folder and what is needed there, HapxError when
    reading or writing fails otherwise. Whatever is raised, KeyboardInterrupt included, `target` is as it was before.
    """
    if not 0 <= timestamp < USTAR_MAX_SIZE:
        raise InputError(f"{timestamp}: not a time that a tar can hold", hint="give seconds since 1970")
    if target.is_dir():
        raise InputError(f"{target}: is a folder", hint="name the OVA's file")
    capacity = vmdk.capacity(disk)
    done, total = 0, disk.stat().st_blocks * 512

    def progress(now: int, end: int) -> None:
        nonlocal done, total
        done, total = now, end
        if on_progress is not None:
            on_progress(now, end)

    temporary, file = _temporary(target)
    try:
        with file:
            info = _fill(
                file, disk, appliance, capacity, timestamp=timestamp, level=level, threads=threads, on_progress=progress
            )
            os.fchmod(file.fileno(), 0o644)
            digest = _finish(file)
        size = temporary.stat().st_size
        temporary.replace(target)
    except OSError as error:
        written = temporary.stat().st_size if temporary.exists() else 0
        temporary.unlink(missing_ok=True)
        if error.errno in FULL:
            # What is written so far tells how well the disk compresses; before that, nothing says it does at all.
            raise _full(target, written * total // done if done else total) from error
        raise HapxError(f"{target}: cannot be written: {error.strerror}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    members, disk_info = info
    return OvaInfo(target, size, digest, members, disk_info)


def _temporary(target: Path) -> tuple[Path, BufferedRandom]:
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        if error.errno in FULL:
            raise _full(target, 0) from error
        raise InputError(
            f"{target.parent}: {target.name} cannot be written there: {error.strerror}",
            hint="create the folder, or choose another one",
        ) from error
    return Path(name), os.fdopen(descriptor, "w+b")


def _fill(
    file: BufferedRandom,
    disk: Path,
    appliance: Appliance,
    capacity: int,
    *,
    timestamp: int,
    level: int,
    threads: int | None,
    on_progress: Callable[[int, int], None],
) -> tuple[tuple[Member, ...], VmdkInfo]:
    """Write the archive: the VMDK behind room for the head, the end of the archive, the head."""
    ovf_name, mf_name, disk_name = f"{appliance.name}.ovf", f"{appliance.name}.mf", f"{appliance.name}-disk1.vmdk"
    longest = ovf.render(appliance, disk_name=disk_name, disk_size=LARGEST_VMDK, capacity=capacity)
    mf_size = len(_manifest(Member(ovf_name, 0, "0" * 64), Member(disk_name, 0, "0" * 64)))
    head_size = BLOCK + _padded(len(longest)) + BLOCK + _padded(mf_size) + BLOCK

    file.seek(head_size)
    info = vmdk.write(disk, file, name=disk_name, level=level, threads=threads, on_progress=on_progress)
    end = head_size + _padded(info.size) + 2 * BLOCK
    file.write(bytes(end + -end % tarfile.RECORDSIZE - head_size - info.size))

    descriptor = ovf.render(appliance, disk_name=disk_name, disk_size=info.size, capacity=capacity)
    # Where the shorter number saved a whole block, line feeds after the document fill it: the place was fixed before.
    descriptor = descriptor.ljust(_padded(len(longest)) - BLOCK + 1, b"\n")
    disk_member = Member(disk_name, info.size, info.sha256)
    ovf_member = Member(ovf_name, len(descriptor), hashlib.sha256(descriptor).hexdigest())
    manifest = _manifest(ovf_member, disk_member)
    mf_member = Member(mf_name, len(manifest), hashlib.sha256(manifest).hexdigest())
    file.seek(0)
    for member, data in ((ovf_member, descriptor), (mf_member, manifest)):
        file.write(_header(member, timestamp) + data + bytes(_padded(len(data)) - len(data)))
    file.write(_header(disk_member, timestamp))
    return (ovf_member, mf_member, disk_member), info


def _finish(file: BufferedRandom) -> str:
    """Bring the file to the disk, and read it once more for its digest meanwhile.

    The head, written last, comes first in the digest, so the bytes have to pass by again. They come from the page
    cache while fsync waits for the device, which takes longer.
    """
    file.flush()
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(os.fsync, file.fileno())
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        synced.result()
    return digest


def _manifest(*members: Member) -> bytes:
    """DSP0243's lines, in the one spelling that vSphere takes."""
    return "".join(f"SHA256({member.name})= {member.sha256}\n" for member in members).encode()


def _header(member: Member, timestamp: int) -> bytes:
    """A member's USTAR header; from 8 GiB on GNU's, which has room for the size and is read as widely."""
    entry = tarfile.TarInfo(member.name)
    entry.size, entry.mode, entry.mtime = member.size, 0o644, timestamp
    return entry.tobuf(tarfile.USTAR_FORMAT if member.size < USTAR_MAX_SIZE else tarfile.GNU_FORMAT)


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _full(target: Path, needed: int) -> NoSpaceError:
    free = shutil.disk_usage(target.parent).free
    amount = f"about {needed / 1e6:,.1f} MB are needed, " if needed else ""
    return NoSpaceError(
        f"{target.parent}: no space for {target.name}: {amount}{free / 1e6:,.1f} MB are free",
        hint="make room there, or choose another folder",
    )
