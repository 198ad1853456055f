"""Descriptors with one defect each, and what `verify` says about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.image.verify import Finding, Report, Severity, verify
from tests.unit.verify_samples import OVF, change, ova

STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"


def read(tmp_path: Path, descriptor: Callable[[str], str]) -> Report:
    path = tmp_path / "sample.ova"
    path.write_bytes(ova(descriptor=descriptor))
    return verify(path)


def checks(report: Report) -> set[str]:
    return {finding.check for finding in report.findings}


def only(report: Report, check: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.check == check]
    return finding


def line_of(text: str) -> int:
    """The line of the sample in which `text` begins."""
    assert OVF.count(text) == 1
    return OVF[: OVF.index(text)].count("\n") + 1


def item(instance: int) -> str:
    """The whole Item of that InstanceID."""
    match = re.search(rf" *<Item>(?:(?!</Item>).)*<rasd:InstanceID>{instance}</.*?</Item>\n", OVF, re.DOTALL)
    assert match is not None
    return match[0]


def without(*texts: str) -> Callable[[str], str]:
    def apply(text: str) -> str:
        for part in texts:
            text = change(part, "")(text)
        return text

    return apply


NIC, DISK, CPU = item(5), item(4), item(1)
SECOND_NETWORK_SECTION = "<NetworkSection><Info>n</Info></NetworkSection>"
OPERATING_SYSTEM = (
    '<OperatingSystemSection ovf:id="96" vmw:osType="debian12_64Guest"><Info>Debian</Info></OperatingSystemSection>'
)
PROPERTY = '<ProductSection><Info>p</Info><Property ovf:key="k" ovf:type="string"/></ProductSection>'
DISK_SECTION = OVF[OVF.index("  <DiskSection>") : OVF.index("  <NetworkSection>")]
LOST = {"tar.missing", "tar.extra", "manifest.extra"}  # the disk is not where the descriptor says

DEFECTS: dict[str, tuple[Callable[[str], str], set[str]]] = {
    # Namespaces and structure
    "no vmw": (lambda t: re.sub(r'xmlns:vmw="[^"]*"| vmw:osType="\w*"|<vmw:.*/>', "", t), {"ovf.prefix"}),
    "other vmw": (change("http://www.vmware.com/schema/ovf", "http://example.com/vmw"), {"ovf.prefix"}),
    "no cim": (without('xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common"'), {"ovf.prefix-unused"}),
    "no vbox": (without('xmlns:vbox="http://www.virtualbox.org/ovf/machine"'), {"ovf.prefix-unused"}),
    "no NetworkSection": (
        lambda t: re.sub(r"<NetworkSection>.*</NetworkSection>", "", t, flags=re.DOTALL),
        {"ovf.structure", "ovf.nic"},
    ),
    "two NetworkSections": (change("  <VirtualSystem ", f"{SECOND_NETWORK_SECTION}<VirtualSystem "), {"ovf.structure"}),
    "NetworkSection first": (
        lambda t: change("  <VirtualSystem ", f"{DISK_SECTION}  <VirtualSystem ")(without(DISK_SECTION)(t)),
        {"ovf.structure"},
    ),
    "section without Info": (without("<Info>disks</Info>"), {"ovf.structure"}),
    "machine without Info": (without("<Info>a machine</Info>"), {"ovf.structure"}),
    "hardware without Info": (without("<Info>hardware</Info>"), {"ovf.structure"}),
    "machine without id": (without(' ovf:id="sample"'), {"ovf.structure"}),
    "collection": (
        lambda t: t.replace("<VirtualSystem ", '<VirtualSystemCollection ovf:id="c"><Info/><VirtualSystem ').replace(
            "</VirtualSystem>", "</VirtualSystem></VirtualSystemCollection>"
        ),
        {"ovf.structure"},
    ),
    "vbox:Machine": (
        change("</VirtualSystem>", '<vbox:Machine ovf:required="false"/></VirtualSystem>'),
        {"ovf.vbox-machine"},
    ),
    "foreign and required": (change("</VirtualSystem>", "<vmw:Thing/></VirtualSystem>"), {"ovf.required"}),
    # References
    "size": (lambda t: re.sub(r'ovf:size="(\d+)"', r'ovf:size="1\1"', t), {"ovf.file-size"}),
    "size is no number": (lambda t: re.sub(r'ovf:size="\d+"', 'ovf:size="large"', t), {"ovf.file-size"}),
    "no size": (lambda t: re.sub(r' ovf:size="\d+"', "", t), {"ovf.file-size-absent"}),
    "no id": (without(' ovf:id="file1"'), {"ovf.file", "ovf.disk"}),
    "no href": (without(' ovf:href="sample-disk1.vmdk"'), {"ovf.file"} | LOST),
    "path": (change("sample-disk1.vmdk", "folder/sample-disk1.vmdk"), {"ovf.file"} | LOST),
    "URL": (change("sample-disk1.vmdk", "http://example.com/disk.vmdk"), {"ovf.file"} | LOST),
    "up": (change("sample-disk1.vmdk", ".."), {"ovf.file"} | LOST),
    "other name": (change("sample-disk1.vmdk", "disk.vmdk"), LOST),
    "compressed": (change('ovf:id="file1"', 'ovf:id="file1" ovf:compression="gzip"'), {"ovf.file"}),
    "chunks": (change('ovf:id="file1"', 'ovf:id="file1" ovf:chunkSize="1000"'), {"ovf.file"}),
    "listed twice": (
        lambda t: re.sub(r"(    <File .*\n)", lambda m: m[1] + m[1].replace("file1", "file2"), t), {"ovf.file"},
    ),
    "id twice": (
        lambda t: re.sub(r"(    <File .*\n)", lambda m: m[1] + m[1].replace("disk1", "disk2"), t),
        {"ovf.file", "tar.missing"},
    ),
    # Disks
    "fileRef": (change('ovf:fileRef="file1"', 'ovf:fileRef="file9"'), {"ovf.disk"}),
    "no diskId": (without('ovf:diskId="disk1"'), {"ovf.disk", "ovf.host-resource", "ovf.disk-unused"}),
    "diskId of odd characters": (
        lambda t: t.replace('"disk1"', '"disk 1"').replace("/disk1<", "/disk 1<"),
        {"ovf.disk"},
    ),
    "diskId twice": (
        lambda t: change("  </DiskSection>", re.search(r"    <Disk .*?/>\n", t, re.DOTALL)[0] + "  </DiskSection>")(t),  # type: ignore[index]
        {"ovf.disk"},
    ),
    "format": (change("#streamOptimized", "#sparse"), {"ovf.disk-format"}),
    "no format": (lambda t: t.replace(f'ovf:format="{STREAM_OPTIMIZED}"', ""), {"ovf.disk-format"}),
    "capacity": (change('ovf:capacity="40"', 'ovf:capacity="41"'), {"ovf.capacity"}),
    "capacity in bytes": (
        change('ovf:capacity="40" ovf:capacityAllocationUnits="byte * 2^20"', f'ovf:capacity="{40 << 20}"'),
        set(),
    ),
    "capacity with a comma": (change('ovf:capacity="40"', 'ovf:capacity="40.0"'), {"ovf.units"}),
    "endless capacity": (change('ovf:capacity="40"', f'ovf:capacity="{"9" * 5000}"'), {"ovf.units"}),
    "no capacity": (without('ovf:capacity="40" '), {"ovf.units"}),
    "unit with a word": (change('Units="byte * 2^20"', 'Units="MegaBytes"'), {"ovf.units"}),
    "unit without spaces": (change('Units="byte * 2^20"', 'Units="byte*2^20"'), {"ovf.units"}),
    "endless unit": (change('Units="byte * 2^20"', 'Units="byte * 2^99999999999"'), {"ovf.units"}),
    "disk nobody attaches": (without(DISK), {"ovf.disk-unused"}),
    # The machine
    "no operating system": (without(OPERATING_SYSTEM), {"ovf.os"}),
    "operating system without id": (without(' ovf:id="96"'), {"ovf.os"}),
    "operating system by name": (change('ovf:id="96"', 'ovf:id="Debian"'), {"ovf.os"}),
    "no hardware": (
        lambda t: re.sub(r"<VirtualHardwareSection.*</VirtualHardwareSection>", "", t, flags=re.DOTALL),
        {"ovf.hardware", "ovf.disk-unused"},
    ),
    "no system type": (without("<vssd:VirtualSystemType>vmx-14</vssd:VirtualSystemType>"), {"ovf.hardware"}),
    "unknown system type": (change("vmx-14", "xen-3"), {"ovf.system-type"}),
    "two system types": (change("vmx-14", "vmx-14 virtualbox-2.2"), set()),
    "system out of order": (
        change("<vssd:VirtualSystemType>vmx-14", "<vssd:Caption>c</vssd:Caption><vssd:VirtualSystemType>vmx-14"),
        {"ovf.item-order"},
    ),
    "property without transport": (
        lambda t: change(OPERATING_SYSTEM, OPERATING_SYSTEM + PROPERTY)(without(' ovf:transport="iso"')(t)),
        {"ovf.transport"},
    ),
    "property with transport": (change(OPERATING_SYSTEM, OPERATING_SYSTEM + PROPERTY), set()),
    # Items
    "no name": (without("<rasd:ElementName>nic</rasd:ElementName>"), {"ovf.item"}),
    "no InstanceID": (without("<rasd:InstanceID>5</rasd:InstanceID>"), {"ovf.item"}),
    "no ResourceType": (without("<rasd:ResourceType>10</rasd:ResourceType>"), {"ovf.item"}),
    "ResourceType is a word": (change("ResourceType>10<", "ResourceType>network<"), {"ovf.item"}),
    "InstanceID twice": (change("<rasd:InstanceID>5<", "<rasd:InstanceID>4<"), {"ovf.item"}),
    "out of order": (
        lambda t: change("<rasd:ResourceType>10", "<rasd:ElementName>nic</rasd:ElementName><rasd:ResourceType>10")(
            without("<rasd:ElementName>nic</rasd:ElementName>")(t)
        ),
        {"ovf.item-order"},
    ),
    "Config before": (
        change("<rasd:AutomaticAllocation>", '<vmw:Config ovf:required="false"/><rasd:AutomaticAllocation>'),
        {"ovf.item-order"},
    ),
    "Parent that is not there": (change("<rasd:Parent>3<", "<rasd:Parent>9<"), {"ovf.parent"}),
    "Parent is itself": (change("<rasd:Parent>3<", "<rasd:Parent>4<"), {"ovf.parent", "ovf.address"}),
    "Parent is the CPU": (change("<rasd:Parent>3<", "<rasd:Parent>1<"), {"ovf.address"}),
    "no Parent": (without("<rasd:Parent>3</rasd:Parent>"), {"ovf.address"}),
    "no address": (without("<rasd:AddressOnParent>0</rasd:AddressOnParent>"), {"ovf.address"}),
    "address taken": (
        change("</VirtualHardwareSection>", DISK.replace("ID>4<", "ID>6<") + "</VirtualHardwareSection>"),
        {"ovf.address"},
    ),
    "HostResource with two slashes": (
        change("ovf:/disk/disk1", "ovf://disk/disk1"), {"ovf.host-resource", "ovf.disk-unused"},
    ),
    "HostResource without scheme": (change("ovf:/disk/disk1", "/disk/disk1"), {"ovf.host-resource", "ovf.disk-unused"}),
    "HostResource that is not there": (change("/disk/disk1", "/disk/disk9"), {"ovf.host-resource", "ovf.disk-unused"}),
    "HostResource is the file": (change("/disk/disk1", "/disk/file1"), {"ovf.host-resource", "ovf.disk-unused"}),
    "no HostResource": (
        without("<rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>"), {"ovf.host-resource", "ovf.disk-unused"},
    ),
    "no CPU": (without(CPU), {"ovf.cpu-memory"}),
    "no memory": (without(item(2)), {"ovf.cpu-memory"}),
    "two CPUs": (
        change("</VirtualHardwareSection>", CPU.replace("ID>1<", "ID>6<") + "</VirtualHardwareSection>"),
        {"ovf.cpu-memory"},
    ),
    "CPU of nothing": (change("Quantity>2<", "Quantity>0<"), {"ovf.cpu-memory"}),
    "memory in words": (change("<rasd:VirtualQuantity>2048<", "<rasd:VirtualQuantity>2 GB<"), {"ovf.cpu-memory"}),
    "MegaBytes": (change("byte * 2^20</", "MegaBytes</"), {"ovf.item-units"}),
    "no CPU unit": (without("<rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>"), {"ovf.item-units"}),
    "unknown controller": (change("AHCI", "sata9000"), {"ovf.controller"}),
    "network that is not there": (change("<rasd:Connection>NAT<", "<rasd:Connection>LAN<"), {"ovf.nic"}),
    "no network": (without("<rasd:Connection>NAT</rasd:Connection>"), {"ovf.nic"}),
    "VmxNet3": (change("E1000", "VmxNet3"), {"ovf.nic-type"}),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_descriptor_defect(tmp_path: Path, name: str) -> None:
    descriptor, expected = DEFECTS[name]
    assert checks(read(tmp_path, descriptor)) == expected


def test_network_card_may_be_missing(tmp_path: Path) -> None:
    assert read(tmp_path, without(NIC)).findings == ()


@pytest.mark.parametrize(
    ("element", "check"),
    [
        ("<File ", "ovf.file-size"),
        ("<Disk ", "ovf.capacity"),
        ("<OperatingSystemSection ", "ovf.os"),
    ],
)
def test_finding_names_the_line(tmp_path: Path, element: str, check: str) -> None:
    def descriptor(text: str) -> str:
        text = re.sub(r'ovf:size="\d+"', 'ovf:size="1"', text)
        return text.replace('capacity="40"', 'capacity="41"').replace('ovf:id="96"', 'ovf:id="x"')

    assert only(read(tmp_path, descriptor), check).where == f"sample.ovf: line {line_of(element)}"


def test_item_is_named_with_its_line(tmp_path: Path) -> None:
    finding = only(read(tmp_path, change("<rasd:Connection>NAT<", "<rasd:Connection>LAN<")), "ovf.nic")
    assert finding.where == f"sample.ovf: line {line_of(NIC)}"
    assert finding.message == "nic is connected to LAN, which NetworkSection does not list"
    assert finding.severity is Severity.ERROR


def test_disks_that_would_change_places(tmp_path: Path) -> None:
    def descriptor(text: str) -> str:
        files = '<File ovf:id="file2" ovf:href="b.vmdk" ovf:size="1"/></References>'
        disk = f'<Disk ovf:diskId="disk0" ovf:fileRef="file2" ovf:capacity="1" ovf:format="{STREAM_OPTIMIZED}"/>'
        return change("</References>", files)(change("</DiskSection>", f"{disk}</DiskSection>")(text))

    finding = only(read(tmp_path, descriptor), "ovf.disk-order")
    assert "disk1, disk0" in finding.message


ENTITIES = """<?xml version="1.0"?>
<!DOCTYPE e [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<e>&c;</e>"""
OTHER_TEXTS = {
    "empty": ("", "ovf.xml"),
    "no XML": ("This is no XML", "ovf.xml"),
    "cut": (OVF[:3000], "ovf.xml"),
    "ampersand": (OVF.replace("a machine", "this & that"), "ovf.xml"),
    "prefix that is not declared": (OVF.replace("<Info>a machine", "<x:y/><Info>a machine"), "ovf.xml"),
    "entities": (ENTITIES, "ovf.xml"),
    "external entity": ('<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]><e>&x;</e>', "ovf.xml"),
    "DTD": ("<!DOCTYPE Envelope>" + OVF.split("?>", 1)[1], "ovf.xml"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><e/>', "ovf.xml"),
    "encoding of many bytes": ('<?xml version="1.0" encoding="utf-7"?><e/>', "ovf.xml"),
    "NUL": ("\0" * 100, "ovf.xml"),
    "deep": ("<e>" * 200_000, "ovf.xml"),
    "deep and closed": ("<e>" * 200_000 + "</e>" * 200_000, "ovf.version"),
    "HTML": ("<html/>", "ovf.version"),
    "OVF 2": (OVF.replace("envelope/1", "envelope/2"), "ovf.version"),
    "OVF 0.9": (
        OVF.replace("http://schemas.dmtf.org/ovf/envelope/1", "http://www.vmware.com/schema/ovf/1/envelope"),
        "ovf.version",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_TEXTS)
def test_text_that_is_no_descriptor(tmp_path: Path, name: str) -> None:
    text, expected = OTHER_TEXTS[name]
    report = read(tmp_path, lambda _: text)
    assert expected in checks(report)
    assert checks(report) <= {expected, "manifest.extra"}


def test_broken_xml_is_told_with_line_and_column(tmp_path: Path) -> None:
    finding = only(read(tmp_path, change("<Name>sample</Name>", "<Name>a & b</Name>")), "ovf.xml")
    assert finding.where == f"sample.ovf: line {line_of('<Name>')}"
    assert finding.message == "not well-formed XML: not well-formed (invalid token) in column 14"
    assert "escaped" in finding.hint


def test_many_references_take_linear_time(tmp_path: Path) -> None:
    files = "".join(f'<File ovf:id="f{n}" ovf:href="f{n}" ovf:size="0"/>' for n in range(40_000))
    disks = "".join(f'<Disk ovf:diskId="d{n}" ovf:fileRef="f{n}"/>' for n in range(20_000))

    def descriptor(text: str) -> str:
        text = change("</References>", f"{files}</References>")(text)
        return change("</DiskSection>", f"{disks}</DiskSection>")(text)

    report = read(tmp_path, descriptor)
    assert {"tar.missing", "ovf.units", "ovf.disk-unused"} <= checks(report)


def test_namespace_of_the_elements_counts_not_the_prefix(tmp_path: Path) -> None:
    def descriptor(text: str) -> str:
        text = text.replace("rasd:", "r:").replace("xmlns:r=", "xmlns:rasd=")
        return text.replace("<Envelope ", f'<Envelope xmlns:r="{RASD}" ')

    assert read(tmp_path, descriptor).findings == ()
