"""All that VBoxManage is asked for in a node's life, next to what each version's own help says that it takes.

The program is 7.2, which takes 6.1's flags too; it is made to say another version of itself. Its own help is read as it
prints it; that of older versions is typed up from their manuals, as far as hapx-build asks for anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import MissingError
from builder.hypervisor import Base, wanted
from builder.hypervisor.virtualbox import VirtualBox
from builder.seed import iso
from builder.spec import load
from tests.virtualbox import chroot
from tests.virtualbox.chroot import VBox, stand_in

pytestmark = pytest.mark.slow

SPEC = """
name: lab
machine: {cpus: 2, memory_mib: 1024}
networks:
  public: {kind: hostonly, subnets: [192.168.56.0/24]}
  link: {kind: intnet, name: lab-link, subnets: [10.56.0.0/24]}
  lan: {kind: bridged, name: lan0, subnets: [192.0.2.0/24]}
  outside: {kind: nat, dhcp: true}
nodes:
  - name: node01
    addresses: {public: 192.168.56.11, link: 10.56.0.11, lan: 192.0.2.11}
    disks: [{size_mib: 16, name: data}, {size_mib: 16, name: logs}]
vips: [{address: 192.168.56.10, network: public}]
corosync: {links: [public, link]}
"""

# Typed up: 6.1's manual, chapter VBoxManage.
HELP_6_1 = """
import <ovfname | ovaname> [--dry-run] [--options= keepallmacs | keepnatmacs | importtovdi] [--vsys=n]
  [--ostype=guest-OS-type] [--vmname=VM-name] [--settingsfile=file] [--basefolder=folder] [--group=group]
  [--memory=MB] [--cpus=n] [--description=text]
snapshot <uuid|vmname> take <name> [--description=<desc>] [--live]
clonevm <vmname|uuid> [--basefolder=basefolder] [--groups=group,...] [--mode=machine | --mode=machineandchildren |
  --mode=all] [--name=name] [--options=option,...] [--register] [--snapshot=snapshot-name] [--uuid=uuid]
modifyvm <uuid|vmname> [--name <name>] [--groups <group>, ...] [--description <desc>] [--memory <memorysize in MB>]
  [--vram <vramsize in MB>] [--firmware bios|efi|efi32|efi64] [--cpus <number>] [--cpuhotplug on|off]
  [--nic<1-N> none|null|nat|bridged|intnet|hostonly|generic|natnetwork]
  [--nictype<1-N> Am79C970A|Am79C973|82540EM|82543GC|82545EM|virtio] [--cableconnected<1-N> on|off]
  [--nicpromisc<1-N> deny|allow-vms|allow-all] [--bridgeadapter<1-N> none|<devicename>]
  [--hostonlyadapter<1-N> none|<devicename>] [--intnet<1-N> <network name>] [--macaddress<1-N> auto|<mac>]
  [--uart<1-N> off|<I/O base> <IRQ>] [--uartmode<1-N> disconnected|server <pipe>|client <pipe>|file <file>]
storageattach <uuid|vmname> --storagectl <name> [--port <number>] [--device <number>] [--type dvddrive|hdd|fdd]
  [--medium none|emptydrive|additions|<uuid|filename>|host:<drive>|iscsi] [--comment <text>] [--setuuid <uuid>]
  [--setparentuuid <uuid>] [--tempeject on|off] [--hotpluggable on|off] [--forceunmount]
createmedium [disk|dvd|floppy] --filename <filename> [--size <megabytes>|--sizebyte <bytes>]
  [--diffparent <uuid>|<filename>] [--format VDI|VMDK|VHD] [--variant Standard,Fixed,Split2G,Stream,ESX,Formatted]
modifymedium [disk|dvd|floppy] <uuid|filename> [--type normal] [--autoreset on|off] [--resize <megabytes>]
closemedium [disk|dvd|floppy] <uuid|filename> [--delete]
unregistervm <uuid|vmname> [--delete]
showvminfo <uuid|vmname> [--details] [--machinereadable]
showmediuminfo [disk|dvd|floppy] <uuid|filename>
list [--long|-l] [--sorted|-s] vms|runningvms|hostonlyifs|hdds|dvds|systemproperties|extpacks|groups
getextradata global|<uuid|vmname> <key>|enumerate
setextradata global|<uuid|vmname> <key> [<value>]
startvm <uuid|vmname>... [--type gui|sdl|headless|separate] [-E|--putenv <NAME>[=<VALUE>]]
"""

# Typed up: 7.0's manual; 7.1 changed none of these. What has no line here is as in 6.1.
HELP_7_0 = """
modifyvm <uuid | vmname> [--name=name] [--groups= group [,group...] ] [--description=description]
  [--memory=size-in-MB] [--vram=size-in-MB] [--firmware= bios | efi | efi32 | efi64] [--cpus=CPU-count]
  [--cpu-hotplug= on | off]
  [--nicN= none | null | nat | bridged | intnet | hostonly | hostonlynet | generic | natnetwork]
  [--nic-typeN= Am79C970A | Am79C973 | 82540EM | 82543GC | 82545EM | virtio | usbnet] [--cable-connectedN= on | off]
  [--nic-promiscN= deny | allow-vms | allow-all] [--bridge-adapterN= none | device-name]
  [--host-only-adapterN= none | device-name] [--host-only-netN=network-name] [--intnetN=network-name]
  [--mac-addressN= auto | MAC-address] [--uartN= off | IO-base IRQ] [--uart-modeN=mode]
unregistervm <uuid | vmname> [--delete] [--delete-all]
"""

NOTES = """#!/bin/sh
shift
printf '%s\\n' "$*" >>{log}
if [ "$1" = --version ]; then echo "{version}"; else exec {real} --nologo "$@"; fi
"""


def entries(text: str) -> dict[str, str]:
    """A help text by command."""
    found = re.findall(r"^([a-z]+) (.*(?:\n .*)*)", text.replace("<1-N>", "N"), re.MULTILINE)
    return dict(found)


@pytest.fixture
def vbox(virtualbox_root: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VBox]:
    shared = [tmp_path_factory.getbasetemp()]
    with chroot.start(virtualbox_root, tmp_path / "virtualbox", shared, network=True) as virtualbox:
        virtualbox.add_host_only("192.168.56.1/24")
        yield virtualbox


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("6.1.50r161033", entries(HELP_6_1)),
        ("7.0.20r163906", entries(HELP_6_1) | entries(HELP_7_0)),
        ("7.2.0r170228", None),
    ],
    ids=["6.1", "7.0 and 7.1", "7.2"],
)
def test_it_is_asked_for_nothing_that_it_does_not_know(
    vbox: VBox, small_ova: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, known: dict[str, str]
) -> None:
    log = tmp_path / "asked"
    noting = stand_in(tmp_path / "noting/VBoxManage", NOTES.format(log=log, version=version, real=vbox.executable))
    monkeypatch.setenv("PATH", str(noting.parent), prepend=":")

    live_and_die(VirtualBox(), small_ova, tmp_path)

    asked = [line.split() for line in log.read_text().splitlines() if not line.startswith("--version")]
    assert {"import", "snapshot", "clonevm", "modifyvm", "storageattach", "createmedium", "modifymedium"} <= {
        each[0] for each in asked
    }
    for name, *arguments in asked:
        if known is None:
            said = vbox.manage(name, "--help", check=False)
            text = said.stdout + said.stderr
        else:
            text = known[name]
        for flag in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
            assert re.search(re.sub(r"\d+$", "N", flag) + r"(?![\w-])", text), f"{name} {flag}"


def live_and_die(host: VirtualBox, ova: Path, folder: Path) -> None:
    """A base and a node of it: made, changed, not started for want of a driver, removed."""
    base = Base("hapx-1.0", hashlib.sha256(ova.read_bytes()).hexdigest())
    path, seed = folder / "cluster.yaml", folder / "node01-cidata.iso"
    assert host.import_base(ova, base)

    def converge(text: str, instance: str) -> tuple[str, ...]:
        path.write_text(text)
        documents = {"meta-data": f"instance-id: {instance}\n".encode(), "user-data": b"#cloud-config\n"}
        iso.write(documents, seed, timestamp=iso.YEAR_1980)
        cluster = load(path)
        return host.converge(wanted.machine(cluster, cluster.nodes[0], base, seed)).changes

    converge(SPEC, "one")
    text = SPEC.replace("size_mib: 16, name: data", "size_mib: 32, name: data").replace(
        ", {size_mib: 16, name: logs}", ""
    )
    assert set(converge(text.replace("cpus: 2", "cpus: 3"), "two")) >= {"CPUs: 3", "CD", "disk data: 32 MiB"}
    with pytest.raises(MissingError):
        host.start("node01")
    assert host.destroy("node01")
    host.destroy_networks("lab")
    host.remove_base(base.name)
