"""Who answers for a floating IP on its wire: ARP for IPv4, neighbour discovery for IPv6."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from hapx.errors import NodeError
from hapx.facts import Vip
from hapx.programs import failure, run

_TRIES = 3
_ARP_ANSWER = re.compile(r"reply from \S+ \[([0-9A-Fa-f:]+)\]")
# RFC 4861, 4.3 and 4.4: types of messages, the option with the sender's address, and the hop limit that says that a
# message is from this very link.
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOURCE_LINK_LAYER = 1
_HOP_LIMIT = 255
_ICMPV6_FILTER = 1  # linux/icmpv6.h: ICMPV6_FILTER


def holder(vip: Vip) -> str | None:
    """The hardware address, or IPv6 address, of who answers for a VIP; None: nobody does.

    Raises NodeError where that cannot be seen: a card without a link hears nobody.
    """
    folder = Path("/sys/class/net", vip.interface)
    try:
        carrier = (folder / "carrier").read_text().strip()
        hardware = (folder / "address").read_text().strip()
    except OSError:
        carrier = hardware = ""
    if carrier != "1":
        raise NodeError(
            f"{vip.interface} has no link, so nobody can say whether {vip.address} is alive",
            hint="see to the cable and the switch first",
        )
    address = ip_address(vip.address)
    return _arp(vip) if not isinstance(address, IPv6Address) else _neighbour(vip, address, hardware)


def _arp(vip: Vip) -> str | None:
    """Duplicate address detection (RFC 5227): asked from 0.0.0.0, so that it works without an address here."""
    argv = ["arping", "-D", "-c", str(_TRIES), "-w", str(_TRIES), "-I", vip.interface, vip.address]
    result = run(argv, timeout=_TRIES + 5.0)
    if match := _ARP_ANSWER.search(result.stdout):
        return match[1]
    if result.returncode == 1:
        return "somebody"
    if not result.ok:
        raise failure(result)
    return None


def _neighbour(vip: Vip, address: IPv6Address, hardware: str) -> str | None:
    index = socket.if_nametoindex(vip.interface)
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)
    message = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + address.packed
    message += struct.pack("!BB", _SOURCE_LINK_LAYER, 1) + bytes.fromhex(hardware.replace(":", ""))
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        raw.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, _only(_ADVERTISEMENT))
        for _ in range(_TRIES):
            try:
                raw.sendto(message, (str(group), 0, 0, index))
            except OSError as error:
                raise NodeError(f"{vip.interface}: cannot ask for {address}: {error.strerror}") from None
            deadline = time.monotonic() + 1.0
            while (left := deadline - time.monotonic()) > 0 and select.select([raw], [], [], left)[0]:
                answer, source = raw.recvfrom(1500)
                if answer[8:24] == address.packed:
                    return str(source[0])
    return None


def _only(kind: int) -> bytes:
    """The filter that lets one type of message through: a bit for each that it holds back."""
    return ((1 << 256) - 1 & ~(1 << kind)).to_bytes(32, "little")
