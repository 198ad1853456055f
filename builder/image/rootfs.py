"""The root file system: made by mmdebstrap, unpacked, provisioned by the scripts, taken away again."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder import command
from builder.errors import (
    CommandError,
    HapxError,
    InputError,
    NoSpaceError,
    UnreachableError,
    UntrustedError,
)
from builder.image import namespace, rootcache
from builder.image.plan import BakePlan

BOOTSTRAP_TIMEOUT = 3600.0  # a slow mirror, a slow disk
SCRIPT_TIMEOUT = 1800.0
DATA = "/run/hapx"  # where a script finds packages.list and files/ inside the root
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")

# What mmdebstrap's apt says, and what that means for a person. The first that matches is told.
_REASONS: tuple[tuple[re.Pattern[str], type[HapxError], str, str], ...] = (
    (NO_SPACE, NoSpaceError, "no space left on the disk", "free some space, or set TMPDIR and XDG_CACHE_HOME"),
    (
        re.compile(r"Unable to locate package|has no installation candidate"),
        InputError,
        "this release has no such package",
        "correct packer/packages.list or --var extra_packages",
    ),
    (
        re.compile(
            r"NO_PUBKEY|is not signed|BADSIG|EXPKEYSIG|[Bb]ad signature|signatures? (couldn't be verified|were invalid)"
            r"|Missing key|Clearsigned file isn't valid|Malformed message"
        ),
        UntrustedError,
        "the index is not signed by a key that Debian's keyring knows",
        "use another mirror (--var mirror=URL); for a new release, update debian-archive-keyring",
    ),
    (
        re.compile(r"Hash Sum mismatch|File has unexpected size"),
        UntrustedError,
        "the mirror serves files that differ from its signed index",
        "it may be in the middle of an update: try again in a few minutes, or use another (--var mirror=URL)",
    ),
    (
        re.compile(
            r"Could not resolve|failure resolving|[Cc]ould not connect|[Uu]nable to connect|timed out"
            r"|Network is unreachable|Connection (failed|refused|reset)|No route to host"
            r"|does not have a Release file|404 +Not Found|Failed to fetch"
        ),
        UnreachableError,
        "the mirror does not answer, or has no such release",
        "check the network and --var mirror; behind a proxy set http_proxy",
    ),
)


def mmdebstrap_argv(plan: BakePlan, *, tar: Path, apt: Path, uid: int | None = None) -> list[str]:
    """The mmdebstrap command of a plan: a tar of the root at `tar`; its package sources and signed indices in `apt`.

    `uid` is who runs it (default: this process): root, or anybody through user namespaces.
    """
    unprivileged = (os.geteuid() if uid is None else uid) != 0
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--mode={'unshare' if unprivileged else 'root'}",
        "--format=tar",
        f"--architectures={plan.arch}",
        f"--include={','.join(plan.packages)}",
        f"--dpkgopt={Path(plan.template, 'files/etc/dpkg/dpkg.cfg.d/hapx')}",
        # What is unpacked here is copied into a disk image afterwards: syncing each file would be for nothing.
        "--dpkgopt=force-unsafe-io",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "2"',
        '--aptopt=Acquire::http::Timeout "30"',
        f"--customize-hook=copy-out /etc/apt/sources.list /var/lib/apt/lists {apt}",
        "--verbose",
        plan.release,
        str(tar),
        *([plan.mirror] if plan.mirror else []),
    ]


def bootstrap(
    plan: BakePlan, *, on_progress: Callable[[float, float], None], on_line: Callable[[str], None]
) -> rootcache.RootState:
    """Make the plan's root file system with mmdebstrap and keep it in the cache; returns what it was made from.

    `on_progress(done, total)` counts package operations; `on_line` gets mmdebstrap's output. Raises UnreachableError,
    UntrustedError, NoSpaceError, InputError (a package that nobody has) or CommandError; the cache is then as before.
    """
    entry = plan.root_cache
    entry.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    apt = making / "apt"
    apt.mkdir()
    lines: list[str] = []
    total = done = 0

    def watch(line: str) -> None:
        nonlocal total, done
        lines.append(line)
        on_line(line)
        if match := re.search(r"(\d+) newly installed", line):
            total += 2 * int(match.group(1))
        elif line.startswith(("Unpacking ", "Setting up ")):
            done += 1
            on_progress(min(done, total), total)

    # The initramfs is made once, by provisioning, not by each package that touches it.
    environment = {"LC_ALL": "C.UTF-8", "INITRD": "No", "TMPDIR": plan.work}
    if plan.epoch is not None:
        environment["SOURCE_DATE_EPOCH"] = str(plan.epoch)
    try:
        argv = mmdebstrap_argv(plan, tar=rootcache.tar(making), apt=apt)
        result = command.run(argv, env=environment, on_line=watch, timeout=BOOTSTRAP_TIMEOUT, grace=60)
        return rootcache.store(making, entry, seconds=round(result.seconds, 1))
    except CommandError as error:
        raise explain(error, lines, plan) from None
    finally:
        shutil.rmtree(making, ignore_errors=True)


def explain(error: CommandError, lines: Sequence[str], plan: BakePlan) -> HapxError:
    """The error a person can act on, for an mmdebstrap that failed after printing `lines`."""
    where = f"mirror {plan.mirror}" if plan.mirror else "mmdebstrap's default mirror"
    for pattern, kind, message, hint in _REASONS:
        if said := [line for line in lines if pattern.search(line)]:
            explained = kind(f"{plan.release} from {where}: {message}", hint=hint)
            explained.details = tuple(said[:5])
            return explained
    return CommandError(error.message, returncode=error.returncode, details=[*error.details[:1], *lines[-15:]])


def unpack(plan: BakePlan) -> None:
    """Lay the kept root out at `plan.root`; what only a running system has (/dev, /run, /tmp) stays empty."""
    plan.root.mkdir(mode=0o755)
    excluded = [f"--exclude=./{folder}/*" for folder in ("dev", "proc", "sys", "run", "tmp")]
    argv = ["tar", "--extract", "--numeric-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*"]
    argv += [*excluded, "--directory", str(plan.root), "--file", str(rootcache.tar(plan.root_cache))]
    run_there(namespace.unshare_argv(argv), doing="unpacking the root file system")


def provision(plan: BakePlan, script: Path, *, env: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Run one provisioning script inside the root, with the template's folder at HAPX_DATA; `env` is what it gets.

    Raises CommandError with the script's last lines, or NoSpaceError.
    """
    template = Path(plan.template).resolve()
    inside = f"{DATA}/{script.resolve().relative_to(template)}"
    argv = namespace.enter_argv(plan.root, ["/bin/sh", inside], binds={template: DATA}, env={**env, "HAPX_DATA": DATA})
    run_there(argv, doing=script.name, on_line=on_line)


def remove(work: Path) -> None:
    """Delete a bake's work folder, whoever owns what is in it; quiet where it is gone already."""
    shutil.rmtree(work, ignore_errors=True)
    if work.exists():
        # Files of the image's accounts belong to our subordinate ids: only our namespace's root may delete them.
        command.run(namespace.unshare_argv(["rm", "-rf", "--", work]), check=False)


def run_there(argv: Sequence[str], *, doing: str, on_line: Callable[[str], None] | None = None) -> list[str]:
    """Run a program of the bake, its output to `on_line`; returns the lines. Raises NoSpaceError or CommandError."""
    lines: list[str] = []

    def watch(line: str) -> None:
        lines.append(line)
        if on_line is not None:
            on_line(line)

    try:
        command.run(argv, on_line=watch, timeout=SCRIPT_TIMEOUT)
    except CommandError as error:
        if any(NO_SPACE.search(line) for line in lines):
            raise NoSpaceError(
                f"{doing}: no space left on the disk", hint="free some space, or set TMPDIR to a larger disk"
            ) from None
        raise CommandError(
            f"{doing}: exit code {error.returncode}", returncode=error.returncode, details=lines[-15:]
        ) from None
    return lines
