"""The files that a seed wants and the node does not have so: judged all together, then written all together.

They are judged where they will be: a namespace of its own shows the node's programs the new files over the old ones.
Nothing at all is written when one of them is bad.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hapx import binding, files
from hapx.errors import NodeError
from hapx.facts import FACTS, PAYLOAD
from hapx.programs import run
from hapx.seed import File

_HAPROXY_CFG = Path("/etc/haproxy/haproxy.cfg")
# Over each folder of the root that new files come into, read only. $1: where they are.
_LAID_OVER = """
set -eu
here=$1; shift
for folder in "$here"/*; do
    mount -t overlay overlay -o "ro,lowerdir=$folder:/${folder##*/}" "/${folder##*/}"
done
exec "$@"
"""
_CHECK_SECONDS = 60.0


class Part(StrEnum):
    """What a file is for: the program that judges it, and that is told when it has changed."""

    HAPROXY = "haproxy"
    FIREWALL = "nftables"
    SSHD = "sshd"
    NETWORKD = "systemd-networkd"
    COROSYNC = "corosync"
    PACEMAKER = "pacemaker"
    NONE = "none"


_CHECKS: dict[Part, tuple[str, ...]] = {
    Part.HAPROXY: ("haproxy", "-c", "-f", str(_HAPROXY_CFG)),
    Part.FIREWALL: ("nft", "-c", "-f", "/etc/nftables.conf"),
    Part.SSHD: ("sshd", "-t"),
    Part.COROSYNC: ("corosync", "-t"),
    Part.PACEMAKER: ("crm_verify", "--verbose", "--xml-file", str(PAYLOAD)),
}
_FOLDERS = {
    Path("/etc/haproxy"): Part.HAPROXY,
    Path("/etc/ssh"): Part.SSHD,
    Path("/etc/systemd/network"): Part.NETWORKD,
    Path("/etc/corosync"): Part.COROSYNC,
}
_FILES = {Path("/etc/nftables.conf"): Part.FIREWALL, PAYLOAD: Part.PACEMAKER}


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not as the seed wants it, and as it was: None where there was none."""

    file: File
    before: File | None
    before_ids: tuple[int, int]
    part: Part


def changes(wanted: Iterable[File]) -> tuple[Change, ...]:
    """What differs on this node, in content, owner or mode; raises NodeError for what cannot be read."""
    wanted = tuple(wanted)
    haproxy = next((file.data for file in wanted if file.path == _HAPROXY_CFG), b"")
    found = []
    for file in wanted:
        before, ids = _present(file.path)
        if before is not None and (before.data, before.mode) == (file.data, file.mode):
            uid, gid = file.ids()
            if uid == ids[0] and gid in {ids[1], -1}:
                continue
        found.append(Change(file, before, ids, part_of(file.path, haproxy)))
    return tuple(found)


def part_of(path: Path, haproxy: bytes) -> Part:
    """What a file is for: by its place, or because haproxy.cfg names it (a certificate), or its folder."""
    if path in _FILES:
        return _FILES[path]
    for folder, part in _FOLDERS.items():
        if folder in path.parents:
            return part
    named = {word.rstrip(b"/") for word in re.split(rb"[\s\"',]+", haproxy)}
    return Part.HAPROXY if {os.fsencode(path), os.fsencode(path.parent)} & named else Part.NONE


def check(planned: Sequence[Change]) -> None:
    """Have the programs judge what the files will be; raises NodeError with all that they say."""
    if not planned:
        return
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hapx-new-", dir="/run") as folder:
        for change in planned:
            # The folders above it keep their own modes: only the topmost is covered.
            _lay(Path(folder), change.file)
        for part in dict.fromkeys(change.part for change in planned):
            if part not in _CHECKS:
                continue
            argv = ("unshare", "--mount", "sh", "-c", _LAID_OVER, "sh", folder, *_CHECKS[part])
            result = run(argv, timeout=_CHECK_SECONDS)
            if not result.ok:
                ended = f"exit code {result.returncode}" if result.returncode is not None else "no end"
                said += [f"{' '.join(_CHECKS[part])}: {ended}", *(f"  {line}" for line in result.said()[-10:])]
    said += _refused(planned)
    if said:
        raise NodeError(
            "the seed is not right, so nothing was changed",
            hint="correct the spec, and make the seed again",
            details=said,
        )


def _refused(planned: Sequence[Change]) -> list[str]:
    configuration = next((change.file.data for change in planned if change.file.path == _HAPROXY_CFG), b"")
    return list(binding.refused(configuration.decode(errors="replace")))


def _lay(root: Path, file: File) -> None:
    target = root / file.path.relative_to("/")
    uid, gid = file.ids()
    for folder in reversed(file.path.relative_to("/").parents[:-1]):
        made, real = root / folder, Path("/") / folder
        if not made.exists():
            made.mkdir()
            with contextlib.suppress(OSError):
                facts = real.stat()
                os.chown(made, facts.st_uid, facts.st_gid)
                made.chmod(stat.S_IMODE(facts.st_mode))
    target.write_bytes(file.data)
    os.chown(target, uid, gid)
    target.chmod(file.mode)


def write(planned: Sequence[Change]) -> None:
    """Write all of them, or none; raises NodeError, and then all is as it was.

    What is written first has other names: a full disk is found before anything takes its place. The facts, with the
    generation, come last: a power cut in between leaves a node that says itself that it has not got the newest seed.
    """
    ordered = sorted(planned, key=lambda change: change.file.path == FACTS)
    made: list[tuple[Path, Change]] = []
    placed: list[Change] = []
    try:
        for change in ordered:
            uid, gid = change.file.ids()
            made.append(
                (
                    files.write_beside(change.file.path, change.file.data, mode=change.file.mode, uid=uid, gid=gid),
                    change,
                )
            )
        for path, change in made:
            path.replace(change.file.path)
            placed.append(change)
    except OSError as error:
        restore(placed)
        raise NodeError(
            f"{error.filename}: {error.strerror}: nothing was changed", hint="see: df; findmnt --target /etc"
        ) from None
    except BaseException:
        restore(placed)
        raise
    finally:
        for path, _ in made:
            path.unlink(missing_ok=True)
    for folder in {change.file.path.parent for change in ordered}:
        files.sync_folder(folder)


def restore(written: Iterable[Change]) -> None:
    """Put back what was there before."""
    for change in written:
        if change.before is None:
            change.file.path.unlink(missing_ok=True)
        else:
            uid, gid = change.before_ids
            files.place(change.file.path, change.before.data, mode=change.before.mode, uid=uid, gid=gid)


def parts(planned: Iterable[Change]) -> Iterator[Part]:
    """The parts that have changed files, each once, in the order in which they are to be told."""
    changed = {change.part for change in planned}
    yield from (part for part in Part if part in changed)


def _present(path: Path) -> tuple[File | None, tuple[int, int]]:
    try:
        facts = path.stat()
        return File(path, path.read_bytes(), "", stat.S_IMODE(facts.st_mode)), (facts.st_uid, facts.st_gid)
    except FileNotFoundError:
        return None, (0, 0)
    except OSError as error:
        raise NodeError(f"{path}: {error.strerror}") from None
