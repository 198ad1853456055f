"""The OVF descriptor, parsed by lxml and held against what importers ask for, rule by rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lxml import etree

from builder.errors import InputError
from builder.image import ovf
from builder.image.ovf import Appliance

MIB = 1 << 20
NAMESPACES = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    "cim": "http://schemas.dmtf.org/wbem/wscim/1/common",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "vmw": "http://www.vmware.com/schema/ovf",
    "vbox": "http://www.virtualbox.org/ovf/machine",
}
APPLIANCE = Appliance(
    name="hapx-1.0-amd64",
    product="HAProxy cluster node",
    vendor="Load & Balance <lb@example.net>",
    version="1.0",
    full_version="1.0 (Debian 13)",
    product_url="https://example.net/?a=1&b=2",
    vendor_url="https://example.net/",
    description='Says "hello" & <goodbye>\nin zwei Zeilen: Größe',
    cpus=4,
    memory_mib=3072,
    networks=("NAT", "VM Network", "NAT"),
)


def render(appliance: Appliance = APPLIANCE, capacity: int = 4096 * MIB) -> bytes:
    return ovf.render(appliance, disk_name="hapx-1.0-amd64-disk1.vmdk", disk_size=1234567, capacity=capacity)


def parse(document: bytes) -> etree._Element:
    return etree.fromstring(document, etree.XMLParser(resolve_entities=False))


def find(path: str, document: bytes | None = None) -> list[str]:
    result = parse(document or render()).xpath(path, namespaces=NAMESPACES)
    return result if isinstance(result, list) else [str(result)]


HARDWARE = "/ovf:Envelope/ovf:VirtualSystem/ovf:VirtualHardwareSection"
SYSTEM = "/ovf:Envelope/ovf:VirtualSystem"


def item(resource_type: int, child: str) -> str:
    return f"{HARDWARE}/ovf:Item[rasd:ResourceType={resource_type}]/rasd:{child}/text()"


# What each rule is for stands in builder/image/ovf.py; (rule, XPath, what it finds).
RULES = [
    ("one file", "/ovf:Envelope/ovf:References/ovf:File/@ovf:href", ["hapx-1.0-amd64-disk1.vmdk"]),
    ("its size in bytes", "/ovf:Envelope/ovf:References/ovf:File/@ovf:size", ["1234567"]),
    ("its id", "/ovf:Envelope/ovf:References/ovf:File/@ovf:id", ["file1"]),
    ("no compression on top", "//@ovf:compression", []),
    ("disk: the file", "//ovf:DiskSection/ovf:Disk/@ovf:fileRef", ["file1"]),
    ("disk: id", "//ovf:DiskSection/ovf:Disk/@ovf:diskId", ["vmdisk1"]),
    ("disk: capacity is an integer", "//ovf:DiskSection/ovf:Disk/@ovf:capacity", ["4096"]),
    ("disk: the unit PVE parses", "//ovf:DiskSection/ovf:Disk/@ovf:capacityAllocationUnits", ["byte * 2^20"]),
    (
        "disk: format",
        "//ovf:DiskSection/ovf:Disk/@ovf:format",
        ["http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"],
    ),
    ("networks: each once", "//ovf:NetworkSection/ovf:Network/@ovf:name", ["NAT", "VM Network"]),
    ("name", f"{SYSTEM}/ovf:Name/text()", ["hapx-1.0-amd64"]),
    ("id", f"{SYSTEM}/@ovf:id", ["hapx-1.0-amd64"]),
    ("one virtual system", f"count({SYSTEM})", ["1.0"]),
    ("guest: CIM's Debian 64-bit", f"{SYSTEM}/ovf:OperatingSystemSection/@ovf:id", ["96"]),
    ("guest: VMware's type", f"{SYSTEM}/ovf:OperatingSystemSection/@vmw:osType", ["other4xLinux64Guest"]),
    ("hardware family", f"{HARDWARE}/ovf:System/vssd:VirtualSystemType/text()", ["vmx-14"]),
    ("hardware identifier", f"{HARDWARE}/ovf:System/vssd:VirtualSystemIdentifier/text()", ["hapx-1.0-amd64"]),
    ("CPU: how many", item(3, "VirtualQuantity"), ["4"]),
    ("CPU: unit", item(3, "AllocationUnits"), ["hertz * 10^6"]),
    ("memory: MiB", item(4, "VirtualQuantity"), ["3072"]),
    ("memory: the unit VirtualBox knows", item(4, "AllocationUnits"), ["byte * 2^20"]),
    ("controller: AHCI to VMware and VirtualBox", item(20, "ResourceSubType"), ["vmware.sata.ahci"]),
    ("no other controller", f"count({HARDWARE}/ovf:Item[rasd:ResourceType=5 or rasd:ResourceType=6])", ["0.0"]),
    ("disk drive: the disk", item(17, "HostResource"), ["ovf:/disk/vmdisk1"]),
    ("disk drive: port", item(17, "AddressOnParent"), ["0"]),
    ("cards: what VirtualBox can map", item(10, "ResourceSubType"), ["E1000"] * 3),
    ("cards: network of each", item(10, "Connection"), ["NAT", "VM Network", "NAT"]),
    ("cards: connected", item(10, "AutomaticAllocation"), ["true"] * 3),
    ("cards: slots in order", item(10, "AddressOnParent"), ["7", "8", "9"]),
    ("firmware", f'{HARDWARE}/vmw:Config[@vmw:key="firmware"]/@vmw:value', ["bios"]),
    ("not signed", f'{HARDWARE}/vmw:Config[@vmw:key="bootOptions.efiSecureBootEnabled"]/@vmw:value', ["false"]),
    ("VMware's settings may be ignored", f'{HARDWARE}/vmw:Config[not(@ovf:required="false")]', []),
    ("no vbox:Machine", "//vbox:*", []),
    ("product", f"{SYSTEM}/ovf:ProductSection/ovf:Product/text()", ["HAProxy cluster node"]),
    ("vendor", f"{SYSTEM}/ovf:ProductSection/ovf:Vendor/text()", ["Load & Balance <lb@example.net>"]),
    ("version", f"{SYSTEM}/ovf:ProductSection/ovf:Version/text()", ["1.0"]),
    ("full version", f"{SYSTEM}/ovf:ProductSection/ovf:FullVersion/text()", ["1.0 (Debian 13)"]),
    ("product's page", f"{SYSTEM}/ovf:ProductSection/ovf:ProductUrl/text()", ["https://example.net/?a=1&b=2"]),
    ("vendor's page", f"{SYSTEM}/ovf:ProductSection/ovf:VendorUrl/text()", ["https://example.net/"]),
    ("no property without a transport", "//ovf:Property", []),
    (
        "description",
        f"{SYSTEM}/ovf:AnnotationSection/ovf:Annotation/text()",
        ['Says "hello" & <goodbye>\nin zwei Zeilen: Größe'],
    ),
]


@pytest.mark.parametrize(("path", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(path: str, expected: list[str]) -> None:
    assert find(path) == expected


def test_every_namespace_is_declared_on_the_root() -> None:
    assert {prefix: uri for prefix, uri in parse(render()).nsmap.items() if prefix} == NAMESPACES
    assert parse(render()).nsmap[None] == NAMESPACES["ovf"]


def test_the_document_is_utf_8_with_a_declaration_and_no_doctype() -> None:
    document = render()
    assert document.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<Envelope ')
    assert "Größe".encode() in document
    assert parse(document).getroottree().docinfo.doctype == ""


def test_a_tag_ends_on_the_line_it_starts_on() -> None:
    """Proxmox VE reads the document without its line feeds: one between two attributes would join them."""
    joined = b"".join(render().splitlines())
    assert etree.tostring(parse(joined), method="c14n").count(b"<") == etree.tostring(
        parse(render()), method="c14n"
    ).count(b"<")


def test_settings_are_in_alphabetical_order_and_vmware_s_come_after_them() -> None:
    for element in parse(render()).iterfind(".//ovf:Item", NAMESPACES):
        names = [etree.QName(child).localname for child in element]
        assert names == sorted(names)
    (hardware,) = parse(render()).xpath(HARDWARE, namespaces=NAMESPACES)
    names = [etree.QName(child).localname for child in hardware]
    assert names == ["Info", "System", *["Item"] * 7, "Config", "Config"]


def test_sections_come_in_the_schema_s_order() -> None:
    names = [etree.QName(child).localname for child in parse(render())]
    assert names == ["References", "DiskSection", "NetworkSection", "VirtualSystem"]
    (product,) = parse(render()).xpath(f"{SYSTEM}/ovf:ProductSection", namespaces=NAMESPACES)
    assert [etree.QName(child).localname for child in product] == [
        "Info",
        "Product",
        "Vendor",
        "Version",
        "FullVersion",
        "ProductUrl",
        "VendorUrl",
    ]


def test_ids_are_unique_and_parents_exist() -> None:
    ids = find(f"{HARDWARE}/ovf:Item/rasd:InstanceID/text()")
    assert len(ids) == len(set(ids)) == 7
    parents = find(f"{HARDWARE}/ovf:Item/rasd:Parent/text()")
    assert parents == find(item(20, "InstanceID"))
    assert find(f"{HARDWARE}/ovf:System/vssd:InstanceID/text()") == ["0"]
    assert "0" not in ids


def test_empty_texts_are_left_out() -> None:
    document = render(Appliance(name="plain"))
    assert find(f"{SYSTEM}/ovf:AnnotationSection", document) == []
    (product,) = parse(document).xpath(f"{SYSTEM}/ovf:ProductSection", namespaces=NAMESPACES)
    assert [etree.QName(child).localname for child in product] == ["Info"]


def test_a_plain_appliance_has_one_card_on_nat() -> None:
    document = render(Appliance(name="plain"))
    assert find(item(10, "Connection"), document) == ["NAT"]
    assert find("//ovf:Network/@ovf:name", document) == ["NAT"]


def test_hardware_families_are_listed_with_spaces() -> None:
    document = render(Appliance(name="plain", virtual_system_types=("vmx-14", "vmx-15")))
    assert find(f"{HARDWARE}/ovf:System/vssd:VirtualSystemType/text()", document) == ["vmx-14 vmx-15"]


def test_the_same_appliance_gives_the_same_bytes() -> None:
    assert render() == render()


BAD: list[tuple[str, Callable[[], Appliance], str]] = [
    ("empty name", lambda: Appliance(name=""), "name: '' cannot name the files"),
    ("a folder in the name", lambda: Appliance(name="a/b"), "name: 'a/b' cannot name the files"),
    ("a tilde, which Proxmox VE refuses", lambda: Appliance(name="a-1.0~rc1"), "name: 'a-1.0~rc1' cannot name"),
    ("a dot first", lambda: Appliance(name=".a"), "name: '.a' cannot name the files"),
    ("a line feed last", lambda: Appliance(name="a\n"), "name: 'a\\n' cannot name the files"),
    ("a name too long for the tar", lambda: Appliance(name="a" * 81), "cannot name the files"),
    ("a control character", lambda: Appliance(name="a", vendor="a\x00b"), "vendor: has a control character"),
    ("a lone surrogate", lambda: Appliance(name="a", description="\udc80"), "description: has a control character"),
    ("a network's", lambda: Appliance(name="a", networks=("a\x1b",)), "networks: has a control character"),
    ("no CPU", lambda: Appliance(name="a", cpus=0), "cpus: 0 is less than 1"),
    ("no memory", lambda: Appliance(name="a", memory_mib=-1), "memory_mib: -1 is less than 1"),
    ("a network without a name", lambda: Appliance(name="a", networks=("NAT", "")), "networks: a network has no name"),
]


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_cannot_be_said_is_refused(make: Callable[[], Appliance], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    (detail,) = caught.value.details
    assert message in detail


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Appliance(name="a b", vendor="\x01", cpus=0, memory_mib=0)
    assert [problem.where for problem in caught.value.problems] == ["vendor", "name", "cpus", "memory_mib"]


@pytest.mark.parametrize("capacity", [0, 1, 4096 * MIB + 512])
def test_a_capacity_no_vmdk_has_is_refused(capacity: int) -> None:
    with pytest.raises(InputError, match="not a whole number of MiB"):
        render(capacity=capacity)
