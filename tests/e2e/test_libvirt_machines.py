"""Machines, networks and disks on a real libvirt; what is switched on gets no further than Linux' first drivers."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from builder.command import run
from builder.errors import InputError, MissingError, UnreachableError
from builder.hypervisor import Base, ExtraDisk, Found, Machine, Nic, State
from builder.hypervisor.libvirt import Libvirt
from builder.spec.model import Firmware, NetworkKind
from tests.cluster import world as worlds
from tests.cluster.world import World
from tests.e2e import hosts
from tests.e2e.hosts import Host

pytestmark = pytest.mark.slow

NODE = "node1"
# Emulated, on a busy machine.
FIRMWARE_SECONDS = 120.0
LINUX_SECONDS = 240.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with worlds.create(tmp_path_factory.mktemp("libvirt")) as made:
        yield made


@pytest.fixture(scope="module")
def host(world: World) -> Iterator[Host]:
    with hosts.start(world, "a") as started:
        yield started


@pytest.fixture(scope="module")
def libvirt(host: Host) -> Libvirt:
    return Libvirt(host.uri)


@pytest.fixture(scope="module")
def base(baked: Path, libvirt: Libvirt) -> Base:
    """The baked OVA, imported; its digest is of no importance here."""
    found = Base("hapx-1.2.3-amd64", "ab" * 32)
    assert libvirt.import_base(baked, found) is True
    return found


@pytest.fixture
def machine(base: Base, libvirt: Libvirt, tmp_path: Path) -> Iterator[Machine]:
    seed = tmp_path / "seed.iso"
    seed.write_bytes(b"first" * 1000)
    nics = (
        Nic("public", NetworkKind.HOSTONLY, None, "virtio", "02:00:00:00:00:11", True, (ip_network("192.0.2.0/24"),)),
        Nic("link", NetworkKind.INTNET, "hapx-link", "e1000", "02:00:00:00:00:12", False, ()),
        Nic("outside", NetworkKind.NAT, None, "vmxnet3", "02:00:00:00:00:13", False, ()),
    )
    yield Machine("pair", NODE, base, 1, 512, nics, (ExtraDisk("logs", 64),), seed)
    libvirt.destroy(NODE)
    libvirt.destroy_networks("pair")


def definition(host: Host) -> ET.Element:
    return ET.fromstring(host.virsh("dumpxml", "--inactive", NODE).stdout)


def test_an_ova_is_imported_once(baked: Path, base: Base, libvirt: Libvirt) -> None:
    assert libvirt.import_base(baked, base) is False
    assert list(libvirt.bases()) == [base]


def test_a_base_is_half_made_until_it_is_whole(baked: Path, base: Base, libvirt: Libvirt, host: Host) -> None:
    """What a run leaves that was killed after the upload: everything but the last mark."""
    other = Base("hapx-9.9.9-amd64", "cd" * 32)
    libvirt.import_base(baked, other)
    host.virsh("vol-delete", "--pool", "hapx", f"{other.name}.base.{other.sha256}.whole")
    assert list(libvirt.bases()) == [base]
    assert libvirt.import_base(baked, other) is True
    libvirt.remove_base(other.name)
    assert list(libvirt.bases()) == [base]
    assert not [name for name in host.left()["volumes"] if name.startswith(other.name)]


def test_a_machine_is_made_and_then_right(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    first = libvirt.converge(machine)
    assert first.created
    assert first.changes == ("network hapx-hostonly-192.0.2.0-24", "network hapx-link", "network hapx-nat")
    again = libvirt.converge(machine)
    assert (again.created, again.changes, again.later) == (False, (), ())
    assert list(libvirt.machines("pair")) == [Found("pair", NODE, State.OFF, machine.base.name)]
    assert list(libvirt.machines("another")) == []
    domain = definition(host)
    assert [card.get("type") for card in domain.findall("devices/interface/model")] == ["virtio", "e1000", "vmxnet3"]
    assert domain.findtext("memory") == str(512 * 1024)


def test_its_disk_lies_over_the_base(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    libvirt.converge(machine)
    folder = host.folder / "lib/images/hapx"
    told = json.loads(run(["qemu-img", "info", "--output", "json", str(folder / f"{NODE}.system.qcow2")]).stdout)
    assert Path(told["backing-filename"]).name == f"{machine.base.name}.base.{machine.base.sha256}.qcow2"
    assert told["actual-size"] < 10 << 20
    libvirt.destroy(NODE)
    libvirt.converge(replace(machine, linked=False))
    told = json.loads(run(["qemu-img", "info", "--output", "json", str(folder / f"{NODE}.system.qcow2")]).stdout)
    assert "backing-filename" not in told


def test_only_root_reads_its_cd(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    libvirt.converge(machine)
    (path,) = (host.folder / "lib/images/hapx").glob(f"{NODE}.seed.*.iso")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == machine.seed.read_bytes()


def test_the_host_has_an_address_on_the_host_only_network_alone(
    machine: Machine, libvirt: Libvirt, world: World, host: Host
) -> None:
    libvirt.converge(machine)
    shown = json.loads(world.run("ip", "-json", "-4", "address", "show").stdout)
    bridges = {name: ET.fromstring(host.virsh("net-dumpxml", name).stdout) for name in host.left()["networks"]}
    names = {network: found.find("bridge").get("name") for network, found in bridges.items()}  # type: ignore[union-attr]
    addresses = {link["ifname"]: [each["local"] for each in link["addr_info"]] for link in shown}
    assert addresses[names["hapx-hostonly-192.0.2.0-24"]] == ["192.0.2.1"]
    assert names["hapx-link"] not in addresses
    assert [name for name, found in bridges.items() if found.find("ip/dhcp") is not None] == ["hapx-nat"]


def test_what_differs_is_changed_while_it_is_off(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    libvirt.converge(machine)
    uuid = definition(host).findtext("uuid")
    machine.seed.write_bytes(b"second" * 1000)
    wanted = replace(
        machine,
        cpus=2,
        memory_mib=768,
        nics=(replace(machine.nics[0], adapter="e1000"), *machine.nics[1:]),
        disks=(ExtraDisk("logs", 128), ExtraDisk("more", 32)),
    )
    changed = libvirt.converge(wanted)
    assert set(changed.changes) == {
        "CD",
        "processors: 2 instead of 1",
        "memory: 768 MiB instead of 512 MiB",
        "network card 02:00:00:00:00:11: e1000 on network hapx-hostonly-192.0.2.0-24 instead of "
        "virtio on network hapx-hostonly-192.0.2.0-24",
        "disk vdc: /var/lib/libvirt/images/hapx/node1.disk.more.qcow2",
        "disk logs: 128 MiB instead of 64 MiB",
    }
    assert libvirt.converge(wanted).changes == ()
    assert definition(host).findtext("uuid") == uuid
    sizes = host.virsh("vol-info", "--pool", "hapx", f"{NODE}.disk.logs.qcow2", "--bytes").stdout
    assert str(128 << 20) in sizes
    seeds = [name for name in host.left()["volumes"] if ".seed." in name]
    assert len(seeds) == 1


def test_under_uefi_the_boot_loader_starts_and_nothing_stays(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    """From the firmware's own words on the console; from there on it is any other machine."""
    under_uefi = replace(machine, firmware=Firmware.UEFI)
    nvram = host.folder / f"lib/images/hapx/{NODE}.nvram.fd"
    assert libvirt.converge(under_uefi).created
    assert libvirt.start(NODE)
    assert nvram.is_file()
    running = libvirt.converge(under_uefi)
    assert (running.created, running.changes, running.later) == (False, (), ())
    assert libvirt.converge(machine).later == ("firmware: bios instead of uefi",)
    deadline = time.monotonic() + FIRMWARE_SECONDS
    while not any("BdsDxe: starting Boot" in line for line in libvirt.console_tail(NODE, 50)):
        assert time.monotonic() < deadline, libvirt.console_tail(NODE, 50)
        time.sleep(0.5)
    libvirt.power_off(NODE)
    assert libvirt.converge(under_uefi).changes == ()
    assert nvram.is_file()
    libvirt.destroy(NODE)
    assert not [path for path in (host.folder / "lib").rglob("*") if path.name.startswith(NODE) or "VARS" in path.name]


@pytest.mark.parametrize("firmware", Firmware)
def test_linux_finds_the_cd(firmware: Firmware, machine: Machine, libvirt: Libvirt) -> None:
    """By its driver's word on the console: without it, a node has no seed, and waits for nothing."""
    libvirt.converge(replace(machine, firmware=firmware))
    libvirt.start(NODE)
    deadline = time.monotonic() + LINUX_SECONDS
    while not any("[sr0]" in line for line in libvirt.console_tail(NODE, 500)):
        assert time.monotonic() < deadline, libvirt.console_tail(NODE, 50)
        time.sleep(0.5)


def test_another_firmware_is_changed_while_it_is_off(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    libvirt.converge(machine)
    under_uefi = replace(machine, firmware=Firmware.UEFI)
    nvram = host.folder / f"lib/images/hapx/{NODE}.nvram.fd"
    assert libvirt.converge(under_uefi).changes == ("firmware: uefi instead of bios",)
    assert libvirt.converge(under_uefi).changes == ()
    libvirt.start(NODE)
    libvirt.power_off(NODE)
    assert nvram.is_file()
    assert libvirt.converge(machine).changes == ("firmware: bios instead of uefi",)
    assert libvirt.converge(machine).changes == ()
    assert not nvram.exists()


def test_a_host_without_uefi_firmware_says_so(machine: Machine, world: World) -> None:
    with hosts.start(world, "without") as bare:
        pid = (bare.folder / "libvirtd.pid").read_text().strip()
        firmware = "/usr/share/qemu/firmware"
        world.run("nsenter", f"--target={pid}", "--mount", "mount", "-t", "tmpfs", "tmpfs", firmware)
        with pytest.raises(
            MissingError, match="node1 is to start under UEFI, and there is no firmware for that"
        ) as error:
            Libvirt(bare.uri).converge(replace(machine, firmware=Firmware.UEFI))
        assert "install ovmf" in error.value.hint
        assert bare.left() == {"machines": [], "networks": [], "volumes": []}


def test_a_disk_does_not_shrink(machine: Machine, libvirt: Libvirt) -> None:
    libvirt.converge(machine)
    with pytest.raises(InputError, match=r"logs has 64 MiB, and cannot shrink"):
        libvirt.converge(replace(machine, disks=(ExtraDisk("logs", 32),)))


def test_what_a_person_changed_is_changed_back(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    libvirt.converge(machine)
    host.virsh("setmem", NODE, "256MiB", "--config")
    host.virsh("detach-interface", NODE, "network", "--mac", "02:00:00:00:00:12", "--config")
    assert "network card 02:00:00:00:00:12: e1000 on network hapx-link" in libvirt.converge(machine).changes


def test_a_machine_of_somebody_else_stays_as_it_is(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    theirs = "<domain type='qemu'><name>node1</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    path = host.folder / "theirs.xml"
    path.write_text(theirs)
    host.virsh("define", str(path))
    try:
        before = host.virsh("dumpxml", NODE).stdout
        with pytest.raises(InputError, match="there is a machine node1 already, and it is somebody else's"):
            libvirt.converge(machine)
        with pytest.raises(InputError, match="somebody else's, and stays"):
            libvirt.destroy(NODE)
        assert host.virsh("dumpxml", NODE).stdout == before
        assert list(libvirt.machines()) == []
    finally:
        host.virsh("undefine", NODE)


def test_a_node_of_another_cluster_stays_as_it_is(machine: Machine, libvirt: Libvirt) -> None:
    libvirt.converge(machine)
    with pytest.raises(InputError, match="it is the cluster pair's"):
        libvirt.converge(replace(machine, cluster="other"))


@pytest.mark.parametrize("kept", ["nothing", "system", "disk"])
def test_a_half_made_machine_is_finished(kept: str, machine: Machine, libvirt: Libvirt, host: Host) -> None:
    """What a run leaves that was killed between two steps: the domain with an unfinished mark, some of the disks."""
    libvirt.converge(machine)
    domain = definition(host)
    mark = domain.find("metadata")[0]  # type: ignore[index]
    mark.set("definition", "")
    path = host.folder / "half.xml"
    path.write_text(ET.tostring(domain, encoding="unicode"))
    host.virsh("define", str(path))
    for volume in (name for name in host.left()["volumes"] if name.startswith(f"{NODE}.")):
        if f".{kept}" not in volume:
            host.virsh("vol-delete", "--pool", "hapx", volume)
    assert [each.state for each in libvirt.machines("pair")] == [State.BROKEN]
    assert libvirt.converge(machine).created
    assert libvirt.converge(machine).changes == ()
    assert [each.state for each in libvirt.machines("pair")] == [State.OFF]


def test_disks_without_their_machine_are_no_surprise(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    libvirt.converge(machine)
    host.virsh("undefine", NODE)
    with pytest.raises(InputError, match="there are disks of it"):
        libvirt.converge(machine)
    assert libvirt.destroy(NODE) is True
    assert libvirt.converge(machine).created


def test_destroyed_nothing_is_left_but_the_base(machine: Machine, libvirt: Libvirt, host: Host, world: World) -> None:
    libvirt.converge(machine)
    assert libvirt.destroy(NODE) is True
    assert libvirt.destroy(NODE) is False
    assert list(libvirt.destroy_networks("pair")) == ["hapx-hostonly-192.0.2.0-24", "hapx-link", "hapx-nat"]
    left = host.left()
    assert (left["machines"], left["networks"]) == ([], [])
    assert [name for name in left["volumes"] if not name.startswith("hapx-1.2.3-amd64.base.")] == []
    assert [link["ifname"] for link in json.loads(world.run("ip", "-json", "link").stdout)] == ["lo"]


def test_networks_that_others_use_stay(machine: Machine, libvirt: Libvirt) -> None:
    libvirt.converge(machine)
    assert list(libvirt.destroy_networks("pair")) == []


def test_somebody_elses_network_is_used_and_left_alone(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    path = host.folder / "net.xml"
    path.write_text("<network><name>hapx-link</name><bridge name='theirs'/></network>")
    host.virsh("net-define", str(path))
    try:
        with pytest.raises(InputError, match="somebody else's, and is switched off"):
            libvirt.converge(machine)
        host.virsh("net-start", "hapx-link")
        before = host.virsh("net-dumpxml", "hapx-link").stdout
        libvirt.converge(machine)
        libvirt.destroy(NODE)
        assert "hapx-link" not in libvirt.destroy_networks("pair")
        assert host.virsh("net-dumpxml", "hapx-link").stdout == before
    finally:
        host.virsh("net-destroy", "hapx-link", check=False)
        host.virsh("net-undefine", "hapx-link")


def test_a_base_in_use_stays(machine: Machine, libvirt: Libvirt) -> None:
    libvirt.converge(machine)
    with pytest.raises(InputError, match="is the base of node1"):
        libvirt.remove_base(machine.base.name)


def test_a_host_that_does_not_answer_is_named() -> None:
    uri = "qemu:///system?socket=/nonexistent/libvirt-sock"
    with pytest.raises(UnreachableError, match="no libvirt answers there"):
        Libvirt(uri).machines()


def test_definitions_are_what_libvirt_documents(machine: Machine, libvirt: Libvirt, host: Host) -> None:
    """Against the RNG schemas that libvirt ships."""
    libvirt.converge(machine)
    texts = {"domain": host.virsh("dumpxml", "--inactive", NODE).stdout}
    texts |= {"network": host.virsh("net-dumpxml", "--inactive", "hapx-nat").stdout}
    for schema, text in texts.items():
        path = host.folder / f"{schema}.xml"
        path.write_text(text)
        assert run(["virt-xml-validate", str(path), schema], check=False).returncode == 0
    assert shutil.which("virt-xml-validate")
