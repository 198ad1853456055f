"""Who has the address: each node's own interfaces, looked at every few milliseconds, and who says so on the wire.

    python owners.py ADDRESS BRIDGE INTERVAL NODE...

One JSON line a change on standard output: [when, "has", [nodes]] whenever other nodes have the address than before, and
[when, "arp", MAC] for each ARP packet on the bridge whose sender claims it (RFC 826, RFC 5227). A node's interfaces are
asked through a netlink socket in its network namespace, /run/netns/NODE; one that is gone has no address.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import socket
import struct
import sys
import threading
import time
from pathlib import Path

ETH_P_ARP = 0x0806
CLONE_NEWNET = 0x40000000
RTM_GETADDR, NLM_F_REQUEST, NLM_F_DUMP, NLMSG_DONE, RTM_NEWADDR, IFA_ADDRESS, IFA_LOCAL = 22, 1, 0x300, 3, 20, 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def say(*what: object) -> None:
    sys.stdout.write(json.dumps([time.monotonic(), *what]) + "\n")
    sys.stdout.flush()


def netlink_in(path: Path) -> socket.socket:
    """A netlink socket in another network namespace: a thread of its own goes there and does not come back."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            with path.open("rb") as file:
                if _libc.setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def addresses(netlink: socket.socket) -> set[bytes]:
    """Every IPv4 address of the namespace (rtnetlink(7))."""
    netlink.send(
        struct.pack("=IHHIIBBBBI", 24, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, socket.AF_INET, 0, 0, 0, 0)
    )
    found: set[bytes] = set()
    while True:
        data = netlink.recv(1 << 16)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind == NLMSG_DONE:
                return found
            if kind == RTM_NEWADDR:
                at = 24
                while at + 4 <= length:
                    size, name = struct.unpack_from("=HH", data, at)
                    if name == IFA_LOCAL:
                        found.add(data[at + 4 : at + size])
                    at += (size + 3) & ~3
            data = data[(length + 3) & ~3 :]


class Node:
    """A node's namespace: the one of its latest start."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, Path("/run/netns", name)
        self.held: tuple[int, socket.socket] | None = None

    def has(self, address: bytes) -> bool:
        try:
            number = self.path.stat().st_ino
            if self.held is None or self.held[0] != number:
                self.forget()
                self.held = number, netlink_in(self.path)
            return address in addresses(self.held[1])
        except OSError:
            self.forget()
            return False

    def forget(self) -> None:
        if self.held is not None:
            self.held[1].close()
            self.held = None


def look(address: bytes, interval: float, nodes: list[Node]) -> None:
    before: list[str] | None = None
    while True:
        now = [node.name for node in nodes if node.has(address)]
        if now != before:
            say("has", now)
            before = now
        time.sleep(interval)


def listen(address: bytes, bridge: str) -> None:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    wire.bind((bridge, ETH_P_ARP))
    while True:
        frame, where = wire.recvfrom(2048)
        if where[2] != socket.PACKET_OUTGOING and frame[28:32] == address:
            say("arp", frame[22:28].hex(":"))


if __name__ == "__main__":
    wanted = socket.inet_aton(sys.argv[1])
    threading.Thread(target=listen, args=(wanted, sys.argv[2]), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        look(wanted, float(sys.argv[3]), [Node(name) for name in sys.argv[4:]])
