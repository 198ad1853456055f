"""The OVF descriptor of the appliance: one virtual system, one disk, written to be read by every importer.

The form is OVF 1.x (DSP0243, schema DSP8023), because VMware, VirtualBox, Proxmox VE and virt-v2v all read it. Inside
what it allows, these choices keep importers content:

- Every namespace is declared on the root, used or not: Proxmox VE's XPath says `vmw:` whatever the document says.
- RASD children are in alphabetical order, as the schema's sequence wants them, and `vmw:Config` comes after them.
- SATA by `vmware.sata.ahci`: the one subtype that VMware knows and VirtualBox takes too; Proxmox VE makes it `sata0`.
- `vmx-14` alone (ESXi 6.7, Workstation 14, Fusion 10 and later): VirtualBox reads no more than that it is not its own,
  and lists are read differently. `other4xLinux64Guest` belongs to the same version; hosts older than ESXi 8 do not know
  `debian12_64Guest` and would fall back to "Other".
- No serial port and no CD drive: ESXi wants a backing for the one, which no descriptor can know, and importers differ
  on the bus of the other. Both are attached after the import.
- No `vbox:Machine`: it would override name, CPUs, memory and network cards.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, fields

from builder.errors import InputError, Problem

NAMESPACES = {
    "xmlns": "http://schemas.dmtf.org/ovf/envelope/1",
    "xmlns:cim": "http://schemas.dmtf.org/wbem/wscim/1/common",
    "xmlns:ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "xmlns:rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "xmlns:vbox": "http://www.virtualbox.org/ovf/machine",
    "xmlns:vmw": "http://www.vmware.com/schema/ovf",
    "xmlns:vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
}
STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
MIB = 1 << 20
DEBIAN_64 = 96  # CIM_OperatingSystem.OSType "Debian 64-Bit"

# CIM_ResourceAllocationSettingData.ResourceType
PROCESSOR, MEMORY, ETHERNET_ADAPTER, DISK_DRIVE, OTHER_STORAGE = 3, 4, 10, 17, 20
CONTROLLER_ID = "3"

# What Proxmox VE takes as a file name in an OVF, less what other tools trip over; USTAR's 100 bytes leave room for
# "-disk1.vmdk".
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,79}")
# XML 1.0 has no way to write the other control characters.
NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Appliance:
    """What the descriptor says. Empty texts are left out; memory is in MiB.

    One network card, on "NAT": an import alone then gives a machine that gets an address by DHCP and reaches the world
    (VirtualBox and Workstation know the name, the others ask which of their networks to use). A node's cards are the
    spec's and come with the clone; a second card here would only be one that waits for a DHCP server.

    Raises InputError, with everything that is wrong, for what no descriptor can say.
    """

    name: str
    product: str = ""
    vendor: str = ""
    version: str = ""
    full_version: str = ""
    product_url: str = ""
    vendor_url: str = ""
    description: str = ""
    cpus: int = 2
    memory_mib: int = 2048
    os_id: int = DEBIAN_64
    vmw_os_type: str = "other4xLinux64Guest"
    virtual_system_types: tuple[str, ...] = ("vmx-14",)
    networks: tuple[str, ...] = ("NAT",)  # one E1000 card each, in this order

    def __post_init__(self) -> None:
        """Find everything that no descriptor can say."""
        problems = [
            Problem(key, "has a control character that XML cannot hold", "remove it")
            for key, text in self._texts()
            if NOT_XML.search(text)
        ]
        if not NAME.fullmatch(self.name):
            hint = "up to 80 letters, digits, '.', '+', '_' and '-', the first a letter or a digit"
            problems.append(Problem("name", f"{self.name!r} cannot name the files of an OVA", hint))
        problems += [
            Problem(key, f"{value} is less than 1", "give a positive number")
            for key, value in (("cpus", self.cpus), ("memory_mib", self.memory_mib))
            if value < 1
        ]
        if "" in self.networks:
            problems.append(Problem("networks", "a network has no name", "name it, or leave it out"))
        if problems:
            raise InputError("the appliance cannot be described", problems)

    def _texts(self) -> list[tuple[str, str]]:
        texts: list[tuple[str, str]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            parts = value if isinstance(value, tuple) else (value,)
            texts += [(field.name, part) for part in parts if isinstance(part, str)]
        return texts


def render(appliance: Appliance, *, disk_name: str, disk_size: int, capacity: int) -> bytes:
    """The descriptor, as XML in UTF-8.

    `disk_name` and `disk_size` are the VMDK's file name and size in bytes, `capacity` the disk's in bytes; raises
    InputError when that is not a whole number of MiB.
    """
    if capacity <= 0 or capacity % MIB:
        raise InputError(f"{disk_name}: a capacity of {capacity} bytes is not a whole number of MiB")
    root = ET.Element("Envelope", NAMESPACES)
    references = ET.SubElement(root, "References")
    ET.SubElement(references, "File", {"ovf:href": disk_name, "ovf:id": "file1", "ovf:size": str(disk_size)})
    disks = _section(root, "DiskSection", "Virtual disk information")
    ET.SubElement(
        disks,
        "Disk",
        {
            "ovf:capacity": str(capacity // MIB),
            "ovf:capacityAllocationUnits": "byte * 2^20",
            "ovf:diskId": "vmdisk1",
            "ovf:fileRef": "file1",
            "ovf:format": STREAM_OPTIMIZED,
        },
    )
    networks = _section(root, "NetworkSection", "The list of logical networks")
    for name in dict.fromkeys(appliance.networks):
        network = ET.SubElement(networks, "Network", {"ovf:name": name})
        _text(network, "Description", f"The {name} network")
    _virtual_system(root, appliance)
    ET.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode").encode() + b"\n"


def _virtual_system(root: ET.Element, appliance: Appliance) -> None:
    system = _section(root, "VirtualSystem", "A virtual machine", {"ovf:id": appliance.name})
    _text(system, "Name", appliance.name)
    guest = {"ovf:id": str(appliance.os_id), "vmw:osType": appliance.vmw_os_type}
    _section(system, "OperatingSystemSection", "The kind of installed guest operating system", guest)
    _hardware(system, appliance)
    if appliance.description:
        annotation = _section(system, "AnnotationSection", "A human-readable annotation")
        _text(annotation, "Annotation", appliance.description)
    product = _section(system, "ProductSection", "Information about the installed software")
    for tag, value in (
        ("Product", appliance.product),
        ("Vendor", appliance.vendor),
        ("Version", appliance.version),
        ("FullVersion", appliance.full_version),
        ("ProductUrl", appliance.product_url),
        ("VendorUrl", appliance.vendor_url),
    ):
        if value:
            _text(product, tag, value)


def _hardware(system: ET.Element, appliance: Appliance) -> None:
    hardware = _section(system, "VirtualHardwareSection", "Virtual hardware requirements")
    settings = ET.SubElement(hardware, "System")
    _text(settings, "vssd:ElementName", "Virtual Hardware Family")
    _text(settings, "vssd:InstanceID", "0")
    _text(settings, "vssd:VirtualSystemIdentifier", appliance.name)
    _text(settings, "vssd:VirtualSystemType", " ".join(appliance.virtual_system_types))
    _item(
        hardware,
        PROCESSOR,
        AllocationUnits="hertz * 10^6",
        Description="Number of virtual CPUs",
        ElementName=f"{appliance.cpus} virtual CPU(s)",
        InstanceID="1",
        VirtualQuantity=str(appliance.cpus),
    )
    _item(
        hardware,
        MEMORY,
        AllocationUnits="byte * 2^20",
        Description="Memory size",
        ElementName=f"{appliance.memory_mib} MB of memory",
        InstanceID="2",
        VirtualQuantity=str(appliance.memory_mib),
    )
    _item(
        hardware,
        OTHER_STORAGE,
        Address="0",
        Description="SATA controller",
        ElementName="SATA controller 0",
        InstanceID=CONTROLLER_ID,
        ResourceSubType="vmware.sata.ahci",
    )
    _item(
        hardware,
        DISK_DRIVE,
        AddressOnParent="0",
        ElementName="Hard disk 1",
        HostResource="ovf:/disk/vmdisk1",
        InstanceID="4",
        Parent=CONTROLLER_ID,
    )
    for number, name in enumerate(appliance.networks, start=1):
        _item(
            hardware,
            ETHERNET_ADAPTER,
            AddressOnParent=str(6 + number),  # VMware counts its Ethernet slots from 7
            AutomaticAllocation="true",
            Connection=name,
            Description=f'E1000 Ethernet adapter on "{name}"',
            ElementName=f"Network adapter {number}",
            InstanceID=str(4 + number),
            ResourceSubType="E1000",
        )
    for key, value in (("firmware", "bios"), ("bootOptions.efiSecureBootEnabled", "false")):
        ET.SubElement(hardware, "vmw:Config", {"ovf:required": "false", "vmw:key": key, "vmw:value": value})


def _item(hardware: ET.Element, resource_type: int, **settings: str) -> None:
    item = ET.SubElement(hardware, "Item")
    settings["ResourceType"] = str(resource_type)
    for key in sorted(settings):
        _text(item, f"rasd:{key}", settings[key])


def _section(parent: ET.Element, tag: str, info: str, attributes: dict[str, str] | None = None) -> ET.Element:
    section = ET.SubElement(parent, tag, attributes or {})
    _text(section, "Info", info)
    return section


def _text(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = text
