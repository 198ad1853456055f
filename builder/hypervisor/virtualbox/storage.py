"""A machine's CD, its additional disks, and what half-made machines leave on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from builder import interrupts
from builder.errors import BusyError, HapxError, InputError
from builder.hypervisor import ExtraDisk, State
from builder.hypervisor.virtualbox import plan, reading, said
from builder.hypervisor.virtualbox.manage import LONG, QUICK, Manage
from builder.hypervisor.virtualbox.reading import Settings

KEY = "hapx/disk/"
"""Of a machine's extra data: which additional disks were made for it."""

_CD = re.compile(r".+-cidata-[0-9a-f]{12}\.iso")

# $0 is the folder. A settings file of ours that still says what its base says, and has no snapshot, is half-made; one
# that says anything else was a machine: somebody took it off VirtualBox' list and kept its files.
_SWEEP = """set -eu
test -d "$0" || exit 1
for file in "$0"/*.vbox; do
    test -e "$file" || continue
    grep -q 'of hapx-build, SHA-256 of its OVA' "$file" || exit 1
    if grep -q '<Snapshot ' "$file"; then exit 1; fi
done
rm -rf -- "$0" """


@dataclass(slots=True)
class Part:
    """What was changed, and what has to wait until the machine is off; a few words each."""

    done: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DiskStep:
    """What is to be done about a disk: `make` it, attach it at `port` (None: it is), `grow` it, or take it off."""

    path: PurePosixPath
    size_mib: int
    port: int | None
    make: bool = False
    grow: bool = False
    detach: bool = False
    """From `port`: the spec has it no more. Its file stays, with what is on it."""
    format: str = "VDI"
    variant: str = "Standard"

    @property
    def words(self) -> str:
        """What changes by it."""
        return f"disk {self.path.stem}: " + (
            f"detached, kept as {self.path}" if self.detach else f"{self.size_mib} MiB"
        )


def cd_path(found: Settings, content: bytes) -> PurePosixPath:
    """Where a machine's CD goes: into its folder, named after what is on it, so that names tell them apart."""
    return found.folder / f"{found.name}-cidata-{hashlib.sha256(content).hexdigest()[:12]}.iso"


def is_cd(found: Settings, path: str) -> bool:
    """Whether a medium is a CD that we put there."""
    file = PurePosixPath(path)
    return file.parent == found.folder and _CD.fullmatch(file.name) is not None


def attach_cd(manage: Manage, found: Settings, seed: Path, *, slot: tuple[str, int, int] | None = None) -> Part:
    """Have the CD in the machine's drive, and none of its predecessors; `slot` is controller, port and device."""
    part = Part()
    controller, port, device = slot or (plan.disk_controller(found).name, plan.CD_PORT, 0)
    target = cd_path(found, seed.read_bytes())
    there = next(
        (each for each in found.media if (each.controller, each.port, each.device) == (controller, port, device)), None
    )
    manage.place.put(seed, target, mode=0o600)
    if there is None or there.path != str(target):
        if found.state in (State.RUNNING, State.PAUSED) and there is None:
            part.later.append("CD: its drive comes with the next start")
            return part
        at = [f"--storagectl={controller}", f"--port={port}", f"--device={device}", "--type=dvddrive"]
        manage.run("storageattach", found.uuid, *at, f"--medium={target}", "--forceunmount")
        part.done.append("CD")
    if there is not None and there.path != str(target) and is_cd(found, there.path):
        manage.run("closemedium", "dvd", there.path, check=False)
        manage.place.run(["rm", "-f", "--", there.path], timeout=QUICK)
    return part


def remove_cds(manage: Manage, found: Settings) -> None:
    """Delete every CD that we put into a machine's folder, those too that a run was cut off before it attached."""
    folder, name = str(found.folder), found.name
    manage.place.run(["sh", "-c", 'rm -f -- "$0/$1"-cidata-????????????.iso', folder, name], timeout=QUICK)


def plan_disks(manage: Manage, found: Settings, disks: Sequence[ExtraDisk]) -> list[DiskStep]:
    """What is to be done for each of the node's additional disks; raises InputError for one that would shrink.

    Those that were made for it and that the spec has no more are detached; what somebody else has attached stays.
    """
    controller = plan.disk_controller(found)
    taken: set[int] = set()
    names = {disk.name for disk in disks}
    others = [
        DiskStep(path, 0, medium.port, detach=True)
        for medium in found.media
        if medium.controller == controller.name
        and (path := PurePosixPath(medium.path)).parent == found.folder
        and path.suffix == ".vdi"
        and path.stem not in names
    ]
    ours = _made_names(manage, found) if others else set()
    steps = [each for each in others if each.path.stem in ours]
    for disk in disks:
        wanted = DiskStep(
            found.folder / f"{disk.name}.vdi", disk.size_mib, plan.free_port(found, controller, taken), make=True
        )
        steps.append(step(manage, found, wanted))
        taken |= {steps[-1].port or 0}
    return steps


def step(manage: Manage, found: Settings, wanted: DiskStep) -> DiskStep:
    """What is left to be done of a step; raises InputError where the disk would have to shrink."""
    said_of = _medium(manage, wanted.path)
    if said_of is None:
        return wanted
    has = reading.capacity_mib(said_of) or wanted.size_mib
    if has > wanted.size_mib:
        raise InputError(
            f"{found.name}: {wanted.path.name} has {has} MiB, not {wanted.size_mib}: no disk is made smaller",
            hint="destroy the machine to make it anew",
        )
    attached = found.uuid in reading.users(said_of)
    return replace(wanted, make=False, grow=has < wanted.size_mib, port=None if attached else wanted.port)


def converge_disks(manage: Manage, found: Settings, steps: Sequence[DiskStep]) -> Part:
    """Do what was planned."""
    part = Part()
    running = found.state not in (State.OFF, State.BROKEN)
    for each in steps:
        if each.port is None and not each.grow:
            continue
        if running:
            part.later.append(each.words)
            continue
        at = [f"--storagectl={plan.disk_controller(found).name}", f"--port={each.port}", "--device=0", "--type=hdd"]
        if each.detach:
            manage.run("storageattach", found.uuid, *at, "--medium=none")
            part.done.append(each.words)
            continue
        if each.grow:
            manage.run("modifymedium", "disk", str(each.path), f"--resize={each.size_mib}", timeout=LONG)
        if each.port is not None:
            with _made(manage, found, each) if each.make else contextlib.nullcontext():
                manage.run("storageattach", found.uuid, *at, f"--medium={each.path}")
        part.done.append(each.words)
    return part


@contextlib.contextmanager
def _made(manage: Manage, found: Settings, step: DiskStep) -> Iterator[None]:
    """A new disk: gone again where the block, which attaches it, fails or is interrupted."""
    about = [f"--size={step.size_mib}", f"--format={step.format}", f"--variant={step.variant}"]
    # First: one that a run was cut off at is known for ours too.
    manage.run("setextradata", found.uuid, f"{KEY}{step.path.stem}", "made")
    try:
        manage.run("createmedium", "disk", f"--filename={step.path}", *about, timeout=LONG)
        yield
    except BaseException:
        with interrupts.held(), contextlib.suppress(HapxError):
            manage.run("closemedium", "disk", str(step.path), "--delete", check=False)
        raise


def remove_detached(manage: Manage, found: Settings) -> None:
    """Delete the disks that were made for a machine and do not hang at it any more."""
    attached = {medium.path for medium in found.media}
    there = [disk.path for disk in reading.disks(manage.run("list", "hdds").stdout)]
    left = [path for path in there if path.parent == found.folder and str(path) not in attached]
    ours = _made_names(manage, found) if left else set()
    for path in left:
        if path.stem in ours:
            manage.run("closemedium", "disk", str(path), "--delete")


def default_folder(manage: Manage) -> PurePosixPath:
    """Where VirtualBox keeps machines; raises HapxError where it does not say."""
    said_of = manage.run("list", "systemproperties").stdout
    match = re.search(r"^Default machine folder: +(\S.*)$", said_of, re.MULTILINE)
    if match is None:
        raise HapxError(f"{manage.where}: VBoxManage does not say where machines are kept")
    return PurePosixPath(match[1].strip())


def folder_name(name: str) -> str:
    """A machine's name as VirtualBox makes its folder of it: what is not safe on every system becomes _."""
    return re.sub(r"[^A-Za-z0-9 .\-_(){}@\[\]]", "_", name)


def make_way(manage: Manage, folder: PurePosixPath) -> None:
    """Take away a folder with a machine that was never finished and that VirtualBox does not know.

    Raises InputError where that is not what is in it, BusyError where somebody made a machine there just now.
    """
    if sweep(manage, folder):
        return
    if found := _living(manage, folder):
        raise BusyError(
            f"{manage.where}: another run has just made {found.name}", hint="run this again when that is done"
        )
    raise InputError(
        f"{manage.where}: {folder} is in the way: a machine's files, but no machine that VirtualBox knows",
        hint="move that folder away, or register the machine again",
    )


def sweep(manage: Manage, folder: PurePosixPath) -> bool:
    """Take away a folder with a machine of ours that was never finished; False where there is none, or anything else.

    A folder of a machine that VirtualBox knows stays. Images in others that it knows are closed first.
    """
    if folder.parts[-3:-2] != ("hapx",):
        raise ValueError(f"{folder} is no folder of ours")
    if _living(manage, folder):
        return False
    for disk in reading.disks(manage.run("list", "hdds").stdout):
        if disk.path.is_relative_to(folder):
            manage.run("closemedium", "disk", disk.uuid, check=False)
    return manage.place.run(["sh", "-c", _SWEEP, str(folder)], timeout=LONG, check=False).returncode == 0


def check_children(manage: Manage, found: Settings) -> None:
    """Raise InputError while other machines hang on this one's disks: removing it would take it off VirtualBox' list
    all the same, with its disks left behind.
    """
    disks = reading.disks(manage.run("list", "hdds").stdout)
    own = {disk.uuid for disk in disks if disk.path.is_relative_to(found.folder)}
    children = [disk for disk in disks if disk.parent in own and disk.uuid not in own]
    if children:
        names = sorted({disk.path.parent.parent.name for disk in children})
        raise InputError(
            f"{manage.where}: linked clones hang on the disk of {found.name}: {', '.join(names)}",
            hint="destroy those first",
        )


def _made_names(manage: Manage, found: Settings) -> set[str]:
    """The names of the additional disks that were made for a machine."""
    said_of = manage.run("getextradata", found.uuid, "enumerate").stdout
    return set(re.findall(rf"^Key: {KEY}(\S+), ", said_of, re.MULTILINE))


def _living(manage: Manage, folder: PurePosixPath) -> Settings | None:
    """The machine whose folder it is, of those that VirtualBox knows."""
    there = manage.all([uuid for _, uuid in manage.machines()])
    return next((found for found in there if found.folder == folder), None)


def _medium(manage: Manage, path: PurePosixPath) -> str | None:
    """What `showmediuminfo` says of a disk image; None where there is no such file."""
    result = manage.run("showmediuminfo", "disk", str(path), check=False)
    if result.returncode == 0:
        return result.stdout
    if said.is_absent(result):
        return None
    raise said.error(result, manage.where)
