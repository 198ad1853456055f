"""What a second run changes of a node in a real VirtualBox: disks that the spec has no more, and what the state allows.

No machine runs here, for want of a kernel driver. Saved and aborted ones are real; that one runs is what a VBoxManage
before the real one says, which also takes down what the machine would have been told.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import InputError, MissingError
from builder.hypervisor import Base, Machine, State, wanted
from builder.hypervisor.virtualbox import VirtualBox
from builder.seed import iso
from builder.spec import load
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

SPEC = """
name: lab
machine: {cpus: 2, memory_mib: 1024}
networks:
  link: {kind: intnet, name: lab-link, subnets: [10.56.0.0/24]}
  outside: {kind: nat, dhcp: true}
nodes:
  - name: node01
    addresses: {link: 10.56.0.11}
    macs: {outside: "02:00:5e:00:53:01"}
    disks: [{size_mib: 16, name: data}, {size_mib: 16, name: logs}]
vips:
  - {address: 10.56.0.10, network: link}
corosync: {links: [link]}
"""
WITHOUT_LOGS = SPEC.replace(", {size_mib: 16, name: logs}", "")

# Says of every machine that it runs, and notes what would be changed of it.
RUNNING = """#!/bin/sh
case $2 in
showvminfo) {real} "$@" | sed 's/^VMState=.*/VMState="running"/';;
controlvm|modifyvm|createmedium|modifymedium) shift 3; echo "$*" >>{log};;
*) exec {real} "$@";;
esac
"""

# Says that every machine is in the state that a file has, and notes what is done to it; {acpi} is what its system does
# when somebody presses the power button.
POWERED = """#!/bin/sh
case $2 in
showvminfo) {real} "$@" | sed "s/^VMState=.*/VMState=\\"$(cat {state})\\"/";;
startvm) echo "$2 $4 $5" >>{log};;
controlvm) echo "$4" >>{log}
    case $4 in poweroff) echo poweroff >{state};; resume) echo running >{state};; acpipowerbutton) {acpi};; esac;;
*) exec {real} "$@";;
esac
"""


class Node:
    """A base and a node of it in VirtualBox."""

    def __init__(self, host: VirtualBox, vbox: VBox, base: Base, folder: Path) -> None:
        self.host = host
        self.vbox = vbox
        self.base = base
        self.spec = folder / "cluster.yaml"
        self.seed = folder / "node01-cidata.iso"
        self.cd("one")
        host.converge(self.machine(SPEC))
        self.folder = Path(self.shown()["CfgFile"]).parent

    def machine(self, spec: str) -> Machine:
        self.spec.write_text(spec)
        cluster = load(self.spec)
        return wanted.machine(cluster, cluster.nodes[0], self.base, self.seed)

    def cd(self, instance: str) -> None:
        documents = {"meta-data": f"instance-id: {instance}\n".encode(), "user-data": b"#cloud-config\n"}
        iso.write(documents, self.seed, timestamp=iso.YEAR_1980)

    def shown(self) -> dict[str, str]:
        return self.vbox.machine("node01")

    def disks(self) -> dict[str, str]:
        """Name and port of each additional disk."""
        found = {key: value for key, value in self.shown().items() if re.fullmatch(r"SATA-\d+-0", key)}
        return {Path(value).stem: key[5:-2] for key, value in found.items() if value.endswith(".vdi")}

    def state(self) -> State:
        (found,) = self.host.machines("lab")
        return found.state


@pytest.fixture
def node(vbox: VBox, small_ova: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("PATH", str(vbox.executable.parent), prepend=":")
    base = Base("hapx-1.0", hashlib.sha256(small_ova.read_bytes()).hexdigest())
    host = VirtualBox()
    host.import_base(small_ova, base)
    return Node(host, vbox, base, tmp_path)


class TestDisksThatTheSpecHasNoMore:
    def test_is_taken_off_and_kept(self, node: Node) -> None:
        done = node.host.converge(node.machine(WITHOUT_LOGS))
        assert done.changes == (f"disk logs: detached, kept as {node.folder}/logs.vdi",)
        assert node.disks() == {"data": "2"}
        assert (node.folder / "logs.vdi").exists()
        assert node.host.converge(node.machine(WITHOUT_LOGS)).changes == ()

    def test_comes_back_as_it_was(self, node: Node) -> None:
        uuid = node.shown()["SATA-ImageUUID-3-0"]
        node.host.converge(node.machine(WITHOUT_LOGS))
        done = node.host.converge(node.machine(SPEC))
        assert done.changes == ("disk logs: 16 MiB",)
        assert node.disks() == {"data": "2", "logs": "3"}
        assert node.shown()["SATA-ImageUUID-3-0"] == uuid

    def test_another_takes_its_place(self, node: Node) -> None:
        done = node.host.converge(node.machine(SPEC.replace("name: logs", "name: more")))
        assert done.changes == (f"disk logs: detached, kept as {node.folder}/logs.vdi", "disk more: 16 MiB")
        assert set(node.disks()) == {"data", "more"}

    def test_goes_with_the_machine(self, node: Node) -> None:
        node.host.converge(node.machine(WITHOUT_LOGS))
        assert node.host.destroy("node01")
        assert not node.folder.exists()
        assert "logs.vdi" not in node.vbox.manage("list", "hdds").stdout

    def test_one_that_a_run_was_cut_off_at_is_known_too(self, node: Node) -> None:
        """Made, and not attached yet."""
        path = node.folder / "more.vdi"
        node.vbox.manage("setextradata", "node01", "hapx/disk/more", "made")
        node.vbox.manage("createmedium", "disk", f"--filename={path}", "--size=16")
        node.host.converge(node.machine(SPEC.replace("name: logs}", "name: logs}, {size_mib: 16, name: more}")))
        assert node.disks() == {"data": "2", "logs": "3", "more": "4"}
        assert node.host.converge(node.machine(SPEC)).changes == (f"disk more: detached, kept as {path}",)

    def test_made_again_and_again(self, node: Node) -> None:
        """Under the same names in one life of VirtualBox's daemon, which still knows the disks that were."""
        for _ in range(3):
            node.host.converge(node.machine(WITHOUT_LOGS))
            assert node.host.destroy("node01")
            assert node.host.converge(node.machine(SPEC)).created
        assert node.disks() == {"data": "2", "logs": "3"}
        assert node.vbox.manage("list", "hdds").stdout.count(str(node.folder)) == 3

    def test_what_somebody_else_attached_stays(self, node: Node) -> None:
        """Where VirtualBox's window puts a new disk: beside those that are ours."""
        theirs = node.folder / "NewVirtualDisk.vdi"
        node.vbox.manage("createmedium", "disk", f"--filename={theirs}", "--size=16")
        where = ["--storagectl=SATA", "--port=7", "--device=0", "--type=hdd"]
        node.vbox.manage("storageattach", "node01", *where, f"--medium={theirs}")
        assert node.host.converge(node.machine(SPEC)).changes == ()
        assert node.disks() == {"data": "2", "logs": "3", "NewVirtualDisk": "7"}


class TestStates:
    def test_saved(self, node: Node) -> None:
        """Its settings belong to the state that was saved: nothing of it is changed, and it can be removed."""
        state = node.folder / "a.sav"
        state.write_bytes(b"what its memory was")
        node.vbox.manage("adoptstate", "node01", state)
        assert node.state() is State.SAVED
        before = node.shown()
        with pytest.raises(InputError, match="node01 is saved") as error:
            node.host.converge(node.machine(SPEC.replace("cpus: 2", "cpus: 4")))
        assert "VBoxManage discardstate node01" in error.value.hint
        assert node.shown() == before
        with pytest.raises(MissingError, match="its kernel driver is not loaded"):
            node.host.start("node01")
        assert node.state() is State.SAVED
        assert node.host.destroy("node01")
        assert not node.folder.exists()

    def test_a_state_that_was_discarded(self, node: Node) -> None:
        state = node.folder / "a.sav"
        state.write_bytes(b"what its memory was")
        node.vbox.manage("adoptstate", "node01", state)
        assert not node.host.stop("node01", timeout=1)
        assert node.state() is State.SAVED
        node.vbox.manage("discardstate", "node01")
        assert node.host.converge(node.machine(SPEC.replace("cpus: 2", "cpus: 4"))).changes == ("CPUs: 4",)

    def test_aborted(self, node: Node) -> None:
        """Its process was killed: it is off, and takes everything."""
        settings = node.folder / "node01.vbox"
        # A linked clone's disk cannot be registered again.
        node.host.destroy("node01")
        node.host.converge(dataclasses.replace(node.machine(SPEC), linked=False))
        node.vbox.manage("unregistervm", "node01")
        settings.write_text(settings.read_text().replace("<Machine ", '<Machine aborted="true" ', 1))
        node.vbox.manage("registervm", settings)
        assert node.shown()["VMState"] == "aborted"
        assert node.state() is State.BROKEN
        changed = node.machine(WITHOUT_LOGS.replace("cpus: 2", "cpus: 4"))
        assert node.host.converge(changed).changes == (
            "CPUs: 4",
            f"disk logs: detached, kept as {node.folder}/logs.vdi",
        )
        assert not node.host.stop("node01", timeout=1)
        assert node.host.destroy("node01")

    def test_running(self, node: Node, tmp_path: Path) -> None:
        """It is told what it can take, in words that this VirtualBox knows; the rest is said to be left."""
        log = tmp_path / "told"
        node.vbox.wrap(RUNNING, log=log)
        text = WITHOUT_LOGS.replace("cpus: 2", "cpus: 4").replace("lab-link", "other-link")
        text = text.replace("00:53:01", "00:53:02").replace("size_mib: 16", "size_mib: 32")
        text = text.replace("vips:\n  - {address: 10.56.0.10, network: link}\n", "")
        node.cd("two")
        done = node.host.converge(node.machine(text))
        assert done.changes == ("network card 1: intnet other-link", "network card 1: promiscuous mode deny", "CD")
        assert done.later == (
            "CPUs: 4",
            "network card 2: MAC address 02005E005302",
            f"disk logs: detached, kept as {node.folder}/logs.vdi",
            "disk data: 32 MiB",
        )
        told = log.read_text().splitlines()
        assert told == ["nic1 intnet other-link", "nicpromisc1 deny"]
        assert Path(node.shown()["SATA-1-0"]).read_bytes() == node.seed.read_bytes()
        usage = node.vbox.manage("controlvm", "--help", check=False).stderr
        for words in told:
            command, value, *_ = words.split()
            assert re.search(rf"controlvm <uuid \| vmname> {command[:-1]}N <[^>]*\b{value}\b", usage), words


class TestPower:
    """What a machine is asked for in each state, and in which order; that it does as it is told is played."""

    @pytest.mark.parametrize(
        ("state", "acpi", "told"),
        [
            ("running", "echo poweroff >{state}", ["acpipowerbutton"]),
            ("running", "true", ["acpipowerbutton", "poweroff"]),
            ("paused", "echo poweroff >{state}", ["resume", "acpipowerbutton"]),
            ("gurumeditation", "true", ["poweroff"]),
            ("poweroff", "true", []),
            ("aborted", "true", []),
        ],
    )
    def test_stop(self, node: Node, tmp_path: Path, state: str, acpi: str, told: list[str]) -> None:
        done, log = powered(node, tmp_path, state, acpi)
        assert node.host.stop("node01", timeout=1) is bool(told)
        assert log() == told
        assert done() == ("poweroff" if told else state)

    def test_stop_at_once(self, node: Node, tmp_path: Path) -> None:
        _, log = powered(node, tmp_path, "running", "true")
        assert node.host.stop("node01", timeout=0)
        assert log() == ["poweroff"]

    @pytest.mark.parametrize(
        ("state", "told"),
        [
            ("poweroff", ["startvm --type headless"]),
            ("saved", ["startvm --type headless"]),
            ("aborted", ["startvm --type headless"]),
            ("paused", ["resume"]),
            ("running", []),
        ],
    )
    def test_start(self, node: Node, tmp_path: Path, state: str, told: list[str]) -> None:
        _, log = powered(node, tmp_path, state, "true")
        assert node.host.start("node01") is bool(told)
        assert log() == told

    def test_one_that_runs_is_switched_off_before_it_is_removed(self, node: Node, tmp_path: Path) -> None:
        _, log = powered(node, tmp_path, "running", "true")
        assert node.host.destroy("node01")
        assert log() == ["poweroff"]
        assert not node.folder.exists()


def powered(node: Node, folder: Path, state: str, acpi: str) -> tuple[Callable[[], str], Callable[[], list[str]]]:
    """The node's machine is in a state from now on; what state it is in by then, and what it was told."""
    now, log = folder / "state", folder / "told"
    now.write_text(state)
    log.touch()
    node.vbox.wrap(POWERED, state=now, log=log, acpi=acpi.format(state=now))
    return lambda: now.read_text().strip(), lambda: log.read_text().splitlines()
