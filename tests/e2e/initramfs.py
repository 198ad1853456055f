"""Reads the names in an initramfs, without unpacking it."""

from __future__ import annotations

import subprocess


def cpio_names(data: bytes) -> list[str]:
    """The names in an initramfs: archives one after the other, the last of them compressed with zstd.

    Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst ("newc").
    """
    found: list[str] = []
    at = 0
    while at < len(data):
        if data[at : at + 4] == b"\x28\xb5\x2f\xfd":  # zstd's magic number
            return found + cpio_names(unzstd(data[at:]))
        if data[at : at + 6] != b"070701":
            assert data[at : at + 4] == bytes(4), f"neither an archive nor padding at {at}"
            at += 4
            continue
        fields = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        size, length = fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        if name != "TRAILER!!!":
            found.append(name)
        at = aligned(aligned(at + 110 + length) + size)
    return found


def aligned(offset: int) -> int:
    """The next multiple of four."""
    return -(-offset // 4) * 4


def unzstd(data: bytes) -> bytes:
    """Decompress what zstd compressed."""
    return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout
