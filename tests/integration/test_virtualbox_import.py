"""A real VirtualBox imports our OVA: what it makes of the descriptor, of the disk, and of an OVA that is damaged."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import CommandError
from builder.image.ovf import Appliance
from tests.virtualbox import chroot
from tests.virtualbox.chroot import VBox

# The first run builds VirtualBox' root file system; after that each test takes less than a second.
pytestmark = pytest.mark.slow


def registered(vbox: VBox) -> list[str]:
    """The names of the machines VirtualBox knows."""
    return re.findall(r'^"(.*)" \{', vbox.manage("list", "vms").stdout, re.MULTILINE)


def imported_disk(vbox: VBox, name: str) -> Path:
    """The file VirtualBox made of the disk: what hangs at the first controller's first port."""
    machine = vbox.machine(name)
    return Path(machine[f"{machine['storagecontrollername0']}-0-0"])


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replaced(source: Path, target: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a file with its content changed."""
    before = source.read_bytes()
    after = change(before)
    assert after != before
    target.write_bytes(after)
    return target


def test_dry_run_understands_everything(vbox: VBox, small_ova: Path, small_appliance: Appliance) -> None:
    said = vbox.manage("import", small_ova, "--dry-run").stdout
    for expected in (
        f'Suggested VM name "{small_appliance.name}"',
        'Suggested OS type: "Debian_64"',
        f"Product (ignored): {small_appliance.product}\n",
        f"Vendor (ignored): {small_appliance.vendor}\n",
        f"Version (ignored): {small_appliance.version}\n",
        f'Description "{small_appliance.description}"',
        f"Number of CPUs: {small_appliance.cpus}\n",
        f"Guest memory: {small_appliance.memory_mib} MB\n",
        f"source image={small_appliance.name}-disk1.vmdk",
    ):
        assert expected in said
    assert registered(vbox) == []


def test_machine_is_what_the_appliance_says(vbox: VBox, small_ova: Path, small_appliance: Appliance) -> None:
    vbox.manage("import", small_ova)
    machine = vbox.machine(small_appliance.name)
    assert {key: machine[key] for key in ("name", "ostype", "cpus", "memory", "firmware", "description")} == {
        "name": small_appliance.name,
        "ostype": "Debian (64-bit)",
        "cpus": str(small_appliance.cpus),
        "memory": str(small_appliance.memory_mib),
        "firmware": "BIOS",
        "description": small_appliance.description,
    }
    assert registered(vbox) == [small_appliance.name]


def test_every_nic_is_attached(vbox: VBox, small_ova: Path, small_appliance: Appliance) -> None:
    vbox.manage("import", small_ova)
    machine = vbox.machine(small_appliance.name)
    for number, network in enumerate(small_appliance.networks, start=1):
        assert machine[f"nictype{number}"] == "82545EM"  # the E1000 it chooses
        # It knows four names; a network of any other name becomes a bridge.
        assert machine[f"nic{number}"] == ("nat" if network == "NAT" else "bridged")
        assert machine[f"cableconnected{number}"] == "on"
    assert machine[f"nic{len(small_appliance.networks) + 1}"] == "none"


def test_disk_hangs_at_port_0_of_the_only_controller(
    vbox: VBox, small_ova: Path, small_appliance: Appliance, small_disk: Path
) -> None:
    vbox.manage("import", small_ova)
    machine = vbox.machine(small_appliance.name)
    assert machine["storagecontrollertype0"] == "IntelAhci"
    assert machine["storagecontrollerbootable0"] == "on"
    assert "storagecontrollername1" not in machine

    disk = imported_disk(vbox, small_appliance.name)
    assert disk.is_relative_to(vbox.home)
    said = vbox.manage("showmediuminfo", "disk", disk).stdout
    assert re.search(rf"^Capacity: +{small_disk.stat().st_size >> 20} MBytes$", said, re.MULTILINE)


def test_imported_disk_is_the_disk_that_was_packed(
    vbox: VBox, small_ova: Path, small_disk: Path, tmp_path: Path
) -> None:
    vbox.manage("import", small_ova, "--vsys=0", "--vmname=packed")
    disk = imported_disk(vbox, "packed")
    back = tmp_path / "back.raw"
    vbox.manage("clonemedium", "disk", disk, back, "--format=RAW")

    assert sha256(back) == sha256(small_disk)
    # And so says somebody else's reader of the VMDK that VirtualBox wrote.
    subprocess.run(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", disk, small_disk], check=True)


def test_full_clone(vbox: VBox, small_ova: Path, small_disk: Path, tmp_path: Path) -> None:
    vbox.manage("import", small_ova, "--vsys=0", "--vmname=base")
    vbox.manage("clonevm", "base", "--name=node01", "--register")
    base, node = vbox.machine("base"), vbox.machine("node01")

    assert node["hardwareuuid"] != base["hardwareuuid"]
    assert node["macaddress1"] != base["macaddress1"]
    assert imported_disk(vbox, "node01") != imported_disk(vbox, "base")
    back = tmp_path / "back.raw"
    vbox.manage("clonemedium", "disk", imported_disk(vbox, "node01"), back, "--format=RAW")
    assert sha256(back) == sha256(small_disk)


def test_linked_clone(vbox: VBox, small_ova: Path) -> None:
    vbox.manage("import", small_ova, "--vsys=0", "--vmname=base")
    vbox.manage("snapshot", "base", "take", "clones")
    vbox.manage("clonevm", "base", "--snapshot=clones", "--options=link", "--name=node01", "--register")

    base = vbox.manage("showmediuminfo", "disk", imported_disk(vbox, "base")).stdout
    node = vbox.manage("showmediuminfo", "disk", imported_disk(vbox, "node01")).stdout
    parents = [re.search(r"^Parent UUID: +(\S+)$", said, re.MULTILINE) for said in (base, node)]
    assert parents[0] is not None
    assert parents[1] is not None
    assert parents[0][1] == parents[1][1] != "base"


@pytest.mark.parametrize("member", ["the descriptor", "the disk"])
def test_wrong_digest_is_refused(vbox: VBox, small_ova: Path, tmp_path: Path, member: str) -> None:
    """VirtualBox reads the manifest and means it."""
    with tarfile.open(small_ova) as tar:
        ovf, manifest, disk = tar.getmembers()
        name = ovf.name if member == "the descriptor" else disk.name
        file = tar.extractfile(manifest)
        assert file is not None
        digest = file.read().decode().split(f"SHA256({name})= ")[1][:64]
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    ova = replaced(small_ova, tmp_path / "wrong.ova", lambda data: data.replace(digest.encode(), wrong.encode()))

    with pytest.raises(CommandError) as error:
        vbox.manage("import", ova)
    said = "\n".join(error.value.details)
    assert f"'SHA256' on '{name}' does not match ('{wrong}' vs. '{digest}')" in said
    assert registered(vbox) == []


def test_truncated_ova_is_refused(vbox: VBox, small_ova: Path, tmp_path: Path) -> None:
    ova = replaced(small_ova, tmp_path / "short.ova", lambda data: data[: len(data) // 2])
    with pytest.raises(CommandError) as error:
        vbox.manage("import", ova)
    assert "VERR_EOF" in "\n".join(error.value.details)
    assert registered(vbox) == []


def test_starting_needs_the_kernel_module(vbox: VBox, small_ova: Path) -> None:
    """The limit of this VirtualBox: whatever starts a machine has to be tested elsewhere."""
    vbox.manage("import", small_ova, "--vsys=0", "--vmname=base")
    result = vbox.manage("startvm", "base", "--type=headless", check=False)
    assert result.returncode == 1
    assert "/dev/vboxdrv does not exist" in result.stdout
    assert "'base' has terminated unexpectedly during startup with exit code 1" in result.stderr
    assert vbox.machine("base")["VMState"] == "poweroff"


def test_program_on_path_reads_relative_names(vbox: VBox, small_ova: Path) -> None:
    """What runs VBoxManage by name gets this one, with the caller's paths and working directory."""
    path = f"{vbox.executable.parent}:{os.environ['PATH']}"
    argv = ["VBoxManage", "import", small_ova.name, "--vsys=0", "--vmname=it's a name"]
    subprocess.run(argv, cwd=small_ova.parent, env={"PATH": path}, check=True, capture_output=True)
    assert imported_disk(vbox, "it's a name").is_relative_to(vbox.home)


def test_nothing_stays_behind(virtualbox_root: Path, tmp_path: Path) -> None:
    """The daemon that VBoxManage started ends with its namespace, and no mount is seen outside."""
    with chroot.start(virtualbox_root, tmp_path / "virtualbox", [tmp_path]) as vbox:
        vbox.manage("list", "vms")
        assert processes("VBoxSVC", tmp_path)
    assert not processes("VBoxSVC", tmp_path)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def processes(name: str, home: Path) -> list[str]:
    """The process ids of programs of this name whose HOME lies in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip() == name and f"HOME={home}".encode() in (
                entry / "environ"
            ).read_bytes():
                found.append(entry.name)
        except OSError:  # ended meanwhile
            continue
    return found
