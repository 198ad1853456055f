"""A machine's end of a wire with VLANs, for kernels without 802.1Q: argv is the wire's interface, then NAME=ID for each
VLAN. All of them become TAP devices: frames go from the wire to the VLAN they are tagged with, and back with its tag.

Says an empty list in a line when the devices are there; they live as long as it does.
"""

import contextlib
import fcntl
import os
import select
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
TPID = b"\x81\x00"
ADDRESSES = 12  # bytes of the two MAC addresses that every Ethernet frame begins with
FRAME = 65536


def tap(name: str) -> int:
    """A TAP device of this name; its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def main() -> None:
    wire = tap(sys.argv[1])
    vlans = {int(number): tap(name) for name, _, number in (each.partition("=") for each in sys.argv[2:])}
    tags = {end: TPID + struct.pack("!H", number) for number, end in vlans.items()}
    sys.stdout.write("[]\n")
    sys.stdout.flush()
    poll = select.poll()
    for end in (wire, *tags):
        poll.register(end, select.POLLIN)
    while True:
        for end, _ in poll.poll():
            frame = os.read(end, FRAME)
            if end != wire:
                target, frame = wire, frame[:ADDRESSES] + tags[end] + frame[ADDRESSES:]
            elif frame[ADDRESSES : ADDRESSES + 2] == TPID:
                (tag,) = struct.unpack_from("!H", frame, ADDRESSES + 2)
                target, frame = vlans.get(tag & 0xFFF), frame[:ADDRESSES] + frame[ADDRESSES + 4 :]
            else:
                continue
            if target is not None:
                with contextlib.suppress(OSError):  # nobody is at the other end: the interface is not up
                    os.write(target, frame)


if __name__ == "__main__":
    main()
