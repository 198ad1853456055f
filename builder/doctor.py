"""What this machine has, and what it lacks, for each command: data for a table or for JSON; nothing is changed.

Programs come from the table in `requirements`; beside them stand the features of the machine that no package brings:
user namespaces, KVM, room, memory, the clock.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder import apt, command, requirements
from builder.acceleration import Accelerator, detect
from builder.errors import CommandTimeoutError, HapxError, MissingError
from builder.requirements import COMMANDS, INCLUDES, Finding, Purpose, Requirement, Status

MEMORY_NEEDED = 1 << 30  # bytes; a bake's largest moment is the compression of the initramfs beside apt
SUBORDINATE_IDS = 65536  # what mmdebstrap --mode=unshare needs: one ID for each in the root file system
CLOCK_SLACK = 86400.0  # seconds


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the answer.

    `needed_by` names the commands; `detail` says what is wrong or worth knowing, `hint` what to do about it; `packages`
    is what `apt-get install` takes to mend it. A check that is not `required` never fails.
    """

    name: str
    needed_by: tuple[str, ...]
    status: Status
    required: bool = True
    path: str = ""
    version: str = ""
    detail: str = ""
    hint: str = ""
    packages: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a command will not work because of this."""
        return self.required and self.status not in {Status.OK, Status.NOTE}


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that gets written to, and the room it needs in bytes."""

    name: str
    path: Path
    needed: int


def default_places() -> tuple[Place, ...]:
    """Where a bake works, keeps what it may need again, and puts its result, unless told otherwise."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = base if base.is_absolute() else Path.home() / ".cache"
    return (
        Place("room to work", Path(os.environ.get("TMPDIR") or "/var/tmp"), 4 << 30),  # noqa: S108 - Debian's own place
        Place("room for the cache", cache / "hapx-build", 1 << 30),
        Place("room for the result", Path("dist"), 512 << 20),
    )


def examine(
    purposes: Iterable[Purpose] = (Purpose.IMAGE, Purpose.SEED), *, places: Sequence[Place] | None = None
) -> list[Check]:
    """Everything those purposes need of this machine, in a stable order; about half a second."""
    places = default_places() if places is None else places
    wanted = requirements.needed(purposes)
    features: list[Callable[[], Check]] = [namespaces, _kvm, _virtualbox, _libvirt, _qemu_source, _virtualbox_source]
    features += [_memory, _clock]
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = pool.submit(requirements.probe_all, wanted)
        measured = [pool.submit(feature) for feature in features]
        codename = requirements.release_codename()
        checks = [_program_check(finding, codename) for finding in found.result()]
        return [*checks, *(feature.result() for feature in measured), *(room(place) for place in places)]


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The answer for machines: `ok`, every check, and the commands that would install what is missing."""
    return {
        "ok": not any(check.failed for check in checks),
        "checks": [asdict(check) | {"failed": check.failed} for check in checks],
        "install": install_commands(checks),
    }


def install_commands(checks: Iterable[Check]) -> list[str]:
    """What to type, line by line, to install the packages the failed checks name: nothing, or one apt-get at the end.

    Where one of them comes from a suite that apt does not know here yet, the lines before add that.
    """
    packages = list(dict.fromkeys(package for check in checks if check.failed for package in check.packages))
    if not packages:
        return []
    sudo = () if os.geteuid() == 0 else ("sudo",)
    suites = dict.fromkeys(package.partition("/")[2] for package in packages if "/" in package)
    adding = [[*sudo, sys.executable, "-m", "builder.apt", suite] for suite in suites if not _apt_knows(suite)]
    updating = [[*sudo, "apt-get", "update"]] if adding else []
    installing = [*sudo, "apt-get", "install", "--no-install-recommends", *packages]
    return [command.format_argv(argv) for argv in (*adding, *updating, installing)]


def room(place: Place) -> Check:
    """Whether a folder, there or yet to be made, can be written to and has the room it needs."""
    folder = place.path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    problem = hint = ""
    free = _free_bytes(folder)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        problem, hint = f"{folder} cannot be written to by this user", "choose another folder, or mend its permissions"
    elif os.statvfs(folder).f_flag & os.ST_NOEXEC:
        problem = f"{folder} is mounted noexec: nothing installed there can run"
        hint = "set TMPDIR to a folder of another file system"
    elif free < place.needed:
        problem, hint = f"{_gib(free)} free, {_gib(place.needed)} needed", "make room, or choose another folder"
    status = Status.BROKEN if problem else Status.OK
    detail = problem or f"{_gib(free)} free"
    return Check(place.name, _commands(Purpose.IMAGE), status, path=str(place.path), detail=detail, hint=hint)


def namespaces_of_user(*, user: str, uid: int, subuid: str, subgid: str) -> Check | None:
    """What is wrong with a user's subordinate IDs, or None; from the texts of /etc/subuid and subgid (subuid(5))."""
    lacking = [
        name
        for name, text in (("/etc/subuid", subuid), ("/etc/subgid", subgid))
        if not any(owner in {user, str(uid)} and count >= SUBORDINATE_IDS for owner, _, count in _ranges(text))
    ]
    if not lacking:
        return None
    # One range for both kinds of ID, behind all that anybody has.
    first = max([100000, *(start + count for text in (subuid, subgid) for _, start, count in _ranges(text))])
    ids = f"{first}-{first + SUBORDINATE_IDS - 1}"
    return _namespace_check(
        Status.MISSING,
        f"{user} has no {SUBORDINATE_IDS} subordinate IDs in {' and '.join(lacking)}",
        f"sudo usermod --add-subuids {ids} --add-subgids {ids} {user}",
    )


def clock(*, now: float, marks: Iterable[float]) -> Check:
    """Whether the clock (seconds since the epoch) is behind times at which files of this machine were written."""
    newest = max(marks, default=0.0)
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if now >= newest - CLOCK_SLACK:
        return Check("clock", _commands(Purpose.IMAGE), Status.OK, detail=shown)
    written = datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d")
    return Check(
        "clock",
        _commands(Purpose.IMAGE),
        Status.BROKEN,
        detail=f"it says {shown}, but this machine's package database was written on {written}: "
        "signatures made since then count as not yet valid",
        hint="sudo timedatectl set-ntp true",
    )


def _apt_knows(suite: str) -> bool:
    try:
        return apt.knows(suite)
    except HapxError:
        return False  # no apt-get, or one that fails: what is needed is said all the same


def _commands(purpose: Purpose) -> tuple[str, ...]:
    return (COMMANDS[purpose], *(COMMANDS[other] for other, included in INCLUDES.items() if purpose in included))


def _program_check(finding: Finding, codename: str) -> Check:
    requirement: Requirement = finding.requirement
    good = finding.status is Status.OK
    hint = ""
    if not good:
        suite = requirement.suites.get(codename)
        hint = f"install the package {requirement.package}" + (f" of {suite}" if suite else "")
    return Check(
        requirement.name,
        tuple(name for purpose in requirement.purposes for name in _commands(purpose)),
        finding.status,
        required=not (requirement.users_only and os.geteuid() == 0),
        path=str(finding.path or ""),
        version=finding.version,
        detail=finding.detail or ("" if good else requirement.use),
        hint=hint,
        packages=() if good else requirements.package_specs(requirement, codename),
    )


def _namespace_check(status: Status, detail: str, hint: str = "") -> Check:
    return Check("namespaces", _commands(Purpose.IMAGE), status, detail=detail, hint=hint)


def namespaces() -> Check:
    """Whether a bake can keep its mounts to itself: as root in a mount namespace, otherwise in a user namespace."""
    if os.geteuid() == 0:
        argv = ["unshare", "--mount", "--pid", "--fork", "true"]
        works = "mount and process namespaces, as root"
        hint = "this root may not mount: run the container with --privileged, or bake as an ordinary user"
    else:
        uid = os.geteuid()
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = str(uid)
        wrong = namespaces_of_user(user=user, uid=uid, subuid=_read("/etc/subuid"), subgid=_read("/etc/subgid"))
        if wrong is not None:
            return wrong
        argv = ["unshare", "--user", "--map-auto", "--map-root-user", "true"]
        works = "user namespaces, without being root"
        hint = _namespace_switch()
    try:
        result = command.run(argv, timeout=requirements.PROBE_SECONDS, grace=0.2, check=False)
    except (MissingError, CommandTimeoutError) as error:
        return _namespace_check(Status.BROKEN, error.message, error.hint)
    if result.returncode:
        lines = [*result.stderr.splitlines(), f"`{command.format_argv(argv)}` failed"]
        return _namespace_check(Status.BROKEN, lines[0], hint)
    return _namespace_check(Status.OK, works)


def _namespace_switch() -> str:
    """The command for the kernel setting that stands in the way of user namespaces, as far as one is seen."""
    for key, closed, opened in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "15000"),
    ):
        if _read(f"/proc/sys/{key.replace('.', '/')}").strip() == closed:
            return f"sudo sysctl -w {key}={opened}"
    return "a container needs --security-opt seccomp=unconfined, a chroot cannot have any; or bake as root"


def _kvm() -> Check:
    acceleration = detect()
    name, needed_by = "KVM", _commands(Purpose.TEST)
    if acceleration.accelerator is Accelerator.KVM:
        return Check(name, needed_by, Status.OK, required=False, path="/dev/kvm", detail=acceleration.reason)
    detail = f"software emulation, several times slower: {acceleration.reason}"
    return Check(name, needed_by, Status.NOTE, required=False, detail=detail, hint=acceleration.hint)


def _virtualbox() -> Check:
    """Whether VirtualBox is here and can start machines; not needed, as libvirt or another host will do."""
    name, needed_by = "VirtualBox", ("hapx-build clone",)
    path = command.which("VBoxManage")
    if path is None:
        return Check(name, needed_by, Status.NOTE, required=False, detail="not installed: machines are made by libvirt")
    version = command.version(path, pattern=r"(?m)^(\d+\.\d+\.\d+)") or ""
    if sys.platform == "linux" and not Path("/dev/vboxdrv").exists():
        detail = "its kernel driver is not loaded: it makes machines, and cannot start them"
        hint = "modprobe vboxdrv as root; the package virtualbox-dkms, or /sbin/vboxconfig, builds it"
        return Check(
            name, needed_by, Status.NOTE, required=False, path=str(path), version=version, detail=detail, hint=hint
        )
    return Check(name, needed_by, Status.OK, required=False, path=str(path), version=version)


def _libvirt() -> Check:
    """Whether libvirt can be talked to; not needed, as VirtualBox or another host will do."""
    name, needed_by = "libvirt", ("hapx-build clone",)
    path = command.which("virsh")
    if path is None:
        packages = dict.fromkeys(each.package for each in requirements.needed([Purpose.LIBVIRT]))
        hint = f"sudo apt-get install {' '.join(packages)}"
        return Check(name, needed_by, Status.NOTE, required=False, detail="not installed", hint=hint)
    return Check(name, needed_by, Status.OK, required=False, path=str(path), version=command.version(path) or "")


def _qemu_source() -> Check:
    return source("bakes in QEMU", Purpose.QEMU)


def _virtualbox_source() -> Check:
    return source("bakes in VirtualBox", Purpose.VIRTUALBOX)


def source(name: str, purpose: Purpose) -> Check:
    """Whether Packer can bake in a machine of that kind; not needed, as a bake needs no machine."""
    findings = requirements.probe_all(requirements.needed([purpose]), ask=False)
    wrong = [finding for finding in findings if finding.status is not Status.OK]
    lacking = [finding.detail or f"{finding.requirement.name} is not installed" for finding in wrong]
    packages = requirements.missing_packages(findings, requirements.release_codename())
    hints = [f"sudo apt-get install {' '.join(packages)}"] if packages else []
    if purpose is Purpose.VIRTUALBOX and command.which("VBoxManage") is None:
        lacking.append("VBoxManage is not installed")
        hints.append(requirements.VIRTUALBOX_HINT)
    packer = requirements.probe(next(each for each in requirements.REQUIREMENTS if each.name == "packer"), ask=False)
    if packer.path and packer.version and requirements.builder_missing(packer.path, packer.version, purpose):
        lacking.append(f"Packer {packer.version} has no {requirements.BUILDERS[purpose]} builder")
        hints.append(requirements.BUILDER_HINT)
    status = Status.NOTE if lacking else Status.OK
    detail, hint = "; ".join(lacking), "; ".join(hints)
    return Check(name, (COMMANDS[purpose],), status, required=False, detail=detail, hint=hint)


def _memory() -> Check:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    available = int(match.group(1)) * 1024 if match else 0
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        available = min(available, int(limit) - int(used))
    needed_by = _commands(Purpose.IMAGE)
    if available >= MEMORY_NEEDED:
        return Check("memory", needed_by, Status.OK, required=False, detail=f"{_gib(available)} available")
    detail = f"{_gib(available)} available; a bake uses up to {_gib(MEMORY_NEEDED)}"
    return Check("memory", needed_by, Status.NOTE, required=False, detail=detail)


def _clock() -> Check:
    files = (Path("/var/lib/dpkg/status"), Path(__file__))
    return clock(now=time.time(), marks=[file.stat().st_mtime for file in files if file.exists()])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _ranges(text: str) -> list[tuple[str, int, int]]:
    """Owner, first ID and count of each line of /etc/subuid; lines that are none are left out."""
    return [
        (match.group(1), int(match.group(2)), int(match.group(3)))
        for match in re.finditer(r"^([^:#\s]+):(\d+):(\d+)\s*$", text, re.MULTILINE)
    ]


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
