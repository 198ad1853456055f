"""`hapx-build create` in a real VirtualBox: the machine that create-image.sh would have made of the guide's files."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.baking import COMMAND
from tests.integration.test_virtualbox_interrupted import SHIM, cut_off
from tests.virtualbox.chroot import VBox, stand_in

pytestmark = pytest.mark.slow

FILES = {
    "meta-data": "instance-id: #UUID#\nlocal-hostname: #HOSTNAME#\n",
    "hapx/user-data": "#cloud-config\nhostname: #HOSTNAME#\nssh_authorized_keys: ['#SSH-PUB-KEY#']\n",
    "hapx/network-config": "version: 1\nconfig:\n- {type: physical, name: enp0s3, subnets: [{type: dhcp}]}\n",
    "hapx/post-config-interfaces": (
        "---\nnic1:\n  id: 1\n  type: intnet\n  name: dmz\nnic3:\n  id: 3\n  type: hostonly\n  adapter: vboxnet0\n"
    ),
    "hapx/post-config-resources": "---\nprocessors: 1\nmemory: 512\n",
    "hapx/post-config-storages": "---\ndisk:\n  id: 4\n  size: 64\n  format: VDI\n  variant: Standard\n",
}
GUIDE = shlex.split(
    "create -k key.pub -u hapx/user-data -n hapx/network-config -i hapx/post-config-interfaces"
    " -r hapx/post-config-resources -s hapx/post-config-storages -o hapx-node01 -l debian -b debian-base-image"
)


@pytest.fixture
def guide(vbox: VBox, small_ova: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VBox:
    """The guide's folder as the working folder, and its base image in VirtualBox."""
    for name, text in FILES.items():
        path = tmp_path / "guide/data/debian" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", tmp_path / "guide/key"], check=True)
    monkeypatch.chdir(tmp_path / "guide")
    monkeypatch.setenv("PATH", str(vbox.executable.parent), prepend=":")
    vbox.manage("import", small_ova, "--vsys=0", "--vmname=debian-base-image")
    return vbox


def run(*arguments: str) -> tuple[int, dict[str, object]]:
    """The exit code and the last event."""
    argv = [COMMAND, *arguments, "--json"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ))
    return ran.returncode, json.loads(ran.stdout.splitlines()[-1])


def names(vbox: VBox) -> list[str]:
    return re.findall(r'^"(.*)" \{', vbox.manage("list", "vms").stdout, re.MULTILINE)


def test_machine_as_the_files_say(guide: VBox) -> None:
    code, result = run(*GUIDE, "-a", "false")
    assert code == 0, result
    assert result["machine"]["changes"] == ["full clone of debian-base-image"]  # type: ignore[index]
    machine, base = guide.machine("hapx-node01"), guide.machine("debian-base-image")
    assert {key: machine[key] for key in ("cpus", "memory", "vram", "nic1", "intnet1", "nic2", "nic3", "groups")} == {
        "cpus": "1",
        "memory": "512",
        "vram": "33",
        "nic1": "intnet",
        "intnet1": "dmz",
        "nic2": base["nic2"],
        "nic3": "hostonly",
        "groups": "/",
    }
    assert machine["hostonlyadapter3"] == "vboxnet0"
    assert machine["nictype1"] == base["nictype1"]
    assert machine["macaddress1"] != base["macaddress1"]
    assert machine["description"] == "hapx-node01, made by hapx-build create from debian-base-image"
    folder = Path(machine["CfgFile"]).parent
    assert machine["SATA-4-0"] == str(folder / "hapx-node01-disk-4.vdi")
    assert Path(machine["SATA-29-0"]).read_bytes() == Path("dist/hapx-node01-cidata.iso").read_bytes()
    said = guide.manage("showmediuminfo", machine["SATA-0-0"]).stdout
    assert re.search(r"^Parent UUID: +base$", said, re.MULTILINE)

    code, result = run(*GUIDE, "-a", "false")
    assert (code, result["machine"]["changes"]) == (0, [])  # type: ignore[index]
    assert guide.machine("hapx-node01") == machine


def test_cd_in_the_place_of_the_guides(guide: VBox) -> None:
    """With an IDE controller in the base image it hangs where create-image.sh has it."""
    guide.manage("storagectl", "debian-base-image", "--name", "IDE", "--add", "ide")
    assert run(*GUIDE, "-a", "false")[0] == 0
    assert guide.machine("hapx-node01")["IDE-1-0"].endswith(".iso")


def test_starting_needs_the_kernel_driver(guide: VBox) -> None:
    """It is started unless somebody says no; what was made stays."""
    code, error = run(*GUIDE)
    assert code == 4
    assert "kernel driver is not loaded" in str(error["message"])
    assert names(guide) == ["debian-base-image", "hapx-node01"]


def test_somebody_elses_machine(guide: VBox) -> None:
    guide.manage("createvm", "--name", "hapx-node01", "--register")
    before = guide.machine("hapx-node01")
    code, error = run(*GUIDE, "-a", "false")
    assert (code, "did not make" in str(error["message"])) == (3, True)
    assert guide.machine("hapx-node01") == before


def test_no_such_base_image(guide: VBox) -> None:
    code, error = run(*GUIDE[:-1], "other", "-a", "false")
    assert (code, error["hint"]) == (3, "there are: debian-base-image")
    assert names(guide) == ["debian-base-image"]


def test_failure_leaves_no_machine(guide: VBox) -> None:
    """A variant that VirtualBox's own format does not have, after the clone was made."""
    storages = Path("data/debian/hapx/post-config-storages")
    storages.write_text(storages.read_text().replace("Standard", "Split2G"))
    code, _ = run(*GUIDE, "-a", "false")
    assert code == 5
    assert names(guide) == ["debian-base-image"]
    assert not [path for path in (guide.home / "VirtualBox VMs/hapx-node01").rglob("*") if path.is_file()]


@cut_off("clonevm", "--type=dvddrive", "--type=hdd")
def test_cut_off(guide: VBox, tmp_path: Path, step: str, how: str) -> None:
    """At each step of VBoxManage's, by kill -9 and by Ctrl-C; then run again."""
    shim = stand_in(tmp_path / "shim/VBoxManage", SHIM.format(real=guide.executable))
    environment = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "STEP": step, "HOW": how}
    argv = [COMMAND, *GUIDE, "-a", "false"]
    cut = subprocess.run(argv, capture_output=True, timeout=120, check=False, env=environment)
    assert cut.returncode == (130 if how == "ctrl-c" else -9)
    time.sleep(0.5)  # VirtualBox's daemon ends what a VBoxManage that was killed had begun
    if how == "ctrl-c":
        assert names(guide) == ["debian-base-image"]
        assert not (guide.home / "VirtualBox VMs/hapx-node01").exists()

    assert run(*GUIDE, "-a", "false")[0] == 0
    machine = guide.machine("hapx-node01")
    assert (machine["cpus"], machine["memory"], machine["nic1"]) == ("1", "512", "intnet")
    assert machine["SATA-4-0"].endswith("/hapx-node01-disk-4.vdi")
    assert Path(machine["SATA-29-0"]).read_bytes() == Path("dist/hapx-node01-cidata.iso").read_bytes()
    code, result = run(*GUIDE, "-a", "false")
    assert (code, result["machine"]["changes"]) == (0, [])  # type: ignore[index]
