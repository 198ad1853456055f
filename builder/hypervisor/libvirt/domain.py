"""A node's machine as a libvirt domain: its XML, our mark in it, and what of a domain differs from what is wanted.

Pure. The form is that of https://libvirt.org/formatdomain.html; tests hold it against libvirt's own RNG schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree.ElementTree import Element, register_namespace, tostring

from builder.hypervisor import Machine, Nic
from builder.hypervisor.libvirt import network
from builder.hypervisor.libvirt.storage import Place, console_volume, disk_volume, nvram_volume, system_volume
from builder.hypervisor.libvirt.virsh import child
from builder.spec.model import Firmware, NetworkKind

NAMESPACE = "urn:hapx-build:machine"
_MARK = f"{{{NAMESPACE}}}machine"
register_namespace("hapx", NAMESPACE)

# i440FX, which VirtualBox and VMware show too. On Q35 each PCI device hangs on a bridge of its own: that makes the boot
# longer, and QEMU's software emulation, while the kernel sets the bridges up on two processors, sometimes end in
# "iotlb_to_section: Assertion failed" (10.0). Without Secure Boot there is UEFI for it too: libvirt chooses by what
# ovmf's descriptors say.
MACHINE = "pc"
AGENT = "org.qemu.guest_agent.0"
# On virtio SCSI: Linux does not find what hangs on i440FX's IDE once OVMF has had it (QEMU 10.0, OVMF 2022.11).
CD = "sda"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Mark:
    """What we note in a domain: without it, a domain is somebody else's."""

    cluster: str
    base: str
    sha256: str
    definition: str
    """Digest of the definition that was asked for, without the CD; empty while the machine is being made."""

    @property
    def finished(self) -> bool:
        """Whether the machine was made to the end."""
        return bool(self.definition)


def mark_of(domain: Element) -> Mark | None:
    """The mark in a domain's XML; None where it is somebody else's."""
    found = domain.find(f"metadata/{_MARK}")
    if found is None:
        return None
    return Mark(*(found.get(name, "") for name in ("cluster", "base", "sha256", "definition")))


def definition(machine: Machine, uuid: str, place: Place, seed: str, *, kvm: bool, mark: Mark) -> Element:
    """The domain's XML; `seed` is its CD's volume, `uuid` what the guest sees as its machine's serial number.

    A guest that panics, or whose watchdog is not fed, starts again at once. Without KVM all is emulated, on a CPU with
    everything that can be.
    """
    domain = Element("domain", type="kvm" if kvm else "qemu")
    child(domain, "name", machine.name)
    child(domain, "uuid", uuid)
    noted = {"cluster": mark.cluster, "base": mark.base, "sha256": mark.sha256, "definition": mark.definition}
    child(child(domain, "metadata"), _MARK, **noted)
    child(domain, "memory", str(machine.memory_mib), unit="MiB")
    child(domain, "vcpu", str(machine.cpus))
    system = child(domain, "os")
    child(system, "type", "hvm", arch="x86_64", machine=MACHINE)
    if machine.firmware is Firmware.UEFI:
        system.set("firmware", "efi")
        # The image's boot loader is not signed: https://libvirt.org/kbase/secureboot.html.
        child(child(system, "firmware"), "feature", enabled="no", name="secure-boot")
        # Among the node's volumes, so that it goes with them: made by libvirt at the first start, from its template.
        child(system, "nvram", place.path(nvram_volume(machine.name)))
    child(system, "boot", dev="hd")
    features = child(domain, "features")
    child(features, "acpi")
    child(features, "apic")
    child(domain, "cpu", mode="host-passthrough" if kvm else "maximum")
    child(domain, "clock", offset="utc")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "restart")):
        child(domain, f"on_{event}", action)
    devices = child(domain, "devices")
    volumes = (system_volume(machine.name), *(disk_volume(machine.name, disk.name) for disk in machine.disks))
    for letter, volume in zip(_LETTERS, volumes, strict=False):
        _disk(devices, place.path(volume), f"vd{letter}")
    _cd(devices, place.path(seed))
    child(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    child(devices, "controller", type="usb", model="none")
    for nic in machine.nics:
        _interface(devices, nic)
    serial = child(devices, "serial", type="pty")
    child(serial, "log", file=place.path(console_volume(machine.name)), append="on")
    child(serial, "target", type="isa-serial", port="0")
    channel = child(devices, "channel", type="unix")
    child(channel, "target", type="virtio", name=AGENT)
    child(child(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    child(devices, "watchdog", model="i6300esb", action="reset")
    child(devices, "panic", model="isa")
    return domain


def digest(domain: Element) -> str:
    """A digest of what is asked for, whatever its CD, its mark and its UUID."""
    copy = _parsed(domain)
    for element in (copy, copy.find("devices")):
        for unimportant in list(element) if element is not None else ():
            if unimportant.tag in {"metadata", "uuid"} or unimportant.get("device") == "cdrom":
                element.remove(unimportant)  # type: ignore[union-attr]
    return hashlib.sha256(tostring(copy)).hexdigest()[:16]


def unfinished(name: str, uuid: str, mark: Mark) -> Element:
    """The least domain there can be: it holds the mark while the machine is being made."""
    domain = Element("domain", type="qemu")
    child(domain, "name", name)
    child(domain, "uuid", uuid)
    child(child(domain, "metadata"), _MARK, cluster=mark.cluster, base=mark.base, sha256=mark.sha256, definition="")
    child(domain, "memory", "64", unit="MiB")
    child(child(domain, "os"), "type", "hvm", arch="x86_64", machine=MACHINE)
    return domain


def cd_device(path: str) -> Element:
    """The CD drive with another CD in it."""
    devices = Element("devices")
    _cd(devices, path)
    return devices[0]


def cd_path(domain: Element) -> str:
    """The path of the CD in a domain's drive; empty where none is."""
    source = domain.find("devices/disk[@device='cdrom']/source")
    return "" if source is None else source.get("file", "")


def facts(domain: Element) -> Mapping[str, str]:
    """What people know of a machine, as libvirt tells it or as we asked for it, in words that compare."""
    memory = domain.find("memory")
    unit = {"MiB": 1024, "KiB": 1}[memory.get("unit", "KiB")] if memory is not None else 1
    found = {
        "processors": (domain.findtext("vcpu") or "1").strip(),
        "memory": f"{int((memory is not None and memory.text) or 0) * unit // 1024} MiB",
        "firmware": "uefi" if domain.find("os[@firmware='efi']") is not None else "bios",
    }
    for disk in domain.findall("devices/disk[@device='disk']"):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and source is not None:
            found[f"disk {target.get('dev')}"] = source.get("file", "")
    for interface in domain.findall("devices/interface"):
        mac, model, source = (interface.find(tag) for tag in ("mac", "model", "source"))
        if mac is not None:
            adapter = model.get("type", "") if model is not None else ""
            plugged = (source.get("network") or source.get("bridge") or "") if source is not None else ""
            found[f"network card {mac.get('address')}"] = f"{adapter} on {interface.get('type')} {plugged}"
    return found


def differences(actual: Element, wanted: Element) -> tuple[str, ...]:
    """What of a machine is not as it is wanted, a few words each; its CD is another matter."""
    before, after = facts(actual), facts(wanted)
    words = []
    for what in dict.fromkeys((*after, *before)):
        old, new = before.get(what), after.get(what)
        if old is None:
            words.append(f"{what}: {new}")
        elif new is None:
            words.append(f"no {what}")
        elif old != new:
            words.append(f"{what}: {new} instead of {old}")
    mark = mark_of(actual)
    if not words and mark is not None and mark.finished and mark.definition != digest(wanted):
        words.append("its definition")
    return tuple(words)


def _disk(devices: Element, path: str, target: str) -> None:
    disk = child(devices, "disk", type="file", device="disk")
    child(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    child(disk, "source", file=path)
    child(disk, "target", dev=target, bus="virtio")


def _cd(devices: Element, path: str) -> None:
    disk = child(devices, "disk", type="file", device="cdrom")
    child(disk, "driver", name="qemu", type="raw")
    child(disk, "source", file=path)
    child(disk, "target", dev=CD, bus="scsi")
    child(disk, "readonly")


def _interface(devices: Element, nic: Nic) -> None:
    bridged = nic.kind is NetworkKind.BRIDGED
    interface = child(devices, "interface", type="bridge" if bridged else "network")
    child(interface, "mac", address=nic.mac)
    child(interface, "source", **{"bridge" if bridged else "network": network.name(nic)})
    child(interface, "model", type=nic.adapter)


def _parsed(domain: Element) -> Element:
    from xml.etree.ElementTree import fromstring

    return fromstring(tostring(domain))  # noqa: S314 - a deep copy of our own
