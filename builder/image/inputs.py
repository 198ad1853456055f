"""What a bake's variables must be beyond their HCL type: every value that could not work, named before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping

from builder.errors import InputError, Problem
from builder.image import disk, rootfs
from builder.image.plan import ARCHITECTURES, PACKAGE, RELEASES

# No blanks, quotes or brackets: mmdebstrap would read those as a line of sources.list(5). An IPv6 address has brackets.
_MIRROR = re.compile(
    r"https?://(\[[0-9a-fA-F:.]+\]|[^\s/:'\"\[\]]+)([:/][^\s'\"\[\]]*)?|(file|copy):(//)?/[^\s'\"\[\]]+"
)
_RANGES = {"disk_size_mib": (disk.MINIMUM_MIB, 2 << 20), "cpus": (1, 64), "memory_mib": (512, 1 << 20)}


def check(values: Mapping[str, object]) -> list[Problem]:
    """What Packer's types cannot say: each value that this bake could not use."""
    problems = []

    def expect(name: str, right: bool, message: str, hint: str) -> None:
        if not right:
            problems.append(Problem(f"variable {name}", message, hint))

    release, arch, mirror = str(values["release"]), str(values["arch"]), str(values["mirror"])
    version, hostname = str(values["version"]), str(values["hostname"])
    expect("release", release in RELEASES, f"{release!r} is not supported", f"one of {', '.join(RELEASES)}")
    expect("arch", arch in ARCHITECTURES, f"{arch!r} is not supported", f"one of {', '.join(ARCHITECTURES)}")
    if re.search(r"//[^/]*@", mirror):  # which is not shown, then
        expect(
            "mirror",
            False,
            "this URL carries a user name or a password, and the image would keep it",
            "put a proxy without a password in front of it",
        )
    else:
        expect(
            "mirror",
            not mirror or bool(_MIRROR.fullmatch(mirror)),
            f"{mirror!r} is not a mirror's URL",
            "http://, https://, file:// or copy://",
        )
    expect(
        "version",
        not version or bool(re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,47}", version)),
        f"{version!r} cannot be part of the names in an OVA",
        "up to 48 letters, digits and .+_-, the first a letter or a digit",
    )
    expect(
        "hostname",
        bool(re.fullmatch(r"(?!-)[a-z0-9-]{1,63}(?<!-)", hostname)),
        f"{hostname!r} is not a host name (RFC 1123)",
        "letters a-z, digits and -",
    )
    extra = values["extra_packages"]
    for package in extra if isinstance(extra, list) else []:
        expect(
            "extra_packages",
            bool(PACKAGE.fullmatch(str(package))),
            f"{package!r} is not a package name (Debian policy 5.6.1)",
            "letters a-z, digits and +-.",
        )
    for name, (lowest, highest) in _RANGES.items():
        number = values[name]
        right = isinstance(number, int | float) and lowest <= number <= highest and number == int(number)
        expect(name, right, f"{number!r} is out of range", f"a whole number from {lowest} to {highest}")
    return problems


def snapshot_of(mirror: str, moment: str) -> str:
    """The address of the archive as it was at a moment, in a snapshot service whose archive is at `mirror`.

    Such services keep each state of an archive in a folder named after its time (UTC). Raises InputError.
    """
    if not re.fullmatch(rootfs.SNAPSHOT, moment):
        raise InputError(f"--snapshot {moment}: not a time in UTC", hint="it is written 20260401T083000Z")
    if not mirror or rootfs.is_snapshot(mirror):
        raise InputError(
            f"--snapshot {moment}: no archive of snapshots is known" if not mirror else f"{mirror}: a snapshot already",
            hint="--var mirror=URL names the archive, without a time: the address of a snapshot service for `debian`",
        )
    return f"{mirror.rstrip('/')}/{moment}"
