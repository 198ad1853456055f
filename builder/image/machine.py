"""Bakes in a virtual machine: what its source needs, what it is told at its first boot, and its disk when it is off.

Packer boots it and runs the provisioning scripts over SSH. Its door opens to one key, made for this bake, which the
machine forgets (scripts/90-generalise.sh) and which goes away with the work folder.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from builder import command, interrupts, requirements
from builder.acceleration import detect
from builder.errors import HapxError, InputError, MissingError, Problem
from builder.image import unused
from builder.image.diff import disks
from builder.image.diff.ext4 import FileSystem
from builder.image.packer import Packer
from builder.image.plan import BakePlan
from builder.requirements import Purpose, Status

STATUS = "var/lib/dpkg/status"
TOOL_SECONDS = 30.0
_CHECKSUM = re.compile(r"(md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|file:\S+)", re.I)
# What machines that are not for people are told by cloud-init: the image's sshd keeps root out, this one does not yet.
_DOOR = "/etc/ssh/sshd_config.d/00-hapx-bake.conf"
_USER_DATA = """#cloud-config
disable_root: false
ssh_pwauth: false
users:
  - name: root
    ssh_authorized_keys:
      - {key}
write_files:
  - path: {door}
    content: |
      PermitRootLogin prohibit-password
"""
_META_DATA = "instance-id: hapx-bake-{name}\n"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a source that is a virtual machine needs: the variable that says what it boots, and what runs it."""

    base: str
    purpose: Purpose


MACHINES = {
    "qemu.cloud": Machine("base_image", Purpose.QEMU),
    "virtualbox-iso.installer": Machine("installer_iso", Purpose.VIRTUALBOX),
    "virtualbox-ovf.derive": Machine("base_ova", Purpose.VIRTUALBOX),
}


def check(source: str, values: Mapping[str, object]) -> list[Problem]:
    """What a machine's source lacks: what it boots, and the checksum that says it is what was meant."""
    machine = MACHINES[source]
    base, checksum = str(values.get(machine.base, "")), str(values.get("base_checksum", ""))
    problems = []
    if not base:
        problems.append(Problem(f"variable {machine.base}", f"{source} needs it", f"--var {machine.base}=PATH"))
    elif (local := "://" not in base) and not Path(base).is_file():
        problems.append(Problem(f"variable {machine.base}", f"{base}: no such file", "a path or, of an image, a URL"))
    elif machine.base == "base_ova" and not local:
        problems.append(Problem("variable base_ova", f"{base}: not a path", "download it first"))
    if not _CHECKSUM.fullmatch(checksum):
        said = f"{checksum!r} is not a checksum" if checksum else f"{source} needs it: an unknown disk is not booted"
        problems.append(Problem("variable base_checksum", said, "sha256:HEX, or file:URL of a list of checksums"))
    return problems


def require(source: str, packer: Packer) -> None:
    """Raise MissingError where something that this source needs is not installed; an old QEMU may do."""
    purpose = MACHINES[source].purpose
    findings = requirements.probe_all(requirements.needed([purpose]), ask=False)
    findings = [finding for finding in findings if finding.status is Status.MISSING]
    lacking = [finding.requirement.name for finding in findings]
    packages = requirements.missing_packages(findings, requirements.release_codename())
    hints = [f"sudo apt-get install {' '.join(packages)}"] if packages else []
    if purpose is Purpose.VIRTUALBOX and command.which("VBoxManage") is None:
        lacking.append("VBoxManage")
        hints.append(requirements.VIRTUALBOX_HINT)
    if requirements.builder_missing(packer.path, ".".join(map(str, packer.version)), purpose):
        lacking.append(f"Packer's builder {requirements.BUILDERS[purpose]}")
        hints.append(requirements.BUILDER_HINT)
    if lacking:
        raise MissingError(f"not installed here: {', '.join(lacking)} (for {source})", hint="; ".join(hints))


def folders(plan: BakePlan) -> tuple[Path, Path]:
    """Where the seed is, and where Packer leaves the machine's disk: it makes that folder itself."""
    work = Path(plan.work)
    return work / "seed", work / f"machine-{work.name}"


def variables(plan: BakePlan, values: Mapping[str, object], *, epoch: int) -> dict[str, object]:
    """The variables of the template that are this bake's own; paths are absolute, as Packer runs elsewhere."""
    seed, machine = folders(plan)
    name = MACHINES[plan.source].base
    base = str(values[name])
    return {
        name: base if "://" in base else str(Path(base).absolute()),
        "hapx_seed": str(seed),
        "hapx_machine": str(machine),
        "hapx_accelerator": str(detect().accelerator),
        "hapx_epoch": str(epoch),
    }


def write_seed(plan: BakePlan) -> None:
    """A key of this bake's own, and what lets it in: for cloud-init, and for Debian's installer."""
    seed, _ = folders(plan)
    seed.mkdir(mode=0o700)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hapx-bake", "-f", str(seed / "key")]
    command.run(argv, timeout=TOOL_SECONDS)
    key = (seed / "key.pub").read_text().strip()
    (seed / "user-data").write_text(_USER_DATA.format(key=key, door=_DOOR))
    (seed / "meta-data").write_text(_META_DATA.format(name=Path(plan.work).name))
    disc = ["xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-R", "-o", str(seed / "seed.iso")]
    command.run([*disc, str(seed / "user-data"), str(seed / "meta-data")], timeout=TOOL_SECONDS)
    preseed = Path(plan.template, "installer", "preseed.cfg")
    (seed / "preseed.cfg").write_text(preseed.read_text().replace("@RELEASE@", plan.release))


@contextlib.contextmanager
def discs_forgotten(plan: BakePlan, values: Mapping[str, object]) -> Iterator[None]:
    """After the block VirtualBox knows no disc that it got to know for this bake, whatever its source is.

    Packer takes discs out of a machine that it removes; VirtualBox keeps them on its list, there or gone.
    """
    machine = MACHINES.get(plan.source)
    if machine is None or machine.purpose is not Purpose.VIRTUALBOX:
        yield
        return
    known = _discs()
    try:
        yield
    finally:
        with interrupts.held(), contextlib.suppress(HapxError):
            for disc in _discs() - known:
                if Path(disc).is_relative_to(plan.work) or disc == values[machine.base]:
                    command.run(["VBoxManage", "closemedium", "dvd", disc], timeout=TOOL_SECONDS, check=False)


def _discs() -> set[str]:
    """The paths of all CDs and DVDs on VirtualBox's list."""
    listed = command.run(["VBoxManage", "list", "dvds"], timeout=TOOL_SECONDS).stdout
    return set(re.findall(r"^Location: +(\S.*)$", listed, re.MULTILINE))


def adopt(plan: BakePlan) -> None:
    """The machine's disk becomes the plan's, and what dpkg says of it goes where the manifest looks for it.

    Raises InputError where the machine left no disk, or one without a Debian on an ext4.
    """
    _, folder = folders(plan)
    raw, exported = folder / "machine.raw", folder / "machine.ova"
    if raw.is_file():
        raw.rename(plan.disk)
    elif exported.is_file():
        with tarfile.open(exported, "r:") as archive, exported.open("rb") as file, plan.disk.open("w+b") as disk:
            found = [member for member in archive if member.name.endswith(".vmdk")]
            if len(found) != 1:
                raise InputError(f"{exported.name}: {len(found)} disks in this machine", hint="it has to have one")
            disks.inflate(file, found[0], disk)
        exported.unlink()
    else:
        raise InputError(f"{folder}: the machine left no disk there", hint="the log says what Packer did")
    status = plan.root / STATUS
    status.parent.mkdir(parents=True)
    with plan.disk.open("r+b") as disk:
        start, text = _debian(disk)
        status.write_bytes(text)
        unused.clear(disk, start)


def _debian(disk: BinaryIO) -> tuple[int, bytes]:
    """Where on a disk the file system with a Debian begins, in bytes, and dpkg's list of its packages."""
    for partition in disks.partitions(disk):
        try:
            system = FileSystem(disk, partition.start)
            inode = system.find(STATUS)
        except InputError:
            continue
        return partition.start, b"".join(system.chunks(inode))
    raise InputError("the machine's disk has no Debian on an ext4 in a GPT", hint="start from another base")
