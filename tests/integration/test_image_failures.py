"""`hapx-build image` that does not go well: what it says, how it ends, and that nothing is left behind."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pty
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import ExitCode
from tests.integration import baking
from tests.integration.baking import SMALL, Done, Place

# Each starts a bake, and together they take minutes.
pytestmark = pytest.mark.slow

SLOW = ("--var", "hostname=slow")
MIB = 1 << 20


@pytest.fixture(scope="module")
def root() -> Path:
    return baking.small_root()


@pytest.fixture
def place(root: Path) -> Iterator[Place]:
    """A place whose cache has the root file system already."""
    with baking.place(root=root) as here:
        for path in sorted((here.template / "scripts").iterdir())[1:]:
            # Each script waits where it is asked to, so that a signal finds it at work.
            path.write_text(f'{baking.SCRIPT}[ ! -e "$HAPX_DATA/wait-in-{path.stem}" ] || sleep 60\n')
        yield here
        here.assert_clean()


@pytest.fixture
def empty_place() -> Iterator[Place]:
    """A place with nothing in its cache."""
    with baking.place() as here:
        yield here
        here.assert_clean()


def before_and_after(here: Place) -> dict[str, str]:
    """What a bake that fails may not touch."""
    return baking.digests(here.template, here.roots, here.folder / "precious")


def unchanged(before: dict[str, str], after: dict[str, str]) -> None:
    """Everything is as it was, but for a log that tells what happened."""
    assert {path: text for path, text in after.items() if path in before} == before
    (log,) = after.keys() - before.keys()
    assert log.endswith(".log")


def make_precious(here: Place) -> tuple[str, ...]:
    """Something that lies where the output is to go; the flags that send it there and have it replaced."""
    folder = here.folder / "precious"
    folder.mkdir()
    for name in ("hapx.ova", "hapx.ova.sha256", "hapx.manifest.json", "other.ova"):
        (folder / name).write_text(f"precious {name}")
    return ("--output", str(folder / "hapx.ova"), "--force")


def refused(done: Done, code: ExitCode, *texts: str) -> None:
    """It ended with this exit code, said these things on standard error, and did not blame itself."""
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr
    # What to do; with input, that may be said of each problem.
    rest = done.stderr.splitlines()[1:]
    assert rest
    assert code == ExitCode.INPUT or rest[-1].startswith("hint: "), done.stderr


# --- Signals ---

STOPS = [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]


def interrupt(here: Place, stage: str, number: signal.Signals, *flags: str, after: float = 0.3) -> Done:
    """Start a bake, send it a signal a moment after a stage began, and see that nothing is left the moment it ends."""
    bake = here.start(*SMALL, *flags)
    bake.stage(stage)
    time.sleep(after)
    bake.send(number)
    sent = time.monotonic()
    done = bake.end(seconds=60)
    took = time.monotonic() - sent
    assert took < 20, f"{took:.1f} s to end"
    here.assert_clean()
    return done


@pytest.mark.parametrize(("number", "code", "after"), [(*STOPS[0], 0.2), (*STOPS[1], 2.0), (*STOPS[0], 7.0)])
def test_a_signal_while_mmdebstrap_works(
    empty_place: Place, number: signal.Signals, code: ExitCode, after: float
) -> None:
    flags = make_precious(empty_place)
    before = before_and_after(empty_place)
    done = interrupt(empty_place, "bootstrap", number, *flags, after=after)
    assert done.returncode == code
    assert done.events[-1]["event"] == "error"
    assert done.events[-1]["exit_code"] == code
    assert done.events[-2]["event"] == "failed"
    assert done.stderr == ""
    unchanged(before, before_and_after(empty_place))
    assert list(empty_place.roots.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        ("unpack", *STOPS[0]),
        ("first", *STOPS[0]),
        ("first", *STOPS[1]),
        ("last", *STOPS[1]),
        ("disk", *STOPS[0]),
        ("package", *STOPS[0]),
        ("package", *STOPS[1]),
    ],
)
def test_a_signal_at_any_later_stage(place: Place, stage: str, number: signal.Signals, code: ExitCode) -> None:
    scripts = sorted((place.template / "scripts").iterdir())
    if stage in {"first", "last"}:
        stage = {"first": scripts[1], "last": scripts[-1]}[stage].stem
        (place.template / f"wait-in-{stage}").touch()
    flags = make_precious(place)
    before = before_and_after(place)
    done = interrupt(place, stage, number, *flags)
    assert done.returncode == code
    assert done.events[-1]["message"]
    unchanged(before, before_and_after(place))


def test_a_signal_in_the_last_moment_leaves_all_or_nothing(place: Place) -> None:
    flags = make_precious(place)
    precious = place.folder / "precious"
    for after in (0.0, 0.2):
        before = baking.digests(precious)
        bake = place.start(*SMALL, *flags, "--var", f"hostname=h{int(after * 100)}")
        bake.stage("finish")
        time.sleep(after)
        bake.send(signal.SIGINT)
        done = bake.end(seconds=60)
        assert done.returncode in {ExitCode.OK, ExitCode.INTERRUPTED}
        place.assert_clean()
        now = baking.digests(precious)
        kept = {name: text for name, text in now.items() if not name.endswith(".log")}
        if kept != {name: text for name, text in before.items() if not name.endswith(".log")}:
            subprocess.run(["sha256sum", "--check", "hapx.ova.sha256"], cwd=precious, check=True)
            manifest = json.loads((precious / "hapx.manifest.json").read_text())
            assert manifest["inputs"]["hostname"] == f"h{int(after * 100)}"
            assert manifest["ova"]["size"] == (precious / "hapx.ova").stat().st_size


def test_ctrl_c_twice_is_as_good_as_once(place: Place) -> None:
    stage = baking.script(place.template, 1).stem
    (place.template / f"wait-in-{stage}").touch()
    baking.script(place.template, 1).write_text("#!/bin/sh\ntrap '' INT TERM\nsleep 60; sleep 60\n")
    bake = place.start(*SMALL)
    bake.stage(stage)
    time.sleep(1)
    for _ in range(3):
        bake.send(signal.SIGINT)
        time.sleep(0.2)
    assert bake.end(seconds=30).returncode == ExitCode.INTERRUPTED
    place.assert_clean()


def test_a_script_that_ignores_signals_does_not_hold_up_ctrl_c(place: Place) -> None:
    path = baking.script(place.template, 1)
    path.write_text("#!/bin/sh\ntrap '' INT TERM\nsleep 60; sleep 60\n")
    done = interrupt(place, path.stem, signal.SIGINT, after=1)
    assert done.returncode == ExitCode.INTERRUPTED


def test_a_terminal_that_is_closed_ends_the_bake(place: Place) -> None:
    stage = baking.script(place.template, 1).stem
    (place.template / f"wait-in-{stage}").touch()
    parent, child = pty.openpty()
    bake = subprocess.Popen(
        # A terminal's own session, as a shell in a window has it: nohup has had SIGHUP ignored.
        ["setsid", "--ctty", "env", "--default-signal=HUP", *place.argv(*SMALL)],
        cwd=place.folder, env=place.environment | {"TERM": "xterm"}, stdin=child, stdout=child, stderr=child,
    )  # fmt: skip
    os.close(child)
    shown = b""
    deadline = time.monotonic() + 60
    while b"Provision: " + stage.encode() not in shown and time.monotonic() < deadline:
        shown += os.read(parent, 1 << 16)
    time.sleep(0.5)
    os.close(parent)
    assert bake.wait(30) == ExitCode.HUNG_UP
    place.assert_clean(seconds=5)


def test_nohup_outlives_its_terminal(place: Place) -> None:
    place.prefix = ("nohup",)
    bake = place.start(*SMALL)
    bake.stage("unpack")
    bake.send(signal.SIGHUP)
    assert bake.end().returncode == ExitCode.OK


@pytest.mark.parametrize("stage", ["unpack", "provision", "package"])
def test_a_killed_bake_takes_everything_with_it_and_the_next_one_tidies_up(place: Place, stage: str) -> None:
    path = baking.script(place.template, 1)
    if stage == "provision":
        stage = path.stem
        (place.template / f"wait-in-{stage}").touch()
    bake = place.start(*SMALL)
    bake.stage(stage)
    time.sleep(0.2)
    bake.send(signal.SIGKILL)
    assert bake.end().returncode == -signal.SIGKILL
    took = place.wait_alone(seconds=20)
    assert took < 10
    assert [line for line in place.left() if line.startswith("file")]  # so that there is something to tidy up
    (place.template / f"wait-in-{stage}").unlink(missing_ok=True)
    assert place.run(*SMALL).returncode == ExitCode.OK
    place.assert_clean()


def test_a_bake_killed_while_mmdebstrap_works_leaves_no_half_of_a_root(empty_place: Place) -> None:
    bake = empty_place.start(*SMALL)
    bake.stage("bootstrap")
    time.sleep(8)
    bake.send(signal.SIGKILL)
    bake.end()
    empty_place.wait_alone(seconds=60)
    left = empty_place.roots / ".trixie-amd64-0123456789abcdef-left"  # what a kill of the stage as well would leave
    plan = json.loads(empty_place.run("--dry-run", "--json", *SMALL).stdout)["plan"]
    left = left.with_name(f".{plan['release']}-{plan['arch']}-{plan['root_key'][:16]}-left")
    left.mkdir()
    (left / "root.tar").write_text("half")
    assert empty_place.run(*SMALL).returncode == ExitCode.OK
    empty_place.assert_clean()


# --- Room ---


def mounted(here: Place, folder: Path, size: str) -> None:
    """Have what runs here see a small file system of its own at a folder; nobody else does."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    here.prefix = ("unshare", "--mount", "--", "sh", "-c", mount, str(folder))


def shrink(bake: baking.Running, folder: Path, room: int) -> None:
    """Leave a bake that runs only so much room, in bytes, on the small disk that it has at a folder."""
    inside = ["nsenter", "--mount", f"--target={bake.process.pid}", "--"]
    for _ in range(20):  # what is written meanwhile may not fit any more
        seen = os.statvfs(f"/proc/{bake.process.pid}/root{folder}")
        used = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
        size = str(used + room)
        if subprocess.run([*inside, "mount", "-o", f"remount,size={size}", str(folder)], check=False).returncode == 0:
            return
    raise AssertionError("it could not be made smaller")


@pytest.mark.parametrize("which", ["tmp", "dist", "cache"])
def test_too_little_room_is_seen_before_any_work(empty_place: Place, which: str) -> None:
    folder = empty_place.folder / which
    mounted(empty_place, folder, "100m")
    done = empty_place.run(*SMALL)
    refused(done, ExitCode.NO_SPACE, str(folder), "0.1 GB free, a bake needs ", "TMPDIR", "--output", "XDG_CACHE_HOME")


def test_the_work_disk_gets_full_while_unpacking(place: Place) -> None:
    mounted(place, place.temporary, "4g")
    bake = place.start(*SMALL)
    bake.stage("unpack")
    shrink(bake, place.temporary, 20 * MIB)
    done = bake.end()
    told_full(place, done, place.temporary, "TMPDIR")
    assert place.root.exists()  # a full disk does not make a kept root a bad one


def test_the_work_disk_gets_full_in_a_script(place: Place) -> None:
    mounted(place, place.temporary, "4g")
    path = baking.script(place.template, 1)
    path.write_text("#!/bin/sh\nset -eu\nsleep 2\ncat /dev/zero >/srv/full\n")
    bake = place.start(*SMALL)
    bake.stage(path.stem)
    shrink(bake, place.temporary, 20 * MIB)
    told_full(place, bake.end(), place.temporary, "TMPDIR")


def test_the_work_disk_gets_full_while_the_disk_is_made(place: Place) -> None:
    mounted(place, place.temporary, "4g")
    path = sorted((place.template / "scripts").iterdir())[-1]
    path.write_text("#!/bin/sh\nsleep 2\n")
    bake = place.start(*SMALL)
    bake.stage(path.stem)
    shrink(bake, place.temporary, 20 * MIB)
    told_full(place, bake.end(), place.temporary, "TMPDIR")


def test_the_output_disk_gets_full(place: Place) -> None:
    mounted(place, place.dist, "600m")
    bake = place.start(*SMALL)
    bake.wait_for("progress", stage="package")
    shrink(bake, place.dist, 4 * MIB)
    done = bake.end()
    assert done.returncode == ExitCode.NO_SPACE, done.stdout + done.stderr
    assert f"{place.dist}/" in done.event("error")["message"]
    assert " MB are free" in done.event("error")["message"]


def test_the_log_itself_finds_the_disk_full(place: Place) -> None:
    mounted(place, place.dist, "600m")
    path = baking.script(place.template, 1)
    path.write_text("#!/bin/sh\nsleep 2\nyes 'a line for the log' | head -n 2000000\n")
    bake = place.start(*SMALL)
    bake.stage(path.stem)
    shrink(bake, place.dist, 1 * MIB)
    done = bake.end()
    assert done.returncode == ExitCode.NO_SPACE, done.stdout + done.stderr
    assert done.event("error")["message"].endswith("no space left on the disk")


def test_the_cache_disk_gets_full(empty_place: Place) -> None:
    mounted(empty_place, empty_place.cache, "1200m")
    bake = empty_place.start(*SMALL)
    bake.stage("bootstrap")
    shrink(bake, empty_place.cache, 20 * MIB)
    told_full(empty_place, bake.end(), empty_place.cache, "XDG_CACHE_HOME")


def told_full(here: Place, done: Done, folder: Path, variable: str) -> None:
    """It ended as a disk was full, and said which, how full, and what chooses another."""
    assert done.returncode == ExitCode.NO_SPACE, done.stdout + done.stderr
    error = done.event("error")
    assert f"no space left on the disk of {folder}" in error["message"]
    assert " MB free)" in error["message"]
    assert variable in error["hint"]
    here.assert_clean()


# --- Programs ---


@pytest.mark.parametrize("program", ["mmdebstrap", "packer", "mcopy", "unshare", "tar"])
def test_a_program_that_is_not_there(place: Place, program: str) -> None:
    place.env["PATH"] = baking.without(program, place.folder / "bin")
    refused(place.run(*SMALL), ExitCode.MISSING, program)
    assert not place.dist.exists()


def test_another_program_called_packer_is_passed_over(place: Place) -> None:
    fake = place.folder / "bin" / "packer"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n# cracklib\'s: makes a dictionary of what it reads\ncat >"$1.pwd"\n')
    fake.chmod(0o755)
    place.env["PATH"] = f"{fake.parent}:{os.environ['PATH']}"
    done = place.run("--json", *SMALL)
    assert done.returncode == ExitCode.OK, done.stdout
    assert {path.name for path in place.folder.iterdir()} == {"bin", "cache", "dist", "packer", "tmp"}
    place.env["PATH"] = f"{fake.parent}:{baking.without('packer', place.folder / 'other')}"
    refused(place.run(*SMALL, "--force"), ExitCode.MISSING, f"{fake} is another program of this name")


# --- Mirrors ---


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A web server on loopback: the folder that it serves, and its address."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/debian"
        server.shutdown()
        thread.join(10)


def bake_from(here: Place, mirror: str) -> Done:
    here.env["no_proxy"] = "127.0.0.1"
    return here.run(*SMALL, "--var", f"mirror={mirror}")


def test_a_mirror_that_does_not_answer(empty_place: Place) -> None:
    done = bake_from(empty_place, "http://127.0.0.1:1/debian")
    refused(done, ExitCode.UNREACHABLE, "trixie from mirror http://127.0.0.1:1/debian: ", "--var mirror")
    assert f"log: {next(empty_place.dist.glob('*.log'))}" in done.stderr
    assert list(empty_place.roots.iterdir()) == []


def test_a_mirror_that_has_no_such_release(empty_place: Place, web: tuple[Path, str]) -> None:
    done = bake_from(empty_place, web[1])
    refused(done, ExitCode.UNREACHABLE, "or has no such release", "does not have a Release file")


def test_a_mirror_whose_index_is_not_what_was_signed(empty_place: Place, root: Path, web: tuple[Path, str]) -> None:
    (signed,) = (root / "apt" / "lists").glob("*_dists_trixie_InRelease")
    text = signed.read_text()
    assert "\nCodename: trixie\n" in text
    target = web[0] / "debian/dists/trixie/InRelease"
    target.parent.mkdir(parents=True)
    target.write_text(text.replace("\nDescription: Debian", "\nDescription: debian", 1))
    assert target.read_text() != text
    done = bake_from(empty_place, web[1])
    refused(done, ExitCode.UNTRUSTED, "not signed by a key that Debian's keyring knows", web[1])


def test_a_mirror_whose_packages_are_not_what_was_signed(empty_place: Place, root: Path, web: tuple[Path, str]) -> None:
    (signed,) = (root / "apt" / "lists").glob("*_dists_trixie_InRelease")
    release = web[0] / "debian/dists/trixie"
    release.mkdir(parents=True)
    shutil.copy2(signed, release / "InRelease")
    listed = [line.split() for line in signed.read_text().split("\nSHA256:\n")[1].splitlines()]
    # Every form of the list of packages, of the size that was signed, and with other contents.
    for _, size, name in (words for words in listed if len(words) == 3 and "main/binary-amd64/Packages" in words[2]):
        path = release / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * int(size) if int(size) < 20 * MIB else b"")
    done = bake_from(empty_place, web[1])
    refused(done, ExitCode.UNTRUSTED, "the mirror serves files that differ from its signed index")


@pytest.mark.parametrize(
    "mirror", ["http://baker:hunter2@127.0.0.1/debian", "ftp://baker:hunter2@127.0.0.1/", "baker:hunter2@127.0.0.1//@"]
)
def test_a_password_in_a_mirrors_address_is_refused_and_not_shown(place: Place, mirror: str) -> None:
    done = bake_from(place, mirror)
    refused(done, ExitCode.INPUT, "variable mirror: ")
    assert "hunter2" not in done.stderr
    place.env["PKR_VAR_mirror"] = mirror
    done = place.run("--json", *SMALL)
    assert done.returncode == ExitCode.INPUT
    assert "hunter2" not in done.stdout + done.stderr
    assert not place.dist.exists()


def test_a_package_that_nobody_has(empty_place: Place) -> None:
    done = empty_place.run(*SMALL, "--var", 'extra_packages=["no-such-package"]')
    refused(done, ExitCode.INPUT, "no such package", "E: Unable to locate package no-such-package", "extra_packages")


def test_the_root_is_made_anew_when_the_mirror_has_moved_on(place: Place) -> None:
    assert place.run(*SMALL).returncode == ExitCode.OK
    info = place.root / "info.json"
    state = json.loads(info.read_text())
    # As if all of it had been made from what the mirror had yesterday.
    yesterday = "0" * 64
    for path in (info, place.ova.with_suffix(".manifest.json")):
        path.write_text(path.read_text().replace(state["mirror_state"], yesterday))
    before = baking.digests(place.root, place.dist)
    refused(place.run(*SMALL), ExitCode.EXISTS, "the mirror has other packages since it was made")
    assert baking.digests(place.root, place.dist) == before
    done = interrupt(place, "bootstrap", signal.SIGTERM, "--force", after=2)
    assert done.returncode == ExitCode.TERMINATED
    # The old root is still good for a bake without the mirror.
    assert baking.digests(place.root) == {path: text for path, text in before.items() if str(place.root) in path}


def test_a_mirror_that_does_not_answer_is_done_without_where_the_root_is_kept(place: Place) -> None:
    (place.root / "apt/sources.list").write_text("deb http://127.0.0.1:1/debian trixie main\n")
    done = place.run("--json", *SMALL)
    assert done.returncode == ExitCode.OK, done.stdout
    assert "bootstrap" not in done.stages
    notes = [event["message"] for event in done.events if event["event"] == "note"]
    assert any("the mirror does not answer" in note for note in notes)
    again = place.run("--json", *SMALL)
    assert again.event("result")["unchanged"]


def test_a_damaged_root_in_the_cache_is_made_anew(place: Place) -> None:
    tar = place.root / "root.tar"
    whole = tar.read_bytes()
    tar.unlink()
    tar.write_bytes(whole[: len(whole) // 2])  # a power cut
    bake = place.start(*SMALL)
    bake.stage("bootstrap")
    bake.send(signal.SIGTERM)
    bake.end()

    tar.write_bytes(whole[:MIB] + b"\xff" * (len(whole) - MIB))  # a bad disk
    done = place.run(*SMALL)
    refused(done, ExitCode.FAILED, "unpacking the root file system", "run this again, it will be made anew")
    assert list(place.roots.iterdir()) == []


# --- Input ---


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        (["--var", "realease=trixie"], ["realease", "release"]),
        (["--var", "memory_mib=lots"], ["memory_mib", "number"]),
        (["--var", "memory_mib"], ["memory_mib", "--var name=value"]),
        (["--var", "memory_mib=1"], ["variable memory_mib", "out of range", "512"]),
        (["--var", "disk_size_mib=1e999"], ["disk_size_mib"]),
        (["--var", "cpus=1.5"], ["variable cpus", "a whole number from 1 to 64"]),
        (["--var", "version=../x"], ["variable version", "'../x'"]),
        (["--var", f"version={'1' * 60}"], ["variable version"]),
        (["--var", "hostname=-x"], ["variable hostname", "RFC 1123"]),
        (["--var", "mirror=gopher://x"], ["variable mirror", "'gopher://x'"]),
        (["--var", "mirror=http://[::1"], ["variable mirror"]),
        (["--var", 'extra_packages=["Tcsh", "a b"]'], ["'Tcsh'", "'a b'"]),
        (["--var", "hapx_output=/etc/passwd"], ["hapx_output"]),
        (["--release", "wheezy"], ["'wheezy' is not supported", "trixie, bookworm"]),
        (["--arch", "vax"], ["'vax' is not supported", "amd64"]),
        (["--source", "qemu.nothing"], ["--source qemu.nothing", "null.bootstrap"]),
        (["--var-file", "none.pkrvars.hcl"], ["none.pkrvars.hcl"]),
        (["--var-file", "/etc"], ["/etc"]),
        (["--output", "packer"], []),
    ],
)
def test_input_that_cannot_be_right(place: Place, flags: list[str], texts: list[str]) -> None:
    if flags == ["--output", "packer"]:
        (place.folder / "packer.ova").mkdir()
        flags, texts = ["--output", "packer.ova"], ["packer.ova: this is a folder"]
    before = baking.digests(place.folder)
    refused(place.run(*flags), ExitCode.INPUT, *texts)
    assert baking.digests(place.folder) == before
    assert not place.dist.exists()


def test_every_wrong_variable_is_told_at_once(place: Place) -> None:
    done = place.run("--var", "release=potato", "--var", "cpus=0", "--var", "hostname=_")
    refused(done, ExitCode.INPUT, "variable release", "variable cpus", "variable hostname")


@pytest.mark.parametrize("text", ["", "yesterday", "-1", "1.5", "١٢٣", "9" * 30])
def test_a_source_date_epoch_that_is_no_date(place: Place, text: str) -> None:
    place.env["SOURCE_DATE_EPOCH"] = text
    refused(place.run(*SMALL), ExitCode.INPUT, "SOURCE_DATE_EPOCH=")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("TMPDIR", "/nonexistent", "TMPDIR=/nonexistent: not a folder"),
        ("TMPDIR", "/etc/passwd", "TMPDIR=/etc/passwd: not a folder"),
        ("XDG_CACHE_HOME", "/proc/nothing", "/proc/nothing"),
    ],
)
def test_folders_that_cannot_be(place: Place, name: str, value: str, text: str) -> None:
    place.env[name] = value
    refused(place.run(*SMALL), ExitCode.INPUT, text)


def test_an_output_folder_that_cannot_be_written_to(place: Place) -> None:
    file = place.folder / "file"
    file.touch()
    refused(place.run(*SMALL, "--output", str(file / "image.ova")), ExitCode.INPUT, f"{file}: this is not a folder")
    refused(place.run(*SMALL, "--output", "/proc/here/"), ExitCode.INPUT, "/proc")
    if os.geteuid() == 0:
        readonly = place.folder / "readonly"
        readonly.mkdir()
        mount = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'
        place.prefix = ("unshare", "--mount", "--", "sh", "-c", mount, str(readonly))
        done = place.run(*SMALL, "--output", str(readonly))
        refused(done, ExitCode.INPUT, f"{readonly}: this folder cannot be written to")


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("build.pkr.hcl", 'source "null" {', "build.pkr.hcl"),
        ("packages.list", "haproxy corosync\n", "packages.list:1: 'haproxy corosync' is not a package name"),
        ("packages.list", None, "packages.list: No such file"),
        ("packages.list", b"\xff\xfe", "packages.list: not UTF-8"),
        ("files/etc/dpkg/dpkg.cfg.d/hapx", None, "dpkg.cfg.d/hapx: No such file"),
        ("variables.pkr.hcl", 'variable "release" {\n  default = "trixie"\n}\n', "variable"),
    ],
)
def test_a_template_that_cannot_be_used(place: Place, file: str, text: str | bytes | None, says: str) -> None:
    path = place.template / file
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(place.run(), ExitCode.INPUT, says)
    assert not place.dist.exists()


@pytest.mark.parametrize("flags", [["--bogus"], ["--release"], ["extra"]])
def test_a_command_line_that_is_wrong(place: Place, flags: list[str]) -> None:
    refused(place.run(*flags), ExitCode.USAGE, "hapx-build --help")
    done = place.run("--json", *flags)
    assert done.event("error")["exit_code"] == ExitCode.USAGE


# --- What is there already ---


def test_an_output_that_is_there(place: Place) -> None:
    assert place.run(*SMALL).returncode == ExitCode.OK
    before = baking.digests(place.dist)
    refused(
        place.run(*SMALL, "--var", "hostname=other"), ExitCode.EXISTS,
        f"{place.ova}: this file is there already, and it was made from other inputs", "--force", "--output",
    )  # fmt: skip
    assert baking.digests(place.dist) == before

    manifest = place.ova.with_suffix(".manifest.json")
    for damage, says in [
        (lambda: flip(place.ova), "its contents are not what was made"),
        (
            lambda: place.ova.with_name(f"{place.ova.name}.sha256").write_text("0\n"),
            ".sha256 beside it is not what was written with it",
        ),
        (lambda: manifest.write_text("{}"), f"no {manifest.name} beside it says what it was made from"),
        (lambda: manifest.write_text('{"format": 1, "inputs": {"key": 1}}'), "says what it was made from"),
        (manifest.unlink, "says what it was made from"),
    ]:
        kept = {path: path.read_bytes() for path in place.dist.iterdir()}
        damage()
        before = baking.digests(place.dist)
        refused(place.run(*SMALL), ExitCode.EXISTS, says)
        assert baking.digests(place.dist) == before
        for path, data in kept.items():
            path.write_bytes(data)


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def test_a_second_bake_of_the_same_file_is_kept_out(place: Place) -> None:
    stage = baking.script(place.template, 1).stem
    (place.template / f"wait-in-{stage}").touch()
    first = place.start(*SMALL)
    first.stage(stage)
    for env in ({}, {"XDG_CACHE_HOME": str(place.folder / "other-cache")}):
        place.env = env
        done = place.run(*SMALL, "--force")
        refused(done, ExitCode.BUSY, str(place.dist), f"process {first.process.pid}", "wait for it")
    assert first.process.poll() is None
    first.send(signal.SIGTERM)
    assert first.end().returncode == ExitCode.TERMINATED
    place.env = {}
    (place.template / f"wait-in-{stage}").unlink()
    assert place.run(*SMALL).returncode == ExitCode.OK


# --- What the template does ---


def test_a_script_that_fails(place: Place) -> None:
    path = baking.script(place.template, 2)
    path.write_text("#!/bin/sh\nset -eu\necho before >&2\nfor n in 1 2 3; do echo line $n; done\nexit 42\n")
    flags = make_precious(place)
    before = before_and_after(place)
    done = place.run(*SMALL, *flags)
    log = place.folder / "precious/hapx.log"
    refused(done, ExitCode.FAILED, f"{path.name}: exit code 42", "before", "line 3", f"log: {log}")
    assert "line 3" in log.read_text()
    unchanged(before, before_and_after(place))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("/scripts/", "/nowhere/", "nowhere"),
        ('post-processor "checksum"', 'post-processor "no-such-thing"', "no-such-thing"),
        ("exec ${var.hapx_stage} package", "true", "left something out"),
    ],
)
def test_a_template_that_packer_cannot_finish(place: Place, old: str, new: str, says: str) -> None:
    build = place.template / "build.pkr.hcl"
    assert old in build.read_text()
    build.write_text(build.read_text().replace(old, new))
    done = place.run(*SMALL)
    refused(done, ExitCode.FAILED, says)
    assert not list(place.dist.glob("*.ova"))
    assert place.log


# --- What this machine does not allow ---


def without_capability(here: Place) -> None:
    """Run as root may in most containers: without the right to mount."""
    if os.geteuid() != 0:
        pytest.skip("this takes rights away that only root has")
    here.prefix = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")


def test_root_that_may_not_mount(place: Place) -> None:
    without_capability(place)
    refused(place.run(*SMALL), ExitCode.MISSING, "unshare", "this root may not mount", "ordinary user")


def test_a_user_without_subordinate_ids(place: Place) -> None:
    baking.become_user(place)
    script = [part.replace('echo "hapx-tester:1000000', 'echo "somebody-else:1000000') for part in place.prefix]
    if tuple(script) == place.prefix:
        pytest.skip("only root can make such a user")
    place.prefix = tuple(script)
    refused(place.run(*SMALL), ExitCode.MISSING, "hapx-tester has no 65536 subordinate IDs", "usermod --add-subuids")


def test_a_user_whose_tmpdir_is_closed_to_others(place: Place) -> None:
    baking.become_user(place)
    place.temporary.chmod(0o700)
    refused(place.run(*SMALL), ExitCode.INPUT, f"only its owner may go through {place.temporary}", "chmod o+x")
