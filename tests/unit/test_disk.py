from __future__ import annotations

import json
import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from builder.errors import HapxError
from builder.image import disk
from builder.image.disk import MIB, SECTOR, DiskIds

IDS = DiskIds.of("a bake's key")


def written(tmp_path: Path, size_mib: int) -> dict[str, object]:
    """What sfdisk makes of our table, as sfdisk tells it."""
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(size_mib * MIB)
    table = disk.partition_table(IDS, size_mib)
    subprocess.run(["/usr/sbin/sfdisk", "--quiet", image], input=table, text=True, check=True)
    subprocess.run(["/usr/sbin/sfdisk", "--verify", image], check=True, capture_output=True)
    shown = subprocess.run(["/usr/sbin/sfdisk", "--json", image], check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(shown.stdout)["partitiontable"]
    return found


def test_identities_follow_from_the_key() -> None:
    assert DiskIds.of("a bake's key") == IDS
    other = DiskIds.of("another")
    assert not {IDS.disk, IDS.bios, IDS.esp, IDS.root, IDS.filesystem} & {
        *(other.disk, other.bios, other.esp, other.root, other.filesystem)
    }
    assert len({IDS.disk, IDS.bios, IDS.esp, IDS.root, IDS.filesystem}) == 5


@pytest.mark.parametrize("size_mib", [disk.MINIMUM_MIB, 8192, 1 << 20])
def test_sfdisk_takes_the_partition_table(tmp_path: Path, size_mib: int) -> None:
    table = written(tmp_path, size_mib)
    assert table["label"] == "gpt"
    assert uuid.UUID(str(table["id"])) == IDS.disk
    partitions = table["partitions"]
    assert isinstance(partitions, list)
    bios, esp, root = partitions
    assert [part["type"] for part in partitions] == [disk.BIOS_TYPE, disk.ESP_TYPE, disk.ROOT_TYPE]
    assert [uuid.UUID(part["uuid"]) for part in partitions] == [IDS.bios, IDS.esp, IDS.root]
    assert (bios["start"], bios["size"]) == (2048, 2048)
    assert esp["start"] == bios["start"] + bios["size"]
    assert root["start"] == esp["start"] + esp["size"]
    assert root["start"] % 2048 == 0
    # The root is the last one and reaches to the last MiB, which holds the backup table: so it can grow.
    assert root["start"] + root["size"] == size_mib * MIB // SECTOR - 2048
    assert root["size"] == disk.root_sectors(size_mib)


def test_boot_sector_names_where_the_core_image_starts() -> None:
    boot = disk.boot_sector(bytes(range(256)) * 2)
    assert len(boot) == 440  # the partition table's signature and the table itself come after it
    assert struct.unpack_from("<Q", boot, 0x5C) == (2048,)
    assert boot[0x66:0x68] == b"\x90\x90"
    untouched = [index for index in range(440) if not 0x5C <= index < 0x68]
    assert all(boot[index] == index % 256 for index in untouched if index not in range(0x5C, 0x64))


@pytest.mark.parametrize(("size", "rest"), [(513, 1), (1024, 1), (1025, 2), (60_000, 117)])
def test_core_image_says_where_its_rest_lies(size: int, rest: int) -> None:
    core = disk.core_image(b"\xff" * size)
    assert len(core) == size
    assert struct.unpack_from("<QHH", core, 0x1F4) == (2049, rest, 0x820)
    assert core[:0x1F4] == b"\xff" * 0x1F4


def test_core_image_that_does_not_fit_is_refused() -> None:
    with pytest.raises(HapxError, match="2049 sectors, its partition 2048"):
        disk.core_image(bytes(2048 * SECTOR + 1))


def test_fstab_is_what_findmnt_reads(tmp_path: Path) -> None:
    path = tmp_path / "fstab"
    path.write_text(disk.fstab(IDS))
    argv = ["findmnt", "--fstab", "--tab-file", path, "--json", "--output", "SOURCE,TARGET,FSTYPE,OPTIONS"]
    shown = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    root, esp = shown["filesystems"]
    assert (root["source"], root["target"], root["fstype"]) == (f"UUID={IDS.filesystem}", "/", "ext4")
    assert (esp["target"], esp["fstype"]) == ("/boot/efi", "vfat")
    assert "noauto" in esp["options"]


@pytest.mark.parametrize("versions", [["6.12.10-amd64"], ["6.12.10-amd64", "6.12.9-amd64"]])
def test_grub_takes_its_configuration(tmp_path: Path, versions: list[str]) -> None:
    path = tmp_path / "grub.cfg"
    for text in (disk.grub_config(IDS, versions), disk.early_config(IDS)):
        path.write_text(text)
        subprocess.run(["grub-script-check", path], check=True)
    text = disk.grub_config(IDS, versions)
    assert text.count("menuentry ") == len(versions)
    assert text.index(versions[0]) < text.index("menuentry ") + 80  # the first is what boots
    assert text.count(f"root=UUID={IDS.filesystem} ro console=tty0 console=ttyS0,115200n8") == len(versions)


def boot_folder(tmp_path: Path, *names: str) -> Path:
    (tmp_path / "boot").mkdir()
    for name in names:
        (tmp_path / "boot" / name).touch()
    return tmp_path


def test_newest_kernel_comes_first(tmp_path: Path) -> None:
    versions = ["6.12.9+deb13-amd64", "6.12.117+deb13-amd64", "6.1.0-41-amd64"]
    names = [f"{kind}-{version}" for version in versions for kind in ("vmlinuz", "initrd.img")]
    root = boot_folder(tmp_path, *names, "vmlinuz-7.0.0-without-initramfs")
    assert disk.kernels(root) == ["6.12.117+deb13-amd64", "6.12.9+deb13-amd64", "6.1.0-41-amd64"]


def test_root_without_a_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HapxError, match="no kernel with an initramfs") as caught:
        disk.kernels(boot_folder(tmp_path, "vmlinuz-6.12.9"))
    assert "packages.list" in caught.value.hint
