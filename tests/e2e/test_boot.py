"""Boots what was baked: two copies of one image, unseeded, as far as the login prompt; and the way to the root disk.

Everything about a booted copy is asked of one boot, which takes over a minute where the processor is emulated.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.image import Disk
from tests.e2e.vm import Controller, Firmware, Guest, Kernel, Machine, Nic, start

pytestmark = pytest.mark.slow

GIB = 1 << 30
LOGIN = r"^hapx login: "  # a message of the kernel may follow on the same line
HOPELESS = r"Kernel panic|Gave up waiting for root|You are in emergency mode|grub rescue>|Shell> $"
# Many times what emulation takes on two busy cores.
BOOT_SECONDS = 900.0
MOUNT_SECONDS = 300.0
OFF_SECONDS = 180.0

COPIES = ("bios", "uefi")
# What the two copies do not cover already.
OTHER_CONTROLLERS = (Controller.IDE, Controller.NVME, Controller.VIRTIO_SCSI, Controller.PVSCSI, Controller.SAS)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the image, switched on, and the seconds until it shows its login prompt."""

    guest: Guest
    prompt: Future[float]


@pytest.fixture(scope="module")
def copies(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Copy]]:
    """Two copies of the image in unlike machines, the first on a larger disk, switched on at the same time."""
    machines = {
        "bios": Machine(disk.path, Firmware.BIOS, Controller.SATA, tuple(Nic), grown_by_mib=4096),
        "uefi": Machine(disk.path, Firmware.UEFI, Controller.VIRTIO_BLK, (Nic.VIRTIO,), cpus=1),
    }
    folder = tmp_path_factory.mktemp("copies")
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())  # left after the machines: who waits for them has ended then
        guests = {name: stack.enter_context(start(machine, folder / name)) for name, machine in machines.items()}
        yield {
            name: Copy(guest, pool.submit(guest.wait_for, LOGIN, seconds=BOOT_SECONDS, fail=HOPELESS))
            for name, guest in guests.items()
        }


@pytest.fixture(scope="module", params=COPIES)
def guest(request: pytest.FixtureRequest, copies: Mapping[str, Copy], note_time: Callable[[str], None]) -> Guest:
    """A copy that shows its login prompt."""
    copy = copies[request.param]
    note_time(f"{request.param}: login prompt {copy.prompt.result():.0f} s after power on, both copies at once")
    return copy.guest


@pytest.fixture(scope="module")
def both(copies: Mapping[str, Copy]) -> tuple[Guest, Guest]:
    """Both copies, when both show their login prompts."""
    first, second = (copies[name] for name in COPIES)
    first.prompt.result()
    second.prompt.result()
    return first.guest, second.guest


# -- One copy


def test_all_units_come_up(guest: Guest, note_time: Callable[[str], None]) -> None:
    state = guest.run("systemctl", "is-system-running", "--wait", seconds=BOOT_SECONDS).stdout.strip()
    failed = guest.read("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    assert (state, failed) == ("running", "")
    note_time(guest.read("systemd-analyze", "time").splitlines()[0])


def test_the_cluster_waits_for_its_seed(guest: Guest) -> None:
    units = ("corosync", "pacemaker", "haproxy")
    states = guest.run("systemctl", "is-active", *units).stdout.split()
    starts = guest.run("systemctl", "is-enabled", *units).stdout.split()
    # Pacemaker starts HAProxy; the others would start if their condition, a seed's file, was met.
    assert (states, starts) == (["inactive"] * 3, ["enabled", "enabled", "disabled"])
    conditions = guest.read("systemctl", "show", "--property=ConditionResult", "--value", *units[:2]).split()
    assert conditions == ["no", "no"]


def test_the_kernel_resets_the_node_when_it_is_not_well(guest: Guest) -> None:
    names = ("kernel.panic", "kernel.panic_on_oops", "net.ipv4.conf.all.promote_secondaries")
    assert guest.read("sysctl", "--values", *names).split() == ["5", "1", "1"]


def test_the_root_is_writable_and_takes_the_whole_disk(guest: Guest) -> None:
    source, kind, options = guest.read("findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,OPTIONS", "/").split()
    assert (kind, options.split(",")[0]) == ("ext4", "rw")
    assert_grown(guest, source)


def test_the_first_copy_has_the_larger_disk(both: tuple[Guest, Guest]) -> None:
    assert [disk_size(guest) for guest in both] == [12 * GIB, 8 * GIB]


def test_the_consoles_are_the_screen_and_the_serial_port(guest: Guest) -> None:
    arguments = guest.read("cat", "/proc/cmdline").split()
    assert [each for each in arguments if each.startswith("console=")] == ["console=tty0", "console=ttyS0,115200n8"]
    assert guest.read("systemctl", "is-active", "getty@tty1", "serial-getty@ttyS0").split() == ["active"] * 2


def test_the_journal_is_kept_on_disk(guest: Guest) -> None:
    machine_id = guest.read("cat", "/etc/machine-id")
    assert f"/var/log/journal/{machine_id}/system.journal" in guest.read("journalctl", "--header", "--boot")


def test_cloud_init_finds_no_seed_and_ends_well(guest: Guest) -> None:
    # It ends with 2 when it has a warning, and no seed is one.
    status = json.loads(guest.run("cloud-init", "status", "--wait", "--long", "--format", "json").stdout)
    assert (status["status"], status["datasource"], status["errors"]) == ("done", "none", [])
    assert status["recoverable_errors"] == {"WARNING": ["Used fallback datasource"]}


def test_sshd_takes_keys_only(guest: Guest) -> None:
    settings = dict(line.split(" ", 1) for line in guest.read("sshd", "-T").splitlines())
    wanted = ("passwordauthentication", "kbdinteractiveauthentication", "permitrootlogin", "pubkeyauthentication")
    assert [settings[name] for name in wanted] == ["no", "no", "no", "yes"]


@pytest.mark.parametrize("account", ["root", "debian"])
def test_sshd_turns_away(account: str, guest: Guest) -> None:
    """What it says, and what it does: it listens, and offers nothing but public keys."""
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
    result = guest.run("ssh", *(part for each in options for part in ("-o", each)), f"{account}@127.0.0.1", "true")
    assert result.returncode == 255
    assert result.stderr.strip().endswith(f"{account}@127.0.0.1: Permission denied (publickey).")


def test_no_account_has_a_password(guest: Guest) -> None:
    states = {line.split()[0]: line.split()[1] for line in guest.read("passwd", "--status", "--all").splitlines()}
    assert states["root"] == "L"
    assert set(states.values()) == {"L"}


def test_only_sshd_listens_to_others(guest: Guest) -> None:
    sockets = [line.split()[3] for line in guest.read("ss", "--no-header", "-lnt").splitlines()]
    assert {each for each in sockets if not each.startswith("127.")} == {"0.0.0.0:22", "[::]:22"}


def test_the_clock_is_kept_and_names_are_found(guest: Guest) -> None:
    units = ("chrony", "systemd-resolved", "systemd-networkd", "qemu-guest-agent")
    assert guest.read("systemctl", "is-active", *units).split() == ["active"] * len(units)


# -- Both copies


def test_firmware_and_disk_are_as_different_as_they_look(both: tuple[Guest, Guest]) -> None:
    sources = [guest.read("findmnt", "--noheadings", "--output", "SOURCE", "/") for guest in both]
    assert sources == ["/dev/sda3", "/dev/vda3"]
    assert [guest.run("test", "-d", "/sys/firmware/efi").returncode for guest in both] == [1, 0]


def test_each_copy_is_a_machine_of_its_own(both: tuple[Guest, Guest]) -> None:
    ours, theirs = (identity(guest) for guest in both)
    assert re.fullmatch(r"[0-9a-f]{32}", ours["machine-id"])
    assert ours.keys() == theirs.keys() == {"machine-id", "ecdsa-sha2-nistp256", "ssh-ed25519"}
    assert [name for name in ours if ours[name] == theirs[name]] == []


# -- The first copy: three network cards, and the lasting things


def test_every_network_card_has_its_driver(both: tuple[Guest, Guest]) -> None:
    first, _ = both
    links = [name for name in first.read("ls", "/sys/class/net").split() if name != "lo"]
    paths = [f"/sys/class/net/{link}/device/driver" for link in links]
    drivers = [Path(path).name for path in first.read("readlink", *paths).splitlines()]
    assert sorted(drivers) == ["e1000", "virtio_net", "vmxnet3"]


def test_the_first_network_card_gets_an_address(both: tuple[Guest, Guest]) -> None:
    first, _ = both
    # Of QEMU's own DHCP server (its documentation, "Using the user mode network stack").
    assert "10.0.2.15/24" in first.read("ip", "-brief", "-4", "address", "show", "up").split()


def test_a_restart_keeps_who_it_is_and_grows_onto_a_larger_disk(
    both: tuple[Guest, Guest], note_time: Callable[[str], None]
) -> None:
    first, _ = both
    before = identity(first)
    first.grow_disk(1024)
    note_time(f"bios: login prompt {first.restart(LOGIN, seconds=BOOT_SECONDS):.0f} s after a restart was asked for")
    assert identity(first) == before
    assert first.run("systemctl", "is-system-running", "--wait", seconds=BOOT_SECONDS).stdout.strip() == "running"
    assert disk_size(first) == 13 * GIB
    assert_grown(first, "/dev/sda3")


def test_the_power_button_switches_off(both: tuple[Guest, Guest], note_time: Callable[[str], None]) -> None:
    """Last, as nothing can be asked of the copies any more."""
    for guest in both:
        guest.press_power_button()
    times = [guest.wait_until_off(seconds=OFF_SECONDS) for guest in both]
    note_time(f"both: off {sum(times):.0f} s after the power button")


# -- The way to the root disk


@pytest.fixture(scope="module")
def mounts(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[Controller, Future[float]]]:
    """For each controller, the seconds until the kernel mounted the root behind it; they boot two at a time."""
    folder = tmp_path_factory.mktemp("controllers")
    (kernel,) = disk.root.matching("/boot/vmlinuz-*")
    (initramfs,) = disk.root.matching("/boot/initrd.img-*")
    (root,) = re.findall(r"root=UUID=\S+", disk.root.text("/boot/grub/grub.cfg"))
    loaded = Kernel(
        disk.root.dump(kernel, folder / "vmlinuz"),
        disk.root.dump(initramfs, folder / "initrd"),
        f"{root} ro console=ttyS0,115200n8 panic=1",
    )

    def boot(controller: Controller) -> float:
        machine = Machine(disk.path, Firmware.BIOS, controller, kernel=loaded, memory_mib=512, cpus=1)
        mounted = rf"EXT4-fs \(\w+\): mounted filesystem {root.removeprefix('root=UUID=')} ro "
        with start(machine, folder / controller) as guest:
            return guest.wait_for(mounted, seconds=MOUNT_SECONDS, fail=HOPELESS)

    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {controller: pool.submit(boot, controller) for controller in OTHER_CONTROLLERS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("controller", OTHER_CONTROLLERS)
def test_the_initramfs_mounts_the_root_behind(
    controller: Controller, mounts: Mapping[Controller, Future[float]], note_time: Callable[[str], None]
) -> None:
    note_time(f"{controller}: root mounted {mounts[controller].result():.0f} s after power on, two at once")


# -- What is asked of a guest


def identity(guest: Guest) -> dict[str, str]:
    """What tells one machine from another: its machine-id, and its ssh host keys by their kind."""
    keys = guest.read("sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub").splitlines()
    return {"machine-id": guest.read("cat", "/etc/machine-id")} | {kind: key for kind, key, *_ in map(str.split, keys)}


def disk_size(guest: Guest) -> int:
    """The size in bytes of the disk the root is on."""
    source = guest.read("findmnt", "--noheadings", "--output", "SOURCE", "/")
    parent = guest.read("lsblk", "--noheadings", "--output", "PKNAME", source)
    return int(guest.read("lsblk", "--noheadings", "--nodeps", "--bytes", "--output", "SIZE", f"/dev/{parent}"))


def assert_grown(guest: Guest, source: str) -> None:
    """The partition reaches to the end of the disk but for the backup table, and the file system to that of both."""
    start, size = (int(part) for part in guest.read("lsblk", "-bno", "START,SIZE", source).split())
    assert disk_size(guest) - 2 * (1 << 20) <= start * 512 + size < disk_size(guest)
    facts = dict(re.findall(r"^(Block count|Block size): +(\d+)$", guest.read("dumpe2fs", "-h", source), re.MULTILINE))
    block = int(facts["Block size"])
    assert int(facts["Block count"]) == size // block
