"""What makes up the difference between a machine and its spec, and how what VBoxManage says is read; no program runs.

The texts of other versions than 7.2, and of other systems than Linux, are typed up from VirtualBox's manuals and
sources: the program that printed them does not run in the tests.
"""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from pathlib import Path, PurePosixPath

import pytest

from builder.command import Result
from builder.errors import BusyError, CommandError, HapxError, InputError, MissingError, NoSpaceError
from builder.hypervisor import Base, Nic, State, bases, choose
from builder.hypervisor.virtualbox import VirtualBox, dialect, mark, plan, reading, said
from builder.hypervisor.virtualbox.hostonly import fits
from builder.hypervisor.virtualbox.plan import Plug, Wanted
from builder.hypervisor.virtualbox.reading import Card, HostOnly
from builder.spec.model import Firmware, NetworkKind

NEW, OLD = dialect.of((7, 2)), dialect.of((6, 1))
WARNING = "WARNING: The character device /dev/vboxdrv does not exist.\n\t You will not be able to start VMs.\n\n"

# 6.1 (typed up): no platformArchitecture, other keys around those that are read.
SHOWN_6_1 = r"""name="node01"
groups="/hapx/lab"
ostype="Debian (64-bit)"
UUID="20397349-59a5-8363-882d-05cc8cc06a34"
CfgFile="/home/me/VirtualBox VMs/hapx/lab/node01/node01.vbox"
hardwareuuid="20397349-59a5-8363-882d-05cc8cc06a34"
memory=1024
vram=16
cpus=2
firmware="BIOS"
VMState="running"
VMStateChangeTime="2026-01-02T03:04:05.000000000"
storagecontrollername0="IDE"
storagecontrollertype0="PIIX4"
storagecontrollerinstance0="0"
storagecontrollermaxportcount0="2"
storagecontrollerportcount0="2"
storagecontrollername1="SATA"
storagecontrollertype1="IntelAhci"
storagecontrollerportcount1="30"
"IDE-1-0"="emptydrive"
"IDE-IsEjected"="off"
"SATA-0-0"="/home/me/VirtualBox VMs/hapx/lab/node01/Snapshots/{a588eccb-0bd8-492e-8914-e2fe306690c6}.vmdk"
"SATA-ImageUUID-0-0"="a588eccb-0bd8-492e-8914-e2fe306690c6"
"SATA-1-0"="/home/me/VirtualBox VMs/hapx/lab/node01/node01-cidata-0123456789ab.iso"
"SATA-2-0"="none"
natnet1="nat"
macaddress1="020000000001"
cableconnected1="on"
nic1="nat"
nictype1="virtio"
nicspeed1="0"
mtu="0"
intnet2="lab-link"
macaddress2="020000000002"
cableconnected2="off"
nic2="intnet"
nictype2="82540EM"
nic3="none"
uart1="0x03f8,4"
uartmode1="file,/home/me/VirtualBox VMs/hapx/lab/node01/console.log"
uarttype1="16550A"
description="Node node01 of the cluster lab, made by hapx-build from hapx-1.0
a \"note\" with a backslash \\ and
nic1=\"bridged\"
cpus=9"
GuestMemoryBalloon=0
SnapshotName="before the update"
SnapshotUUID="56214eee-cd08-4016-afeb-b6a3b29c0014"
SnapshotName-1="after"
"""

# 7.0 on macOS (typed up): host-only networks.
NETWORKS_MACOS = """Name:            hapx-lab-public
GUID:            a5b0f8b0-1f6c-4ff5-9a52-21f7d5e2a2a8

State:           Enabled
NetworkMask:     255.255.255.0
LowerIP:         192.168.56.1
UpperIP:         192.168.56.254
VBoxNetworkName: hostonly-hapx-lab-public
"""

INTERFACES = """Name:            vboxnet0
GUID:            786f6276-656e-4074-8000-0a0027000000
DHCP:            Disabled
IPAddress:       192.168.56.1
NetworkMask:     255.255.255.0
IPV6Address:     fe80::800:27ff:fe00:0
IPV6NetworkMaskPrefixLength: 64
HardwareAddress: 0a:00:27:00:00:00
Status:          Up
VBoxNetworkName: HostInterfaceNetworking-vboxnet0

Name:            vboxnet1
IPAddress:       0.0.0.0
NetworkMask:     0.0.0.0
IPV6Address:
IPV6NetworkMaskPrefixLength: 0
"""


def shown(**changes: object) -> reading.Settings:
    text = SHOWN_6_1
    for key, value in changes.items():
        before = next(line for line in text.splitlines() if line.startswith((f"{key}=", f'"{key}"=')))
        text = text.replace(before, f"{key}={value}")
    return reading.settings(text)


def wanted(**changes: object) -> Wanted:
    """What the machine above is already, but for `changes`."""
    facts: dict[str, object] = {
        "groups": ("/hapx/lab",),
        "description": "Node node01 of the cluster lab, made by hapx-build from hapx-1.0",
        "cpus": 2,
        "memory_mib": 1024,
        "firmware": Firmware.BIOS,
        "plugs": {
            1: Plug("nat", None, ("virtio",), "020000000001", "deny"),
            2: Plug("intnet", "lab-link", ("82540EM",), "020000000002", "deny"),
        },
        "serial": PurePosixPath("/home/me/VirtualBox VMs/hapx/lab/node01/console.log"),
    }
    return Wanted(**{**facts, **changes})  # type: ignore[arg-type]


class TestReading:
    def test_machine_of_6_1(self) -> None:
        found = shown()
        assert (found.name, found.groups, found.state, found.cpus, found.memory_mib) == (
            "node01",
            ("/hapx/lab",),
            State.RUNNING,
            2,
            1024,
        )
        assert found.folder == PurePosixPath("/home/me/VirtualBox VMs/hapx/lab/node01")
        assert found.cards == {
            1: Card("nat", None, "virtio", "020000000001", cable=True),
            2: Card("intnet", "lab-link", "82540EM", "020000000002", cable=False),
        }
        assert [(each.controller, each.port) for each in found.media] == [("IDE", 1), ("SATA", 0), ("SATA", 1)]
        assert found.snapshots == {"before the update", "after"}

    def test_a_description_is_nothing_but_text(self) -> None:
        """Whatever stands in it, it is not taken for settings."""
        assert shown().description.splitlines()[1] == 'a "note" with a backslash \\ and'
        assert (shown().cards[1].kind, shown().cpus) == ("nat", 2)

    @pytest.mark.parametrize(("word", "state"), sorted(reading.STATES.items()))
    def test_states(self, word: str, state: State) -> None:
        assert shown(VMState=f'"{word}"').state is state

    def test_an_unknown_state_is_no_time_for_changes(self) -> None:
        assert shown(VMState='"deletingsnapshot"').state is State.STARTING

    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("6.1.50r161033\n", (6, 1)),
            ("7.0.20r163906\n", (7, 0)),
            ("7.1.4r165100\n", (7, 1)),
            (f"{WARNING}7.2.22_Debianr175245\n", (7, 2)),
            (WARNING, None),
        ],
    )
    def test_version(self, text: str, version: tuple[int, int] | None) -> None:
        assert reading.version(text) == version

    @pytest.mark.parametrize(
        ("said", "percent"),
        [
            ("", None),
            ("0%...10%...90%...100%\nInterpreting /a/50%.ova...\nOK.\n", None),
            ("0%...100%\nInterpreting /a/50%.ova...\nOK.\n0%...", 0),
            ("0%...100%\nInterpreting /a/50%.ova...\nOK.\n0%...10%...2", 10),
            ("0%...100%\nInterpreting /a/50%.ova...\nOK.\n0%...10%...20%...90%...100%\n", 100),
        ],
    )
    def test_how_far_an_import_is(self, said: str, percent: int | None) -> None:
        assert reading.percent(said) == percent

    def test_machines(self) -> None:
        text = f'{WARNING}"a "b" {{c}}" {{20397349-59A5-8363-882d-05cc8cc06a34}}\n"<inaccessible>" {{no uuid}}\n'
        assert reading.machines(text) == [('a "b" {c}', "20397349-59a5-8363-882d-05cc8cc06a34")]

    def test_host_only(self) -> None:
        addresses = (ip_interface("192.168.56.1/24"), ip_interface("fe80::800:27ff:fe00:0/64"))
        assert reading.host_only(WARNING + INTERFACES) == [HostOnly("vboxnet0", addresses), HostOnly("vboxnet1", ())]
        assert reading.host_only_networks(NETWORKS_MACOS) == [
            HostOnly("hapx-lab-public", (ip_interface("192.168.56.1/24"),))
        ]

    @pytest.mark.parametrize(("subnet", "fitting"), [("192.168.56.0/24", True), ("192.168.56.0/25", False)])
    def test_which_interface_fits(self, subnet: str, fitting: bool) -> None:
        (vboxnet0, _) = reading.host_only(INTERFACES)
        network = ip_network(subnet)
        assert fits(vboxnet0, [ip_interface(f"{network[1]}/{network.prefixlen}")]) is fitting

    def test_promiscuous(self) -> None:
        text = "NIC 1:  MAC: 02, Promisc Policy: allow-all, Bandwidth group: none\nNIC 2:  disabled\n"
        assert reading.promiscuous(text) == {1: "allow-all"}


class TestChanges:
    def test_nothing_differs(self) -> None:
        found = shown(cableconnected2='"on"', VMState='"poweroff"')
        changes = plan.changes(wanted(), found, {}, NEW)
        assert (changes.modify, changes.control, changes.done, changes.later) == ([], [], [], [])

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (
                NEW,
                "--cpus 4 --uart1 0x3F8 4 --uart-mode1 file /other --nic1 hostonly --host-only-adapter1 vboxnet0"
                " --nic-type1 82540EM --mac-address1 02000000000A --nic-promisc1 allow-all --cable-connected2 on"
                " --nic3 bridged --bridge-adapter3 br0 --cable-connected3 on",
            ),
            (
                OLD,
                "--cpus 4 --uart1 0x3F8 4 --uartmode1 file /other --nic1 hostonly --hostonlyadapter1 vboxnet0"
                " --nictype1 82540EM --macaddress1 02000000000A --nicpromisc1 allow-all --cableconnected2 on"
                " --nic3 bridged --bridgeadapter3 br0 --cableconnected3 on",
            ),
        ],
        ids=["7.x", "6.1"],
    )
    def test_flags_of_each_version(self, names: dialect.Dialect, expected: str) -> None:
        plugs = {
            1: Plug("hostonly", "vboxnet0", ("82540EM",), "02000000000A", "allow-all"),
            2: Plug("intnet", "lab-link", None, None, None),
            3: Plug("bridged", "br0", None, None, None),
        }
        found = shown(VMState='"poweroff"')
        changes = plan.changes(wanted(cpus=4, serial=PurePosixPath("/other"), plugs=plugs), found, {}, names)
        assert " ".join(changes.modify) == expected
        assert changes.later == []

    @pytest.mark.parametrize(
        ("found", "firmware", "flags"),
        [
            ("BIOS", Firmware.UEFI, ["--firmware", "efi"]),
            ("EFI", Firmware.UEFI, []),
            ("EFI64", Firmware.UEFI, []),
            ("EFI32", Firmware.UEFI, ["--firmware", "efi"]),
            ("EFI", Firmware.BIOS, ["--firmware", "bios"]),
            ("EFI", None, []),
        ],
    )
    def test_firmware(self, found: str, firmware: Firmware | None, flags: list[str]) -> None:
        """What `create` asks for has none: it stays as it is."""
        machine = shown(firmware=f'"{found}"', cableconnected2='"on"', VMState='"poweroff"')
        assert plan.changes(wanted(firmware=firmware), machine, {}, NEW).modify == flags

    def test_a_running_machine_is_told_what_it_can_take(self) -> None:
        plugs = {
            1: Plug("intnet", "new", ("82540EM",), "020000000001", "allow-vms"),
            2: Plug("intnet", "lab-link", ("82540EM",), "02000000000B", "deny"),
            3: Plug("nat", None, None, None, None),
        }
        changes = plan.changes(wanted(cpus=4, memory_mib=2048, firmware=Firmware.UEFI, plugs=plugs), shown(), {}, NEW)
        assert changes.modify == []
        assert changes.control == [
            ["nic1", "intnet", "new"],
            ["nicpromisc1", "allow-vms"],
            ["setlinkstate2", "on"],
        ]
        assert changes.later == [
            "CPUs: 4",
            "memory: 2048 MiB",
            "firmware: uefi",
            "network card 1: 82540EM",
            "network card 2: MAC address 02000000000B",
            "network card 3: nat",
            "network card 3: cable",
        ]

    def test_cards_of_a_node(self) -> None:
        def nic(kind: NetworkKind, name: str | None, *, promiscuous: bool) -> Nic:
            return Nic(str(kind), kind, name, "virtio", "02:aa:00:00:00:01", promiscuous, ())

        nics = [
            nic(NetworkKind.NAT, "ignored", promiscuous=False),
            nic(NetworkKind.INTNET, "inner", promiscuous=True),
            nic(NetworkKind.HOSTONLY, None, promiscuous=True),
            nic(NetworkKind.BRIDGED, "br0", promiscuous=False),
        ]
        plugs = plan.plugs(nics, {"hostonly": ("hostonlynet", "hapx-lab-public")})
        assert [(plug.kind, plug.name, plug.promiscuous) for plug in plugs.values()] == [
            ("nat", None, "deny"),
            ("intnet", "inner", "allow-vms"),
            ("hostonlynet", "hapx-lab-public", "allow-all"),
            ("bridged", "br0", "deny"),
        ]
        assert {plug.mac for plug in plugs.values()} == {"02AA00000001"}
        with pytest.raises(InputError, match="cannot make such a machine"):
            plan.plugs(nics * 3, {})

    def test_ports(self) -> None:
        found = shown()
        controller = plan.disk_controller(found)
        assert controller.name == "SATA"
        assert plan.free_port(found, controller, {2}) == 3


class TestMark:
    def test_a_uuid_of_ours(self) -> None:
        made = {mark.fresh_uuid("node01") for _ in range(100)}
        assert len(made) == 100
        assert all(mark.is_ours(uuid, "node01") and not mark.is_ours(uuid, "node02") for uuid in made)
        assert {uuid[14] for uuid in made} == {"8"}
        assert {uuid[19] for uuid in made} <= set("89ab")
        assert not mark.is_ours("20397349-59a5-4363-882d-05cc8cc06a34", "node01")

    def test_descriptions(self) -> None:
        base = Base("hapx-1.0~rc1+x (y)", "0f" * 32)
        assert mark.read_base(mark.of_base(base)) == base
        assert mark.read_base(mark.of_base(base) + "\nnotes of somebody's") == base
        assert mark.read_origin(mark.of_node("lab", "node01", base.name)) == mark.Origin("node01", "lab", base.name)
        assert mark.read_origin(mark.of_created("node01", "debian base")) == mark.Origin("node01", "", "debian base")
        assert mark.read_origin("anything else") is None
        assert mark.read_base(mark.of_node("lab", "node01", base.name)) is None


def failed(*argv: str, stderr: str = "", stdout: str = "") -> Result:
    return Result(("VBoxManage", *argv), 1, stdout, stderr, 0.1)


class TestErrors:
    @pytest.mark.parametrize(
        ("argv", "stderr", "kind", "message"),
        [
            ("startvm x", f"{WARNING}VBoxManage: error: terminated", MissingError, "kernel driver is not loaded"),
            ("startvm x", "VBoxManage: error: ... (VERR_VMX_IN_VMX_ROOT_MODE)", MissingError, "KVM holds"),
            ("startvm x", "VBoxManage: error: ... (VERR_SVM_DISABLED)", MissingError, "virtualisation is not there"),
            ("hostonlyif create", "VBoxNetAdpCtl: Error: /dev/vboxnetctl", MissingError, "host-only interfaces"),
            ("import x", "VBoxManage: error: VERR_DISK_FULL", NoSpaceError, "no space left"),
            ("modifyvm x", "The machine 'x' is already locked for a session", BusyError, "in use by another program"),
            ("showvminfo x", "VBoxManage: error: The object is not ready", BusyError, "in use by another program"),
            ("list vms", "VBoxManage: error: Failed to create the VirtualBox object!", BusyError, "does not answer"),
            ("modifyvm x", "VBoxManage: error: Invalid RAM size", CommandError, "Invalid RAM size"),
        ],
    )
    def test_what_is_said(self, argv: str, stderr: str, kind: type[HapxError], message: str) -> None:
        error = said.error(failed(*argv.split(), stderr=stderr), "here")
        assert type(error) is kind
        assert message in error.message
        assert error.message.startswith("here: ")

    def test_a_range_that_is_not_allowed(self) -> None:
        """As 7.2 says it."""
        stderr = (
            "VBoxManage: error: Code E_ACCESSDENIED (0x80070005) - Access denied (extended info not available)\n"
            'VBoxManage: error: Context: "EnableStaticIPConfig(...)" at line 252 of file VBoxManageHostonly.cpp\n'
        )
        assert type(said.error(failed("modifyvm", stderr=stderr), "here")) is CommandError
        error = said.error(failed("hostonlyif", "ipconfig", stderr=stderr), "here", subnet="10.1.2.0/24")
        assert type(error) is InputError
        assert "in 10.1.2.0/24" in error.message
        assert "'* 10.1.2.0/24' to /etc/vbox/networks.conf" in error.hint

    def test_the_warning_about_the_driver_is_none_of_other_commands(self) -> None:
        error = said.error(failed("clonevm", stdout=WARNING, stderr="VBoxManage: error: no"), "here")
        assert type(error) is CommandError

    def test_only_errors_are_told(self) -> None:
        stderr = "0%...\nVBoxManage: error: no\nVBoxManage: error: Details: code X\nVBoxManage: error: Context: y\n"
        assert said.error(failed("import", stderr=stderr), "here").details[1:] == ("VBoxManage: error: no",)


@pytest.mark.parametrize(
    "ordered",
    [
        ["hapx-0.9.0-amd64", "hapx-0.10.0~rc1-amd64", "hapx-0.10.0-amd64", "hapx-0.10.1-amd64", "hapx-1.0-amd64"],
        ["hapx-1.0", "hapx-1.0.1"],
    ],
)
def test_newest_base(ordered: list[str]) -> None:
    for end in range(1, len(ordered) + 1):
        there = [Base(name, "") for name in ordered[:end]]
        assert bases.newest(there) == bases.newest(there[::-1]) == there[-1]
    with pytest.raises(HapxError, match="no base to clone"):
        bases.newest([])


class TestChoose:
    def test_by_uri(self) -> None:
        assert isinstance(choose.hypervisor("ssh://me@host:2222"), VirtualBox)
        assert choose.hypervisor("qemu+ssh://me@host/system?socket=/x").where == "qemu+ssh://me@host/system?socket=/x"
        with pytest.raises(InputError, match="no hypervisor is known by esx://"):
            choose.hypervisor("esx://host")

    def test_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("builder.command.which", lambda program: tmp_path if program in there else None)
        there = {"VBoxManage", "virsh"}
        assert choose.hypervisor(None).where == "this machine"
        there = {"virsh"}
        assert choose.hypervisor(None).where == "qemu:///system"
        there = set()
        with pytest.raises(MissingError, match="neither VBoxManage nor virsh"):
            choose.hypervisor(None)
