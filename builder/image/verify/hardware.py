"""The virtual system of a descriptor: operating system, CPU, memory, controllers, disks, network cards.

Resource types are those of CIM_ResourceAllocationSettingData, which DSP0243 refers to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from builder.image.verify.xml import OVF, RASD, VSSD, Document, local, number, text

CPU, MEMORY, IDE, SCSI, NIC, CD, DVD, DISK, STORAGE = 3, 4, 5, 6, 10, 15, 16, 17, 20
CONTROLLERS = {
    IDE: {"", "piix3", "piix4", "ich6"},
    SCSI: {"lsilogic", "lsilogicsas", "buslogic", "virtualscsi"},
    STORAGE: {"ahci", "vmware.sata.ahci", "vmware.nvme.controller"},
}
NICS = {"e1000", "virtionet", "pcnet32"}
SYSTEM_TYPE = re.compile(r"vmx-\d{1,3}|virtualbox-\d+(\.\d+)*", re.IGNORECASE)
TRANSPORTS = {"iso", "com.vmware.guestInfo"}


@dataclass(frozen=True, slots=True)
class Item:
    """A virtual device: its element, and the texts of its RASD children by name (the first, where one repeats)."""

    element: Element
    fields: dict[str, str]

    @property
    def kind(self) -> int | None:
        """The ResourceType."""
        return number(self.fields.get("ResourceType"))

    @property
    def name(self) -> str:
        """What to call it in a finding."""
        return self.fields.get("ElementName") or f"item {self.fields.get('InstanceID', '')}".strip()


def examine_system(
    document: Document, system: Element, *, disks: Collection[str], files: Collection[str], networks: Collection[str]
) -> set[str]:
    """Judge one VirtualSystem against the ids of disks and files and the names of networks; the disks it attaches."""
    if not system.get(f"{OVF}id"):
        document.add("ovf.structure", system, "VirtualSystem has no ovf:id")
    if system.find(f"{OVF}Info") is None:
        document.add("ovf.structure", system, "VirtualSystem has no Info, which the schema wants first")
    _operating_system(document, system)
    sections = system.findall(f"{OVF}VirtualHardwareSection")
    if len(sections) != 1:
        said = f"{len(sections) or 'no'} VirtualHardwareSection, there has to be one"
        document.add("ovf.hardware", system, said)
    attached: set[str] = set()
    for section in sections:
        if section.find(f"{OVF}Info") is None:
            document.add("ovf.structure", section, "VirtualHardwareSection has no Info, which the schema wants first")
        _system_type(document, section)
        items = [_item(document, element) for element in section.findall(f"{OVF}Item")]
        by_id = _instances(document, items)
        _processor_and_memory(document, section, items)
        for item in items:
            _parent(document, item, by_id)
            if item.kind in CONTROLLERS:
                _controller(document, item, item.kind)
            if item.kind == NIC:
                _network_card(document, item, networks)
            attached |= _host_resource(document, item, disks, files)
        _addresses(document, items, by_id)
        _transport(document, system, section)
    return attached


def _operating_system(document: Document, system: Element) -> None:
    sections = system.findall(f"{OVF}OperatingSystemSection")
    if len(sections) != 1:
        document.add("ovf.os", system, f"{len(sections) or 'no'} OperatingSystemSection, there has to be one")
    for section in sections:
        if number(section.get(f"{OVF}id")) is None:
            said = f"ovf:id of the operating system is {section.get(f'{OVF}id', 'missing')}"
            document.add("ovf.os", section, said, hint='the CIM number: ovf:id="96" is Debian 64-bit')


def _system_type(document: Document, section: Element) -> None:
    element = section.find(f"{OVF}System/{VSSD}VirtualSystemType")
    types = re.split(r"[\s,]+", text(element)) if text(element) else []
    if element is None or not types:
        document.add("ovf.hardware", section, "no VirtualSystemType: ESXi then refuses it", hint="for example vmx-14")
        return
    for name in types:
        if not SYSTEM_TYPE.fullmatch(name):
            document.add("ovf.system-type", element, f"nobody knows the virtual system type {name!r}", hint="vmx-14")
    _sorted_children(document, section.find(f"{OVF}System"), VSSD)


def _item(document: Document, element: Element) -> Item:
    fields: dict[str, str] = {}
    for child in element:
        if child.tag.startswith(RASD):
            fields.setdefault(local(child), text(child))
    item = Item(element, fields)
    for name in ("ElementName", "InstanceID", "ResourceType"):
        if not fields.get(name):
            document.add("ovf.item", element, f"{item.name} has no {name}")
    if fields.get("ResourceType") and item.kind is None:
        document.add("ovf.item", element, f"{item.name} has the ResourceType {fields['ResourceType']!r}, not a number")
    _sorted_children(document, element, RASD)
    return item


def _sorted_children(document: Document, element: Element | None, namespace: str) -> None:
    """The schema has these children in a sequence, which is the alphabet's; other elements come after them."""
    if element is None:
        return
    names = [local(child) if child.tag.startswith(namespace) else None for child in element]
    own = [name for name in names if name is not None]
    for before, after in pairwise(own):
        if before > after:
            document.add("ovf.item-order", element, f"{after} stands after {before}", hint="alphabetical order")
            return
    if None in names[: len(own)]:
        said = f"{own[-1]} stands after an element of another namespace"
        document.add("ovf.item-order", element, said, hint="vmw:Config after the others")


def _instances(document: Document, items: list[Item]) -> dict[str, Item]:
    by_id: dict[str, Item] = {}
    for item in items:
        instance = item.fields.get("InstanceID", "")
        if instance in by_id and instance:
            said = f"{item.name} has the InstanceID {instance}, which is {by_id[instance].name}'s"
            document.add("ovf.item", item.element, said, hint="count them through")
        by_id.setdefault(instance, item)
    return by_id


def _parent(document: Document, item: Item, by_id: dict[str, Item]) -> None:
    parent = item.fields.get("Parent")
    if parent is not None and (not parent or parent not in by_id):
        document.add("ovf.parent", item.element, f"{item.name} has the Parent {parent!r}, which no item is")
    elif parent is not None and by_id[parent] is item:
        document.add("ovf.parent", item.element, f"{item.name} is its own Parent")


def _processor_and_memory(document: Document, section: Element, items: list[Item]) -> None:
    units = {CPU: r"hertz \* 10\^6", MEMORY: r"byte \* 2\^20"}
    for kind, what in ((CPU, "CPU"), (MEMORY, "memory")):
        found = [item for item in items if item.kind == kind]
        if len(found) != 1:
            document.add("ovf.cpu-memory", section, f"{len(found) or 'no'} item for {what}, there has to be one")
        for item in found:
            if not number(item.fields.get("VirtualQuantity")):
                said = f"VirtualQuantity of {item.name} is {item.fields.get('VirtualQuantity', 'missing')}"
                document.add("ovf.cpu-memory", item.element, said)
            unit = item.fields.get("AllocationUnits", "")
            if not re.fullmatch(units[kind], unit):
                right = units[kind].replace("\\", "")
                said = f"AllocationUnits of {item.name} is {unit or 'missing'}"
                document.add("ovf.item-units", item.element, said, hint=right)


def _controller(document: Document, item: Item, kind: int) -> None:
    subtype = item.fields.get("ResourceSubType", "")
    if subtype.lower() not in CONTROLLERS[kind]:
        said = f"{item.name} is of the kind {subtype or '(none)'}, which not every importer knows"
        document.add("ovf.controller", item.element, said, hint="AHCI (ResourceType 20) or lsilogic (ResourceType 6)")


def _network_card(document: Document, item: Item, networks: Collection[str]) -> None:
    connection = item.fields.get("Connection", "")
    if connection not in networks:
        said = f"{item.name} is connected to {connection or 'nothing'}, which NetworkSection does not list"
        document.add("ovf.nic", item.element, said, hint="a Network of that name in NetworkSection")
    subtype = item.fields.get("ResourceSubType", "")
    if subtype.lower() not in NICS:
        said = f"{item.name} is of the kind {subtype or '(none)'}, which VirtualBox does not map"
        document.add("ovf.nic-type", item.element, said, hint="E1000")


def _host_resource(document: Document, item: Item, disks: Collection[str], files: Collection[str]) -> set[str]:
    """The ids of the disks this item attaches."""
    attached = set()
    resources = [text(child) for child in item.element.findall(f"{RASD}HostResource")]
    if item.kind == DISK and not resources:
        document.add("ovf.host-resource", item.element, f"{item.name} has no HostResource", hint="ovf:/disk/ID")
    for resource in resources:
        match = re.fullmatch(r"ovf:/(disk|file)/(.+)", resource)
        if match is None:
            if item.kind in (CD, DVD, DISK):
                said = f"HostResource of {item.name} is {resource or 'empty'}"
                document.add("ovf.host-resource", item.element, said, hint="exactly ovf:/disk/ID, with one slash")
        elif match[2] not in (disks if match[1] == "disk" else files):
            said = f"HostResource of {item.name} is {resource}, and there is no {match[1]} of that id"
            document.add("ovf.host-resource", item.element, said)
        elif match[1] == "disk":
            attached.add(match[2])
    return attached


def _addresses(document: Document, items: list[Item], by_id: dict[str, Item]) -> None:
    taken: Counter[tuple[str, str]] = Counter()
    for item in items:
        if item.kind not in (CD, DVD, DISK):
            continue
        parent, address = item.fields.get("Parent", ""), item.fields.get("AddressOnParent", "")
        controller = by_id.get(parent)
        if not parent or (controller is not None and controller.kind not in CONTROLLERS):
            said = f"{item.name} hangs on no controller"
            document.add("ovf.address", item.element, said, hint="a Parent of ResourceType 5, 6 or 20")
        if number(address) is None:
            document.add("ovf.address", item.element, f"AddressOnParent of {item.name} is {address or 'missing'}")
        taken[parent, address] += 1
        if taken[parent, address] > 1 and parent and address:
            said = f"{item.name} is at address {address} of controller {parent}, where another drive is"
            document.add("ovf.address", item.element, said)


def _transport(document: Document, system: Element, section: Element) -> None:
    if system.find(f"{OVF}ProductSection/{OVF}Property") is None:
        return
    transports = section.get(f"{OVF}transport", "").split()
    if not set(transports) & TRANSPORTS:
        said = f"there are properties, but ovf:transport is {' '.join(transports) or 'missing'}"
        document.add("ovf.transport", section, said, hint='ovf:transport="com.vmware.guestInfo iso"')
