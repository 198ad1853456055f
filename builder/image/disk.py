"""The disk: a GUID partition table, a boot loader for BIOS and one for UEFI, and ext4 filled from the root file system.

Everything is written into a sparse file in place: no loop device, no mount in the host's view, no root needed. GRUB
and mke2fs are the image's own, run inside its root, so the boot loader, the file system's features and the kernel are
of one release whatever machine bakes.
"""

from __future__ import annotations

import json
import os
import re
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import command
from builder.errors import HapxError
from builder.image import namespace
from builder.image.plan import BakePlan
from builder.image.rootfs import run_there

SECTOR = 512
MIB = 1024 * 1024
BIOS_START, BIOS_SECTORS = 2048, 2048  # 1 MiB for GRUB's core image
ESP_START, ESP_SECTORS = 4096, 64 * MIB // SECTOR
ROOT_START = ESP_START + ESP_SECTORS
TAIL_SECTORS = 2048  # the backup partition table, to the next MiB
MINIMUM_MIB = 2048

# GPT partition types: UEFI specification 2.10 section 5.3; root: Discoverable Partitions Specification.
BIOS_TYPE = "21686148-6449-6E6F-744E-656564454649"
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"

# Everything a grub.cfg of update-grub asks for without a splash screen, so no module is read from the disk.
_GRUB_MODULES = (
    *("part_gpt", "ext2", "search", "search_fs_uuid", "search_label", "normal", "configfile", "linux", "gzio", "zstd"),
    *("echo", "test", "ls", "cat", "reboot", "halt", "serial", "terminal", "all_video", "loadenv", "sleep", "true"),
)
_WORK = "/run/work"  # the bake's work folder inside the root


@dataclass(frozen=True, slots=True)
class DiskIds:
    """The disk's identities; the same plan has the same ones."""

    disk: uuid.UUID
    bios: uuid.UUID
    esp: uuid.UUID
    esp_volume: int  # FAT's 32-bit volume number
    root: uuid.UUID
    filesystem: uuid.UUID

    @classmethod
    def of(cls, key: str) -> DiskIds:
        """The identities for a bake's key (RFC 9562 version 5: names, not chance)."""

        def name(what: str) -> uuid.UUID:
            return uuid.uuid5(uuid.NAMESPACE_OID, f"hapx:{key}:{what}")

        volume = name("esp-volume").int & 0xFFFFFFFF
        return cls(name("disk"), name("bios"), name("esp"), volume, name("root"), name("filesystem"))

    @property
    def esp_label(self) -> str:
        """FAT's volume number as blkid and fstab write it."""
        return f"{self.esp_volume >> 16:04X}-{self.esp_volume & 0xFFFF:04X}"


def root_sectors(size_mib: int) -> int:
    """Sectors of the root partition on a disk of `size_mib` MiB."""
    return size_mib * MIB // SECTOR - ROOT_START - TAIL_SECTORS


def partition_table(ids: DiskIds, size_mib: int) -> str:
    """The partition table as sfdisk(8) reads it. The root comes last, so that it can grow."""
    return "\n".join(
        [
            "label: gpt",
            f"label-id: {ids.disk}",
            "unit: sectors",
            f'start={BIOS_START}, size={BIOS_SECTORS}, type={BIOS_TYPE}, uuid={ids.bios}, name="bios-boot"',
            f'start={ESP_START}, size={ESP_SECTORS}, type={ESP_TYPE}, uuid={ids.esp}, name="esp"',
            f'start={ROOT_START}, size={root_sectors(size_mib)}, type={ROOT_TYPE}, uuid={ids.root}, name="root"',
            "",
        ]
    )


def fstab(ids: DiskIds) -> str:
    """The image's /etc/fstab. The ESP is for whoever repairs the boot loader: nothing needs it mounted."""
    return (
        f"UUID={ids.filesystem} / ext4 errors=remount-ro 0 1\n"
        f"UUID={ids.esp_label} /boot/efi vfat umask=0077,noauto 0 2\n"
    )


def grub_config(ids: DiskIds, kernels: Sequence[str]) -> str:
    """The first grub.cfg, newest kernel first; update-grub writes the next one when a kernel comes.

    The serial terminal and the kernel's console are those of files/etc/default/grub.d/hapx.cfg.
    """
    lines = [
        "# Written when the image was baked; update-grub replaces it.",
        "serial --unit=0 --speed=115200",
        "terminal_input console serial",
        "terminal_output console serial",
        "set default=0",
        "set timeout=1",
        f"search --no-floppy --fs-uuid --set=root {ids.filesystem}",
    ]
    for kernel in kernels:
        lines += [
            f"menuentry 'Debian GNU/Linux, with Linux {kernel}' {{",
            f"  linux /boot/vmlinuz-{kernel} root=UUID={ids.filesystem} ro console=tty0 console=ttyS0,115200n8",
            f"  initrd /boot/initrd.img-{kernel}",
            "}",
        ]
    return "\n".join([*lines, ""])


def early_config(ids: DiskIds) -> str:
    """What the UEFI loader does first: find the root by its UUID, whatever else is plugged in; read its grub.cfg."""
    return (
        f"search.fs_uuid {ids.filesystem} root\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n"
    )


def kernels(root: Path) -> list[str]:
    """The versions of the kernels in /boot that have an initramfs, newest first."""
    found = [path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*")]
    usable = [version for version in found if (root / "boot" / f"initrd.img-{version}").exists()]
    if not usable:
        raise HapxError("/boot of the new root: no kernel with an initramfs", hint="is linux-image-* in packages.list?")
    return sorted(usable, key=_natural, reverse=True)


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts 6.12.9+deb13 before 6.12.10+deb13: numbers by their value, wherever they stand."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", text)]


def boot_sector(boot: bytes) -> bytes:
    """GRUB's boot.img for the first 440 bytes of a disk whose core image starts at BIOS_START.

    Offsets are those of GRUB's include/grub/i386/pc/boot.h: the core image's first sector at 0x5c; at 0x66 the check of
    the drive number, disabled as grub-install does for hard disks, because some BIOSes pass a wrong one.
    """
    patched = bytearray(boot[:440])
    struct.pack_into("<Q", patched, 0x5C, BIOS_START)
    patched[0x66:0x68] = b"\x90\x90"
    return bytes(patched)


def core_image(core: bytes) -> bytes:
    """GRUB's core.img with the list of where the rest of it lies: all in one piece, from BIOS_START + 1 on.

    The list is at the end of the first sector: start (8 bytes at 0x1f4), sectors (2 at 0x1fc), segment (2 at 0x1fe).
    """
    sectors = -(-len(core) // SECTOR)
    if sectors > BIOS_SECTORS:
        raise HapxError(f"GRUB's core image has {sectors} sectors, its partition {BIOS_SECTORS}")
    patched = bytearray(core)
    struct.pack_into("<QHH", patched, 0x1F4, BIOS_START + 1, sectors - 1, 0x820)
    return bytes(patched)


def mke2fs_argv(ids: DiskIds, size_mib: int) -> list[str]:
    """The command, inside the root, that fills the root partition of the disk in /run/work from the view at /mnt."""
    extended = (
        f"offset={ROOT_START * SECTOR},hash_seed={ids.filesystem},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    )
    kib = root_sectors(size_mib) * SECTOR // 1024
    return [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", "hapx-root", "-U", str(ids.filesystem), "-E", extended),
        *("-d", "/mnt", f"{_WORK}/disk.raw", f"{kib}k"),
    ]


def grub_argv(target: str, output: str, *, prefix: str, config: str = "") -> list[str]:
    """The grub-mkimage command, inside the root, for a GRUB target ("i386-pc", "x86_64-efi")."""
    modules = [*_GRUB_MODULES, *(["biosdisk"] if target == "i386-pc" else ["fat", "efi_gop"])]
    argv = ["grub-mkimage", "-O", target, "-d", f"/usr/lib/grub/{target}", "-p", prefix, "-o", output]
    return [*argv, *(["-c", config] if config else []), *modules]


def build(plan: BakePlan, *, epoch: int, on_line: Callable[[str], None]) -> DiskIds:
    """Make the plan's disk from its root file system; returns the disk's identities.

    `epoch` (seconds) is the date that file systems and files made here carry. Raises NoSpaceError or CommandError.
    """
    ids = DiskIds.of(plan.key)
    work = Path(plan.work)
    _write_boot_files(plan, ids, epoch)

    with plan.disk.open("wb") as file:
        file.truncate(plan.disk_size_mib * MIB)
    command.run(["sfdisk", "--quiet", str(plan.disk)], input=partition_table(ids, plan.disk_size_mib))

    (work / "early.cfg").write_text(early_config(ids))
    efi = f"{_WORK}/bootx64.efi"
    for argv in (
        grub_argv("i386-pc", f"{_WORK}/core.img", prefix="(,gpt3)/boot/grub"),
        grub_argv("x86_64-efi", efi, prefix="/boot/grub", config=f"{_WORK}/early.cfg"),
        mke2fs_argv(ids, plan.disk_size_mib),
    ):
        environment = {"SOURCE_DATE_EPOCH": str(epoch), "E2FSPROGS_FAKE_TIME": str(epoch), "LC_ALL": "C.UTF-8"}
        inside = namespace.enter_argv(plan.root, argv, binds={work: _WORK}, env=environment, view=True)
        run_there(inside, plan, doing=argv[0], on_line=on_line)

    _write_esp(plan, ids, work / "bootx64.efi", epoch)
    with plan.disk.open("r+b") as file:
        file.write(boot_sector((plan.root / "usr/lib/grub/i386-pc/boot.img").read_bytes()))
        file.seek(BIOS_START * SECTOR)
        file.write(core_image((work / "core.img").read_bytes()))
    plan.facts("disk").write_text(json.dumps({"disk": str(ids.disk), "filesystem": str(ids.filesystem)}) + "\n")
    return ids


def _write_boot_files(plan: BakePlan, ids: DiskIds, epoch: int) -> None:
    """fstab and grub.cfg, into the root; their folders keep the dates they had."""
    grub = plan.root / "boot" / "grub"
    for folder in (plan.root / "boot/efi", grub):
        folder.mkdir(mode=0o755, exist_ok=True)
    for path, text in (
        (plan.root / "etc/fstab", fstab(ids)),
        (grub / "grub.cfg", grub_config(ids, kernels(plan.root))),
    ):
        path.write_text(text)
        os.utime(path, (epoch, epoch))


def _write_esp(plan: BakePlan, ids: DiskIds, loader: Path, epoch: int) -> None:
    """The EFI system partition, in place, with the loader where firmware looks on a disk it has never seen.

    EFI/BOOT/BOOTX64.EFI: UEFI specification 2.10 section 3.5.1.1.
    """
    kib = ESP_SECTORS * SECTOR // 1024
    argv = ["mkfs.vfat", "-F", "32", "-s", "1", "--invariant", "-i", f"{ids.esp_volume:08x}", "-n", "HAPX-ESP"]
    command.run([*argv, "-h", str(ESP_START), f"--offset={ESP_START}", str(plan.disk), str(kib)])
    os.utime(loader, (epoch, epoch))
    image = f"{plan.disk}@@{ESP_START * SECTOR}"
    environment = {"SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
    command.run(["mmd", "-i", image, "::/EFI", "::/EFI/BOOT"], env=environment)
    command.run(["mcopy", "-m", "-i", image, str(loader), "::/EFI/BOOT/BOOTX64.EFI"], env=environment)
