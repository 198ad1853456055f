"""The envelope of a descriptor: References, disks, networks, and that there is one virtual system.

What the virtual system is made of, `hardware` judges. Sources: DSP0243 (OVF 1.1), and what VirtualBox, VMware
and Proxmox VE are known to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from builder.image.verify.checks import Findings
from builder.image.verify.hardware import examine_system
from builder.image.verify.xml import (
    NEEDED_PREFIXES,
    OVF,
    OVF_URI,
    USUAL_PREFIXES,
    VBOX,
    Document,
    local,
    number,
    parse,
)

STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
UNITS = re.compile(r"byte(?: \* (\d{1,2})\^(\d{1,2}))?")
MIB_UNITS = 'ovf:capacityAllocationUnits="byte * 2^20"'
SECTIONS = ("References", "DiskSection", "NetworkSection", "VirtualSystem")


@dataclass(frozen=True, slots=True)
class File:
    """A file of References: `size` in bytes, None where the descriptor gives none."""

    id: str
    href: str
    size: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of DiskSection: `capacity` in bytes, None where it cannot be read; `file` is the id of a File, or ""."""

    id: str
    file: str
    capacity: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What the rest of the OVA is held against, in document order."""

    files: list[File] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)


def examine(data: bytes, name: str, findings: Findings) -> Descriptor | None:
    """The descriptor in `data`, called `name`; what is wrong with it goes to `findings`.

    None where it is no OVF 1 descriptor at all.
    """
    document = parse(data, name, findings)
    if document is None:
        return None
    envelope = document.root
    if envelope.tag != f"{OVF}Envelope":
        uri, _, tag = envelope.tag.rpartition("}")
        said = f"the root element is {tag} of {uri.lstrip('{') or 'no namespace'}, not Envelope of {OVF_URI}"
        document.add("ovf.version", envelope, said, hint="export as OVF 1.0 or 1.1")
        return None
    _prefixes(document)
    _sections(document)
    _foreign(document)
    descriptor = Descriptor()
    file_ids: dict[str, int] = {}  # id -> place in References
    names: set[str] = set()
    for element in envelope.iterfind(f"{OVF}References/{OVF}File"):
        file = _file(document, element, file_ids, names)
        descriptor.files.append(file)
        file_ids.setdefault(file.id, len(file_ids))
        names.add(file.href)
    disk_ids: set[str] = set()
    for element in envelope.iterfind(f"{OVF}DiskSection/{OVF}Disk"):
        disk = _disk(document, element, file_ids, disk_ids)
        descriptor.disks.append(disk)
        disk_ids.add(disk.id)
    with_file = [disk for disk in descriptor.disks if disk.file in file_ids]
    in_file_order = sorted(with_file, key=lambda disk: file_ids[disk.file])
    if (ids := [disk.id for disk in in_file_order]) != sorted(ids):
        said = f"disks in the order of their files are {', '.join(ids[:8])}; sorted by name they would change places"
        document.add("ovf.disk-order", envelope, said, hint="name them disk1, disk2, …")
    networks = {element.get(f"{OVF}name", "") for element in envelope.iterfind(f"{OVF}NetworkSection/{OVF}Network")}
    attached: set[str] = set()
    for system in envelope.iter(f"{OVF}VirtualSystem"):
        attached |= examine_system(document, system, disks=disk_ids, files=file_ids, networks=networks)
    for element in envelope.iterfind(f"{OVF}DiskSection/{OVF}Disk"):
        if (disk_id := element.get(f"{OVF}diskId", "")) not in attached:
            document.add("ovf.disk-unused", element, f"no item of the machine attaches the disk {disk_id}")
    return descriptor


def _prefixes(document: Document) -> None:
    for check, prefixes in (("ovf.prefix", NEEDED_PREFIXES), ("ovf.prefix-unused", USUAL_PREFIXES)):
        for prefix, uri in prefixes.items():
            declared = document.prefixes.get(prefix)
            if declared is None:
                said = f"the prefix {prefix} is not declared"
            elif declared != uri:
                said = f"the prefix {prefix} stands for {declared}"
            else:
                continue
            document.add(check, document.root, said, hint=f'xmlns:{prefix}="{uri}"')


def _sections(document: Document) -> None:
    envelope = document.root
    found = [local(element) for element in envelope if element.tag.startswith(OVF)]
    for section in SECTIONS:
        count = found.count(section)
        if section == "VirtualSystem" and "VirtualSystemCollection" in found:
            said = "a VirtualSystemCollection: many importers take one machine only"
            document.add("ovf.structure", envelope, said, hint="one VirtualSystem in an OVA")
        elif count != 1:
            said = f"{count or 'no'} {section} in the envelope, there has to be one"
            document.add("ovf.structure", envelope, said)
    known = [section for section in found if section in SECTIONS]
    if known != sorted(known, key=SECTIONS.index):
        document.add("ovf.structure", envelope, f"sections in the order {', '.join(known)}", hint=", ".join(SECTIONS))
    for element in envelope:
        if element.tag.startswith(OVF) and local(element).endswith("Section") and element.find(f"{OVF}Info") is None:
            document.add("ovf.structure", element, f"{local(element)} has no Info, which the schema wants first")


def _foreign(document: Document) -> None:
    """Elements of other namespaces where DSP0243 lets importers refuse what they do not know."""
    for parent in document.root.iter():
        if parent.tag not in (f"{OVF}Envelope", f"{OVF}VirtualSystem", f"{OVF}VirtualHardwareSection"):
            continue
        for element in parent:
            if element.tag.startswith(OVF):
                continue
            if element.tag == f"{VBOX}Machine":
                said = "vbox:Machine overrides name, CPU, memory, OS and network cards in VirtualBox"
                document.add("ovf.vbox-machine", element, said, hint="leave it out")
            if element.get(f"{OVF}required") not in ("false", "0"):
                said = f"{local(element)}, of a foreign namespace, is required: an importer that does not know it stops"
                document.add("ovf.required", element, said, hint='ovf:required="false"')


def _file(document: Document, element: Element, ids: Collection[str], names: Collection[str]) -> File:
    file_id, href = element.get(f"{OVF}id", ""), element.get(f"{OVF}href", "")
    size_text = element.get(f"{OVF}size")
    size = number(size_text)
    if not file_id or not href:
        document.add("ovf.file", element, "a File without ovf:id or ovf:href")
    if file_id in ids:
        document.add("ovf.file", element, f"the id {file_id} was used before")
    if href in names:
        document.add("ovf.file", element, f"{href} is listed twice")
    if re.search(r"[/\\]|^\.\.?$", href):
        said = f"{href} is a path or a URL; inside an OVA it has to be the name of a member"
        document.add("ovf.file", element, said, hint="a flat name")
    for attribute in ("compression", "chunkSize"):
        value = element.get(f"{OVF}{attribute}")
        if value not in (None, "", "identity"):
            said = f"ovf:{attribute}={value!r}: compressed or split files are not imported everywhere"
            document.add("ovf.file", element, said, hint="a streamOptimized VMDK is compressed already")
    if size_text is None:
        document.add("ovf.file-size-absent", element, f"{href} has no ovf:size", hint="its size in bytes")
    elif size is None:
        document.add("ovf.file-size", element, f"ovf:size is {size_text!r}, not a number of bytes")
    return File(file_id, href, size, document.line(element))


def _disk(document: Document, element: Element, file_ids: Collection[str], ids: Collection[str]) -> Disk:
    disk_id, file_id = element.get(f"{OVF}diskId", ""), element.get(f"{OVF}fileRef", "")
    if not disk_id:
        document.add("ovf.disk", element, "a Disk without ovf:diskId")
    elif not re.fullmatch(r"[A-Za-z0-9._~-]+", disk_id):
        said = f"the id {disk_id!r} does not fit into ovf:/disk/ID: Proxmox VE skips such a disk"
        document.add("ovf.disk", element, said, hint="A-Z a-z 0-9 . _ ~ -")
    if disk_id in ids:
        document.add("ovf.disk", element, f"the id {disk_id} was used before")
    if file_id and file_id not in file_ids:
        document.add("ovf.disk", element, f"fileRef {file_id} is no File of References")
    disk_format = element.get(f"{OVF}format", "")
    if disk_format != STREAM_OPTIMIZED:
        said = f"ovf:format is {disk_format or 'missing'}"
        document.add("ovf.disk-format", element, said, hint=f'ovf:format="{STREAM_OPTIMIZED}"')
    return Disk(disk_id, file_id, _capacity(document, element), document.line(element))


def _capacity(document: Document, element: Element) -> int | None:
    capacity = number(element.get(f"{OVF}capacity"))
    if capacity is None:
        said = f"ovf:capacity is {element.get(f'{OVF}capacity', 'missing')}, not a whole number"
        document.add("ovf.units", element, said, hint=f'ovf:capacity="MiB" {MIB_UNITS}')
        return None
    units = element.get(f"{OVF}capacityAllocationUnits", "byte")
    match = UNITS.fullmatch(units)
    if match is None:
        said = f"ovf:capacityAllocationUnits is {units!r}: not `byte` or `byte * b^n`"
        document.add("ovf.units", element, said, hint=MIB_UNITS)
        return None
    unit: int = int(match[1] or 1) ** int(match[2] or 1)
    return capacity * unit
