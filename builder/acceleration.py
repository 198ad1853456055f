"""Whether guests of this machine's architecture can run on its processor (KVM), or have to be emulated (TCG).

A /dev/kvm that opens proves nothing on x86: where the processor has neither vmx nor svm (a nested machine without
nested virtualisation, say) it may open, answer its version and even make a machine, and the guest then hangs silently.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

KVM_GET_API_VERSION = 0xAE00  # _IO(KVMIO, 0x00), linux/kvm.h
KVM_API_VERSION = 12  # the same header: applications should refuse any other


class Accelerator(StrEnum):
    """What executes a guest's instructions, by QEMU's names."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Device:
    """What came of opening /dev/kvm for reading and writing: an errno (0: it opened), and the API version it told."""

    error: int
    api_version: int = 0


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What to run guests with, why, and what would have to be done for KVM (empty with KVM)."""

    accelerator: Accelerator
    reason: str
    hint: str = ""

    def qemu_arguments(self) -> tuple[str, ...]:
        """QEMU's accelerator and CPU model: the host's own under KVM, all that can be emulated otherwise."""
        if self.accelerator is Accelerator.KVM:
            return ("-accel", "kvm", "-cpu", "host")
        return ("-accel", "tcg,thread=multi", "-cpu", "max")


def decide(*, machine: str, cpuinfo: str, device: Device) -> Acceleration:
    """Choose from what was found: `machine` as uname names it, the text of /proc/cpuinfo, and /dev/kvm's answer."""
    if machine in {"x86_64", "i686"} and not re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo, re.MULTILINE):
        reason = "the processor shows neither vmx nor svm"
        if not device.error:
            reason += " (that /dev/kvm opens proves nothing)"
        hint = "switch on virtualisation in the firmware, or nested virtualisation for this virtual machine on its host"
        return Acceleration(Accelerator.TCG, reason, hint)
    match device.error:
        case 0 if device.api_version == KVM_API_VERSION:
            return Acceleration(Accelerator.KVM, "the processor can, and /dev/kvm opens")
        case 0:
            reason = f"/dev/kvm speaks version {device.api_version} of its API, not {KVM_API_VERSION}"
            return Acceleration(Accelerator.TCG, reason)
        case errno.EACCES | errno.EPERM:
            hint = 'sudo usermod -aG kvm "$USER", then log in again'
            return Acceleration(Accelerator.TCG, "this user may not open /dev/kvm", hint)
        case errno.ENOENT:
            hint = (
                "load the kernel's module (sudo modprobe kvm_intel or kvm_amd); in a container, pass --device /dev/kvm"
            )
            return Acceleration(Accelerator.TCG, "there is no /dev/kvm", hint)
        case error:
            return Acceleration(Accelerator.TCG, f"/dev/kvm does not open: {os.strerror(error)}")


def open_device(path: Path = Path("/dev/kvm")) -> Device:
    """Open /dev/kvm for reading and writing and ask for its API version."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Device(error.errno or errno.EIO)
    try:
        return Device(0, fcntl.ioctl(descriptor, KVM_GET_API_VERSION))
    except OSError:
        return Device(0)  # it opened, but is no KVM
    finally:
        os.close(descriptor)


def detect() -> Acceleration:
    """The acceleration of this machine."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    return decide(machine=platform.machine(), cpuinfo=cpuinfo, device=open_device())
