"""A place for bakes by the real command, a small template to bake there, and what must not be left behind."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.processes import Process, running
from tests.virtualbox import chroot

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).with_name("hapx-build"))
SECONDS = 600.0  # for a bake: this machine may be busy with others
SMALL = ("--var", "disk_size_mib=2048")
SHARED_CACHE = chroot.cache() / "bakes"  # an XDG_CACHE_HOME that outlives a run of the tests

# What a disk needs that boots nothing: GRUB and mke2fs. A kernel's packages are most of a bake's time.
PACKAGES = ("e2fsprogs", "grub-efi-amd64-bin", "grub-pc-bin", "grub2-common")
# The passwords' date as 90-generalise.sh has it: a root that was kept since yesterday has yesterday's.
KERNEL = r"""#!/bin/sh
set -eu
printf kernel >/boot/vmlinuz-6.12.9-test
printf initrd >/boot/initrd.img-6.12.9-test
sed -i -E "s/^([^:]*:[^:]*):[0-9]+:/\1:$((SOURCE_DATE_EPOCH / 86400)):/" /etc/shadow
"""
SCRIPT = '#!/bin/sh\nset -eu\necho "this is $0"\n'

_SUBREAPER = 36  # prctl(2): PR_SET_CHILD_SUBREAPER


def small_template(folder: Path) -> Path:
    """The project's template with few packages, and scripts that do next to nothing."""
    shutil.copytree(REPOSITORY / "packer", folder)
    (folder / "packages.list").write_text("".join(f"{package}\n" for package in PACKAGES))
    first, *others = sorted((folder / "scripts").iterdir())
    first.write_text(KERNEL)
    build = folder / "build.pkr.hcl"
    for script in others[:2]:
        script.write_text(SCRIPT)
    for script in others[2:]:
        script.unlink()
        build.write_text("".join(line for line in build.read_text().splitlines(True) if script.name not in line))
    return folder


def script(folder: Path, number: int = 0) -> Path:
    """One of a template's provisioning scripts, in their order."""
    return sorted((folder / "scripts").iterdir())[number]


def digests(*folders: Path) -> dict[str, str]:
    """Every file below these folders, and what it holds; with the date, so that nobody even rewrote it."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[str(path)] = f"{digest} {path.stat().st_mtime_ns}"
    return found


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its output, of --json."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def event(self, name: str) -> dict[str, Any]:
        """The one event of that name."""
        (found,) = [event for event in self.events if event["event"] == name]
        return found

    @property
    def stages(self) -> list[str]:
        """The stages that began, in order."""
        return [event["stage"] for event in self.events if event["event"] == "stage"]


class Running:
    """A bake that runs with --json, its events as they come."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], stderr: Path) -> None:
        self._stderr = stderr
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._read: list[str] = []
        self._started = time.monotonic()
        with stderr.open("w") as errors:
            self.process = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        threading.Thread(target=self._reader, daemon=True).start()

    def _reader(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, event: str, *, seconds: float = SECONDS, **facts: Any) -> dict[str, Any]:
        """Read until an event with these facts comes."""
        deadline = time.monotonic() + seconds
        while True:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            said = "".join(self._read) + self._stderr.read_text()
            assert line is not None, f"it ended before {event} {facts}: {said}"
            self._read.append(line)
            found = json.loads(line)
            if found["event"] == event and all(found.get(name) == value for name, value in facts.items()):
                return dict(found)

    def stage(self, name: str) -> None:
        """Wait for a stage to begin."""
        self.wait_for("stage", stage=name)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command, and to nobody else."""
        self.process.send_signal(number)

    def end(self, *, seconds: float = SECONDS) -> Done:
        """Wait for its end."""
        self.process.wait(seconds)
        took = time.monotonic() - self._started
        while (line := self._lines.get(timeout=10)) is not None:
            self._read.append(line)
        return Done(self.process.returncode, "".join(self._read), self._stderr.read_text(), took)


@dataclass
class Place:
    """A working folder with a template, and folders of its own for everything that a bake writes."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()  # what runs the command, if anything does
    _before: set[tuple[int, int]] = field(default_factory=set)
    _running: list[Running] = field(default_factory=list)

    @property
    def template(self) -> Path:
        return self.folder / "packer"

    @property
    def dist(self) -> Path:
        return self.folder / "dist"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def roots(self) -> Path:
        return self.cache / "hapx-build" / "roots"

    @property
    def root(self) -> Path:
        """The one root file system in the cache."""
        (entry,) = self.roots.iterdir()
        return entry

    @property
    def ova(self) -> Path:
        """The one OVA in dist/."""
        (found,) = self.dist.glob("*.ova")
        return found

    @property
    def log(self) -> str:
        """What the one log in dist/ says."""
        (found,) = self.dist.glob("*.log")
        return found.read_text()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command here."""
        own = {"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.cache), "LC_ALL": "C.UTF-8"}
        return os.environ | own | self.env

    def argv(self, *arguments: str) -> list[str]:
        return [*self.prefix, COMMAND, "image", *arguments]

    def run(self, *arguments: str, seconds: float = SECONDS) -> Done:
        """Run `hapx-build image` to its end, its output not a terminal."""
        started = time.monotonic()
        result = subprocess.run(
            self.argv(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Done(result.returncode, result.stdout, result.stderr, time.monotonic() - started)

    def start(self, *arguments: str) -> Running:
        """Start `hapx-build image --json`."""
        stderr = self.folder / f"stderr-{len(self._running)}"
        started = Running(self.argv("--json", *arguments), self.folder, self.environment, stderr)
        self._running.append(started)
        return started

    def processes(self) -> list[Process]:
        """Who runs here: what descends from this process since the place is there, orphans included."""
        everybody = running()
        found: list[Process] = []
        parents = {os.getpid()}
        while grown := [process for process in everybody if process.parent in parents and process not in found]:
            found += grown
            parents = {process.pid for process in grown}
        return [process for process in found if process.identity not in self._before]

    def left(self) -> list[str]:
        """What is there that should not be, now that no bake is running here."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        kept = [*self.folder.glob("*/.*"), *self.temporary.iterdir(), *self.roots.glob(".*")]
        halves = [entry for entry in self.roots.glob("*") if not (entry / "info.json").exists()]
        return [
            *(f"process {process}" for process in self.processes()),
            *(f"mount {line}" for line in mounts if str(self.folder) in line),
            *(f"file {path}" for path in [*kept, *halves]),
        ]

    def assert_clean(self, *, seconds: float = 0.0) -> None:
        """Nothing is left behind, at the latest after a time."""
        deadline = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left

    def wait_alone(self, *, seconds: float) -> float:
        """Wait until nobody runs here any more, and return how long that took."""
        started = time.monotonic()
        while left := self.processes():
            assert time.monotonic() < started + seconds, left
            time.sleep(0.1)
        return time.monotonic() - started


@contextlib.contextmanager
def place(*, root: Path | None = None, mode: int = 0o755) -> Iterator[Place]:
    """A place with the small template; its cache holds what the cache folder `root` does. Gone afterwards.

    Not below the folder that pytest makes: a bake checks for gigabytes, which are not in a /tmp that is memory.
    """
    with tempfile.TemporaryDirectory(prefix="hapx-test-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(mode)
        here = Place(folder)
        small_template(here.template)
        here.temporary.mkdir()
        here.roots.mkdir(parents=True)
        if root is not None:
            shutil.copytree(root, here.roots / root.name, copy_function=_copy)
        here._before = {process.identity for process in running()}
        # Whoever is orphaned here becomes this process' child, so that nobody gets away.
        ctypes.CDLL(None).prctl(_SUBREAPER, 1)
        try:
            yield here
        finally:
            for left in here.processes():
                left.send(signal.SIGKILL)
            ours = {bake.process.pid for bake in here._running}
            for bake in here._running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    bake.process.wait(10)
            ctypes.CDLL(None).prctl(_SUBREAPER, 0)
            _reap(ours, here._before)


def _copy(source: str, target: str) -> str:
    """A copy; of the large file another link, so no test may write into it where it is."""
    if Path(source).name == "root.tar":
        with contextlib.suppress(OSError):  # it lies on another disk
            os.link(source, target)
            return target
    return shutil.copy2(source, target)


def _reap(ours: set[int], before: set[tuple[int, int]]) -> None:
    """Take the exit codes of the orphans that ended: nobody else will."""
    known = ours | {pid for pid, _ in before}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in known:
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == os.getpid():
                os.waitpid(int(entry.name), os.WNOHANG)


def small_root() -> Path:
    """The root file system of the small template in a cache: made once, then found there by the command itself."""
    with place() as here:
        here.env["XDG_CACHE_HOME"] = str(SHARED_CACHE)
        done = here.run("--json", *SMALL)
        assert done.returncode == 0, done.stdout + done.stderr
        plan = here.run("--json", "--dry-run", *SMALL)
        key = json.loads(plan.stdout)["plan"]["root_key"]
    (entry,) = (SHARED_CACHE / "hapx-build" / "roots").glob(f"*-{key[:16]}")
    return entry


def without(program: str, folder: Path) -> str:
    """A PATH with everything that this one has, but for one program."""
    folder.mkdir()
    for place_ in os.environ["PATH"].split(os.pathsep):
        for path in Path(place_).glob("*"):
            target = folder / path.name
            if path.name != program and not target.is_symlink():
                target.symlink_to(path)
    return str(folder)


def plain(text: str) -> str:
    """What a person sees of a terminal's output."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


# Gives whoever is below a user, with ranges of subordinate ids, that nobody else sees.
USER = """
set -eu
uid=$1 home=$2; shift 2
for file in passwd group subuid subgid; do cp "/etc/$file" "$home/$file" 2>/dev/null || : >"$home/$file"; done
echo "hapx-tester:x:$uid:$uid::$home:/bin/sh" >>"$home/passwd"
echo "hapx-tester:x:$uid:" >>"$home/group"
echo "hapx-tester:1000000:65536" | tee -a "$home/subuid" >>"$home/subgid"
for file in passwd group subuid subgid; do mount --bind "$home/$file" "/etc/$file"; done
"""
# Shows folders to everybody that lie where only root can go, like this checkout below a home.
EXPOSE = """
mkdir -p "$home/{number}"
mount --bind {path} "$home/{number}"
"""
COVER = """
mount -t tmpfs -o mode=0755 tmpfs {closed}
"""
UNCOVER = """
mkdir -p {path}
mount --bind "$home/{number}" {path}
"""
BECOME = """
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups env HOME="$home" "$@"
"""
USER_ID = 24242


def user_script() -> str:
    """The script that runs a command as that user, who can read this checkout and this Python wherever they lie."""
    needed = [Path(sys.base_prefix), Path(sys.prefix), REPOSITORY]
    closed = {
        path: next((each for each in reversed(path.parents) if not each.stat().st_mode & 1), None) for path in needed
    }
    hidden = list(enumerate(path for path in dict.fromkeys(needed) if closed[path]))
    steps = [EXPOSE.format(number=number, path=shlex.quote(str(path))) for number, path in hidden]
    steps += [
        COVER.format(closed=shlex.quote(str(each))) for each in sorted({closed[path] for _, path in hidden}, key=str)
    ]
    steps += [UNCOVER.format(number=number, path=shlex.quote(str(path))) for number, path in hidden]
    return "".join([USER, *steps, BECOME])


def become_user(here: Place) -> None:
    """Run what runs here as an ordinary user, whose folders these become; skip where there can be none."""
    if os.geteuid() == 0:
        home = here.folder / "home"
        home.mkdir(mode=0o700)
        here.prefix = ("unshare", "--mount", "--", "sh", "-c", user_script(), "user", str(USER_ID), str(home))
        subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", here.folder], check=True)
    subprocess.run([*here.prefix, COMMAND, "--version"], check=True, cwd=here.folder, capture_output=True)
    probe = [*here.prefix, "unshare", "--user", "--map-root-user", "--map-auto", "--mount", "true"]
    result = subprocess.run(probe, capture_output=True, text=True, check=False, cwd=here.folder)
    if result.returncode != 0:
        pytest.skip(f"no user namespaces for ordinary users here: {result.stderr.strip()}")
