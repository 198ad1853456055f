"""HAProxy on this node: whether it answers, what it says of its backends, and a new configuration for it."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from hapx.facts import Monitor

CONFIGURATION = Path("/etc/haproxy/haproxy.cfg")
_SOCKET = Path("/run/haproxy/admin.sock")
_STATS_SOCKET = re.compile(r"^\s*stats\s+socket\s+(?:unix@)?(/\S+)", re.MULTILINE)
SECONDS = 2.0
_MAX_BYTES = 1 << 24
# Backends and servers (2 + 4) of every proxy: "show stat", HAProxy's management guide, 9.3.
_SHOW = "show stat -1 6 -1"
_UP = ("UP", "no check")


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend: how many of its servers take connections."""

    name: str
    up: int
    total: int


def is_alive(monitor: Monitor, *, seconds: float = SECONDS) -> bool:
    """Whether HAProxy answers where the cluster asks it."""
    request = f"GET {monitor.uri} HTTP/1.0\r\nHost: {monitor.address}\r\n\r\n"
    try:
        with socket.create_connection((monitor.address, monitor.port), timeout=seconds) as connection:
            connection.sendall(request.encode())
            return re.match(rb"HTTP/1\.[01] 200 ", _received(connection, time.monotonic() + seconds)) is not None
    except OSError:
        return False


def backends(*, seconds: float = SECONDS) -> tuple[Backend, ...]:
    """The backends that have servers, in the configuration's order; none where HAProxy cannot be asked."""
    try:
        return parse(ask(_stats_socket(), _SHOW, seconds=seconds))
    except OSError:
        return ()


def ask(path: Path, command: str, *, seconds: float = SECONDS) -> str:
    """What HAProxy answers to a command on one of its sockets; raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(str(path))
        connection.sendall(f"{command}\n".encode())
        return _received(connection, time.monotonic() + seconds).decode(errors="replace")


def parse(text: str) -> tuple[Backend, ...]:
    """What `show stat` says, as CSV."""
    up: dict[str, int] = {}
    total: dict[str, int] = {}
    for row in csv.DictReader(io.StringIO(text.removeprefix("# "))):
        name, server, status = row["pxname"], row["svname"], row["status"] or ""
        if server not in {"BACKEND", "FRONTEND"}:
            total[name] = total.get(name, 0) + 1
            up[name] = up.get(name, 0) + status.startswith(_UP)
    return tuple(Backend(name, up[name], count) for name, count in total.items())


def _stats_socket() -> Path:
    """The socket that the configuration names: it may be the user's own."""
    with contextlib.suppress(OSError):
        if match := _STATS_SOCKET.search(CONFIGURATION.read_text(errors="replace")):
            return Path(match[1])
    return _SOCKET


def _received(connection: socket.socket, deadline: float) -> bytes:
    received = b""
    while len(received) < _MAX_BYTES:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        chunk = connection.recv(1 << 16)
        if not chunk:
            break
        received += chunk
    return received
