"""`hapx-build image` as a user runs it, and it goes well: real Packer, real mmdebstrap, a small template."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.image import disk
from tests.integration import baking
from tests.integration.baking import COMMAND, REPOSITORY, SMALL, Place

EVENTS = {"stage", "progress", "done", "note", "result"}


@pytest.fixture(scope="module")
def root() -> Path:
    return baking.small_root()


@pytest.fixture
def place(root: Path) -> Iterator[Place]:
    with baking.place(root=root) as here:
        yield here
        here.assert_clean()


def slow_down(here: Place, *, seconds: int = 60) -> None:
    """Have a provisioning script wait where the host name says so."""
    path = baking.script(here.template, 1)
    path.write_text(f'{baking.SCRIPT}[ "$HAPX_HOSTNAME" != slow ] || sleep {seconds}\n')


def came_out(stem: str) -> set[str]:
    """The files of one bake."""
    endings = (".ova", ".ova.sha256", ".log", ".manifest.json", ".spdx.json", ".cdx.json", ".provenance.json")
    return {f"{stem}{ending}" for ending in (*endings, ".SHA256SUMS")}


@pytest.mark.slow
def test_one_line_and_its_files_come_out(place: Place) -> None:
    done = place.run(*SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    digest = re.fullmatch(rf"{re.escape(str(place.ova))}: \d+\.\d MB, sha256 ([0-9a-f]{{64}})\n", done.stdout, re.ASCII)
    assert digest, done.stdout
    stem = place.ova.name.removesuffix(".ova")
    assert {path.name for path in place.dist.iterdir()} == came_out(stem)
    subprocess.run(["sha256sum", "--check", f"{stem}.ova.sha256"], cwd=place.dist, check=True, capture_output=True)
    subprocess.run(["sha256sum", "--check", f"{stem}.SHA256SUMS"], cwd=place.dist, check=True, capture_output=True)
    subprocess.run([COMMAND, "verify", place.ova], check=True, capture_output=True)

    manifest = json.loads((place.dist / f"{stem}.manifest.json").read_text())
    assert manifest["ova"]["sha256"] == digest.group(1)
    assert manifest["ova"]["size"] == place.ova.stat().st_size
    assert manifest["inputs"]["release"] == "trixie"
    assert manifest["inputs"]["packages"] == list(baking.PACKAGES)
    assert {package["name"] for package in manifest["packages"]} >= {*baking.PACKAGES, "base-files", "dpkg"}
    assert all(package["version"] and package["arch"] in {"amd64", "all"} for package in manifest["packages"])
    assert manifest["tools"]["packer"] == subprocess.run(
        ["packer", "version"], capture_output=True, text=True, check=True, env=os.environ | {"CHECKPOINT_DISABLE": "1"}
    ).stdout.split()[1].removeprefix("v")
    assert {"unpack", "disk", "package"} <= manifest["stages"].keys()
    # Every script ran, and its output is in the log.
    for path in (place.template / "scripts").iterdir():
        if path != baking.script(place.template):
            assert f"this is /run/hapx/scripts/{path.name}" in place.log


@pytest.mark.slow
def test_json_tells_every_stage_in_order_and_the_result_last(place: Place) -> None:
    done = place.run("--json", *SMALL)
    assert done.returncode == 0, done.stderr
    assert {event["event"] for event in done.events} <= EVENTS
    scripts = [path.stem for path in sorted((place.template / "scripts").iterdir())]
    assert done.stages == ["unpack", *scripts, "disk", "package", "finish", "clean"]
    ended = [event["stage"] for event in done.events if event["event"] == "done"]
    assert ended == done.stages
    assert [event["time"] for event in done.events] == sorted(event["time"] for event in done.events)
    packing = [event for event in done.events if event["event"] == "progress" and event["stage"] == "package"]
    assert [event["done"] for event in packing] == sorted(event["done"] for event in packing)
    assert packing[-1]["done"] == packing[-1]["total"] > 0
    assert packing[-1]["unit"] == "B"
    result = done.events[-1]
    assert result["event"] == "result"
    assert Path(result["ova"]) == place.ova
    assert result["size"] == place.ova.stat().st_size
    assert not result["unchanged"]


@pytest.mark.slow
def test_a_terminal_shows_each_stage_with_its_time(place: Place) -> None:
    parent, child = pty.openpty()
    bake = subprocess.Popen(
        place.argv(*SMALL), cwd=place.folder, env=place.environment | {"TERM": "xterm", "COLUMNS": "120"},
        stdin=child, stdout=child, stderr=child,
    )  # fmt: skip
    os.close(child)
    shown = b""
    deadline = time.monotonic() + baking.SECONDS
    while time.monotonic() < deadline:
        if select.select([parent], [], [], 1.0)[0]:
            try:
                shown += os.read(parent, 1 << 16)
            except OSError:  # the other end is closed
                break
    assert bake.wait(10) == 0
    os.close(parent)
    lines = baking.plain(shown.decode()).splitlines()
    done = [line for line in lines if "✓" in line]
    titles = ["Unpack the root file system", "Provision: ", "Partitions, boot loaders", "VMDK, OVF, OVA", "Check and"]
    for title in titles:
        assert any(re.search(rf"✓ {re.escape(title)}.* \d+\.\d s", line) for line in done), (title, lines)
    assert any(line.startswith(f"{place.ova}: ") for line in lines)
    assert not any("{" in line for line in lines)


@pytest.mark.slow
def test_nothing_changed_is_said_at_once_and_touches_nothing(place: Place) -> None:
    assert place.run(*SMALL).returncode == 0
    before = baking.digests(place.dist, place.cache)
    done = place.run("--json", *SMALL)
    sys.stdout.write(f"hapx-build image where nothing changed: {done.seconds:.2f} s\n")
    assert done.returncode == 0, done.stderr
    assert [event["event"] for event in done.events] == ["result"]
    assert done.events[0]["unchanged"]
    again = place.run(*SMALL)
    assert again.stdout.startswith(f"{place.ova}: nothing changed since it was made (")
    assert baking.digests(place.dist, place.cache) == before


@pytest.mark.slow
def test_force_replaces_all_of_it_only_when_the_new_one_is_done(place: Place) -> None:
    assert place.run(*SMALL).returncode == 0
    before = baking.digests(place.dist)
    logs = {path for path in before if path.endswith(".log")}
    path = baking.script(place.template, 1)
    path.write_text(path.read_text() + "echo changed >/etc/changed\n")
    bake = place.start("--force", *SMALL)
    for stage in ("unpack", "disk", "package"):
        bake.stage(stage)
        now = baking.digests(place.dist)
        assert {path: now[path] for path in before if path not in logs} == {
            path: text for path, text in before.items() if path not in logs
        }
    assert bake.end().returncode == 0
    after = {path: text for path, text in baking.digests(place.dist).items() if path not in logs}
    assert after.keys() == before.keys() - logs
    assert all(after[path] != before[path] for path in after)
    subprocess.run(["sha256sum", "--check", f"{place.ova.name}.sha256"], cwd=place.dist, check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("elsewhere/deep", "elsewhere/deep/hapx-1.2+rc3_x-amd64.ova"),
        ("my 'image' [1] $HOME ü.ova", "my 'image' [1] $HOME ü.ova"),
    ],
)
def test_output_is_a_folder_or_a_file(place: Place, asked: str, made: str) -> None:
    # The working folder has a name like that, too: the template's path goes through Packer and a shell.
    odd = place.folder / "it's [a] $place"
    odd.mkdir()
    place.template.rename(odd / "packer")
    argv = [*place.argv(*SMALL), "--var", "version=1.2+rc3_x", "--output", asked]
    done = subprocess.run(
        argv, cwd=odd, env=place.environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    ova = odd / made
    assert {path.name for path in ova.parent.iterdir() if path.name != "packer"} == came_out(ova.stem)
    subprocess.run(["sha256sum", "--check", f"{ova.name}.sha256"], cwd=ova.parent, check=True, capture_output=True)
    subprocess.run([COMMAND, "verify", ova], check=True, capture_output=True)


def test_dry_run_prints_the_command_that_a_bake_runs_and_touches_nothing(place: Place) -> None:
    before = baking.digests(place.folder)
    done = place.run("--dry-run", *SMALL, "--var", "hostname=slow")
    assert done.returncode == 0, done.stderr
    assert baking.digests(place.folder) == before
    assert not place.dist.exists()
    plan = json.loads(place.run("--dry-run", "--json", *SMALL, "--var", "hostname=slow").stdout)
    printed = shlex.split(done.stdout.splitlines()[-1])

    def without_chance(argv: list[str]) -> list[str]:
        return [re.sub(r"hapx-bake-\d+-[0-9a-f]+", "WORK", part) for part in argv]

    assert without_chance(printed) == without_chance(plan["command"])
    assert plan["plan"]["hostname"] == "slow"

    slow_down(place)
    bake = place.start(*SMALL, "--var", "hostname=slow")
    bake.stage(baking.script(place.template, 1).stem)
    packers = [Path(f"/proc/{process.pid}/cmdline") for process in place.processes() if process.program() == "packer"]
    commands = [path.read_text().rstrip("\0").split("\0") for path in packers]
    bake.send(signal.SIGTERM)
    bake.end()
    assert without_chance(printed) in [without_chance(command) for command in commands]


def test_list_vars_tells_what_the_template_says(place: Place) -> None:
    rows = json.loads(place.run("--list-vars", "--json").stdout)
    by_name = {row["name"]: row for row in rows}
    assert by_name["disk_size_mib"]["type"] == "number"
    assert by_name["disk_size_mib"]["default"] == 8192
    assert by_name["extra_packages"]["type"] == "list(string)"
    assert all(row["description"] for row in rows)
    assert not any(name.startswith("hapx_") for name in by_name)
    text = place.run("--list-vars").stdout
    assert all(re.search(rf"^{name} ", text, re.MULTILINE) for name in by_name)
    assert "Host name until a seed gives one." in " ".join(text.split())


@pytest.mark.slow
def test_keep_work_keeps_it_and_says_where(place: Place) -> None:
    done = place.run(*SMALL, "--keep-work")
    assert done.returncode == 0, done.stderr
    (work,) = place.temporary.iterdir()
    assert done.stdout.rstrip().endswith(f"; work folder: {work}")
    assert (work / "disk.raw").is_file()
    assert (work / "root/etc/debian_version").is_file()

    path = baking.script(place.template, 1)
    path.write_text("#!/bin/sh\necho oh dear; exit 7\n")
    failed = place.run(*SMALL, "--keep-work", "--force")
    assert failed.returncode == 5
    (other,) = set(place.temporary.iterdir()) - {work}  # the next bake leaves the first one's alone
    assert f"work folder, kept: {other}" in failed.stderr
    for folder in (work, other):
        shutil.rmtree(folder)


@pytest.mark.slow
def test_what_the_bakers_umask_is_does_not_show_in_the_image(place: Place) -> None:
    argv = ["sh", "-c", 'umask "$1"; shift; exec "$@"', "umask"]
    digests = []
    for umask in ("022", "077"):
        place.prefix = (*argv, umask)
        done = place.run("--json", *SMALL, "--force")
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(done.events[-1]["sha256"])
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_what_is_sensitive_is_nowhere_to_be_read(place: Place) -> None:
    (place.template / "secret.pkr.hcl").write_text(
        'variable "license_key" {\n  type = string\n  sensitive = true\n  default = ""\n}\n'
    )
    build = place.template / "build.pkr.hcl"
    build.write_text(
        build.read_text().replace('"HAPX_HOSTNAME=', '"HAPX_LICENSE=${var.license_key}",\n    "HAPX_HOSTNAME=', 1)
    )
    path = baking.script(place.template, 1)
    path.write_text(f'{baking.SCRIPT}echo "the license is $HAPX_LICENSE"\n')
    secret = ("--var", "license_key=open sesame")
    for flags in (("--dry-run",), ("--dry-run", "--json"), ("--json",)):
        done = place.run(*SMALL, *secret, *flags)
        assert done.returncode == 0, done.stderr
        assert "sesame" not in done.stdout + done.stderr
    assert "the license is <sensitive>" in place.log
    assert "sesame" not in place.log
    # What it is makes another image, all the same.
    other = place.run(*SMALL, "--var", "license_key=abracadabra")
    assert other.returncode == 8, other.stdout


@pytest.mark.slow
def test_two_bakes_of_different_outputs_run_at_the_same_time(place: Place) -> None:
    slow_down(place)
    first = place.start(*SMALL, "--var", "hostname=slow", "--output", "first")
    first.stage(baking.script(place.template, 1).stem)
    second = place.run("--json", *SMALL, "--output", "second")
    assert second.returncode == 0, second.stdout + second.stderr
    assert first.process.poll() is None
    # And the second one's tidying up left the first one's folders alone.
    assert len(list(place.temporary.iterdir())) == 1
    first.send(signal.SIGTERM)
    assert first.end().returncode == 143


@pytest.mark.slow
def test_two_bakes_share_the_making_of_a_root(root: Path) -> None:
    with baking.place() as place:
        # From nothing, into a folder whose name has to be quoted wherever it goes through a shell.
        cache = place.folder / "it's [a] $cache"
        place.env = {"XDG_CACHE_HOME": str(cache)}
        first = place.start(*SMALL, "--output", "first")
        first.stage("bootstrap")
        second = place.start(*SMALL, "--output", "second")
        waiting = second.wait_for("note")
        assert "waiting" in waiting["message"]
        outcomes = [bake.end() for bake in (first, second)]
        for outcome in outcomes:
            assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        assert [outcome.stages.count("bootstrap") for outcome in outcomes] == [1, 0]
        counted = [event for event in outcomes[0].events if event.get("stage") == "bootstrap" and "done" in event]
        assert counted[-1]["done"] == counted[-1]["total"] > 100
        # The same inputs, the same bytes: in both, and in a bake with the root that another run made.
        made = {outcome.event("result")["sha256"] for outcome in outcomes}
        place.env = {"XDG_CACHE_HOME": str(baking.SHARED_CACHE)}
        cached = place.run("--json", *SMALL)
        assert "bootstrap" not in cached.stages
        assert made == {cached.event("result")["sha256"]}
        assert [path.name for path in (cache / "hapx-build/roots").iterdir()] == [root.name]
        place.assert_clean()


@contextlib.contextmanager
def mounts_and_loops_unchanged() -> Iterator[None]:
    """No mount and no loop device comes along."""

    def now() -> tuple[list[str], list[str]]:
        # A loop device that nobody uses is a node in /dev only.
        used = [path.parent.name for path in Path("/sys/block").glob("loop*/loop/backing_file")]
        return Path("/proc/self/mountinfo").read_text().splitlines(), used

    before = now()
    yield
    assert now() == before


@pytest.mark.slow
def test_an_ordinary_user_bakes_the_same_bytes_as_root(place: Place) -> None:
    first = place.run("--json", *SMALL, "--output", "as-me")
    assert first.returncode == 0, first.stdout + first.stderr
    baking.become_user(place)
    with mounts_and_loops_unchanged():
        second = place.run("--json", *SMALL, "--output", "as-user")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "bootstrap" not in second.stages
    ova = place.folder / "as-user" / Path(second.event("result")["ova"]).name
    if os.geteuid() == 0:
        assert ova.stat().st_uid == baking.USER_ID
    assert second.event("result")["sha256"] == first.event("result")["sha256"]
    place.assert_clean()


@pytest.mark.slow
def test_an_ordinary_user_makes_the_same_root_file_system(root: Path) -> None:
    with baking.place() as place:
        baking.become_user(place)
        with mounts_and_loops_unchanged():
            done = place.run("--json", *SMALL)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "bootstrap" in done.stages
        assert members(place.root) == members(root)
        place.assert_clean()


def members(entry: Path) -> dict[str, tuple[object, ...]]:
    """What a root file system in a cache is made of: names, owners, modes, sizes, targets, dates.

    What was written when it was made has the date that it will have in an image: the mirror's.
    """
    epoch = json.loads((entry / "info.json").read_text())["date"]
    with tarfile.open(entry / "root.tar") as archive:
        return {
            each.name: (each.type, each.uid, each.gid, oct(each.mode), each.size, each.linkname, min(each.mtime, epoch))
            for each in archive
        }


def test_grub_of_the_image_has_its_fields_where_they_are_written(root: Path) -> None:
    with tarfile.open(root / "root.tar") as archive:
        boot, start = (
            archive.extractfile(f"./usr/lib/grub/i386-pc/{name}").read()  # type: ignore[union-attr]
            for name in ("boot.img", "diskboot.img")
        )
    # What GRUB itself puts there, for its installer to change: the sector after the first, and a jump over the check.
    assert (len(boot), len(start)) == (512, 512)
    assert struct.unpack_from("<Q", boot, 0x5C) == (1,)
    assert boot[0x66] == 0xEB
    first, sectors, segment = struct.unpack_from("<QHH", start, 0x1F4)
    assert (first, segment) == (2, 0x820)
    assert struct.unpack_from("<QHH", disk.core_image(start + bytes(5000)), 0x1F4) == (2049, 10, segment)
    assert disk.boot_sector(boot)[:0x5C] == boot[:0x5C]
    assert sectors == 0


@pytest.mark.slow
def test_bookworm_bakes_too(tmp_path: Path) -> None:
    with baking.place() as place:
        shutil.rmtree(place.template)
        shutil.copytree(REPOSITORY / "packer", place.template)
        place.env["XDG_CACHE_HOME"] = str(baking.SHARED_CACHE)
        done = place.run("--json", "--release", "bookworm", seconds=3600)
        assert done.returncode == 0, done.stdout + done.stderr
        cached = "from the cache" if "bootstrap" not in done.stages else "made anew"
        sys.stdout.write(f"hapx-build image --release bookworm: {done.seconds:.0f} s, root {cached}\n")
        assert place.ova.name.endswith("-bookworm-amd64.ova")
        assert place.ova.stat().st_size < 250e6
        subprocess.run([COMMAND, "verify", place.ova], check=True, capture_output=True)
        manifest = json.loads(place.ova.with_suffix(".manifest.json").read_text())
        versions = {package["name"]: package["version"] for package in manifest["packages"]}
        assert versions["base-files"].startswith("12")
        assert {"haproxy", "corosync", "pacemaker", "crmsh", "cloud-init"} <= versions.keys()
        place.assert_clean()


def test_a_wheel_works_from_any_folder(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, REPOSITORY], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run([*pip, "--python", venv / "bin/python", "install", "--no-deps", "--no-compile", wheel], check=True)
    # What it depends on is this environment's: only hapx-build itself is under test, not the index of packages.
    (site,) = venv.glob("lib/python*/site-packages")
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (site / "dependencies.pth").write_text(f"{here}\n")

    def hapx_build(*arguments: str) -> str:
        argv = [venv / "bin/hapx-build", *arguments]
        return subprocess.run(argv, check=True, cwd=tmp_path, capture_output=True, text=True, env=clean).stdout

    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    listed = json.loads(hapx_build("image", "--list-vars", "--json"))
    assert "disk_size_mib" in [row["name"] for row in listed]
    plan = json.loads(hapx_build("image", "--dry-run", "--json"))["plan"]
    assert Path(plan["template"]).is_relative_to(site)
    assert Path(plan["output"]).parent == tmp_path / "dist"
    template = Path(plan["template"])
    shipped = {str(path.relative_to(template)) for path in template.rglob("*") if path.is_file()}
    tracked = subprocess.run(["git", "ls-files", "packer"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert shipped >= {str(Path(name).relative_to("packer")) for name in tracked.stdout.splitlines()}
    modes = {name: (template / name).stat().st_mode & 0o111 for name in shipped if name.startswith("scripts/")}
    assert modes
    assert all(modes.values()), modes


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["image", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; sys.argv = ['hapx-build', *sys.argv[1:]]\n"
        "from builder import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(' '.join({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    loaded = set(result.stderr.split())
    assert "typer" in loaded
    heavy = {"rich", "hcl2", "lark", "pydantic", "jinja2", "deflate", "pycdlib", "ruamel"}
    if arguments[0] == "image":
        heavy.remove("pydantic")  # typer's own, for the options of a command
    assert not heavy & loaded
