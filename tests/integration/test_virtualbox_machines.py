"""Bases and nodes in a real VirtualBox: what `showvminfo` says of them, held against the spec field by field."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import BusyError, CommandError, InputError, MissingError
from builder.hypervisor import Base, Machine, State, wanted
from builder.hypervisor.virtualbox import VirtualBox, mark
from builder.seed import iso
from builder.spec import derived, load
from builder.spec.model import Cluster
from tests.virtualbox import chroot
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

SPEC = """
name: lab
machine: {cpus: 2, memory_mib: 1024}
networks:
  public: {kind: hostonly, subnets: [192.168.56.0/24]}
  link: {kind: intnet, name: lab-link, subnets: [10.56.0.0/24], adapter: e1000}
  lan: {kind: bridged, name: lan0, subnets: [192.0.2.0/24]}
  outside: {kind: nat, dhcp: true}
nodes:
  - name: node01
    addresses: {public: 192.168.56.11, link: 10.56.0.11, lan: 192.0.2.11}
    macs: {lan: "02:00:5e:00:53:01"}
    cpus: 3
    memory_mib: 1536
    firmware: uefi
    disks: [{size_mib: 100, name: data}, {size_mib: 32}]
  - name: node02
    addresses: {public: 192.168.56.12, link: 10.56.0.12, lan: 192.0.2.12}
vips:
  - {address: 192.168.56.10, network: public}
  - {address: 10.56.0.10, network: link, name: inner}
corosync: {links: [public, link]}
"""

# VirtualBox's words for what the spec says.
CARDS = {"e1000": "82540EM", "virtio": "virtio"}
FIRMWARE = {"bios": "BIOS", "uefi": "EFI"}
PLUGS = {"hostonly": "hostonlyadapter", "intnet": "intnet", "bridged": "bridgeadapter"}


@pytest.fixture
def vbox(virtualbox_root: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VBox]:
    """A VirtualBox in a network of its own, with a host-only interface as its kernel driver would have made it."""
    shared = [tmp_path_factory.getbasetemp()]
    with chroot.start(virtualbox_root, tmp_path / "virtualbox", shared, network=True) as virtualbox:
        virtualbox.add_host_only("192.168.56.1/24")
        yield virtualbox


@pytest.fixture
def host(vbox: VBox, monkeypatch: pytest.MonkeyPatch) -> VirtualBox:
    """Our VirtualBox over that one."""
    monkeypatch.setenv("PATH", str(vbox.executable.parent), prepend=":")
    return VirtualBox()


@pytest.fixture(scope="session")
def base(small_ova: Path) -> Base:
    return Base("hapx-1.0+test-amd64", hashlib.sha256(small_ova.read_bytes()).hexdigest())


@pytest.fixture
def imported(host: VirtualBox, small_ova: Path, base: Base) -> Base:
    assert host.import_base(small_ova, base)
    return base


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return spec(tmp_path, SPEC)


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    return cd(tmp_path / "dist/node01-cidata.iso", "one")


def spec(folder: Path, text: str) -> Cluster:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return load(path)


def cd(path: Path, name: str) -> Path:
    documents = {"meta-data": f"instance-id: {name}\n".encode(), "user-data": b"#cloud-config\n"}
    return iso.write(documents, path, timestamp=iso.YEAR_1980).path


def node(cluster: Cluster, base: Base, seed: Path, number: int = 0) -> Machine:
    return wanted.machine(cluster, cluster.nodes[number], base, seed)


def policies(vbox: VBox, name: str) -> dict[int, str]:
    said = vbox.manage("showvminfo", name).stdout
    return {int(slot): mode for slot, mode in re.findall(r"^NIC (\d):.*Promisc Policy: ([\w-]+)", said, re.MULTILINE)}


def names(vbox: VBox) -> list[str]:
    return re.findall(r'^"(.*)" \{', vbox.manage("list", "vms").stdout, re.MULTILINE)


def files(vbox: VBox) -> set[str]:
    """Every file of every machine."""
    folder = vbox.home / "VirtualBox VMs"
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestBase:
    def test_imported_once(self, host: VirtualBox, vbox: VBox, small_ova: Path, base: Base) -> None:
        assert host.import_base(small_ova, base)
        machine = vbox.machine(base.name)
        assert machine["groups"] == "/hapx/bases"
        assert machine["description"] == f"Base image {base.name} of hapx-build, SHA-256 of its OVA {base.sha256}"
        assert machine["SnapshotName"] == "base"
        before = files(vbox)

        assert not host.import_base(small_ova, base)
        assert list(host.bases()) == [base]
        assert files(vbox) == before

    def test_another_ova_of_that_name(self, host: VirtualBox, small_ova: Path, imported: Base) -> None:
        with pytest.raises(InputError, match="there already, from another OVA"):
            host.import_base(small_ova, Base(imported.name, "0" * 64))

    def test_somebody_elses_machine_of_that_name(
        self, host: VirtualBox, vbox: VBox, small_ova: Path, base: Base
    ) -> None:
        vbox.manage("createvm", "--name", base.name, "--register")
        with pytest.raises(InputError, match="hapx-build did not make"):
            host.import_base(small_ova, base)
        with pytest.raises(InputError, match="hapx-build did not make"):
            host.remove_base(base.name)
        assert names(vbox) == [base.name]

    def test_damaged_ova_leaves_nothing(
        self, host: VirtualBox, vbox: VBox, small_ova: Path, base: Base, tmp_path: Path
    ) -> None:
        half = tmp_path / "half.ova"
        half.write_bytes(small_ova.read_bytes()[: small_ova.stat().st_size // 2])
        with pytest.raises(CommandError, match="import failed"):
            host.import_base(half, base)
        assert names(vbox) == []
        assert files(vbox) == set()

    def test_removed_when_no_clone_hangs_on_it(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        with pytest.raises(InputError, match=r"hang on the disk of hapx-1.0.test-amd64: node01"):
            host.remove_base(imported.name)
        assert names(vbox) == [imported.name, "node01"]
        host.destroy("node01")
        host.remove_base(imported.name)
        assert names(vbox) == []
        assert files(vbox) == set()


class TestClone:
    def test_is_what_the_spec_says(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        for number, member in enumerate(cluster.nodes):
            assert host.converge(node(cluster, imported, seed, number)).created
            machine = vbox.machine(member.name)
            keys = ("name", "cpus", "memory", "firmware", "groups", "description", "VMState")
            assert {key: machine[key] for key in keys} == {
                "name": member.name,
                "cpus": str(derived.cpus(cluster, member)),
                "memory": str(derived.memory_mib(cluster, member)),
                "firmware": FIRMWARE[derived.firmware(cluster, member)],
                "groups": "/hapx/lab",
                "description": f"Node {member.name} of the cluster lab, made by hapx-build from {imported.name}",
                "VMState": "poweroff",
            }
            for slot, (name, network) in enumerate(cluster.networks.items(), 1):
                assert machine[f"nic{slot}"] == network.kind
                assert machine[f"nictype{slot}"] == CARDS[network.adapter]
                assert machine[f"macaddress{slot}"] == derived.mac(cluster, member, name).replace(":", "").upper()
                assert machine[f"cableconnected{slot}"] == "on"
                if network.kind in PLUGS:
                    assert machine[f"{PLUGS[network.kind]}{slot}"] == (network.name or "vboxnet0")
            assert machine["nic5"] == "none"
            # A floating IP comes and goes on the first two.
            assert policies(vbox, member.name) == {1: "allow-all", 2: "allow-vms", 3: "deny", 4: "deny"}

    def test_disks_cd_and_console(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        machine = vbox.machine("node01")
        folder = Path(machine["CfgFile"]).parent
        assert Path(machine["SATA-0-0"]).parent == folder / "Snapshots"
        assert Path(machine["SATA-1-0"]).read_bytes() == seed.read_bytes()
        assert Path(machine["SATA-1-0"]).stat().st_mode & 0o777 == 0o600
        assert [machine["SATA-2-0"], machine["SATA-3-0"]] == [str(folder / "data.vdi"), str(folder / "disk2.vdi")]
        assert machine["SATA-4-0"] == "none"
        for name, size in (("data", 100), ("disk2", 32)):
            said = vbox.manage("showmediuminfo", "disk", folder / f"{name}.vdi").stdout
            assert re.search(rf"^Capacity: +{size} MBytes$", said, re.MULTILINE)
        assert machine["uart1"] == "0x03f8,4"
        assert machine["uartmode1"] == f"file,{folder}/console.log"
        assert list(host.console("node01"))[-1] == f"{folder}/console.log"
        assert host.console_tail("node01", 5) == []
        (folder / "console.log").write_text("one\ntwo\nthree\n")
        assert host.console_tail("node01", 2) == ["two", "three"]

    def test_uuids_are_fresh_and_disks_are_shared(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        for number in (0, 1):
            host.converge(node(cluster, imported, seed, number))
        machines = [vbox.machine(name) for name in (imported.name, "node01", "node02")]
        for key in ("UUID", "hardwareuuid", "SATA-ImageUUID-0-0"):
            assert len({machine[key] for machine in machines}) == 3
        parents = {
            re.findall(r"^Parent UUID: +(\S+)$", vbox.manage("showmediuminfo", each["SATA-0-0"]).stdout, re.M)[0]
            for each in machines
        }
        assert len(parents) == 1

    def test_full_clone_needs_no_base(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        host.converge(dataclasses.replace(node(cluster, imported, seed), linked=False))
        said = vbox.manage("showmediuminfo", vbox.machine("node01")["SATA-0-0"]).stdout
        assert re.search(r"^Parent UUID: +base$", said, re.MULTILINE)
        host.remove_base(imported.name)
        assert names(vbox) == ["node01"]

    def test_again_changes_nothing(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        machine, there = vbox.machine("node01"), files(vbox)
        again = host.converge(node(cluster, imported, seed))
        assert (again.created, again.changes, again.later) == (False, (), ())
        assert (vbox.machine("node01"), files(vbox)) == (machine, there)

    def test_what_differs_is_changed(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path, tmp_path: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        uuid = vbox.machine("node01")["UUID"]
        text = SPEC.replace("cpus: 3", "cpus: 4").replace("memory_mib: 1536", "memory_mib: 2048")
        text = text.replace("firmware: uefi", "firmware: bios")
        text = text.replace("lab-link", "other-link").replace("adapter: e1000", "adapter: virtio")
        text = text.replace("  outside: {kind: nat, dhcp: true}\n", "").replace("00:53:01", "00:53:02")
        text = text.replace("{size_mib: 100, name: data}", "{size_mib: 200, name: data}")
        text = text.replace("  - {address: 10.56.0.10, network: link, name: inner}\n", "")
        changed = spec(tmp_path, text)
        done = host.converge(node(changed, imported, cd(seed, "two")))
        assert set(done.changes) == {
            "CPUs: 4",
            "memory: 2048 MiB",
            "firmware: bios",
            "network card 2: intnet other-link",
            "network card 2: virtio",
            "network card 2: promiscuous mode deny",
            "network card 3: MAC address 02005E005302",
            "network card 4: none",
            "CD",
            "disk data: 200 MiB",
        }
        machine = vbox.machine("node01")
        assert machine["UUID"] == uuid
        assert (machine["cpus"], machine["memory"], machine["intnet2"]) == ("4", "2048", "other-link")
        assert machine["firmware"] == "BIOS"
        assert (machine["nictype2"], machine["macaddress3"], machine["nic4"]) == ("virtio", "02005E005302", "none")
        assert policies(vbox, "node01") == {1: "allow-all", 2: "deny", 3: "deny"}
        assert Path(machine["SATA-1-0"]).read_bytes() == seed.read_bytes()
        assert len([name for name in files(vbox) if name.endswith(".iso")]) == 1
        assert host.converge(node(changed, imported, seed)).changes == ()

    def test_no_disk_shrinks(
        self, host: VirtualBox, imported: Base, cluster: Cluster, seed: Path, tmp_path: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        smaller = spec(tmp_path, SPEC.replace("size_mib: 100", "size_mib: 50").replace("cpus: 3", "cpus: 4"))
        with pytest.raises(InputError, match=r"data.vdi has 100 MiB, not 50"):
            host.converge(node(smaller, imported, seed))
        # Nothing else was changed either.
        assert host.converge(node(cluster, imported, seed)).changes == ()

    def test_keeps_the_base_it_has(
        self, host: VirtualBox, imported: Base, cluster: Cluster, seed: Path, small_ova: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        newer = Base("hapx-2.0-amd64", imported.sha256)
        host.import_base(small_ova, newer)
        done = host.converge(node(cluster, newer, seed))
        assert done.changes == ()
        assert done.later == (f"base: stays {imported.name}; destroy it and clone it again for another",)

    def test_no_base(self, host: VirtualBox, vbox: VBox, base: Base, cluster: Cluster, seed: Path) -> None:
        with pytest.raises(InputError, match="there is no base") as error:
            host.converge(node(cluster, base, seed))
        assert "there are: none" in error.value.hint
        assert names(vbox) == []

    def test_a_card_that_virtualbox_does_not_have(
        self, host: VirtualBox, vbox: VBox, imported: Base, seed: Path, tmp_path: Path
    ) -> None:
        other = spec(tmp_path, SPEC.replace("adapter: e1000", "adapter: vmxnet3"))
        with pytest.raises(InputError, match="VirtualBox cannot make such a machine") as error:
            host.converge(node(other, imported, seed))
        assert "networks.link.adapter: VirtualBox has no vmxnet3" in error.value.details[0]
        assert names(vbox) == [imported.name]

    def test_no_host_only_interface_and_no_driver_to_make_one(
        self, host: VirtualBox, vbox: VBox, imported: Base, seed: Path, tmp_path: Path
    ) -> None:
        text = SPEC.replace("192.168.56.", "192.168.57.")
        with pytest.raises(MissingError, match="its kernel driver is not loaded") as error:
            host.converge(node(spec(tmp_path, text), imported, seed))
        assert "vboxnetadp" in error.value.hint
        assert names(vbox) == [imported.name]

    def test_failure_in_the_middle_leaves_nothing(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        """VirtualBox refuses more memory than it has room for, after the clone was made."""
        before = files(vbox)
        with pytest.raises(CommandError):
            host.converge(dataclasses.replace(node(cluster, imported, seed), memory_mib=1 << 30))
        assert names(vbox) == [imported.name]
        assert files(vbox) == before


class TestOthers:
    """What hapx-build did not make is never touched."""

    def test_a_machine_of_the_nodes_name(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        vbox.manage("createvm", "--name", "node01", "--register")
        machine, there = vbox.machine("node01"), files(vbox)
        for attempt in (
            lambda: host.converge(node(cluster, imported, seed)),
            lambda: host.start("node01"),
            lambda: host.stop("node01", timeout=1),
            lambda: host.power_off("node01"),
            lambda: host.destroy("node01"),
        ):
            with pytest.raises(InputError, match="hapx-build did not make: it is left alone"):
                attempt()
        assert (vbox.machine("node01"), files(vbox)) == (machine, there)

    def test_a_copy_that_somebody_made_of_a_node(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        vbox.manage("clonevm", "node01", "--name", "copy", "--register")
        assert [each.name for each in host.machines()] == ["node01"]
        with pytest.raises(InputError, match="hapx-build did not make"):
            host.destroy("copy")

    def test_a_clone_of_a_node(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        vbox.manage("snapshot", "node01", "take", "mine")
        vbox.manage("clonevm", "node01", "--snapshot=mine", "--options=link", "--name=mine", "--register")
        with pytest.raises(InputError, match="hang on the disk of node01: mine"):
            host.destroy("node01")
        assert names(vbox) == [imported.name, "node01", "mine"]

    def test_files_of_a_machine_that_was_taken_off_the_list(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        """Somebody removed it in VirtualBox's window and kept its files: with what is on its disks."""
        host.converge(node(cluster, imported, seed))
        vbox.manage("unregistervm", "node01")
        there = files(vbox)
        with pytest.raises(InputError, match="node01 is in the way"):
            host.converge(node(cluster, imported, seed))
        assert files(vbox) == there

    def test_a_node_of_another_cluster(
        self, host: VirtualBox, imported: Base, cluster: Cluster, seed: Path, tmp_path: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        other = spec(tmp_path, SPEC.replace("name: lab\n", "name: other\n"))
        with pytest.raises(InputError, match="node01 is a machine of the cluster lab"):
            host.converge(node(other, imported, seed))
        assert [each.name for each in host.machines("lab")] == ["node01"]
        assert list(host.machines("other")) == []


class TestPower:
    def test_starting_needs_the_kernel_driver(
        self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path
    ) -> None:
        host.converge(node(cluster, imported, seed))
        with pytest.raises(MissingError, match="cannot start machines: its kernel driver is not loaded") as error:
            host.start("node01")
        assert "modprobe vboxdrv" in error.value.hint
        assert any("terminated unexpectedly" in line for line in error.value.details)
        assert [each.state for each in host.machines("lab")] == [State.OFF]

    def test_what_is_off_stays_off(self, host: VirtualBox, imported: Base, cluster: Cluster, seed: Path) -> None:
        host.converge(node(cluster, imported, seed))
        assert not host.stop("node01", timeout=1)
        assert not host.power_off("node01")

    def test_there_is_no_such_machine(self, host: VirtualBox) -> None:
        with pytest.raises(InputError, match="there is no machine node09"):
            host.start("node09")

    def test_nobody_answers_inside(self, host: VirtualBox, imported: Base, cluster: Cluster, seed: Path) -> None:
        host.converge(node(cluster, imported, seed))
        assert host.ask("node01", ["true"], timeout=1) is None


class TestDestroy:
    def test_nothing_stays(self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path) -> None:
        before = files(vbox)
        for number in (0, 1):
            host.converge(node(cluster, imported, seed, number))
        # What UEFI keeps when it is off, as its first start would make it.
        vbox.manage("modifynvram", "node01", "inituefivarstore")
        assert [name for name in files(vbox) if name.endswith(".nvram")] == ["hapx/lab/node01/node01.nvram"]
        assert host.destroy("node01")
        assert names(vbox) == [imported.name, "node02"]
        assert host.destroy("node02")
        assert not host.destroy("node02")
        assert files(vbox) == before
        assert "iso" not in vbox.manage("list", "dvds").stdout
        assert host.destroy_networks("lab") == []

    def test_half_made(self, host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster) -> None:
        uuid = mark.fresh_uuid("node01")
        link = ["--snapshot=base", "--options=link", "--groups=/hapx/lab", "--name=node01", f"--uuid={uuid}"]
        vbox.manage("clonevm", imported.name, *link, "--register")
        (found,) = host.machines("lab")
        assert (found.name, found.state, found.base) == ("node01", State.BROKEN, "")
        assert host.destroy("node01")
        assert names(vbox) == [imported.name]


def test_a_machine_that_somebody_works_on(
    host: VirtualBox, vbox: VBox, imported: Base, cluster: Cluster, seed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full clone holds the machine it copies: what comes meanwhile waits, and it says so when that takes long."""
    monkeypatch.setattr("builder.hypervisor.virtualbox.manage.LOCKED", 0.0)
    host.converge(node(cluster, imported, seed))
    # As VBoxManage says it; when a lock is held cannot be timed in a test.
    locked = "VBoxManage: error: The machine 'node01' is already locked for a session (or being unlocked)\n"
    script = '#!/bin/sh\ncase $* in *modifyvm*) printf %s "{locked}" >&2; exit 1;; esac\nexec {real} "$@"\n'
    vbox.wrap(script, locked=locked)
    with pytest.raises(BusyError, match="in use by another program"):
        host.converge(dataclasses.replace(node(cluster, imported, seed), cpus=1))
