"""Host-only interfaces for a cluster: made, given an address, shared and removed.

VirtualBox is real, in a network of its own, and so are the interfaces and their addresses. To make and to remove one
takes its kernel driver: a VBoxManage before the real one does that in its place, with ip(8), and says what it says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import command
from builder.errors import InputError
from builder.hypervisor import Base, Converged, wanted
from builder.hypervisor.virtualbox import VirtualBox
from builder.seed import iso
from builder.spec import load
from tests.virtualbox import chroot
from tests.virtualbox.chroot import VBox

pytestmark = pytest.mark.slow

SPEC = """
name: lab
networks:
  public: {kind: hostonly, subnets: [192.168.57.0/24]}
nodes:
  - {name: node01, addresses: {public: 192.168.57.11}}
  - {name: node02, addresses: {public: 192.168.57.12}}
vips: [{address: 192.168.57.10, network: public}]
corosync: {links: [public]}
"""
DRIVER = """#!/bin/sh
inside="nsenter --target={pid} --net ip link"
case "$2 $3" in
"hostonlyif create")
    for name in vboxnet0 vboxnet1 vboxnet2; do
        if $inside add "$name" type bridge 2>/dev/null; then
            echo "0%...10%...100%"; echo "Interface '$name' was successfully created"; exit 0
        fi
    done; exit 1;;
"hostonlyif remove") exec $inside del "$4";;
esac
exec {real} "$@"
"""


class Lab:
    """A VirtualBox with a base, and what it has of interfaces."""

    def __init__(self, vbox: VBox, ova: Path, folder: Path) -> None:
        self.vbox = vbox
        self.folder = folder
        self.host = VirtualBox()
        self.base = Base("hapx-1.0", hashlib.sha256(ova.read_bytes()).hexdigest())
        self.host.import_base(ova, self.base)

    def converge(self, spec: str, *numbers: int) -> list[Converged]:
        path = self.folder / "cluster.yaml"
        path.write_text(spec)
        cluster = load(path)
        documents = {"meta-data": b"instance-id: one\n", "user-data": b"#cloud-config\n"}
        seed = iso.write(documents, self.folder / "seed.iso", timestamp=iso.YEAR_1980).path
        nodes = [cluster.nodes[number] for number in numbers]
        return [self.host.converge(wanted.machine(cluster, node, self.base, seed)) for node in nodes]

    def addresses(self) -> dict[str, list[str]]:
        """Each host-only interface's IPv4 addresses, by the kernel."""
        argv = ["nsenter", f"--target={self.vbox.pid}", "--net", "ip", "-json", "address"]
        return {
            each["ifname"]: [
                f"{info['local']}/{info['prefixlen']}" for info in each["addr_info"] if info["family"] == "inet"
            ]
            for each in json.loads(command.run(argv).stdout)
            if each["ifname"].startswith("vboxnet")
        }

    def names(self) -> list[str]:
        return re.findall(r'^"(.*)" \{', self.vbox.manage("list", "vms").stdout, re.MULTILINE)

    def marks(self) -> list[str]:
        said = self.vbox.manage("getextradata", "global", "enumerate").stdout
        return re.findall(r"^Key: (hapx/hostonly/.*)$", said, re.MULTILINE)


@pytest.fixture
def lab(
    virtualbox_root: Path,
    small_ova: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Lab]:
    shared = [tmp_path_factory.getbasetemp()]
    with chroot.start(virtualbox_root, tmp_path / "virtualbox", shared, network=True) as vbox:
        vbox.wrap(DRIVER, pid=vbox.pid)
        monkeypatch.setenv("PATH", str(vbox.executable.parent), prepend=":")
        yield Lab(vbox, small_ova, tmp_path)


def test_made_once_and_removed_with_the_last_node(lab: Lab) -> None:
    assert [done.created for done in lab.converge(SPEC, 0, 1)] == [True, True]
    assert lab.addresses() == {"vboxnet0": ["192.168.57.1/24"]}
    for name in ("node01", "node02"):
        machine = lab.vbox.machine(name)
        assert (machine["nic1"], machine["hostonlyadapter1"]) == ("hostonly", "vboxnet0")
    # Another run finds it.
    lab.host = VirtualBox()
    assert [done.changes for done in lab.converge(SPEC, 0, 1)] == [(), ()]
    assert lab.marks() == ["hapx/hostonly/vboxnet0, Value: lab"]

    lab.host.destroy("node01")
    assert lab.host.destroy_networks("lab") == []
    lab.host.destroy("node02")
    assert lab.host.destroy_networks("other") == []
    assert lab.host.destroy_networks("lab") == ["vboxnet0"]
    assert (lab.addresses(), lab.marks()) == ({}, [])
    assert lab.host.destroy_networks("lab") == []


def test_one_that_was_there_is_taken_and_stays(lab: Lab) -> None:
    lab.vbox.add_host_only("192.168.57.1/24")
    lab.converge(SPEC, 0)
    assert lab.vbox.machine("node01")["hostonlyadapter1"] == "vboxnet0"
    lab.host.destroy("node01")
    assert lab.host.destroy_networks("lab") == []
    assert lab.addresses() == {"vboxnet0": ["192.168.57.1/24"]}


def test_one_beside_those_of_other_subnets(lab: Lab) -> None:
    lab.vbox.add_host_only("192.168.56.1/24")
    lab.converge(SPEC, 0)
    assert lab.vbox.machine("node01")["hostonlyadapter1"] == "vboxnet1"
    assert lab.addresses() == {"vboxnet0": ["192.168.56.1/24"], "vboxnet1": ["192.168.57.1/24"]}


def test_a_range_that_virtualbox_does_not_allow(lab: Lab) -> None:
    """It is said with what to do about it, and no interface without an address is left."""
    with pytest.raises(
        InputError, match=r"does not allow host-only interfaces with an address in 10.1.2.0/24"
    ) as error:
        lab.converge(SPEC.replace("192.168.57.", "10.1.2."), 0)
    assert error.value.hint == "as root, add the line '* 10.1.2.0/24' to /etc/vbox/networks.conf there"
    assert (lab.addresses(), lab.marks(), lab.names()) == ({}, [], ["hapx-1.0"])


def test_a_name_that_virtualbox_would_not_give(lab: Lab) -> None:
    with pytest.raises(InputError, match="there is no vboxnet7") as error:
        lab.converge(SPEC.replace("kind: hostonly,", "kind: hostonly, name: vboxnet7,"), 0)
    assert "VirtualBox names its interfaces itself" in error.value.hint
    assert (lab.addresses(), lab.marks(), lab.names()) == ({}, [], ["hapx-1.0"])


def test_a_name_of_one_in_another_subnet(lab: Lab) -> None:
    lab.vbox.add_host_only("192.168.56.1/24")
    with pytest.raises(InputError, match=r"vboxnet0 on this machine has 192\.168\.56\.1/24"):
        lab.converge(SPEC.replace("kind: hostonly,", "kind: hostonly, name: vboxnet0,"), 0)
    assert lab.names() == ["hapx-1.0"]
