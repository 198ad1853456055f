"""What `verify` says about the OVA that a real VirtualBox exports: a disk with a footer, by somebody else's writer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from builder.image.verify import verify
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture
def exported(vbox: VBox, tmp_path: Path) -> Path:
    """A machine with a disk of 100 MiB, some grains of it used, as VirtualBox exports it."""
    disk, target = tmp_path / "disk.raw", tmp_path / "exported.ova"
    with disk.open("wb") as file:
        file.truncate(100 * MIB)
        for grain in (0, 1, 5, 600, 1599):
            file.seek(grain * 65536)
            file.write(random.Random(grain).randbytes(65536) if grain % 2 else b"text " * 13107)
    vbox.manage("convertfromraw", disk, tmp_path / "disk.vdi", "--format", "VDI")
    vbox.manage("createvm", "--name", "machine", "--register", "--basefolder", tmp_path / "machines")
    vbox.manage("storagectl", "machine", "--name", "SATA", "--add", "sata")
    medium = ["--port", "0", "--device", "0", "--type", "hdd", "--medium", tmp_path / "disk.vdi"]
    vbox.manage("storageattach", "machine", "--storagectl", "SATA", *medium)
    vbox.manage("export", "machine", "--output", target, "--ovf10", "--manifest")
    return target


def test_export_of_virtualbox(exported: Path) -> None:
    report = verify(exported)
    found = {finding.check for finding in report.findings}
    assert report.capacity == 100 * MIB
    # Nothing is wrong with its grains, markers, tables and footer.
    assert {check for check in found if check.startswith("vmdk.")} <= {
        "vmdk.adapter",
        "vmdk.ddb",
        "vmdk.descriptor-place",
    }
    assert {"manifest.format", "ovf.prefix", "ovf.vbox-machine", "tar.end", "tar.manifest-last"} <= found
    assert not {"manifest.digest", "manifest.extra", "ovf.xml", "ovf.structure", "ovf.item", "ovf.disk"} & found


def test_one_byte_of_the_disk(exported: Path) -> None:
    data = bytearray(exported.read_bytes())
    disk = next(member for member in verify(exported).members if member.name.endswith(".vmdk"))
    data[disk.offset + disk.size // 2] ^= 1
    exported.write_bytes(data)
    found = {finding.check for finding in verify(exported).findings}
    assert {"manifest.digest", "vmdk.inflate"} <= found
