"""A bake: what it is going to do (`prepare`), and doing it (`bake`): Packer runs, its result is checked, moved in."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from builder import __version__, command, errors, requirements, resources
from builder.errors import (
    BusyError,
    CommandError,
    HapxError,
    InputError,
    MissingError,
    NoSpaceError,
    OutputExistsError,
    UntrustedError,
)
from builder.image import inputs, manifest, packer, rootcache, rootfs, template
from builder.image.plan import BakePlan, digest, digest_tree, read_packages
from builder.image.stages import PLAN_VARIABLE
from builder.progress import Reporter

DEFAULT_SOURCE = "null.bootstrap"
WORK_PREFIX = "hapx-bake-"
WORK_BYTES = 3 << 30  # a root file system, its disk, mmdebstrap's own copy
OUTPUT_BYTES = 512 << 20
PACKER_TIMEOUT = 2 * 3600.0
# The modules whose code shapes the image: a change in one of them makes another image of the same template.
SHAPING = ("disk", "namespace", "ova", "ovf", "rootfs", "stages", "vmdk")
INTERNAL = "hapx_"  # variables with this prefix are set here, for each bake


@dataclass(frozen=True, slots=True)
class BakeRequest:
    """What somebody asked for, as it stood on the command line."""

    source: str = DEFAULT_SOURCE
    release: str | None = None
    arch: str | None = None
    assignments: tuple[str, ...] = ()
    var_files: tuple[Path, ...] = ()
    output: Path | None = None
    force: bool = False
    keep_work: bool = False


@dataclass(frozen=True, slots=True)
class Bake:
    """A request that was found right: the plan, the variables that go to Packer, and Packer."""

    plan: BakePlan
    values: Mapping[str, object]
    packer: packer.Packer
    force: bool
    keep_work: bool

    @property
    def var_file(self) -> Path:
        """Packer's variables."""
        return Path(self.plan.work, "bake.pkrvars.json")

    @property
    def argv(self) -> list[str]:
        """The exact Packer command."""
        return packer.build_argv(
            self.packer, Path(self.plan.template), source=self.plan.source, var_file=self.var_file, force=self.force
        )

    @property
    def output(self) -> Path:
        """The OVA when all is done."""
        return Path(self.plan.output)

    @property
    def log(self) -> Path:
        """Packer's log."""
        return self.output.with_name(f"{self.output.stem}.log")

    @property
    def manifest(self) -> Path:
        """The build manifest."""
        return self.output.with_name(f"{self.output.stem}.manifest.json")

    @property
    def checksum(self) -> Path:
        """The OVA's digest, as sha256sum(1) reads it."""
        return self.output.with_name(f"{self.output.name}.sha256")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a bake; `unchanged` where it was there already."""

    ova: Path
    sha256: str
    size: int  # bytes
    unchanged: bool


def template_folder() -> Path:
    """The folder with the Packer templates: the user's own ./packer, or the one that came with hapx-build."""
    return resources.folder("packer", holds="*.pkr.hcl").resolve()


def list_variables() -> list[dict[str, object]]:
    """The template's variables that are a person's to set: name, type, default, description."""
    rows = template.describe(template.inspect(template_folder()))
    return [row for row in rows if not str(row["name"]).startswith(INTERNAL)]


def prepare(request: BakeRequest) -> Bake:
    """Check everything that can be checked before any work, and plan it.

    Raises InputError with every problem of variables, files and the template; MissingError without a real Packer.
    """
    folder = template_folder()
    whole = template.inspect(folder)
    mine = {name: variable for name, variable in whole.variables.items() if not name.startswith(INTERNAL)}
    known = dataclasses.replace(whole, variables=mine)
    if request.source not in known.sources:
        raise InputError(
            f"--source {request.source}: no such source", hint=f"there is: {', '.join(sorted(known.sources))}"
        )
    overrides = {name: value for name in ("release", "arch") if (value := getattr(request, name)) is not None}
    given = template.resolve(known, assignments=request.assignments, files=request.var_files, overrides=overrides)
    values = {name: variable.default for name, variable in known.variables.items()} | given
    if problems := inputs.check(values):
        raise InputError("these variables cannot be used", problems)
    found = packer.find()
    _require_programs()

    version = str(values["version"] or __version__)
    release, arch = str(values["release"]), str(values["arch"])
    name = "-".join(["hapx", version, *([release] if release != "trixie" else []), arch])
    output = _output_path(request.output, name)
    extra = values["extra_packages"]
    packages = [*read_packages(folder / "packages.list"), *(extra if isinstance(extra, list) else [])]
    epoch = _source_date_epoch()
    mirror = str(values["mirror"])
    code = {name: Path(__file__).with_name(f"{name}.py").read_text() for name in SHAPING}
    excludes = (folder / "files/etc/dpkg/dpkg.cfg.d/hapx").read_text()
    sizes = {name: int(str(values[name]).partition(".")[0]) for name in ("disk_size_mib", "cpus", "memory_mib")}
    # Not /tmp, which is memory on Debian 13: a bake writes gigabytes.
    work = Path(os.environ.get("TMPDIR", "/var/tmp")).absolute() / f"{WORK_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"  # noqa: S108
    plan = BakePlan(
        name=name,
        source=request.source,
        release=release,
        arch=arch,
        mirror=mirror,
        version=version,
        hostname=str(values["hostname"]),
        packages=tuple(packages),
        **sizes,
        epoch=epoch,
        template=str(folder),
        output=str(output),
        work=str(work),
        staging=str(output.parent / f".{output.name}.bake"),
        cache=str(cache_folder()),
        root_key="",
        refresh_root=False,
        key="",
    )
    # The root is what mmdebstrap is told, wherever it writes to and whoever runs it.
    told = rootfs.mmdebstrap_argv(plan, tar=Path("root.tar"), apt=Path("apt"), uid=0)
    root_key = digest([part.replace(plan.template, "") for part in told], excludes, epoch)
    key = digest(root_key, digest_tree(folder), version, plan.hostname, sizes, code)
    plan = dataclasses.replace(plan, root_key=root_key, key=key)
    stage = command.format_argv([sys.executable, "-m", "builder.image.stages"])
    internal = {"hapx_stage": stage, "hapx_output": str(Path(plan.staging, output.stem))}
    return Bake(plan, {**given, **internal}, found, request.force, request.keep_work)


def bake(job: Bake, reporter: Reporter) -> Outcome:
    """Carry a bake out: Packer runs the template, what it made is checked, then moved into place all at once.

    Nothing is left behind when it fails or is interrupted but the log, and what was there before is as it was. Raises
    BusyError, OutputExistsError, NoSpaceError, and what the stages raise (see `builder.image.rootfs.bootstrap`).
    """
    plan = job.plan
    job.output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(job.output, Path(plan.cache)):
        mirror_state = _mirror_state(plan, reporter)
        if not job.force and job.output.exists():
            if (outcome := _unchanged(job, mirror_state)) is not None:
                return outcome
            raise OutputExistsError(
                f"{job.output}: this file is there already, made from other inputs",
                hint="--force replaces it; --output or --var version=… gives another name",
            )
        kept = rootcache.load(plan.root_cache)
        stale = kept is not None and mirror_state is not None and kept.mirror_state != mirror_state
        job = dataclasses.replace(job, plan=dataclasses.replace(plan, refresh_root=stale))
        with _folders(job):
            return _run(job, reporter)


def _require_programs() -> None:
    """Everything a bake starts is installed, which is quick to see; `doctor` asks for versions besides."""
    wanted = [
        requirement
        for requirement in requirements.needed([requirements.Purpose.IMAGE])
        if requirement.name != "packer"  # found, and asked for its version, before
        and not (requirement.users_only and os.geteuid() == 0)
    ]
    found = [requirements.probe(requirement, ask=False) for requirement in wanted]
    if missing := [finding.requirement for finding in found if finding.status is not requirements.Status.OK]:
        names = ", ".join(f"{requirement.name} ({requirement.use})" for requirement in missing)
        packages = requirements.missing_packages(found, requirements.release_codename())
        raise MissingError(f"not installed here: {names}", hint=f"sudo apt-get install {' '.join(packages)}")


def _run(job: Bake, reporter: Reporter) -> Outcome:
    """Packer, then what it made, into place."""
    plan = job.plan
    plan_file = Path(plan.work, "plan.json")
    plan.write(plan_file)
    template.write_var_file(job.values, job.var_file)
    failure: HapxError | None = None

    def watch(event: packer.Event) -> None:
        nonlocal failure
        if event.kind != "hapx":
            return
        match event.data.get("event"):
            case "stage":
                reporter.begin(event.data["stage"], title=event.data["title"])
            case "progress":
                reporter.advance(event.data["done"], event.data["total"], unit=event.data.get("unit", ""))
            case "done":
                reporter.end()
            case "note":
                reporter.note(event.data["message"])
            case "failed":
                reporter.fail()
            case "error":
                failure = _error(event.data, job.log)

    environment = {PLAN_VARIABLE: str(plan_file), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with job.log.open("w") as log:
        try:
            result = packer.build(
                job.packer,
                job.argv,
                cwd=Path(plan.work),
                env=environment,
                log=log,
                on_event=watch,
                timeout=PACKER_TIMEOUT,
            )
        except CommandError:
            reporter.fail()
            if failure is not None:
                raise failure from None
            raise
    with reporter.stage("finish", title="Check and move into place"):
        return _finish(job, reporter, result)


def _finish(job: Bake, reporter: Reporter, result: packer.BuildResult) -> Outcome:
    """Compare what Packer and we say of the OVA, write the manifest, move all of it into place."""
    plan = job.plan
    facts = json.loads(plan.facts("package").read_text())
    root = json.loads(plan.facts("root").read_text())
    made = Path(plan.staging, job.output.name)
    said = Path(plan.staging, f"{job.output.stem}.sha256").read_text().split()[0]
    if said != facts["sha256"]:
        raise UntrustedError(
            f"{made.name}: Packer's checksum is {said}, the writer's {facts['sha256']}",
            hint="the file changed after it was written: is the disk in order?",
        )
    whole = manifest.compose(
        plan,
        packer=".".join(map(str, job.packer.version)),
        mirror_state=root["mirror_state"],
        epoch=root["epoch"],
        ova=facts,
        stages=reporter.seconds,
    )
    staged_manifest, staged_checksum = made.with_suffix(".manifest.json"), made.with_suffix(".sum")
    staged_manifest.write_text(json.dumps(whole, indent=2) + "\n")
    staged_checksum.write_text(f"{facts['sha256']}  {job.output.name}\n")
    # Three renames in one go: an interrupt waits, so that nobody finds an OVA beside another one's digest.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        staged_manifest.rename(job.manifest)
        staged_checksum.rename(job.checksum)
        made.rename(job.output)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return Outcome(job.output, facts["sha256"], facts["size"], unchanged=False)


def _unchanged(job: Bake, mirror_state: str | None) -> Outcome | None:
    """The outcome, where the OVA that is there was made from the same inputs and is whole; else None."""
    known = manifest.read(job.manifest)
    if known is None or known["inputs"]["key"] != job.plan.key:
        return None
    if mirror_state is not None and known["inputs"]["mirror_state"] != mirror_state:
        return None
    with job.output.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known["ova"]["sha256"]:
        return None
    return Outcome(job.output, found, job.output.stat().st_size, unchanged=True)


def _mirror_state(plan: BakePlan, reporter: Reporter) -> str | None:
    """What the mirror has now; None where there is no root to compare with, or the mirror does not answer."""
    kept = rootcache.load(plan.root_cache)
    if kept is None:
        return None
    now = rootcache.mirror_now(plan.root_cache)
    if now is None:
        reporter.note("the mirror does not answer: going on with the root file system that is in the cache")
        return kept.mirror_state
    return now


def _error(data: Mapping[str, Any], log: Path) -> HapxError:
    """The error that a stage reported, as it was raised there."""
    kind = getattr(errors, str(data["kind"]), HapxError)
    if kind is CommandError:
        error: HapxError = CommandError(str(data["message"]), returncode=1, hint=str(data["hint"]))
    else:
        error = kind(str(data["message"]), hint=str(data["hint"]))
    error.details = (*map(str, data["details"]), f"log: {log}")
    return error


@contextlib.contextmanager
def _folders(job: Bake) -> Iterator[None]:
    """The bake's two folders, empty, with room enough; gone afterwards unless asked to keep them."""
    work, staging = Path(job.plan.work), Path(job.plan.staging)
    for folder, needed in ((work.parent, WORK_BYTES), (staging.parent, OUTPUT_BYTES)):
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise NoSpaceError(
                f"{folder}: {free / 1e9:.1f} GB free, a bake needs {needed / 1e9:.1f} GB",
                hint="free some space, or choose another place (TMPDIR for the work, --output for the OVA)",
            )
    rootfs.remove(staging)  # of a bake that was killed: its lock is ours now
    _sweep(work.parent)
    staging.mkdir()
    work.mkdir(mode=0o755)
    try:
        yield
    finally:
        rootfs.remove(staging)
        if not job.keep_work:
            rootfs.remove(work)


def _sweep(folder: Path) -> None:
    """Remove the work of bakes of ours that were killed: their process is gone, so nobody else will."""
    for left in folder.glob(f"{WORK_PREFIX}*"):
        process = left.name.removeprefix(WORK_PREFIX).partition("-")[0]
        if left.stat().st_uid == os.geteuid() and not Path("/proc", process).exists():
            rootfs.remove(left)


@contextlib.contextmanager
def _locked(output: Path, cache: Path) -> Iterator[TextIO]:
    """One bake an output at a time; the lock goes with the process, however it ends."""
    locks = cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / digest(str(output))[:16]).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(
                f"{output}: another bake is making this file (process {file.read().strip() or 'unknown'})",
                hint="wait for it, or give another --output",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file


def cache_folder() -> Path:
    """Where root file systems are kept: $XDG_CACHE_HOME/hapx-build, by default ~/.cache/hapx-build."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "hapx-build"


def _output_path(asked: Path | None, name: str) -> Path:
    """Where the OVA goes: a file where the name ends in .ova, else a folder; dist/ by default."""
    if asked is not None and asked.suffix == ".ova":
        return asked.absolute()
    return (asked or Path("dist")).absolute() / f"{name}.ova"


def _source_date_epoch() -> int | None:
    """SOURCE_DATE_EPOCH, where set (reproducible-builds.org's specification): seconds, a whole number."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    if not text.isdecimal():
        raise InputError(f"SOURCE_DATE_EPOCH={text!r}: not a whole number of seconds")
    return int(text)
