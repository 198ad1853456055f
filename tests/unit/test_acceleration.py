"""KVM or software emulation: the choice by tables, the reading of a device, and this machine."""

from __future__ import annotations

import errno
import platform
from pathlib import Path

import pytest

from builder import acceleration, command
from builder.acceleration import KVM_API_VERSION, Accelerator, Device, decide

OPENS = Device(0, KVM_API_VERSION)
INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme sse2 vmx ssse3 cx16\nbugs\t\t: spectre_v1\n"
AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu vme svm sse4a npt\n"
NEITHER = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme sse2 ssse3 cx16 hypervisor\n"
ONLY_LOOKS_ALIKE = (
    "processor\t: 0\nmodel name\t: vmx svm 9000\nflags\t\t: fpu svm_lock vmxnet\nvmx flags\t: vnmi invvpid\n"
)
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm aes\n"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "device", "expected", "reason"),
    [
        ("x86_64", INTEL, OPENS, "kvm", "the processor can"),
        ("x86_64", AMD, OPENS, "kvm", "the processor can"),
        ("x86_64", NEITHER, OPENS, "tcg", "neither vmx nor svm (that /dev/kvm opens proves nothing)"),
        ("x86_64", NEITHER, Device(errno.ENOENT), "tcg", "the processor shows neither vmx nor svm"),
        ("x86_64", ONLY_LOOKS_ALIKE, OPENS, "tcg", "neither vmx nor svm"),
        ("x86_64", "", OPENS, "tcg", "neither vmx nor svm"),
        ("x86_64", INTEL, Device(errno.EACCES), "tcg", "this user may not open /dev/kvm"),
        ("x86_64", INTEL, Device(errno.EPERM), "tcg", "this user may not open /dev/kvm"),
        ("x86_64", INTEL, Device(errno.ENOENT), "tcg", "there is no /dev/kvm"),
        ("x86_64", INTEL, Device(errno.ENODEV), "tcg", "does not open: No such device"),
        ("x86_64", INTEL, Device(0, 11), "tcg", "version 11 of its API, not 12"),
        ("x86_64", INTEL, Device(0), "tcg", "version 0 of its API, not 12"),
        ("aarch64", ARM, OPENS, "kvm", "the processor can"),
        ("aarch64", ARM, Device(errno.EACCES), "tcg", "this user may not open /dev/kvm"),
        ("aarch64", ARM, Device(0), "tcg", "version 0 of its API"),
    ],
)
def test_choice(machine: str, cpuinfo: str, device: Device, expected: str, reason: str) -> None:
    chosen = decide(machine=machine, cpuinfo=cpuinfo, device=device)
    assert chosen.accelerator == expected
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("cpuinfo", "device", "hint"),
    [
        (INTEL, Device(errno.EACCES), 'sudo usermod -aG kvm "$USER"'),
        (INTEL, Device(errno.ENOENT), "modprobe kvm_intel"),
        (NEITHER, OPENS, "nested virtualisation"),
        (INTEL, OPENS, ""),
    ],
)
def test_what_to_do_for_kvm(cpuinfo: str, device: Device, hint: str) -> None:
    said = decide(machine="x86_64", cpuinfo=cpuinfo, device=device).hint
    assert hint in said
    assert bool(hint) == bool(said)


def test_file_that_is_no_kvm_opens_without_a_version(tmp_path: Path) -> None:
    path = tmp_path / "kvm"
    path.touch()
    assert acceleration.open_device(path) == Device(0, 0)


def test_device_that_is_not_there(tmp_path: Path) -> None:
    assert acceleration.open_device(tmp_path / "kvm") == Device(errno.ENOENT)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors do not list what they can")
def test_this_machine_uses_kvm_only_with_a_processor_that_can() -> None:
    """The table above, on whatever runs this: read from the kernel in another way than the code does."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    words = {word for line in lines if line.startswith("flags") for word in line.split()}
    chosen = acceleration.detect()
    if not words & {"vmx", "svm"}:
        assert chosen.accelerator is Accelerator.TCG
    if chosen.accelerator is Accelerator.KVM:
        assert Path("/dev/kvm").is_char_device()


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(acceleration.Acceleration(Accelerator.TCG, "asked for"), id="emulation"),
        pytest.param(acceleration.detect(), id="this machine"),
    ],
)
def test_qemu_takes_the_arguments(chosen: acceleration.Acceleration) -> None:
    argv = ["qemu-system-x86_64", *chosen.qemu_arguments(), "-display", "none", "-nodefaults", "-S"]
    result = command.run([*argv, "-monitor", "stdio"], input="info status\ninfo kvm\nquit\n", timeout=60)
    assert "VM status: paused" in result.stdout
    expected = "enabled" if chosen.accelerator is Accelerator.KVM else "disabled"
    assert f"kvm support: {expected}" in result.stdout


def test_kvm_uses_the_hosts_processor() -> None:
    """What cannot be started where there is no KVM can at least be said."""
    arguments = acceleration.Acceleration(Accelerator.KVM, "").qemu_arguments()
    assert arguments == ("-accel", "kvm", "-cpu", "host")
