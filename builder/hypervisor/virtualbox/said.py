"""What VBoxManage says when it fails -> an error that says what to do. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.command import Result, format_argv
from builder.errors import BusyError, CommandError, HapxError, InputError, MissingError, NoSpaceError


@dataclass(frozen=True, slots=True)
class _Case:
    """A failure that is known by what is said; with `command` only of that one."""

    pattern: str
    kind: type[HapxError]
    message: str
    hint: str
    command: str = ""


_CASES = (
    _Case(
        # Debian's start script warns of this before every command, and only a machine that starts needs it.
        r"/dev/vboxdrv does not exist|VERR_VM_DRIVER_(NOT_INSTALLED|NOT_ACCESSIBLE|LOAD)|Kernel driver not installed",
        MissingError,
        "{where}: VirtualBox cannot start machines: its kernel driver is not loaded",
        "modprobe vboxdrv as root loads it; where that fails, Debian's package virtualbox-dkms, or /sbin/vboxconfig of "
        "VirtualBox's own package, builds it for this kernel",
        command="startvm",
    ),
    _Case(
        r"VERR_VMX_IN_VMX_ROOT_MODE|VERR_SVM_IN_USE",
        MissingError,
        "{where}: VirtualBox cannot start machines: KVM holds the processor's virtualisation",
        "stop the machines of KVM, or unload kvm_intel or kvm_amd",
    ),
    _Case(
        r"VERR_VMX_NO_VMX|VERR_SVM_NO_SVM|VERR_VMX_MSR|VERR_SVM_DISABLED|VERR_NEM_NOT_AVAILABLE",
        MissingError,
        "{where}: VirtualBox cannot start machines: the processor's virtualisation is not there, or switched off",
        "switch it on in the firmware's setup (VT-x, AMD-V)",
    ),
    _Case(
        r"vboxnetctl|VBoxNetAdpCtl",
        MissingError,
        "{where}: VirtualBox cannot make host-only interfaces: its kernel driver is not loaded",
        "modprobe vboxdrv and vboxnetadp as root; where that fails, Debian's package virtualbox-dkms, or "
        "/sbin/vboxconfig of VirtualBox's own package, builds them for this kernel",
    ),
    _Case(
        # VirtualBox's daemon looks into the file itself, and says no more than that.
        r"E_ACCESSDENIED",
        InputError,
        "{where}: VirtualBox does not allow host-only interfaces with an address in {subnet}",
        "as root, add the line '* {subnet}' to /etc/vbox/networks.conf there",
        command="ipconfig",
    ),
    _Case(
        r"VERR_DISK_FULL|No space left",
        NoSpaceError,
        "{where}: no space left on the disk with VirtualBox's files",
        "free some space, or choose another folder for machines in VirtualBox's settings",
    ),
    _Case(
        # It ends a few seconds after its last client, and one that comes just then may not reach it.
        r"Failed to create the VirtualBox object|VirtualBox COM server is not running",
        BusyError,
        "{where}: VirtualBox's daemon, VBoxSVC, does not answer",
        "see whether VBoxManage list vms works there",
    ),
    _Case(
        # The last while another thread or program makes, clones or removes the machine.
        r"already locked (for|by) a session|VBOX_E_INVALID_OBJECT_STATE|while it is locked|The object is not ready",
        BusyError,
        "{where}: the machine is in use by another program",
        "close its window in VirtualBox, or wait for what is going on with it",
    ),
)


def error(result: Result, where: str, *, subnet: str = "") -> HapxError:
    """The error for a VBoxManage that ended badly; `subnet` is what a host-only interface was to get."""
    text = f"{result.stdout}\n{result.stderr}"
    lines = _lines(text)
    details = [f"command: {format_argv(result.argv)}", *lines]
    for case in _CASES:
        # Over SSH the command is one part of ssh's.
        if any(case.command in part for part in result.argv) and re.search(case.pattern, text):
            place = {"where": where, "subnet": subnet or "RANGE/LENGTH"}
            found = case.kind(case.message.format(**place), hint=case.hint.format(**place))
            found.details = tuple(details)
            return found
    first = lines[0].removeprefix("VBoxManage: error: ") if lines else f"exit code {result.returncode}"
    return CommandError(f"{where}: VBoxManage: {first}", returncode=result.returncode, details=details)


def is_absent(result: Result) -> bool:
    """Whether there is no machine or medium of that name or UUID."""
    return "VBOX_E_OBJECT_NOT_FOUND" in result.stderr or "VERR_FILE_NOT_FOUND" in result.stderr


def is_in_the_way(result: Result) -> bool:
    """Whether files of a machine that VirtualBox does not know are where a new one's would be."""
    return "already exists" in result.stderr or "VERR_ALREADY_EXISTS" in result.stderr


def is_digest(result: Result) -> bool:
    """Whether VirtualBox takes a file of an OVA for another than its manifest says."""
    return re.search(r"on '.*' does not match", result.stderr) is not None


def _lines(text: str) -> list[str]:
    """The errors: without progress, the warning about the driver, and the place in VBoxManage's source."""
    beside = ("VBoxManage: error: Details:", "VBoxManage: error: Context:")
    return [line for line in text.splitlines() if line.startswith("VBoxManage: error:") and not line.startswith(beside)]
