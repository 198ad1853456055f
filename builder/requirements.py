"""What this project needs of a Debian machine: one table, and what of it is not there.

Standard library only, so that `python3 -m builder.requirements image` works before there is a virtual environment: it
prints the Debian packages to install for that purpose, one a line, and on standard error why a program that is there
will not do. `hapx-build doctor` shows the same table.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path

from builder import command
from builder.errors import CommandTimeoutError, ExitCode, HapxError

PROBE_SECONDS = 5.0  # for a program to tell its version; the slowest, Packer, takes 0.3 s


class Purpose(StrEnum):
    """What somebody may want to do here; a requirement names those it belongs to."""

    IMAGE = "image"
    SEED = "seed"
    SIGN = "sign"
    LIBVIRT = "libvirt"
    QEMU = "qemu"
    VIRTUALBOX = "virtualbox"
    LINT = "lint"
    TEST = "test"


COMMANDS = {
    Purpose.IMAGE: "hapx-build image",
    Purpose.SEED: "hapx-build seed-iso",
    Purpose.SIGN: "hapx-build sign",
    Purpose.LIBVIRT: "hapx-build up (libvirt)",
    Purpose.QEMU: "hapx-build image --source qemu.cloud",
    Purpose.VIRTUALBOX: "hapx-build image --source virtualbox-…",
    Purpose.LINT: "make lint",
    Purpose.TEST: "make test",
}

INCLUDES = {Purpose.TEST: tuple(purpose for purpose in Purpose if purpose is not Purpose.TEST)}

# The builders of Packer that these purposes need: up to 1.9 it has them in itself.
BUILDERS = {Purpose.QEMU: "qemu", Purpose.VIRTUALBOX: "virtualbox"}
BUILDER_HINT = "packer init packer/plugins, once"
# Not in the table: no stable release of Debian has it.
VIRTUALBOX_HINT = "VirtualBox is in Debian's sid only; Oracle has packages as well"


class Status(StrEnum):
    """The answer to one question about this machine."""

    OK = "ok"
    NOTE = "note"  # not needed, but worth knowing
    OLD = "too old"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One program, or one set of files, that a purpose needs.

    `files`: where it is not a program, any one of these paths will do. `minimum` is the oldest version that works and
    `reason` says why. `suites` names, for the Debian releases (codenames) that lack the package or have it too old,
    the suite it comes from there; `companions` are packages that must then come from it too, as apt looks for what a
    package depends on in this release only. `version_flags` make the program print its version, which
    `version_pattern` finds; no flags: it has none to tell. `users_only`: root does without. `foreign_to`: a machine of
    this kind (`uname -m`) does without.
    """

    name: str
    package: str
    purposes: tuple[Purpose, ...]
    use: str
    files: tuple[str, ...] = ()
    minimum: str = ""
    reason: str = ""
    suites: Mapping[str, str] = field(default_factory=dict)
    companions: tuple[str, ...] = ()
    users_only: bool = False
    foreign_to: str = ""
    version_flags: tuple[str, ...] = ("--version",)
    version_pattern: str = r"(\d+(?:\.\d+)+)"


@dataclass(frozen=True, slots=True)
class Finding:
    """What this machine has of one requirement."""

    requirement: Requirement
    status: Status
    path: Path | None = None
    version: str = ""
    detail: str = ""


_IMAGE = (Purpose.IMAGE,)
_LIBVIRT = (Purpose.LIBVIRT,)
_GUESTS = (Purpose.LIBVIRT, Purpose.QEMU)
_MACHINES = (Purpose.QEMU, Purpose.VIRTUALBOX)
_TEST = (Purpose.TEST,)

REQUIREMENTS = (
    Requirement(
        "packer",
        "packer",
        _IMAGE,
        "drives every bake",
        minimum="1.6.6",
        reason="the templates are HCL2, and 1.6.6 is the oldest they are tested with",
        # Debian 13 left it out; Debian 12's runs there unchanged, as all it depends on is libc6.
        suites={"trixie": "bookworm"},
        version_flags=("version",),
        # The product's name is part of it: cracklib's /usr/sbin/packer must not pass for HashiCorp's.
        version_pattern=r"Packer v(\d+(?:\.\d+)+)",
    ),
    Requirement("apt-get", "apt", _IMAGE, "fetches Debian packages"),
    Requirement("mmdebstrap", "mmdebstrap", _IMAGE, "makes the root file system from Debian packages"),
    Requirement(
        "Debian archive keys",
        "debian-archive-keyring",
        _IMAGE,
        "what packages' signatures are checked against",
        files=("/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    ),
    Requirement("gpgv", "gpgv", _IMAGE, "checks packages' signatures"),
    Requirement("newuidmap", "uidmap", _IMAGE, "bakes without being root", users_only=True, version_flags=()),
    Requirement("newgidmap", "uidmap", _IMAGE, "bakes without being root", users_only=True, version_flags=()),
    Requirement("unshare", "util-linux", _IMAGE, "keeps a bake's mounts to itself"),
    Requirement("tar", "tar", _IMAGE, "unpacks the root file system"),
    Requirement("sfdisk", "fdisk", _IMAGE, "writes the partition table"),
    Requirement("mke2fs", "e2fsprogs", _TEST, "makes and reads file systems", version_flags=("-V",)),
    Requirement("mkfs.vfat", "dosfstools", _IMAGE, "makes the EFI partition", version_flags=("--help",)),
    Requirement("mcopy", "mtools", _IMAGE, "fills the EFI partition"),
    Requirement(
        "qemu-x86_64-static",
        "qemu-user-static",
        _IMAGE,
        "runs the programs of an amd64 root file system on this processor",
        foreign_to="x86_64",
    ),
    Requirement(
        "arch-test",
        "arch-test",
        _IMAGE,
        "tells mmdebstrap that they run",
        foreign_to="x86_64",
        version_flags=(),
    ),
    Requirement(
        "openssl", "openssl", (Purpose.SEED,), "hashes the statistics page's password", version_flags=("version",)
    ),
    Requirement("minisign", "minisign", (Purpose.SIGN,), "makes and checks signatures", version_flags=("-v",)),
    Requirement("shellcheck", "shellcheck", (Purpose.LINT,), "checks the shell scripts"),
    Requirement("virsh", "libvirt-clients", _LIBVIRT, "talks to libvirt, on this host or another"),
    Requirement(
        "libvirtd",
        "libvirt-daemon-system",
        _LIBVIRT,
        "keeps machines, networks and disks on a host",
        files=("/etc/libvirt/libvirtd.conf",),
    ),
    Requirement("dnsmasq", "dnsmasq-base", _LIBVIRT, "gives away addresses on libvirt's NAT networks"),
    Requirement("iptables", "iptables", _LIBVIRT, "is libvirt's way to NAT"),
    Requirement("qemu-img", "qemu-utils", _GUESTS, "turns one kind of disk into another"),
    Requirement(
        "qemu-system-x86_64",
        "qemu-system-x86",
        _GUESTS,
        "runs machines",
        minimum="8",
        reason="the software emulation of cmpxchg16b in 7.2 crashes current kernels and HAProxy",
        suites={"bookworm": "bookworm-backports"},
        companions=("qemu-system-common", "qemu-system-data", "seabios"),
    ),
    Requirement(
        "OVMF firmware",
        "ovmf",
        _LIBVIRT,
        "starts machines under UEFI",
        files=("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd"),
    ),
    Requirement("chromium", "chromium", _TEST, "opens the statistics page", version_flags=()),
    Requirement("virt-v2v", "virt-v2v", _TEST, "reads back the OVAs we write"),
    Requirement("zstd", "zstd", _TEST, "reads the initramfs that was baked"),
    Requirement("grub-script-check", "grub-common", _TEST, "reads the grub.cfg we write"),
    Requirement("bsdtar", "libarchive-tools", _TEST, "reads back the ISOs we write"),
    Requirement("7z", "p7zip-full", _TEST, "reads back the ISOs we write", version_flags=("--help",)),
    Requirement("ssh-keygen", "openssh-client", _MACHINES, "makes the key to a machine's door", version_flags=()),
    Requirement("help2man", "help2man", _TEST, "makes the man pages"),
    Requirement("xmllint", "libxml2-utils", _TEST, "holds libvirt's definitions against its schemas", version_flags=()),
    Requirement("groff", "groff-base", _TEST, "reads back the man pages"),
    Requirement("sshd", "openssh-server", _TEST, "is another host for the tests", version_flags=()),
    Requirement("xorriso", "xorriso", _MACHINES, "makes a machine's CD", version_flags=("-version",)),
    Requirement("isoinfo", "genisoimage", _TEST, "reads back the ISOs we write", version_flags=("-version",)),
    Requirement("nginx", "nginx", _TEST, "takes what is published by PUT", version_flags=("-v",)),
    Requirement("docker-registry", "docker-registry", _TEST, "takes what is published as an artifact"),
    Requirement(
        "OpenStack Swift",
        "python3-swift",
        _TEST,
        "takes what is published to S3",
        files=("/usr/lib/python3/dist-packages/swift/common/middleware/s3api/s3api.py",),
    ),
    Requirement(
        "cracklib-packer",
        "cracklib-runtime",
        _TEST,
        "goes by Packer's name on other systems, and must not pass for it",
        version_flags=(),
    ),
    Requirement("ip", "iproute2", _TEST, "makes the networks of the tests' clusters", version_flags=("-Version",)),
    Requirement("curl", "curl", _TEST, "asks the tests' clusters"),
    Requirement(
        "systemd-nspawn",
        "systemd-container",
        _TEST,
        "runs nodes, and clusters of them, without virtual machines",
        version_pattern=r"systemd (\d+(?:\.\d+)*)",
    ),
)


def needed(purposes: Iterable[Purpose], *, machine: str = platform.machine()) -> tuple[Requirement, ...]:
    """The requirements of these purposes and those they include, on a machine of that kind; in the table's order."""
    wanted = set(purposes)
    for purpose in tuple(wanted):
        wanted.update(INCLUDES.get(purpose, ()))
    return tuple(
        requirement
        for requirement in REQUIREMENTS
        if wanted.intersection(requirement.purposes) and requirement.foreign_to != machine
    )


def older(version: str, minimum: str) -> bool:
    """Whether a dotted version number is lower than another; parts left out count as 0."""
    pairs = zip_longest(map(int, version.split(".")), map(int, minimum.split(".")), fillvalue=0)
    return next((left < right for left, right in pairs if left != right), False)


def probe(requirement: Requirement, *, ask: bool = True) -> Finding:
    """Look for one requirement here.

    A program is started, to learn its version, where a minimum is set; with `ask` also where none is. It gets an empty
    folder, no input and `PROBE_SECONDS`, then it counts as broken. Where it will not do, the next of that name on PATH
    is tried, and what is told is what was wrong with the first.
    """
    if requirement.files:
        path = next((Path(file) for file in requirement.files if Path(file).exists()), None)
        return Finding(requirement, Status.OK if path else Status.MISSING, path)
    first = None
    for path in _candidates(requirement.name):
        if not requirement.version_flags or not (ask or requirement.minimum):
            return Finding(requirement, Status.OK, path)
        found = _ask(requirement, path)
        if found.status is Status.OK:
            return found
        first = first or found
    return first or Finding(requirement, Status.MISSING)


def _candidates(name: str) -> list[Path]:
    """Every program of that name, in the order of PATH, in the folders `command.which` looks into."""
    folders = dict.fromkeys([*os.get_exec_path(), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = (shutil.which(name, path=folder) for folder in folders if Path(folder).is_absolute())
    return [Path(path) for path in found if path]


def _ask(requirement: Requirement, path: Path) -> Finding:
    """Start a program for its version and judge the answer."""
    shown = f"{path} {' '.join(requirement.version_flags)}"
    try:
        # In a folder of its own: cracklib's packer takes an argument for the name of a database to write.
        with tempfile.TemporaryDirectory(prefix="hapx-") as empty:
            result = command.run(
                [str(path), *requirement.version_flags],
                cwd=Path(empty),
                timeout=PROBE_SECONDS,
                grace=0.2,
                check=False,
                # Packer would otherwise ask its maker over the network for a newer version.
                env={"CHECKPOINT_DISABLE": "1", "LC_ALL": "C.UTF-8"},
            )
    except CommandTimeoutError:
        detail = f"`{shown}` did not end within {PROBE_SECONDS:.0f} seconds"
        return Finding(requirement, Status.BROKEN, path, detail=detail)
    except HapxError as error:
        return Finding(requirement, Status.BROKEN, path, detail=error.message)
    match = re.search(requirement.version_pattern, result.stdout + result.stderr)
    if match is None:
        if not requirement.minimum:
            return Finding(requirement, Status.OK, path)
        said = next(filter(None, (result.stdout + result.stderr).splitlines()), "nothing")
        detail = (
            f"`{shown}` says {said[:60]!r}, exit code {result.returncode}: another program of the same name, or broken"
        )
        return Finding(requirement, Status.BROKEN, path, detail=detail)
    version = match.group(1)
    if requirement.minimum and older(version, requirement.minimum):
        detail = f"{requirement.minimum} or later is needed: {requirement.reason}"
        return Finding(requirement, Status.OLD, path, version, detail)
    return Finding(requirement, Status.OK, path, version)


def probe_all(requirements: Sequence[Requirement], *, ask: bool = True) -> list[Finding]:
    """`probe` for each, at the same time; in the order given."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda requirement: probe(requirement, ask=ask), requirements))


def builder_missing(packer: Path, version: str, purpose: Purpose) -> bool:
    """Whether this Packer, of that version, lacks the builder of a purpose: from 1.10 on it brings none along.

    Packer's upgrade notes for 1.10.0, "bundled plugins". Raises what `command.run` raises.
    """
    if older(version, "1.10"):
        return False
    env = {"CHECKPOINT_DISABLE": "1"}
    listed = command.run([str(packer), "plugins", "installed"], timeout=PROBE_SECONDS, check=False, env=env)
    return f"/hashicorp/{BUILDERS[purpose]}/" not in listed.stdout


def release_codename(os_release: Path = Path("/etc/os-release")) -> str:
    """This system's codename ("bookworm"), or "" where it has none (os-release(5): VERSION_CODENAME)."""
    try:
        text = os_release.read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r"^VERSION_CODENAME=[\"']?([\w-]+)", text, re.MULTILINE)
    return match.group(1) if match else ""


def package_specs(requirement: Requirement, codename: str) -> tuple[str, ...]:
    """What `apt-get install` takes for it: its package; with the suite ("name/suite") where that is another one."""
    suite = requirement.suites.get(codename)
    if not suite:
        return (requirement.package,)
    return tuple(f"{package}/{suite}" for package in (requirement.package, *requirement.companions))


def missing_packages(findings: Iterable[Finding], codename: str) -> list[str]:
    """What to give to `apt-get install` so that all findings turn good; each package once, in order."""
    wanting = (finding.requirement for finding in findings if finding.status is not Status.OK)
    return list(dict.fromkeys(spec for requirement in wanting for spec in package_specs(requirement, codename)))


def main(argv: Sequence[str]) -> int:
    """Print what is missing for the purposes named; exit 0 whether something is or not."""
    try:
        purposes = [Purpose(argument) for argument in argv]
    except ValueError:
        purposes = []
    if not purposes:
        sys.stderr.write(f"usage: python3 -m builder.requirements {{{','.join(Purpose)}}}...\n")
        return ExitCode.USAGE
    findings = probe_all(needed(purposes), ask=False)
    for finding in findings:
        if finding.detail:
            sys.stderr.write(f"{finding.requirement.name}: {finding.detail}\n")
    sys.stdout.writelines(f"{package}\n" for package in missing_packages(findings, release_codename()))
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
