"""Small OVAs, good ones and broken ones, made by hand: nothing here comes from the project's own writer."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

SECTOR = 512
GRAIN = 128 * SECTOR
CAPACITY = 40 * 2048  # sectors: two grain tables
TABLES = 2
DIRECTORY, FIRST_TABLE, FRONT = 21, 22, 30  # sectors of a disk with its directory in front
AT_END = 0xFFFFFFFFFFFFFFFF

DESCRIPTOR = """\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=0a1b2c3d
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW 81920 SPARSE "sample-disk1.vmdk"

# The Disk Data Base
#DDB

ddb.longContentID = "00112233445566778899aabb0a1b2c3d"
ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "5"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.adapterType = "lsilogic"
ddb.toolsInstallType = "4"
ddb.toolsVersion = "2147483647"
"""

OVF = """\
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
    xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common" xmlns:vmw="http://www.vmware.com/schema/ovf"
    xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
    xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
    xmlns:vbox="http://www.virtualbox.org/ovf/machine" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <References>
    <File ovf:id="file1" ovf:href="sample-disk1.vmdk" ovf:size="@SIZE@"/>
  </References>
  <DiskSection>
    <Info>disks</Info>
    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="40" ovf:capacityAllocationUnits="byte * 2^20"
        ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>networks</Info>
    <Network ovf:name="NAT"><Description>NAT</Description></Network>
  </NetworkSection>
  <VirtualSystem ovf:id="sample">
    <Info>a machine</Info>
    <Name>sample</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian12_64Guest"><Info>Debian</Info></OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="iso">
      <Info>hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>sample</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-14</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>
        <rasd:ElementName>2 CPU</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>2</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:ElementName>memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>2048</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:ElementName>sata</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>AHCI</rasd:ResourceSubType>
        <rasd:ResourceType>20</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>disk</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Connection>NAT</rasd:Connection>
        <rasd:ElementName>nic</rasd:ElementName>
        <rasd:InstanceID>5</rasd:InstanceID>
        <rasd:ResourceSubType>E1000</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
        <vmw:Config ovf:required="false" vmw:key="wakeOnLanEnabled" vmw:value="false"/>
      </Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""


def sectors(data: bytes, count: int | None = None) -> bytes:
    """The data padded with zeros to whole sectors, or to `count` of them."""
    return data.ljust(SECTOR * (-(-len(data) // SECTOR) if count is None else count), b"\0")


def content(number: int) -> bytes:
    """What is in the grain `number`: every second one compresses to less than a sector, the others do not compress."""
    return bytes([1 + number % 255]) * GRAIN if number % 2 else random.Random(number).randbytes(GRAIN)


def header(**fields: int | bytes) -> bytes:
    """A header sector: a good one, apart from `fields`."""
    values: dict[str, int | bytes] = {
        "magic": b"KDMV", "version": 3, "flags": 0x30001, "capacity": CAPACITY, "grain_size": 128,
        "descriptor_offset": 1, "descriptor_size": 20, "entries_per_table": 512, "redundant_offset": 0,
        "directory_offset": DIRECTORY, "overhead": FRONT, "unclean": 0, "newlines": b"\n \r\n", "compression": 1,
    }  # fmt: skip
    unknown = set(fields) - set(values)
    assert not unknown, unknown
    return sectors(struct.pack("<4sIIQQQQIQQQB4sH", *{**values, **fields}.values()))


def grain(lba: int, plain: bytes, *, packed: bytes | None = None, size: int | None = None, pad: bytes = b"\0") -> bytes:
    """A grain as it stands in the file."""
    packed = zlib.compress(plain, 6) if packed is None else packed
    raw = struct.pack("<QI", lba, len(packed) if size is None else size) + packed
    return raw.ljust(len(sectors(raw)), pad)


def marker(count: int, kind: int, *, size: int = 0, rest: bytes = b"") -> bytes:
    return sectors(struct.pack("<QII", count, size, kind) + rest)


def table(entries: dict[int, int]) -> bytes:
    return struct.pack("<512I", *(entries.get(entry, 0) for entry in range(512)))


END = marker(0, 0)


@dataclass(frozen=True)
class Disk:
    """A streamOptimized VMDK in the making: grains in the order they are written, and what is wrong with it.

    `pieces` may replace the bytes of single grains by number, `entries` those of grain tables by grain number,
    `directory` entries of the grain directory; `end` is what stands behind the last grain or the footer.
    """

    grains: tuple[int, ...] = (0, 1, 5, 600, 639)
    at_end: bool = False  # directory and footer behind the grains
    fields: dict[str, int | bytes] = field(default_factory=dict)
    footer_fields: dict[str, int | bytes] = field(default_factory=dict)
    descriptor: str = DESCRIPTOR
    pieces: dict[int, bytes] = field(default_factory=dict)
    before: dict[int, bytes] = field(default_factory=dict)
    entries: dict[int, int] = field(default_factory=dict)
    directory: dict[int, int] = field(default_factory=dict)
    end: bytes = END
    table_marker: tuple[int, int] = (4, 1)
    directory_marker: tuple[int, int] = (1, 2)
    footer_marker: tuple[int, int] = (1, 3)
    without_footer: bool = False

    def with_fields(self, **fields: int | bytes) -> Disk:
        return replace(self, fields={**self.fields, **fields})

    def build(self) -> bytes:
        body, places = b"", dict[int, int]()
        start = 21 if self.at_end else FRONT

        def here() -> int:
            return start + len(body) // SECTOR

        tables: dict[int, int] = {}
        for index, number in enumerate(self.grains):
            body += self.before.get(number, b"")
            places[number] = here()
            body += self.pieces.get(number, grain(number * 128, content(number)))
            following = self.grains[index + 1 :]
            if self.at_end and not any(later // 512 == number // 512 for later in following):
                body += marker(*self.table_marker)
                tables[number // 512] = here()
                body += self._table(number // 512, places)
        if not self.at_end:
            tables = {number: FIRST_TABLE + 4 * number for number in range(TABLES)}
            front = sectors(self._directory(tables), 1) + b"".join(self._table(n, places) for n in range(TABLES))
            head = header(**self.fields) + sectors(self.descriptor.encode(), 20) + front
            return head.ljust(FRONT * SECTOR, b"\0") + body + self.end
        body += marker(*self.directory_marker)
        directory = here()
        body += sectors(self._directory(tables), 1)
        first: dict[str, int | bytes] = {"directory_offset": AT_END, "overhead": 21, **self.fields}
        if not self.without_footer:
            last = {**first, "directory_offset": directory, **self.footer_fields}
            body += marker(*self.footer_marker) + header(**last)
        return header(**first) + sectors(self.descriptor.encode(), 20) + body + self.end

    def _table(self, number: int, places: dict[int, int]) -> bytes:
        here = {grain % 512: place for grain, place in {**places, **self.entries}.items() if grain // 512 == number}
        return table(here)

    def _directory(self, tables: dict[int, int]) -> bytes:
        return struct.pack("<2I", *({**tables, **self.directory}.get(number, 0) for number in range(TABLES)))


@dataclass(frozen=True)
class Member:
    """A member of the archive; `fields` overwrite those of its header before the checksum, `after` follows it."""

    name: str
    data: bytes
    fields: dict[str, bytes] = field(default_factory=dict)
    checksum: bytes | None = None
    cut: int | None = None  # bytes of data that are really there
    pad: bytes = b"\0"

    def build(self) -> bytes:
        values = {
            "name": self.name.encode(), "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0",
            "size": b"%011o\0" % len(self.data), "mtime": b"14524770400\0", "checksum": b" " * 8, "kind": b"0",
            "link": b"", "magic": b"ustar\x0000", "uname": b"root", "gname": b"root", "major": b"", "minor": b"",
            "prefix": b"", "rest": b"",
        }  # fmt: skip
        unknown = set(self.fields) - set(values)
        assert not unknown, unknown
        layout = struct.Struct("<100s8s8s8s12s12s8ss100s8s32s32s8s8s155s12s")
        raw = layout.pack(*{**values, **self.fields}.values())
        checksum = b"%06o\0 " % sum(raw) if self.checksum is None else self.checksum
        block = raw[:148] + checksum + raw[156:]
        data = self.data[: self.cut]
        return block + (data.ljust(len(data) + -len(data) % SECTOR, self.pad) if self.cut is None else data)


def manifest(
    files: Iterable[tuple[str, bytes]], line: str = "{algorithm}({name})= {digest}\n", kind: str = "sha256"
) -> str:
    return "".join(
        line.format(algorithm=kind.upper(), name=name, digest=hashlib.new(kind, data).hexdigest())
        for name, data in files
    )


def ova(
    *,
    disk: bytes | Disk | None = None,
    descriptor: Callable[[str], str] = str,
    signed: Callable[[str], str] = str,
    members: Callable[[list[Member]], list[Member]] = list,
    end: bytes = bytes(1024),
) -> bytes:
    """An OVA of sample.ovf, sample.mf and sample-disk1.vmdk: a good one, apart from what the arguments make of it.

    `descriptor` and `signed` change the text of the .ovf and of the .mf, `members` the list of members; the manifest is
    made after the descriptor was changed, so that one defect stays one defect.
    """
    data = disk if isinstance(disk, bytes) else (disk or Disk()).build()
    text = descriptor(OVF.replace("@SIZE@", str(len(data)))).encode()
    lines = signed(manifest([("sample.ovf", text), ("sample-disk1.vmdk", data)])).encode()
    parts = [Member("sample.ovf", text), Member("sample.mf", lines), Member("sample-disk1.vmdk", data)]
    return b"".join(member.build() for member in members(parts)) + end


def change(old: str, new: str) -> Callable[[str], str]:
    """A replacement that has to happen exactly once."""

    def apply(text: str) -> str:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        return text.replace(old, new)

    return apply
