"""Whether HAProxy will get the addresses and ports of a new haproxy.cfg: it would only find out while it reloads.

It then has the worker that serves let go of its own ports for up to two seconds, to see whether that is the trouble:
long enough for the cluster to take it for dead. So each is tried here before.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from ipaddress import ip_address

_BIND = re.compile(r"^[ \t]*bind[ \t]+(\S+)(.*)$", re.MULTILINE)
# "[family@][address]:first[-last]", a comma between several (HAProxy 3.0, 5.1 and 11). All else is no TCP port.
_ADDRESS = re.compile(
    r"(?:(?:ipv[46]|tcp[46]?|stream\+ipv[46])@)?(?P<host>[^@,]*):(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?"
)
_IPV6_TRANSPARENT = 75  # linux/in6.h
_MAX_PORTS = 1024  # of one range: beyond that the first and the last are tried


def refused(configuration: str) -> Iterator[str]:
    """What of `bind` the kernel refuses, in words.

    HAProxy lets others of the same user share its ports (SO_REUSEPORT), so those that it holds itself are no obstacle.
    """
    shared = not re.search(r"^[ \t]*noreuseport\b", configuration, re.MULTILINE)
    for bind in _BIND.finditer(configuration):
        words = bind[2].split("#")[0].split()
        for part in bind[1].strip("\"'").split(","):
            address = _ADDRESS.fullmatch(part)
            if address is None or not 0 < (last := int(address["last"] or address["first"])) < 1 << 16:
                continue
            ports = range(int(address["first"]), last + 1)
            for port in ports if len(ports) <= _MAX_PORTS else (ports[0], ports[-1]):
                number = _tried(address["host"].strip("[]"), port, words)
                if number in {0, None} or (number == errno.EADDRINUSE and not shared):
                    continue
                yield f"haproxy.cfg: bind {part}: port {port}: {os.strerror(number or 0)}"


def _tried(host: str, port: int, words: list[str]) -> int | None:
    """The error that an attempt to bind ends with, 0 where it is fine, None where it cannot be tried here."""
    if host in {"", "*"}:
        host = "0.0.0.0"  # noqa: S104 - bound for a moment, and never listened on
    try:
        six = ip_address(host).version == 6
    except ValueError:
        return None
    try:
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if six:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, "v4v6" not in words)
            if "transparent" in words:
                level, option = (
                    (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if six else (socket.SOL_IP, 19)
                )  # IP_TRANSPARENT
                tried.setsockopt(level, option, 1)
            tried.bind((host, port))
    except OSError as error:
        return error.errno
    return 0
