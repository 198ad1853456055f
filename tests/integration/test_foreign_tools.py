"""Other people's readers on our OVA: QEMU, virt-v2v, GNU tar, and the rules by which Proxmox VE reads a descriptor."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from lxml import etree

from builder import command
from builder.errors import CommandError
from builder.image.ovf import Appliance

MIB = 1 << 20


@pytest.fixture
def extracted(small_ova: Path, tmp_path: Path) -> Path:
    """The folder into which GNU tar unpacked the small OVA."""
    command.run(["tar", "--extract", "--file", str(small_ova), "--directory", str(tmp_path)], timeout=60)
    return tmp_path


# QEMU


def test_qemu_finds_no_error_in_the_disk(extracted: Path, small_appliance: Appliance) -> None:
    disk = extracted / f"{small_appliance.name}-disk1.vmdk"
    assert "No errors were found" in command.run(["qemu-img", "check", "-f", "vmdk", str(disk)], timeout=60).stdout


def test_qemu_reads_the_disk_that_was_packed(extracted: Path, small_appliance: Appliance, small_disk: Path) -> None:
    disk = extracted / f"{small_appliance.name}-disk1.vmdk"
    compare = ["qemu-img", "compare", "-f", "vmdk", "-F", "raw", str(disk), str(small_disk)]
    assert command.run(compare, timeout=60).stdout == "Images are identical.\n"


def test_qemu_sees_the_packed_disk_differ(extracted: Path, small_appliance: Appliance, small_disk: Path) -> None:
    """What the test above says can be said otherwise: one bit in the last sector."""
    other = shutil.copy(small_disk, extracted / "other.img")
    with other.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    disk = extracted / f"{small_appliance.name}-disk1.vmdk"
    compare = ["qemu-img", "compare", "-f", "vmdk", "-F", "raw", str(disk), str(other)]
    assert command.run(compare, timeout=60, check=False).returncode == 1


# virt-v2v, which reads descriptor, manifest and references on its own; what it does to the system on the disk needs
# an operating system on it and is no matter of the OVA.


def virt_v2v(ova: Path) -> str:
    """What virt-v2v takes an OVA for; raises CommandError where it refuses it."""
    return command.run(["virt-v2v", "-i", "ova", str(ova), "--print-source"], timeout=120).stdout


def test_virt_v2v_reads_the_machine(small_ova: Path, small_appliance: Appliance) -> None:
    said = virt_v2v(small_ova)
    for expected in (
        rf"source name: {re.escape(small_appliance.name)}",
        rf"memory: {small_appliance.memory_mib * MIB} \(bytes\)",
        rf"nr vCPUs: {small_appliance.cpus}",
        r"firmware: bios",
        r"disks:\n\s+0 \[sata\]\n",
        r"NICs:\n" + "".join(rf'\s+Bridge "{network}" \[e1000\]\n' for network in small_appliance.networks),
    ):
        assert re.search(expected, said), expected


def test_virt_v2v_refuses_a_wrong_digest(small_ova: Path, small_appliance: Appliance, tmp_path: Path) -> None:
    """Its answer about the sound OVA is one that read the manifest."""
    data = small_ova.read_bytes()
    line = re.search(rb"SHA256\([^)]*\.vmdk\)= ([0-9a-f]{64})\n", data)
    assert line is not None
    ova = tmp_path / "wrong.ova"
    ova.write_bytes(data.replace(line[1], line[1][:-1] + (b"0" if line[1][-1:] != b"0" else b"1")))
    with pytest.raises(CommandError) as error:
        virt_v2v(ova)
    expected = f"checksum of disk {small_appliance.name}-disk1.vmdk does not match manifest"
    assert expected in "\n".join(error.value.details)


# Proxmox VE. Its importer does not run outside Proxmox VE, so its rules stand here in our words; they were taken from
# PVE::GuestImport::OVF of pve-storage. Findings are what it would warn about and leave out, or die of.


@dataclass(frozen=True)
class PveDisk:
    """A disk as Proxmox VE would attach it; bytes."""

    address: str
    file: str
    size: int


@dataclass(frozen=True)
class PveMachine:
    """What Proxmox VE would make of a descriptor, and what it would not take."""

    name: str
    cores: str
    memory: str  # MiB: it takes the number and does not look at the unit
    os_id: str
    firmware: str
    disks: tuple[PveDisk, ...]
    findings: tuple[str, ...]


PVE_NAMESPACES = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
}
PVE_CONTROLLERS = {"5": "ide", "6": "scsi", "20": "sata"}
UNRESERVED = r"[A-Za-z0-9._~-]"  # RFC 3986


def pve_reads(descriptor: bytes) -> PveMachine:
    """A descriptor through Proxmox VE's eyes."""
    root = etree.fromstring(descriptor)
    # It registers three prefixes and uses a fourth, vmw, which only the document itself can declare.
    namespaces = {key: value for key, value in root.nsmap.items() if key == "vmw"} | PVE_NAMESPACES
    system = "/ovf:Envelope/ovf:VirtualSystem"
    item = f"{system}/ovf:VirtualHardwareSection/ovf:Item"
    findings: list[str] = []

    def value(path: str, context: etree._Element = root) -> str:
        """The text of everything at a path, one after the other, as XML::LibXML's findvalue has it."""
        found = context.xpath(path, namespaces=namespaces)
        return "".join(node if isinstance(node, str) else "".join(node.itertext()) for node in found)

    try:
        firmware = value(f"{system}/ovf:VirtualHardwareSection/vmw:Config[@vmw:key='firmware']/@vmw:value")
    except etree.XPathEvalError as error:
        firmware = ""
        findings.append(f"vmw:Config: {error}")

    disks = []
    for node in root.xpath(f"{item}[rasd:ResourceType=17]", namespaces=namespaces):
        resource = value("rasd:HostResource", node)
        reference = re.fullmatch(rf"ovf:/{UNRESERVED}+/({UNRESERVED}+)", resource)
        if reference is None:
            findings.append(f"HostResource {resource!r}")
            continue
        disk = f"/ovf:Envelope/ovf:DiskSection/ovf:Disk[@ovf:diskId='{reference[1]}']"
        file_ref = value(f"{disk}/@ovf:fileRef")
        if not re.fullmatch(rf"(?:{UNRESERVED}|/)+", file_ref):
            findings.append(f"fileRef {file_ref!r} of {resource}")
            continue
        units = value(f"{disk}/@ovf:capacityAllocationUnits")
        factor = re.fullmatch(r"\s*byte\s*\*\s*(\d+)\s*\^\s*(\d+)\s*", units)
        if factor is None:
            findings.append(f"capacityAllocationUnits {units!r}")
        capacity = int(value(f"{disk}/@ovf:capacity")) * (int(factor[1]) ** int(factor[2]) if factor else 0)
        parent = value("rasd:Parent", node)
        controller = PVE_CONTROLLERS.get(value(f"{item}[rasd:InstanceID='{parent}']/rasd:ResourceType"))
        if controller is None:
            findings.append(f"controller {parent!r}")
            continue
        href = value(f"/ovf:Envelope/ovf:References/ovf:File[@ovf:id='{file_ref}']/@ovf:href")
        if not re.fullmatch(r"[A-Za-z0-9.+=_-]+", href):
            findings.append(f"href {href!r}")
            continue
        disks.append(PveDisk(controller + value("rasd:AddressOnParent", node), href, capacity))

    return PveMachine(
        # A DNS name: what cannot stand in one is dropped.
        name=re.sub(r"[^a-zA-Z0-9.-]", "", value(f"{system}/ovf:Name")),
        cores=value(f"{item}[rasd:ResourceType=3]/rasd:VirtualQuantity"),
        memory=value(f"{item}[rasd:ResourceType=4]/rasd:VirtualQuantity"),
        os_id=value(f"{system}/ovf:OperatingSystemSection/@ovf:id"),
        firmware=firmware,
        disks=tuple(disks),
        findings=tuple(findings),
    )


def pve_descriptor(ova: Path) -> bytes:
    """The descriptor as Proxmox VE takes it out of an OVA, with GNU tar."""
    argv = ["tar", "-xO", "--wildcards", "--occurrence=1", "-f", ova, "*.ovf"]
    return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout


def test_proxmox_rules_read_the_machine(small_ova: Path, small_appliance: Appliance, small_disk: Path) -> None:
    assert pve_reads(pve_descriptor(small_ova)) == PveMachine(
        name=re.sub("[_+]", "", small_appliance.name),
        cores=str(small_appliance.cpus),
        memory=str(small_appliance.memory_mib),
        os_id="96",  # Debian 64-Bit: ostype l26
        firmware="bios",
        disks=(PveDisk("sata0", f"{small_appliance.name}-disk1.vmdk", small_disk.stat().st_size),),
        findings=(),
    )


@pytest.mark.parametrize(
    ("pattern", "replacement", "finding"),
    [
        (rb' xmlns:vmw="[^"]*"| vmw:\w+="[^"]*"|<vmw:Config[^>]*/>', b"", "vmw:Config: "),
        (rb"ovf:/disk/", b"/disk/", "HostResource '/disk/vmdisk1'"),
        (rb'capacityAllocationUnits="[^"]*"', b'capacityAllocationUnits="MegaBytes"', "capacityAllocationUnits"),
        (rb' ovf:fileRef="[^"]*"', b"", "fileRef ''"),
        (rb"<rasd:Parent>3<", b"<rasd:Parent>99<", "controller '99'"),
        (rb'ovf:href="', b'ovf:href="./', "href './"),
    ],
    ids=["no vmw prefix", "HostResource", "capacity units", "no fileRef", "no such parent", "folder in href"],
)
def test_proxmox_rules_find_what_it_would_not_take(
    small_ova: Path, pattern: bytes, replacement: bytes, finding: str
) -> None:
    """The transcription above can say no."""
    descriptor = pve_descriptor(small_ova)
    changed, times = re.subn(pattern, replacement, descriptor)
    assert times
    [found] = pve_reads(changed).findings
    assert found.startswith(finding)
