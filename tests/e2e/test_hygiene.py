"""What may be in an image that will be cloned, and what may not; read from the disk as it is in the OVA, unbooted."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest
from ruamel.yaml import YAML

from builder.command import run
from builder.image.plan import read_packages
from tests.e2e.image import Disk, FileSystem
from tests.e2e.initramfs import cpio_names

pytestmark = pytest.mark.slow  # with the bake that the first of them asks for

PACKER = Path(__file__).parents[2] / "packer"
MIB = 1024 * 1024

# GPT partition types: UEFI specification 2.10 section 5.3 (ESP), GRUB's manual (BIOS boot), Discoverable Partitions
# Specification (root, x86-64).
PARTITIONS = (
    ("bios-boot", "21686148-6449-6E6F-744E-656564454649"),
    ("esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
    ("root", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"),
)

# Shell patterns of paths ("**/": in any folder) of which an image for cloning has none.
ABSENT = {
    "ssh host keys": ("/etc/ssh/ssh_host_*",),
    "a seed for randomness": ("/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed"),
    "a key for credentials": ("/var/lib/systemd/credential.secret",),
    "DHCP leases and identities": (
        *("/var/lib/dhcp/*", "/var/lib/dhcpcd/*", "/var/lib/NetworkManager/*", "/var/lib/systemd/network/*"),
        "/run/systemd/netif/**/*",
    ),
    "names of this machine's network cards": ("/etc/udev/rules.d/*net*", "/etc/systemd/network/*.link"),
    "network configuration": ("/etc/netplan/*", "/etc/systemd/network/*.network", "/etc/network/interfaces.d/*"),
    "identities for storage networks": ("/etc/iscsi/initiatorname.iscsi", "/etc/nvme/hostnqn", "/etc/nvme/hostid"),
    "who may log in": ("**/authorized_keys", "**/authorized_keys2", "**/.netrc", "/root/.ssh", "/etc/ssh/*_ca*"),
    "people's folders": ("/home/*",),
    "histories": ("**/.*_history", "**/.viminfo", "**/.lesshst", "**/.wget-hsts", "/root/.cache", "/root/.local"),
    "cloud-init's memory": ("/var/lib/cloud/*", "/run/cloud-init/*", "/etc/cloud/cloud.cfg.d/*installer*"),
    "a cluster's key": ("/etc/corosync/authkey", "/etc/pacemaker/authkey", "/var/lib/pcsd/*"),
    "a cluster's configuration": ("/etc/corosync/corosync.conf", "/etc/corosync/service.d/*"),
    "a cluster's state": (
        *("/var/lib/corosync/*", "/var/lib/pacemaker/cib/*", "/var/lib/pacemaker/pengine/*"),
        *("/var/lib/pacemaker/cores/*", "/var/lib/pacemaker/blackbox/*", "/var/lib/heartbeat/cores/*/*"),
    ),
    "certificates of somebody's": (
        *("/etc/haproxy/**/*.pem", "/etc/haproxy/**/*.key", "/etc/ssl/private/*", "**/ssl-cert-snakeoil.*"),
        "/etc/letsencrypt/*",
    ),
    "apt's lists and caches": ("/var/lib/apt/lists/**/*_*", "/var/cache/apt/*.bin", "/var/cache/apt/archives/*.deb"),
    "apt's configuration for the bake": (
        *("/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*mmdebstrap*", "/etc/apt/apt.conf.d/*proxy*", "/etc/apt/auth.conf"),
        *("/etc/apt/auth.conf.d/*", "/etc/dpkg/dpkg.cfg.d/*mmdebstrap*", "/usr/sbin/policy-rc.d"),
    ),
    "the name server of the machine that baked": ("/etc/.resolv.conf*",),
    "the journal": ("/var/log/journal/*",),
    "temporary files": ("/tmp/*", "/var/tmp/*", "/run/*"),
    "devices and kernel file systems": ("/dev/*", "/proc/*", "/sys/*"),
    "locks and backups": (
        *("/etc/*-", "/etc/.pwd.lock", "/var/lib/dpkg/*-old", "/var/cache/debconf/*-old", "/var/backups/*"),
        *("/etc/**/*.dpkg-*", "/etc/**/*.ucf-*", "/etc/**/*~"),
    ),
    "core dumps": ("/var/lib/systemd/coredump/*", "/var/crash/*"),
    "a package for a shell over the cluster that is not ours": ("/usr/sbin/pcs", "/usr/sbin/pcsd"),
}

# Permissions, owner and group of what matters most.
OWNERS = {
    "/": (0o755, "root", "root"),
    "/boot": (0o755, "root", "root"),
    "/etc": (0o755, "root", "root"),
    "/etc/fstab": (0o644, "root", "root"),
    "/etc/group": (0o644, "root", "root"),
    "/etc/gshadow": (0o640, "root", "shadow"),
    "/etc/haproxy/haproxy.cfg": (0o644, "root", "root"),
    "/etc/hostname": (0o644, "root", "root"),
    "/etc/hosts": (0o644, "root", "root"),
    "/etc/machine-id": (0o644, "root", "root"),
    "/etc/passwd": (0o644, "root", "root"),
    "/etc/shadow": (0o640, "root", "shadow"),
    "/etc/ssl/private": (0o700, "root", "root"),
    "/etc/sudoers": (0o440, "root", "root"),
    "/home": (0o755, "root", "root"),
    "/root": (0o700, "root", "root"),
    "/tmp": (0o1777, "root", "root"),
    "/usr/bin/chage": (0o2755, "root", "shadow"),
    "/usr/bin/passwd": (0o4755, "root", "root"),
    "/usr/bin/su": (0o4755, "root", "root"),
    "/usr/bin/sudo": (0o4755, "root", "root"),
    "/usr/lib/dbus-1.0/dbus-daemon-launch-helper": (0o4754, "root", "messagebus"),
    "/usr/sbin/unix_chkpwd": (0o2755, "root", "shadow"),
    "/var/lib/chrony": (0o750, "_chrony", "_chrony"),
    "/var/lib/haproxy": (0o755, "root", "root"),
    "/var/lib/pacemaker/cib": (0o750, "hacluster", "haclient"),
    "/var/log/journal": (0o2755, "root", "systemd-journal"),
    "/var/log/pacemaker": (0o770, "hacluster", "haclient"),
    "/var/tmp": (0o1777, "root", "root"),
}

# Programs that run with more rights than who starts them has; anything new here is to be asked why.
PRIVILEGED = {
    *("/usr/bin/chage", "/usr/bin/chfn", "/usr/bin/chsh", "/usr/bin/expiry", "/usr/bin/gpasswd", "/usr/bin/mount"),
    *("/usr/bin/newgrp", "/usr/bin/passwd", "/usr/bin/ssh-agent", "/usr/bin/su", "/usr/bin/sudo", "/usr/bin/umount"),
    *("/usr/sbin/unix_chkpwd", "/usr/lib/dbus-1.0/dbus-daemon-launch-helper", "/usr/lib/openssh/ssh-keysign"),
}

CONTROLLERS = ("ahci", "ata_piix", "mptspi", "mptsas", "nvme", "vmw_pvscsi", "virtio_blk", "virtio_scsi", "sd_mod")
NETWORK_CARDS = ("e1000", "e1000e", "vmxnet3", "virtio_net")

# A private key: the line that begins one, and what only a key goes on with. "\\n" is as C writes it.
PRIVATE_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:\\r|\\n|\s|[A-Za-z-]+: .*\n)*[A-Za-z0-9+/]{32}"
)
# Files that have one in them that is no secret: GnuTLS tests itself with keys that are in its source.
PUBLISHED_KEYS = re.compile(r"/usr/lib/[^/]+/libgnutls\.so\.[0-9.]+")


# -- The disk


def test_the_partition_table_is_valid(disk: Disk) -> None:
    result = run(["sfdisk", "--verify", str(disk.path)], check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "No errors detected" in result.stdout


def test_the_partitions_are_those_of_a_disk_for_bios_and_uefi(disk: Disk) -> None:
    assert tuple((partition.name, partition.type) for partition in disk.partitions) == PARTITIONS


def test_partitions_begin_on_mebibytes_and_the_root_reaches_to_the_end(disk: Disk) -> None:
    assert [partition.start % MIB for partition in disk.partitions] == [0, 0, 0]
    root = disk.partitions[-1]
    assert disk.size - MIB <= root.start + root.size < disk.size


def test_the_first_sector_boots_a_bios(disk: Disk) -> None:
    with disk.path.open("rb") as file:
        sector = file.read(512)
    assert sector[510:] == b"\x55\xaa"
    assert b"GRUB" in sector
    # GRUB's boot.h: where boot.img reads the next piece from, in sectors.
    (core,) = struct.unpack_from("<Q", sector, 0x5C)
    assert core * 512 == disk.partitions[0].start


def test_the_efi_partition_boots_without_an_entry_in_the_firmware(disk: Disk, tmp_path: Path) -> None:
    esp = disk.partitions[1]
    image = f"{disk.path}@@{esp.start}"
    assert run(["mdir", "-b", "-i", image, "::/EFI/BOOT"]).stdout.split() == ["::/EFI/BOOT/BOOTX64.EFI"]
    loader = tmp_path / "BOOTX64.EFI"
    run(["mcopy", "-i", image, "::/EFI/BOOT/BOOTX64.EFI", str(loader)])
    data = loader.read_bytes()
    # PE/COFF specification: 0x3c leads to the signature, then the machine (0x8664: x86-64).
    (at,) = struct.unpack_from("<I", data, 0x3C)
    assert data[:2] == b"MZ"
    assert data[at : at + 6] == b"PE\0\0\x64\x86"


def test_the_efi_file_system_is_clean(disk: Disk, tmp_path: Path) -> None:
    esp = disk.partitions[1]
    copy = tmp_path / "esp"
    with disk.path.open("rb") as file:
        file.seek(esp.start)
        copy.write_bytes(file.read(esp.size))
    assert run(["fsck.vfat", "-n", str(copy)], check=False).returncode == 0


def test_the_root_file_system_is_clean(disk: Disk) -> None:
    result = run(["e2fsck", "-f", "-n", f"{disk.path}?offset={disk.root.offset}"], check=False)
    assert result.returncode == 0, result.stdout


def test_the_ova_is_small(baked: Path) -> None:
    assert baked.stat().st_size <= 230_000_000


# -- What makes it start


def test_fstab_names_file_systems_by_their_uuid(disk: Disk, root: FileSystem) -> None:
    rows = [line.split() for line in root.text("/etc/fstab").splitlines() if line and not line.startswith("#")]
    assert {row[1]: row[0] for row in rows} == {
        "/": f"UUID={uuid(disk, 2)}",
        "/boot/efi": f"UUID={uuid(disk, 1)}",
    }


def test_grub_starts_the_kernel_soon_with_its_console_on_screen_and_serial_port(disk: Disk, root: FileSystem) -> None:
    config = root.text("/boot/grub/grub.cfg")
    (timeout,) = re.findall(r"^set timeout=(\d+)$", config, re.MULTILINE)
    assert int(timeout) <= 2
    assert re.search(r"^serial --unit=0 --speed=115200$", config, re.MULTILINE)
    assert re.search(r"^terminal_output console serial$", config, re.MULTILINE)
    (kernel,) = re.findall(r"^\s*linux (\S+ .*)$", config, re.MULTILINE)
    path, *arguments = kernel.split()
    assert path in root.entries
    assert f"root=UUID={uuid(disk, 2)}" in arguments
    assert [argument for argument in arguments if argument.startswith("console=")] == [
        "console=tty0",
        "console=ttyS0,115200n8",  # the last one is /dev/console
    ]


def test_there_is_one_kernel_with_one_initramfs(root: FileSystem) -> None:
    (kernel,) = root.matching("/boot/vmlinuz-*")
    version = kernel.removeprefix("/boot/vmlinuz-")
    assert root.matching("/boot/initrd.img*") == [f"/boot/initrd.img-{version}"]
    assert root.children("/usr/lib/modules") == [version]


@pytest.fixture(scope="module")
def initramfs(root: FileSystem, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in the initramfs."""
    (path,) = root.matching("/boot/initrd.img-*")
    return cpio_names(root.dump(path, tmp_path_factory.mktemp("initramfs") / "initrd").read_bytes())


@pytest.mark.parametrize("module", CONTROLLERS)
def test_the_initramfs_finds_disks_on(module: str, initramfs: list[str]) -> None:
    assert has_module(initramfs, module)


@pytest.mark.parametrize("module", NETWORK_CARDS)
def test_the_kernel_has_a_driver_for(module: str, root: FileSystem) -> None:
    assert has_module(root.entries, module)


def test_the_root_grows_at_boot(root: FileSystem) -> None:
    settings: dict[str, object] = {}
    for path in ["/etc/cloud/cloud.cfg", *root.matching("/etc/cloud/cloud.cfg.d/*.cfg")]:
        settings.update(YAML(typ="safe").load(root.text(path)) or {})
    assert settings["growpart"] == {"mode": "auto", "devices": ["/"]}
    assert settings["resize_rootfs"] is True
    assert {"growpart", "resizefs"} <= set(cast("list[str]", settings["cloud_init_modules"]))
    assert {"/usr/bin/growpart", "/usr/sbin/resize2fs"} <= root.entries.keys()


# -- What is not in it


@pytest.mark.parametrize("patterns", ABSENT.values(), ids=ABSENT.keys())
def test_the_image_has_none_of(patterns: tuple[str, ...], root: FileSystem) -> None:
    assert [path for pattern in patterns for path in root.matching(pattern)] == []


def test_the_machine_gets_its_id_at_its_first_boot(root: FileSystem) -> None:
    assert root.text("/etc/machine-id") in {"", "uninitialized\n"}
    assert root.link("/var/lib/dbus/machine-id") == "/etc/machine-id"


def test_there_are_no_logs(root: FileSystem) -> None:
    assert [entry.path for entry in root.below("/var/log") if stat.S_ISREG(entry.mode)] == []


def test_there_are_no_accounts_but_the_systems(root: FileSystem) -> None:
    users = [line.split(":") for line in root.text("/etc/passwd").splitlines()]
    assert [name for name, _, uid, *_ in users if int(uid) >= 1000 and name != "nobody"] == []
    assert [name for name, _, uid, *_ in users if int(uid) == 0] == ["root"]


def test_no_account_has_a_password(root: FileSystem) -> None:
    fields = dict(line.split(":")[:2] for line in root.text("/etc/shadow").splitlines())
    assert fields["root"].startswith("!")
    assert {name: field for name, field in fields.items() if field[:1] not in {"!", "*"}} == {}
    assert {line.split(":")[1] for line in root.text("/etc/passwd").splitlines()} == {"x"}


def test_nothing_was_added_to_sudoers(root: FileSystem) -> None:
    packaged = re.search(r"^ /etc/sudoers ([0-9a-f]{32})$", root.text("/var/lib/dpkg/status"), re.MULTILINE)
    assert packaged is not None
    found = hashlib.md5(root.text("/etc/sudoers").encode(), usedforsecurity=False).hexdigest()
    assert found == packaged.group(1)
    assert root.children("/etc/sudoers.d") == ["README"]


def test_debconf_keeps_no_passwords(root: FileSystem) -> None:
    assert root.entries["/var/cache/debconf/passwords.dat"].size == 0


def test_apt_goes_straight_to_signed_mirrors(root: FileSystem) -> None:
    for text in root.texts(root.matching("/etc/apt/apt.conf.d/*")):
        assert not re.search(r"^[^/#\n]*(?<!ha)proxy", text, re.MULTILINE | re.IGNORECASE)
    sources = root.text("/etc/apt/sources.list").splitlines()
    assert [re.sub(r"\S+://\S+", "URI", line) for line in sources if line] == [
        *("deb URI trixie main", "deb URI trixie-updates main", "deb URI trixie-security main"),
    ]
    assert root.children("/etc/apt/sources.list.d") == []
    assert all(re.search(r" https?://", line) for line in sources if line)


def test_no_private_key_is_anywhere_on_the_disk(disk: Disk) -> None:
    """Not only in files: every byte of the disk is looked at."""
    owners = {disk.root.owner_of(offset) or f"offset {offset}" for offset, _ in disk.search(PRIVATE_KEY)}
    assert {owner for owner in owners if not PUBLISHED_KEYS.fullmatch(owner)} == set()


def test_nothing_on_the_disk_names_the_folders_of_the_bake(disk: Disk) -> None:
    folders = re.compile(rb"hapx-bake-[0-9a-f]|" + re.escape(str(PACKER).encode()))
    assert [disk.root.owner_of(offset) for offset, _ in disk.search(folders)] == []


# -- What is in it, and whose it is


def test_the_packages_are_those_of_the_list(root: FileSystem) -> None:
    packages = dpkg_status(root)
    assert {name: state for name, state in packages.items() if state != "install ok installed"} == {}
    assert set(read_packages(PACKER / "packages.list", "trixie")) - packages.keys() == set()
    assert packages.keys() & {"pcs", "pcsd"} == set()
    assert len([name for name in packages if name.startswith("linux-image-") and name[12].isdigit()]) == 1


def test_files_of_the_overlay_are_as_they_are_in_the_checkout(root: FileSystem) -> None:
    overlay = PACKER / "files"
    sources = {f"/{path.relative_to(overlay)}": path for path in sorted(overlay.rglob("*")) if path.is_file()}
    assert dict(zip(sources, root.texts(sources), strict=True)) == {
        target: source.read_text() for target, source in sources.items()
    }
    for target, source in sources.items():
        entry = root.entries[target]
        assert (entry.uid, entry.gid, entry.permissions) == (0, 0, 0o755 if source.stat().st_mode & 0o100 else 0o644)


@pytest.mark.parametrize(("path", "expected"), OWNERS.items(), ids=OWNERS.keys())
def test_owner_and_mode_of(path: str, expected: tuple[int, str, str], root: FileSystem) -> None:
    users, groups = names(root, "/etc/passwd"), names(root, "/etc/group")
    entry = root.entries[path]
    assert (oct(entry.permissions), users[entry.uid], groups[entry.gid]) == (oct(expected[0]), *expected[1:])


def test_everything_belongs_to_an_account_of_the_image(root: FileSystem) -> None:
    users, groups = names(root, "/etc/passwd"), names(root, "/etc/group")
    strangers = [entry for entry in root.entries.values() if entry.uid not in users or entry.gid not in groups]
    assert strangers == []


def test_only_these_programs_change_who_runs_them(root: FileSystem) -> None:
    found = {path for path, entry in root.entries.items() if stat.S_ISREG(entry.mode) and entry.mode & 0o6000}
    assert found == PRIVILEGED


def test_capabilities_hold_for_the_whole_machine(root: FileSystem) -> None:
    """A bake in a user namespace can leave capabilities that count only in it (revision 3, with that root's uid)."""
    revision, permitted = struct.unpack_from("<II", root.capabilities("/usr/bin/arping"))
    # linux/capability.h: VFS_CAP_REVISION_2 without the effective flag; CAP_NET_RAW is bit 13.
    assert (hex(revision & 0xFF000000), permitted) == (hex(0x02000000), 1 << 13)


def test_nothing_is_writable_by_everybody_but_the_two_folders_for_it(root: FileSystem) -> None:
    writable = [path for path, entry in root.entries.items() if not stat.S_ISLNK(entry.mode) and entry.mode & 0o002]
    assert sorted(writable) == ["/tmp", "/var/tmp"]


def test_there_are_only_files_folders_and_links(root: FileSystem) -> None:
    plain = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
    assert [path for path, entry in root.entries.items() if stat.S_IFMT(entry.mode) not in plain] == []


def test_the_table_of_what_is_absent_would_find_it(root: FileSystem) -> None:
    """The patterns mean what they say: each finds its path where there is one."""
    entry = root.entries["/etc/fstab"]
    for patterns in ABSENT.values():
        for pattern in patterns:
            path = pattern.replace("**/", "/a/b/" if pattern.startswith("**") else "a/b/")
            path = path.replace("*", "x")
            full = FileSystem(root.disk, root.offset)
            full.__dict__["entries"] = {path: dataclasses.replace(entry, path=path)}
            assert full.matching(pattern) == [path]


# -- Readers


def uuid(disk: Disk, number: int) -> str:
    """The UUID of the file system in a partition, counted from 0, as blkid finds it there."""
    partition = disk.partitions[number]
    place = ["--offset", str(partition.start), "--size", str(partition.size)]
    return run(["blkid", "--probe", "--match-tag", "UUID", "--output", "value", *place, str(disk.path)]).stdout.strip()


def names(root: FileSystem, path: str) -> dict[int, str]:
    """The names of /etc/passwd or /etc/group, by number."""
    rows = [line.split(":") for line in root.text(path).splitlines()]
    return {int(number): name for name, _, number, *_ in rows}


def dpkg_status(root: FileSystem) -> dict[str, str]:
    """Each package dpkg knows, and its state."""
    paragraphs = root.text("/var/lib/dpkg/status").split("\n\n")
    fields = [dict(re.findall(r"^(Package|Status): (.*)$", paragraph, re.MULTILINE)) for paragraph in paragraphs]
    return {found["Package"]: found["Status"] for found in fields if found}


def has_module(names: Iterable[str], module: str) -> bool:
    """Whether a kernel module is among these files, whatever it is compressed with."""
    pattern = re.compile(rf".*/{module.replace('_', '[_-]')}\.ko(\.(xz|zst|gz))?")
    return any(pattern.fullmatch(name) for name in names)
