"""The root file system: made by mmdebstrap, unpacked, provisioned by the scripts, taken away again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
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
from builder.image import namespace, rootcache, workplace
from builder.image.plan import BakePlan

MMDEBSTRAP_GRACE = 60.0  # it deletes what it made
BOOTSTRAP_TIMEOUT = 3600.0  # a slow mirror, a slow disk
SCRIPT_TIMEOUT = 1800.0
NAMESPACE_GRACE = 1.0
DATA = "/run/hapx"  # where a script finds packages.list and files/ inside the root
SNAPSHOT = r"[0-9]{8}T[0-9]{6}Z"
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded")
_LEFT_OUT = ("doc", "info", "lintian", "locale", "man")  # of /usr/share
LOOK_HINT = "--keep-work keeps the root file system, to look into it"

# What mmdebstrap's apt says, and what that means for a person. The first that matches is told.
_REASONS: tuple[tuple[re.Pattern[str], type[HapxError], str, str], ...] = (
    (
        re.compile(r"Unable to locate package|has no installation candidate"),
        InputError,
        "this release has no such package",
        "correct packer/packages.list or --var extra_packages",
    ),
    (
        re.compile(
            r"NO_PUBKEY|is not signed|BADSIG|EXPKEYSIG|[Bb]ad signature|signatures? (couldn't be verified|were invalid)"
            r"|Missing key|Clearsigned file isn't valid|Malformed message|signature verification failed"
        ),
        UntrustedError,
        "the index is not signed by a key that Debian's keyring knows",
        "use another mirror (--var mirror=URL); for a new release, update debian-archive-keyring",
    ),
    (
        re.compile(r"Release file for .* is (expired|not valid yet)"),
        UntrustedError,
        "the index is out of date, or this machine's clock is wrong",
        "see what `date` says; a mirror that is not kept up to date is no use (--var mirror=URL)",
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
    excludes = Path(plan.template, "files/etc/dpkg/dpkg.cfg.d/hapx")
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--mode={'unshare' if unprivileged else 'root'}",
        "--format=tar",
        f"--architectures={plan.arch}",
        f"--include={','.join(plan.packages)}",
        # What is unpacked here is copied into a disk image afterwards: syncing each file would be for nothing.
        "--dpkgopt=force-unsafe-io",
        # Not as a --dpkgopt: mmdebstrap would filter each essential package through a Python program of its own, which
        # takes longer than the rest of it. So dpkg gets the list when it installs what has been extracted, and what it
        # may leave out of that goes before.
        f"--extract-hook=upload {shlex.quote(str(excludes))} /etc/dpkg/dpkg.cfg.d/hapx",
        f'--extract-hook=cd "$1/usr/share" && rm -rf {" ".join(_LEFT_OUT)}',
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "2"',
        '--aptopt=Acquire::http::Timeout "30"',
        *(['--aptopt=Acquire::Check-Valid-Until "false"'] if is_snapshot(plan.mirror) else []),
        f"--customize-hook=copy-out /etc/apt/sources.list /var/lib/apt/lists {shlex.quote(str(apt))}",
        "--verbose",
        plan.release,
        str(tar),
        *([plan.mirror] if plan.mirror else []),
    ]


def is_snapshot(mirror: str) -> bool:
    """Whether a mirror is a state of the archive at one moment: its address ends with that moment, as 20260401T083000Z.

    The index of such a mirror is out of date by design; its signature counts all the same.
    """
    return bool(re.fullmatch(SNAPSHOT, mirror.rstrip("/").rpartition("/")[2]))


def bootstrap(
    plan: BakePlan, *, on_progress: Callable[[float, float], None], on_line: Callable[[str], None]
) -> rootcache.RootState:
    """Make the plan's root file system with mmdebstrap and keep it in the cache; returns what it was made from.

    `on_progress(done, total)` counts package operations; `on_line` gets mmdebstrap's output. Raises UnreachableError,
    UntrustedError, NoSpaceError, InputError (a package that nobody has) or CommandError; the cache is then as before.
    The caller holds the lock of the cache's entry.
    """
    entry = plan.root_cache
    entry.parent.mkdir(parents=True, exist_ok=True)
    rootcache.sweep(entry)
    making = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    apt = making / "apt"
    apt.mkdir()
    lines: list[str] = []
    total = done = 0
    full: NoSpaceError | None = None

    def watch(line: str) -> None:
        nonlocal total, done, full
        lines.append(line)
        on_line(line)
        if full is None and NO_SPACE.search(line):
            # Before mmdebstrap cleans up, as it is still to be seen which disk it was.
            full = workplace.full({"TMPDIR": Path(plan.work), "XDG_CACHE_HOME": making}, doing="mmdebstrap")
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
        result = command.run(
            command.tied([sys.executable, "-m", "builder.image.unsynced", *argv]),
            env=environment,
            on_line=watch,
            timeout=BOOTSTRAP_TIMEOUT,
            grace=MMDEBSTRAP_GRACE,
            # It waits for what it started before it looks at a signal: apt and dpkg are told first.
            first=lambda program: program != "perl",
        )
        return rootcache.store(making, entry, seconds=round(result.seconds, 1))
    except CommandError as error:
        raise full or explain(error, lines, plan) from None
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
    return CommandError(
        f"mmdebstrap: exit code {error.returncode}",
        returncode=error.returncode,
        hint="its whole output is in the log",
        details=[*error.details[:1], *lines[-15:]],
    )


def unpack(plan: BakePlan) -> None:
    """Lay the kept root out at `plan.root`; what only a running system has (/dev, /run, /tmp) stays empty."""
    plan.root.mkdir(mode=0o755)
    excluded = [f"--exclude=./{folder}/*" for folder in ("dev", "proc", "sys", "run", "tmp")]
    argv = ["tar", "--extract", "--numeric-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*"]
    argv += [*excluded, "--directory", str(plan.root), "--file", str(rootcache.tar(plan.root_cache))]
    try:
        run_there(namespace.unshare_argv(argv), plan, doing="unpacking the root file system")
    except CommandError as error:
        rootcache.drop(plan.root_cache)
        error.hint = "what was in the cache is damaged, and removed now: run this again, it will be made anew"
        raise


def provision(plan: BakePlan, script: Path, *, env: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Run one provisioning script inside the root, with the template's folder at HAPX_DATA; `env` is what it gets.

    Raises CommandError with the script's last lines, or NoSpaceError.
    """
    template = Path(plan.template).resolve()
    inside = f"{DATA}/{script.resolve().relative_to(template)}"
    argv = namespace.enter_argv(plan.root, ["/bin/sh", inside], binds={template: DATA}, env={**env, "HAPX_DATA": DATA})
    run_there(argv, plan, doing=script.name, on_line=on_line)


def run_there(
    argv: Sequence[str], plan: BakePlan, *, doing: str, on_line: Callable[[str], None] | None = None
) -> list[str]:
    """Run a program in a namespace (`builder.image.namespace`), its output to `on_line`; returns the lines.

    Raises NoSpaceError or CommandError.
    """
    lines: list[str] = []
    full: NoSpaceError | None = None

    def watch(line: str) -> None:
        nonlocal full
        lines.append(line)
        if on_line is not None:
            on_line(line)
        if full is None and NO_SPACE.search(line):
            full = workplace.full({"TMPDIR": Path(plan.work)}, doing=doing)

    try:
        # What ends with its namespace needs no time to say good-bye: its files go with the work folder.
        command.run(
            command.tied(argv, number=signal.SIGKILL), on_line=watch, timeout=SCRIPT_TIMEOUT, grace=NAMESPACE_GRACE
        )
    except CommandError as error:
        if full is not None:
            raise full from None
        raise CommandError(
            f"{doing}: exit code {error.returncode}", returncode=error.returncode, hint=LOOK_HINT, details=lines[-15:]
        ) from None
    return lines
