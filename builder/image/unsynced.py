"""Runs a program for which fsync(2) and its like do nothing: `python -m builder.image.unsynced PROGRAM ARGUMENTS…`.

dpkg asks some eight thousand times that its database be on the disk. What it works in here is thrown away when anything
goes wrong, and copied when not: waiting for a disk is for nothing. eatmydata does the same by a library inside the
root, and knows fewer of these calls. Only root may filter system calls of set-user-ID programs (seccomp(2)); anybody
else's program runs as it is, and so does one on a processor whose call numbers are not here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence

# linux/audit.h and asm/unistd_64.h: fsync, fdatasync, sync, sync_file_range, syncfs
ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
CALLS = (74, 75, 162, 277, 306)

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2  # prctl(2)
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h: LD|W|ABS, JMP|JEQ|K, RET|K
_ALLOW, _SUCCEED = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with error 0
_CALL_AT, _ARCHITECTURE_AT = 0, 4  # struct seccomp_data


def filter_program() -> bytes:
    """The filter as the kernel takes it: an array of struct sock_filter (code, jump if true, jump if false, value)."""
    last = len(CALLS)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 0, last + 1, ARCHITECTURE),
        (_LOAD, 0, 0, _CALL_AT),
        *((_EQUAL, last - index, 0, call) for index, call in enumerate(CALLS)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _SUCCEED),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def install() -> bool:
    """Filter the calls of this process and of all it starts; False where that cannot be."""
    if platform.machine() != "x86_64":
        return False
    program = filter_program()
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    refused: int = ctypes.CDLL(None).prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0)
    return refused == 0


def main(argv: Sequence[str]) -> None:
    """Become the program."""
    install()
    os.execvp(argv[0], list(argv))  # noqa: S606 - whoever starts this one watches over it


if __name__ == "__main__":
    main(sys.argv[1:])
