"""Which hypervisor a node's machine is on."""

from __future__ import annotations

from builder import command
from builder.errors import InputError, MissingError
from builder.hypervisor import Hypervisor

LOCAL_LIBVIRT = "qemu:///system"


def hypervisor(host: str | None) -> Hypervisor:
    """The hypervisor that a spec's `host` names: ssh://… is VirtualBox there, qemu…:// is libvirt.

    None: this machine's, VirtualBox where it is installed, else libvirt. Nothing is started or connected to. Raises
    InputError for a URI of anything else, MissingError where this machine has neither.
    """
    if host is None:
        if command.which("VBoxManage") is not None:
            return _virtualbox(None)
        if command.which("virsh") is not None:
            return _libvirt(LOCAL_LIBVIRT)
        raise MissingError(
            "this machine has no hypervisor: neither VBoxManage nor virsh is installed",
            hint="install VirtualBox, or sudo apt-get install libvirt-daemon-system libvirt-clients qemu-system-x86",
        )
    scheme = host.partition(":")[0]
    if scheme == "ssh":
        return _virtualbox(host)
    if scheme.partition("+")[0] == "qemu":
        return _libvirt(host)
    raise InputError(
        f"{host}: no hypervisor is known by {scheme}://", hint="ssh://user@host, or qemu+ssh://host/system"
    )


def _virtualbox(uri: str | None) -> Hypervisor:
    from builder.hypervisor.virtualbox import VirtualBox

    return VirtualBox(uri)


def _libvirt(uri: str) -> Hypervisor:
    from builder.hypervisor.libvirt import Libvirt

    return Libvirt(uri)
