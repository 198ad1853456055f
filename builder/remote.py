"""Where a program runs: on this machine, or on one reached by SSH; and the way to a node itself.

OpenSSH does the work, with the user's own configuration, keys and known hosts. It never asks anything: what would need
an answer is an error that says what to do. One connection to a host serves all commands of a run (ControlMaster).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shlex
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from builder import command
from builder.command import Result
from builder.errors import (
    BusyError,
    CommandError,
    CommandTimeoutError,
    HapxError,
    InputError,
    MissingError,
    NoSpaceError,
    UnreachableError,
)
from builder.spec import derived
from builder.spec.model import Cluster, Node

CONNECT_SECONDS = 10
PERSIST_SECONDS = 30
WAIT = 600.0  # seconds for another run to be done with what it makes there; an import may copy gigabytes
POLL = 0.2
QUICK = 60.0  # seconds for what only looks at, or removes, a few files
COPY = 4 * 3600.0  # seconds for a file on its way to another machine
SOCKET_LENGTH = 85  # sun_path has 104 bytes at least (unix(7); macOS), and ssh adds 17 while it opens it
SSH_FAILED = 255  # ssh(1), EXIT STATUS
NOT_FOUND = 127  # POSIX shells

OnText = Callable[[str], None]


class Place(Protocol):
    """A machine on which programs run and files lie."""

    @property
    def where(self) -> str:
        """As people and the spec name it: "this machine", "ssh://user@host"."""
        ...

    def run(
        self, argv: Sequence[str], *, timeout: float, check: bool = True, on_errors: OnText | None = None
    ) -> Result:
        """Run a program there, in the folder that is home, as `command.run` does; raises UnreachableError too."""
        ...

    def put(self, source: Path, target: PurePosixPath, *, mode: int) -> bool:
        """Have a file of this machine there too, its folder made where missing; False when it was there already."""
        ...

    def fetchable(self, source: Path) -> PurePosixPath | None:
        """Where the file is there, where it need not be copied; None where it has to be."""
        ...

    def interactive(self, argv: Sequence[str]) -> list[str]:
        """The command that runs a program there for a person who watches it, to be run here."""
        ...

    def alone(self, name: str, *, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lock of that name of this user there; whoever holds it loses it when killed.

        While another run has it, `on_wait` is called again and again, and may raise; after `WAIT` seconds BusyError is.
        """
        ...


class Here:
    """This machine."""

    where = "this machine"

    def run(
        self, argv: Sequence[str], *, timeout: float, check: bool = True, on_errors: OnText | None = None
    ) -> Result:
        """See `Place`."""
        return command.run(argv, timeout=timeout, check=check, on_errors=on_errors)

    def put(self, source: Path, target: PurePosixPath, *, mode: int) -> bool:
        """See `Place`."""
        there = Path(target)
        data = source.read_bytes()
        if there.is_file() and there.read_bytes() == data:
            return False
        there.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".hapx-", dir=there.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
            Path(name).replace(there)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return True

    def fetchable(self, source: Path) -> PurePosixPath | None:
        """See `Place`."""
        return PurePosixPath(source.absolute())

    def interactive(self, argv: Sequence[str]) -> list[str]:
        """See `Place`."""
        return list(argv)

    @contextlib.contextmanager
    def alone(self, name: str, *, on_wait: Callable[[], None]) -> Iterator[None]:
        """See `Place`."""
        from builder.image import locks, workplace

        path = workplace.cache_folder() / f"{name}.lock"
        workplace.make(path.parent)
        deadline = time.monotonic() + WAIT
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locks.held(path, wait=False))
                    break
                except BlockingIOError:
                    on_wait()
                    if time.monotonic() >= deadline:
                        raise _busy(self.where) from None
                    time.sleep(POLL)
            yield


@dataclass(frozen=True, slots=True)
class Target:
    """Whom ssh connects to."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def of(cls, uri: str) -> Target:
        """The target that ssh://[user@]host[:port] names; raises InputError for anything else."""
        try:
            parts = urlsplit(uri)
            port = parts.port
        except ValueError as error:
            raise InputError(f"{uri}: {error}", hint="ssh://user@host:port") from None
        if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
            raise InputError(f"{uri}: not the address of a host", hint="ssh://user@host or ssh://user@host:port")
        # Whatever begins with a hyphen would be an option to ssh.
        user = unquote(parts.username) if parts.username else None
        if parts.hostname.startswith("-") or (user or "").startswith("-"):
            raise InputError(f"{uri}: no host or user has such a name")
        return cls(parts.hostname, user, port)

    @property
    def spoken(self) -> str:
        """As a person names it: user@host:port."""
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return f"{self.user}@{host}" if self.user else host

    @property
    def options(self) -> list[str]:
        """What ssh takes for the user and the port."""
        found = ["-l", self.user] if self.user else []
        return [*found, "-p", str(self.port)] if self.port else found


class Ssh:
    """A machine reached by SSH. May be used by several threads at once."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._target = Target.of(uri)

    @property
    def where(self) -> str:
        """See `Place`."""
        return self._uri

    @cached_property
    def _argv(self) -> list[str]:
        """ssh up to and including the host."""
        command.require("ssh", package="openssh-client")
        options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "ServerAliveInterval=15"]
        if (socket_path := self._control()) is not None:
            options += ["ControlMaster=auto", f"ControlPath={socket_path}", f"ControlPersist={PERSIST_SECONDS}"]
        flags = [part for option in options for part in ("-o", option)]
        return ["ssh", "-T", *flags, *self._target.options, "--", self._target.host]

    def _control(self) -> Path | None:
        """Where the socket of the one connection goes, in a folder of this user alone; None where there is no place."""
        folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"hapx-build-{os.getuid()}"
        path = folder / hashlib.sha256(self._uri.encode()).hexdigest()[:12]
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            there = folder.lstat()
        except OSError:
            return None
        private = there.st_uid == os.getuid() and stat.S_ISDIR(there.st_mode) and not there.st_mode & 0o077
        return path if private and len(str(path)) <= SOCKET_LENGTH else None

    def run(
        self, argv: Sequence[str], *, timeout: float, check: bool = True, on_errors: OnText | None = None
    ) -> Result:
        """See `Place`."""
        result = command.run([*self._argv, _remote(argv)], timeout=timeout, check=False, on_errors=on_errors)
        self._judge(result)
        if check and result.returncode != 0:
            raise command.failure(result, (result.stderr or result.stdout).splitlines()[-command.TAIL_LINES :])
        return result

    def put(self, source: Path, target: PurePosixPath, *, mode: int) -> bool:
        """See `Place`; what is there is known by its SHA-256."""
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found = self.run(["sh", "-c", _DIGEST, str(target)], timeout=QUICK, check=False)
        if found.stdout.split()[:1] == [digest]:
            return False
        # Only the shell here opens the file for ssh; nothing in its name is ever part of a script.
        receive = _remote(["sh", "-c", _RECEIVE, str(target), f"{mode:o}", digest])
        argv = ["sh", "-c", 'file=$1; shift; exec "$@" <"$file"', "sh", str(source), *self._argv, receive]
        result = command.run(argv, timeout=COPY, check=False)
        self._judge(result)
        if result.returncode != 0:
            said = result.stderr.splitlines()
            if "No space left" in result.stderr:
                raise NoSpaceError(f"{self.where}: no space left for {target}", details=said)
            raise CommandError(
                f"{self.where}: {source.name} could not be copied there", returncode=result.returncode, details=said
            )
        return True

    def fetchable(self, source: Path) -> PurePosixPath | None:
        """See `Place`."""
        return None

    def interactive(self, argv: Sequence[str]) -> list[str]:
        """See `Place`."""
        before = ["-t" if part == "-T" else part for part in self._argv]
        return [*before, _remote(argv)]

    @contextlib.contextmanager
    def alone(self, name: str, *, on_wait: Callable[[], None]) -> Iterator[None]:
        """See `Place`."""
        wait = str(math.ceil(WAIT))
        with command.beside([*self._argv, _remote(["sh", "-c", _HOLD, f"{name}.lock", wait])]) as line:
            try:
                said = line(QUICK)
                deadline = time.monotonic() + WAIT + QUICK
                while said == "waiting":
                    on_wait()
                    try:
                        said = line(POLL)
                    except CommandTimeoutError:
                        if time.monotonic() >= deadline:
                            raise
            except CommandError as error:
                if error.returncode == SSH_FAILED:
                    raise unreachable(self._uri, self._target, "\n".join(error.details)) from None
                raise
            if said != "held":
                raise _busy(self.where)
            yield

    def _judge(self, result: Result) -> None:
        if result.returncode == SSH_FAILED:
            raise unreachable(self._uri, self._target, result.stderr or result.stdout)


# The digest of the file $0, by whichever program the host has: GNU's, or perl's (macOS, BSD).
_DIGEST = (
    'test -f "$0" || exit 0; if command -v sha256sum >/dev/null; then sha256sum <"$0"; else shasum -a 256 <"$0"; fi'
)
# Standard input -> the file $0, mode $1, digest $2: whole or not at all.
_RECEIVE = """set -eu; umask 077; mkdir -p "$(dirname "$0")"; part=$0.part.$$; trap 'rm -f "$part"' EXIT
cat >"$part"
if command -v sha256sum >/dev/null; then sum=$(sha256sum <"$part"); else sum=$(shasum -a 256 <"$part"); fi
if [ "${sum%% *}" != "$2" ]; then echo "it did not arrive as it was sent" >&2; exit 1; fi
chmod "$1" "$part"; mv -f "$part" "$0" """

# Hold the lock $0 until standard input ends, waiting for it $1 seconds; says waiting, held or busy. By flock(1), or by
# perl (macOS, BSD): the lock is the descriptor's, which stays with the shell.
_HOLD = """set -eu; umask 077; mkdir -p .cache/hapx-build; exec 9>>".cache/hapx-build/$0"
lock() {
    if command -v flock >/dev/null; then
        if [ "$1" = 0 ]; then flock -n 9; else flock -w "$1" 9; fi
    else
        perl -e 'use Fcntl ":flock"; open(F, ">&=9") or die; alarm $ARGV[0];
            exit !flock(F, LOCK_EX | ($ARGV[0] ? 0 : LOCK_NB))' "$1"
    fi
}
lock 0 || { echo waiting; lock "$1" || { echo busy; exit; }; }
echo held; cat >/dev/null"""


def _busy(where: str) -> BusyError:
    return BusyError(
        f"{where}: another run of hapx-build is at work there, for {WAIT / 60:.0f} minutes already",
        hint="run this again when that one is done",
    )


def unreachable(name: str, target: Target, said: str) -> HapxError:
    """The error for what ssh said when it could not connect to a host, with what to do about it."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip() and not line.startswith("Warning:")]
    by = f"ssh {' '.join([*target.options, target.host])}"
    for pattern, what, hint in (
        (
            r"REMOTE HOST IDENTIFICATION HAS CHANGED",
            "its host key is not the one that is known",
            "find out why before you mend it",
        ),
        (r"Host key verification failed", "its host key is not known here", f"connect once by hand, and compare: {by}"),
        (r"Permission denied", "it refuses this user", f"a key that it takes, in ssh-agent or ~/.ssh: try {by}"),
        (r"Could not resolve hostname", "no such host", "see the name in the spec, or ~/.ssh/config"),
        (r"Connection refused", "nobody listens for SSH there", "see the port, and whether sshd runs"),
        (r"timed out|No route to host|Network is unreachable", "it does not answer", "see whether it is up"),
    ):
        if re.search(pattern, said):
            return UnreachableError(
                f"{name}: {what}", hint=hint or f"ssh-keygen -R, once you know why; then {by}", details=lines
            )
    return UnreachableError(f"{name}: the connection failed", hint=f"try {by}", details=lines)


def place(uri: str | None) -> Here | Ssh:
    """This machine where there is no URI, else the one that ssh://… names."""
    return Here() if uri is None else Ssh(uri)


def require(found: Result, program: str, where: str, hint: str) -> None:
    """Raise MissingError where the shell on another machine did not find a program."""
    if found.returncode == NOT_FOUND:
        raise MissingError(f"{where}: {program} is not installed there, or not on the PATH of its shells", hint=hint)


def node_argv(
    cluster: Cluster, node: Node, argv: Sequence[str] = (), *, address: str | None = None, batch: bool = False
) -> list[str]:
    """The command that logs in to a node as the spec's first user, and runs a program there if one is given.

    By `address`, else the node's first one. Through the machine that the node runs on, where that is another one. The
    node's host key is kept in a file of ours for its cluster, under its name: made again, it has another, and addresses
    of one cluster may be those of another one's nodes. `batch`: nothing is ever asked. Raises InputError where the node
    has no address.
    """
    found = address or next(iter(addresses(cluster, node)), None)
    if found is None:
        raise InputError(f"{node.name}: no address in the spec to reach it by", hint="give it one under addresses")
    known = known_hosts(cluster)
    known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = [
        f"UserKnownHostsFile={known}",
        "StrictHostKeyChecking=accept-new",
        f"HostKeyAlias={node.name}",
        f"ConnectTimeout={CONNECT_SECONDS}",
        *(["BatchMode=yes"] if batch else []),
    ]
    flags = [part for option in options for part in ("-o", option)]
    if node.host is not None and (jump := _jump(node.host)):
        flags += ["-J", jump]
    return ["ssh", *flags, "-l", cluster.users[0].name, "--", found, *([_remote(argv)] if argv else [])]


def addresses(cluster: Cluster, node: Node) -> list[str]:
    """The node's addresses, in the order of the networks: those that its host has a card on before the others."""
    names = list(cluster.networks)
    far = [name for name in names if cluster.networks[derived.card(cluster, name)].kind == "intnet"]
    ordered = [*(name for name in names if name not in far), *far]
    return [str(address) for name in ordered for address in node.addresses.get(name, ())]


def known_hosts(cluster: Cluster) -> Path:
    """The file with the host keys of a cluster's nodes."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return base / "hapx-build" / "known_hosts" / cluster.name


def _jump(uri: str) -> str | None:
    """The machine of a hypervisor's URI as ssh -J takes it; None for this one."""
    parts = urlsplit(uri)
    if not parts.hostname or parts.scheme.partition("+")[2] not in ("", "ssh", "libssh", "libssh2"):
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    user = f"{unquote(parts.username)}@" if parts.username else ""
    return f"{user}{host}:{parts.port}" if parts.port else f"{user}{host}"


def _remote(argv: Sequence[str]) -> str:
    """The command for the shell on the other side."""
    return shlex.join(argv)


def answers(address: str, *, port: int = 22, timeout: float = 1.0) -> bool:
    """Whether somebody takes TCP connections there within `timeout` seconds."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False
