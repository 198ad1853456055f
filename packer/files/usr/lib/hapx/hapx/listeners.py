"""Whether the ports of a new haproxy.cfg are somebody else's: HAProxy would only find out while it reloads.

It then has the worker that serves let go of its own ports for up to two seconds, to see whether that is the trouble.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_BIND = re.compile(r"^[ \t]*bind[ \t]+(\S+)", re.MULTILINE)
# As builder/seed/haproxy.py reads them: "[family@][address]:first[-last]", a comma between several.
_ADDRESS = re.compile(
    r"(?:(?:ipv[46]|tcp[46]?|stream\+ipv[46])@)?(?P<host>[^@,]*):(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?"
)
_LISTENER = re.compile(
    r"^LISTEN\s+\d+\s+\d+\s+(?P<host>\S+):(?P<port>\d+)\s+\S+\s*(?:users:\(\(\"(?P<who>[^\"]+)\")?", re.MULTILINE
)
ARGV = ("ss", "--listening", "--tcp", "--numeric", "--processes", "--no-header")
_EVERYWHERE = {"", "*", "0.0.0.0", "[::]", "::"}  # noqa: S104 - names of it, nothing is bound


def taken(configuration: str, listening: str) -> Iterator[str]:
    """What of `bind` is taken, in words; `listening` is what `ss` (see ARGV) says."""
    held = [
        (match["host"].partition("%")[0], int(match["port"]), match["who"] or "another program")
        for match in _LISTENER.finditer(listening)
        if match["who"] != "haproxy"
    ]
    for bind in _BIND.finditer(configuration):
        for part in bind[1].strip("\"'").split(","):
            address = _ADDRESS.fullmatch(part)
            if address is None:
                continue
            ports = range(int(address["first"]), int(address["last"] or address["first"]) + 1)
            for host, port, who in held:
                if port in ports and _meet(address["host"], host):
                    yield f"haproxy.cfg: bind {part}: {who} listens on {host}:{port}"


def _meet(one: str, other: str) -> bool:
    one, other = one.strip("[]"), other.strip("[]")
    return one == other or one in _EVERYWHERE or other in _EVERYWHERE
