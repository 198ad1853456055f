"""Packer's other sources: valid for 1.6.6 says Packer, for later ones a rule; driven as far as it goes here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.image import machine, template
from tests.integration import baking
from tests.integration.baking import REPOSITORY
from tests.virtualbox.chroot import VBox, stand_in

PACKER = REPOSITORY / "packer"
TEMPLATES = sorted(PACKER.glob("*.pkr.hcl"))
ENVIRONMENT = os.environ | {"CHECKPOINT_DISABLE": "1"}
# What a shared template must not have, as 1.6.6 lacks it: blocks, arguments, functions.
LATER = (
    r"^\s*packer\s*\{",
    r"required_plugins",
    r'^\s*local\s+"',
    r'^\s*data\s+"',
    r"error-cleanup-provisioner",
    r'dynamic\s+"',
    r"^\s*env\s*=",
    r"\b(templatefile|regex|regexall|regex_replace|startswith|endswith|alltrue|anytrue|one|sum)\(",
    r"^\s*(only|except)\s*=\s*.*(var|local)\.",
    r"^\s*(firmware|chipset|nic_type|cd_content|efi_\w+|cpu_model)\s*=",
)
BUILDERS = {"null.bootstrap", *machine.MACHINES}


def variables(folder: Path) -> Path:
    """Values with which every source is complete."""
    seed = folder / "seed"
    seed.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", seed / "key"], check=True)
    for name in ("user-data", "meta-data", "preseed.cfg", "base"):
        (seed / name).write_text("")
    base, digest = str(seed / "base"), hashlib.sha256(b"").hexdigest()
    values = {"base_image": base, "base_ova": base, "installer_iso": base, "base_checksum": f"sha256:{digest}"}
    internal = {"hapx_seed": str(seed), "hapx_machine": str(folder / "machine"), "hapx_output": str(folder / "x")}
    path = folder / "vars.pkrvars.json"
    path.write_text(json.dumps({**values, **internal, "hapx_stage": "true"}))
    return path


def test_every_source_is_known_to_the_template_and_to_us() -> None:
    assert set(template.inspect(PACKER).sources) == BUILDERS


@pytest.mark.parametrize("source", sorted(BUILDERS))
def test_packer_finds_each_source_valid(tmp_path: Path, source: str) -> None:
    argv = ["packer", "validate", f"-only={source}", f"-var-file={variables(tmp_path)}", str(PACKER)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stdout + result.stderr
    # It looks at what is there: without a key there is no way in.
    if source != "null.bootstrap":
        (tmp_path / "seed/key").unlink()
        assert subprocess.run(argv, capture_output=True, check=False, env=ENVIRONMENT).returncode != 0


@pytest.mark.parametrize("path", [*TEMPLATES, PACKER / "plugins/plugins.pkr.hcl"], ids=lambda path: path.name)
def test_templates_are_written_as_packer_writes_them(path: Path) -> None:
    argv = ["packer", "fmt", "-check", "-diff", path]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_keep_to_what_every_packer_knows(path: Path) -> None:
    lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
    assert [line for line in lines for rule in LATER if re.search(rule, line)] == []


def test_the_rules_for_templates_find_what_they_forbid() -> None:
    assert any(re.search(rule, line) for line in (PACKER / "plugins/plugins.pkr.hcl").read_text().splitlines()
               for rule in LATER)  # fmt: skip
    for line in ('local "x" {', "  env = {", '  only = ["${var.x}"]', "  cd_content = {", "x = templatefile(1)"):
        assert any(re.search(rule, line) for rule in LATER), line


def test_the_installers_answers_are_understood_by_debconf() -> None:
    argv = ["debconf-set-selections", "-c", str(PACKER / "installer/preseed.cfg")]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("source", sorted(machine.MACHINES))
def test_a_machine_that_has_nothing_to_boot_is_refused_before_packer(source: str) -> None:
    with baking.place() as here:
        done = here.run("--source", source)
        assert done.returncode == 3, done.stderr
        name = machine.MACHINES[source].base
        assert f"variable {name}: {source} needs it" in done.stderr
        assert "variable base_checksum" in done.stderr
        missing = here.run("--source", source, "--var", f"{name}=/nonexistent", "--var", "base_checksum=sha256:12")
        assert "/nonexistent: no such file" in missing.stderr
        assert "'sha256:12' is not a checksum" in missing.stderr
        assert not here.dist.exists()
        here.assert_clean()


def test_a_machine_whose_programs_are_not_here_is_refused_before_packer(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("")
    digest = hashlib.sha256(b"").hexdigest()
    environment = ENVIRONMENT | {"PATH": baking.without("xorriso", tmp_path / "bin")}
    for source, lacking in (("qemu.cloud", "xorriso"), ("virtualbox-ovf.derive", "xorriso, VBoxManage")):
        name = machine.MACHINES[source].base
        argv = [baking.COMMAND, "image", "--source", source, "--var", f"{name}={tmp_path / 'base'}"]
        argv += ["--var", f"base_checksum=sha256:{digest}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert done.returncode == 4, done.stdout + done.stderr
        assert f"not installed here: {lacking} (for {source})" in done.stderr
        assert "apt-get install xorriso" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"base", "bin"}


@pytest.mark.parametrize("source", sorted(machine.MACHINES))
def test_dry_run_of_a_machine_says_what_it_boots_and_touches_nothing(tmp_path: Path, source: str) -> None:
    (tmp_path / "base").write_text("")
    digest, name = hashlib.sha256(b"").hexdigest(), machine.MACHINES[source].base
    # A stand-in: nothing but its being there is asked for, and starting it would be a defect.
    program = stand_in(tmp_path / "bin/VBoxManage", f"#!/bin/sh\ntouch {tmp_path}/started\n")
    environment = ENVIRONMENT | {"PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "work")}
    (tmp_path / "work").mkdir()
    argv = [baking.COMMAND, "image", "--dry-run", "--source", source, "--var", f"{name}=base"]
    argv += ["--var", f"base_checksum=sha256:{digest}"]

    def run(*more: str) -> str:
        return subprocess.run(
            [*argv, *more], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        ).stdout

    shown = run()
    whole = re.sub(r" *\n {2,}", "", shown)  # what is too long for a line goes on below
    for said in (rf"^source +{source}\s", rf"^boots +{tmp_path}/base\s", rf"^which is +sha256:{digest}\s"):
        assert re.search(said, whole, re.MULTILINE), shown
    assert "mirror" not in shown
    assert f" -only={source} " in shown.splitlines()[-1]
    planned = json.loads(run("--json"))
    assert planned["variables"][name] == str(tmp_path / "base")
    assert planned["variables"]["hapx_seed"].startswith(str(tmp_path / "work"))
    assert {path.name for path in tmp_path.rglob("*")} == {"base", "bin", "VBoxManage", "work"}


@dataclass(frozen=True)
class Drive:
    """What Packer is to do with VirtualBox for one source: what it boots, and its calls, one pattern each.

    They come in this order; those of a set in any, as Packer goes through a map of discs.
    """

    base: Callable[[pytest.FixtureRequest, Path], Path]
    calls: tuple[str | frozenset[str], ...]


def small_iso(_: pytest.FixtureRequest, folder: Path) -> Path:
    """A medium like the installer's: an ISO, though there is nothing on it that boots."""
    (folder / "content").mkdir()
    (folder / "content/README").write_text("no installer\n")
    iso = folder / "netinst.iso"
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", iso, folder / "content"], check=True)
    return iso


NAME = r"machine-hapx-bake-\S+"
DRIVES = {
    "virtualbox-ovf.derive": Drive(
        lambda request, _: request.getfixturevalue("small_ova"),
        (
            rf"import \S+/small\.ova --vsys 0 --vmname {NAME}",
            rf"modifyvm {NAME} --natpf1 packercomm,tcp,127\.0\.0\.1,\d+,,22",
            rf"modifyvm {NAME} --cpus 2",
            rf"modifyvm {NAME} --memory 1024",
            rf"modifyvm {NAME} --nic1 nat",
            rf"storagectl {NAME} --name seed --add virtio",
            rf"storageattach {NAME} --storagectl seed .* --type dvddrive --medium \S+/seed/seed\.iso",
            rf"startvm {NAME} --type headless",
            rf"unregistervm {NAME} --delete",
        ),
    ),
    "virtualbox-iso.installer": Drive(
        small_iso,
        (
            rf"createvm --name {NAME} --ostype Debian_64 --register",
            rf"modifyvm {NAME} --cpus 2",
            rf"modifyvm {NAME} --memory 1024",
            rf"createhd --filename \S+/{NAME}\.vdi --size 8192 --format VDI --variant Standard",
            rf"storageattach {NAME} --storagectl SATA Controller .* --type hdd --medium \S+\.vdi .*",
            frozenset({
                rf"storageattach {NAME} --storagectl SATA Controller --port 1 .* dvddrive --medium \S+netinst\.iso",
                rf"storageattach {NAME} --storagectl SATA Controller --port 3 .* dvddrive --medium \S+/packer\d+\.iso",
            }),
            rf"startvm {NAME} --type headless",
            rf"unregistervm {NAME} --delete",
        ),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("source", DRIVES)
def test_packer_drives_virtualbox_up_to_the_start_of_a_machine(
    source: str, request: pytest.FixtureRequest, vbox: VBox, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # No kernel module here: a machine is made and set up, and cannot be started. That has to be said, and undone.
    shutil.copytree(PACKER, tmp_path / "packer")
    # The names of Packer's sockets hold no more than 108 bytes; VirtualBox sees this folder too.
    work = tmp_path_factory.getbasetemp() / f"t{len(source)}"
    work.mkdir(mode=0o755)
    base = DRIVES[source].base(request, tmp_path)
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    record = tmp_path / "calls"
    # Where there is no kernel module, VBoxManage says so before its version, and Packer goes no further than that.
    program = stand_in(
        tmp_path / "bin/VBoxManage",
        f"""#!/bin/sh
        echo "$*" >>{record}
        if [ "$1" = --version ]; then {vbox.executable} --version | tail -n 1; exit; fi
        exec {vbox.executable} "$@"
        """,
    )
    environment = ENVIRONMENT | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "TMPDIR": str(work),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    argv = [baking.COMMAND, "image", "--json", "--source", source]
    argv += ["--var", f"{machine.MACHINES[source].base}={base}", "--var", f"base_checksum=sha256:{digest}"]
    for _ in range(3):
        record.write_text("")
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=600
        )
        # One of a hundred imports VirtualBox 7.2 takes a digest wrong, of OVAs that it exported itself as well.
        if "Digest mismatch" not in done.stdout:
            break
    assert done.returncode == 5, done.stdout + done.stderr
    error = json.loads(done.stdout.splitlines()[-1])
    assert error["event"] == "error"
    assert "VBoxManage error" in error["message"], error
    assert any("/dev/vboxdrv" in line or "startup" in line for line in (error["message"], *error["details"])), error
    (log,) = (tmp_path / "dist").glob("*.log")

    calls = record.read_text().splitlines()
    left = iter(calls)
    for expected in DRIVES[source].calls:
        patterns = {expected} if isinstance(expected, str) else set(expected)
        while patterns:
            found = next((each for call in left for each in patterns if re.fullmatch(each, call)), None)
            assert found, (patterns, calls)
            patterns.remove(found)
    # Nothing of it is left: no machine, no medium, no file.
    assert "machine-hapx" not in vbox.manage("list", "vms").stdout
    for kind in ("hdds", "dvds"):
        assert "UUID" not in vbox.manage("list", kind).stdout
    assert list(work.iterdir()) == []
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [log.name]
