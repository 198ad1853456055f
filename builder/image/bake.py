"""A bake: what it is going to do (`prepare`), and doing it (`bake`): Packer runs, its result is checked, moved in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from builder import __version__, command, doctor, errors, interrupts, requirements, resources
from builder.epoch import source_date_epoch
from builder.errors import (
    CommandError,
    HapxError,
    InputError,
    MissingError,
    OutputExistsError,
    Problem,
    UntrustedError,
)
from builder.image import attest, inputs, machine, manifest, packer, rootcache, rootfs, template, workplace
from builder.image.companions import Companion, beside
from builder.image.plan import BakePlan, digest, digest_tree, read_packages, read_text
from builder.image.stages import PLAN_VARIABLE, WAITING
from builder.progress import Reporter

DEFAULT_SOURCE = "null.bootstrap"
WORK_BYTES = 3 << 30  # a root file system, its disk, mmdebstrap's own copy
CACHE_BYTES = 1 << 30
OUTPUT_BYTES = 512 << 20
PACKER_TIMEOUT = 2 * 3600.0
# The modules whose code shapes the image: a change in one of them makes another image of the same template.
SHAPING = ("disk", "namespace", "ova", "ovf", "rootfs", "stages", "vmdk")
SHAPING_MACHINES = ("machine", "unused")  # besides, where Packer boots something
INTERNAL = "hapx_"  # variables with this prefix are set here, for each bake
SET_HERE = ("hapx_stage", "hapx_output")
SIZES = ("disk_size_mib", "cpus", "memory_mib")
NEEDED = ("release", "arch", "mirror", "version", "extra_packages", "hostname", *SIZES)  # of every template
EXCLUDES = Path("files/etc/dpkg/dpkg.cfg.d/hapx")  # in the template: what dpkg is not to unpack


@dataclass(frozen=True, slots=True)
class BakeRequest:
    """What somebody asked for, as it stood on the command line."""

    source: str = DEFAULT_SOURCE
    release: str | None = None
    arch: str | None = None
    assignments: tuple[str, ...] = ()
    var_files: tuple[Path, ...] = ()
    output: Path | None = None
    snapshot: str | None = None
    force: bool = False
    keep_work: bool = False


@dataclass(frozen=True, slots=True)
class Bake:
    """A request that was found right: the plan, the template, the variables that go to Packer, and Packer."""

    plan: BakePlan
    template: template.Template
    values: Mapping[str, object]
    packer: packer.Packer
    force: bool
    keep_work: bool

    @property
    def var_file(self) -> Path:
        """Packer's variables."""
        return Path(self.plan.work, "bake.pkrvars.json")

    @property
    def shown_values(self) -> dict[str, object]:
        """The variables, without what is secret."""
        secret = {name for name, variable in self.template.variables.items() if variable.sensitive}
        return {name: "<sensitive>" if name in secret else value for name, value in self.values.items()}

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
        return beside(self.output, Companion.MANIFEST)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a bake; `unchanged` where it was there already; `work` is the folder that was to be kept."""

    ova: Path
    sha256: str
    size: int  # bytes
    unchanged: bool
    work: Path | None = None


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
    known = _template(request.source)
    overrides = {name: value for name in ("release", "arch") if (value := getattr(request, name)) is not None}
    given = template.resolve(known, assignments=request.assignments, files=request.var_files, overrides=overrides)
    if request.snapshot is not None:
        asked = given.get("mirror", known.variables["mirror"].default)
        given["mirror"] = inputs.snapshot_of(str(asked), request.snapshot)
    values = {name: variable.default for name, variable in known.variables.items()} | given
    problems = inputs.check(values)
    if request.source in machine.MACHINES:
        problems += machine.check(request.source, values)
    if problems:
        raise InputError("these variables cannot be used", problems)
    folder = known.folder
    version = str(values["version"] or __version__)
    release, arch = str(values["release"]), str(values["arch"])
    name = "-".join(["hapx", version, *([release] if release != "trixie" else []), arch])
    output = workplace.output_path(request.output, name)
    workplace.check_output(output)
    extra = values["extra_packages"]
    packages = [*read_packages(folder / "packages.list", release), *(extra if isinstance(extra, list) else [])]
    epoch = source_date_epoch()
    mirror = str(values["mirror"])
    shaping = SHAPING + (SHAPING_MACHINES if request.source in machine.MACHINES else ())
    code = {name: Path(__file__).with_name(f"{name}.py").read_text() for name in shaping}
    excludes = read_text(folder / EXCLUDES)
    sizes = {name: int(str(values[name]).partition(".")[0]) for name in SIZES}
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
        work=str(workplace.temporary_folder() / workplace.new_name(kept=request.keep_work)),
        staging=str(output.parent / f".{output.name}.bake"),
        cache=str(workplace.cache_folder()),
        root_key="",
        refresh_root=False,
        key="",
    )
    # The root is what mmdebstrap is told, wherever it writes to and whoever runs it.
    nowhere = dataclasses.replace(plan, template="")
    told = rootfs.mmdebstrap_argv(nowhere, tar=Path("root.tar"), apt=Path("apt"), uid=0)
    root_key = digest(told, excludes, epoch)
    key = digest(root_key, digest_tree(folder), request.source, {**values, "version": version, **sizes}, code)
    plan = dataclasses.replace(plan, root_key=root_key, key=key)
    stage = command.format_argv([sys.executable, "-m", "builder.image.stages"])
    internal: dict[str, object] = {"hapx_stage": stage, "hapx_output": str(plan.packer_output)}
    found = packer.find()
    _require_programs()
    if request.source in machine.MACHINES:
        machine.require(request.source, found)
        plan = dataclasses.replace(plan, epoch=int(time.time()) if epoch is None else epoch)
        internal |= machine.variables(plan, values, epoch=plan.epoch or 0)
    return Bake(plan, known, {**given, **internal}, found, request.force, request.keep_work)


def _template(source: str) -> template.Template:
    """The template, without the variables that are set here; InputError where a bake of `source` cannot use it."""
    whole = template.inspect(template_folder())
    if source not in whole.sources:
        raise InputError(f"--source {source}: no such source", hint=f"there is: {', '.join(sorted(whole.sources))}")
    lacking = [name for name in (*NEEDED, *SET_HERE) if name not in whole.variables]
    if lacking:
        hint = "declare it as the template that comes with hapx-build does"
        problems = [Problem(f"variable {name}", "not declared", hint) for name in lacking]
        raise InputError(f"{whole.folder}: this template lacks variables that a bake needs", problems)
    mine = {name: variable for name, variable in whole.variables.items() if not name.startswith(INTERNAL)}
    return dataclasses.replace(whole, variables=mine)


def bake(job: Bake, reporter: Reporter) -> Outcome:
    """Carry a bake out: Packer runs the template, what it made is checked, then moved into place all at once.

    Nothing is left behind when it fails or is interrupted but the log, and what was there before is as it was. Raises
    BusyError, OutputExistsError, NoSpaceError, and what the stages raise (see `builder.image.rootfs.bootstrap`).
    """
    plan = job.plan
    workplace.make(job.output.parent)
    workplace.make(plan.root_cache.parent)
    with workplace.locked(job.output, job.log) as log:
        kept, mirror_state = _root_state(plan, reporter)
        if not job.force and job.output.exists():
            if changes := _changes(job, mirror_state):
                raise OutputExistsError(
                    f"{job.output}: this file is there already, and {changes}",
                    hint="--force replaces it; --output or --var version=… gives another name",
                )
            known = manifest.read(job.manifest) or {}
            return Outcome(job.output, known["ova"]["sha256"], job.output.stat().st_size, unchanged=True)
        stale = kept is not None and mirror_state != kept.mirror_state
        job = dataclasses.replace(job, plan=dataclasses.replace(plan, refresh_root=stale))
        if plan.source not in machine.MACHINES:
            _require_namespaces()
        work, staging = Path(plan.work), Path(plan.staging)
        workplace.sweep(work.parent)
        workplace.remove(staging)  # of a bake that was killed: its lock is ours now
        needs = [(work.parent, WORK_BYTES), (staging.parent, OUTPUT_BYTES)]
        needs += [(plan.root_cache, CACHE_BYTES)] if kept is None or stale else []
        workplace.require_space(
            needs,
            hint="free some, or choose another place: TMPDIR (work), --output, XDG_CACHE_HOME (root file systems)",
        )
        if job.keep_work:
            reporter.note(f"the work folder will stay: {work}")
        log.truncate(0)
        log.write(f"process {os.getpid()}, hapx-build {__version__}\n")
        log.flush()
        with workplace.folder(staging), workplace.folder(work, keep=job.keep_work, locked=True):
            outcome = _run(job, reporter, log)
            if not job.keep_work:
                reporter.begin("clean", title="Remove the work folder")
        reporter.end()
        return outcome


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
        raise MissingError(f"not installed here: {names}", hint="hapx-build doctor says what installs it")


def _require_namespaces() -> None:
    """This user may make the namespaces that a bake works in."""
    check = doctor.namespaces()
    if check.failed:
        raise MissingError(check.detail, hint=check.hint)


def _run(job: Bake, reporter: Reporter, log: TextIO) -> Outcome:
    """Packer, then what it made, into place."""
    plan = job.plan
    plan_file = Path(plan.work, "plan.json")
    plan.write(plan_file)
    template.write_var_file(job.values, job.var_file)
    plan.packer_output.parent.symlink_to(plan.staging)
    if plan.source in machine.MACHINES:
        machine.write_seed(plan)
        # A machine's packages come from its own mirror, at a time of its own: no state of it is known here.
        plan.facts("root").write_text(json.dumps({"mirror_state": "", "epoch": plan.epoch}) + "\n")
        reporter.begin("machine", title=f"Packer: {plan.source}")
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

    # Packer's own temporary files go where everything of this bake goes: away with it, even when it was killed.
    environment = {PLAN_VARIABLE: str(plan_file), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["TMPDIR"] = plan.work
    try:
        with machine.discs_forgotten(plan, job.values):
            packer.build(
                job.packer,
                job.argv,
                cwd=Path(plan.work),
                env=environment,
                log=log,
                on_event=watch,
                timeout=PACKER_TIMEOUT,
                secrets=template.secrets(job.template, job.values),
            )
    except CommandError as error:
        reporter.fail()
        raised = error if failure is None else failure
        if job.keep_work:
            raised.details = (*raised.details, f"work folder, kept: {plan.work}")
        raise raised from None
    with reporter.stage("finish", title="Check and move into place"):
        return _finish(job, reporter)


def _finish(job: Bake, reporter: Reporter) -> Outcome:
    """Compare what Packer and we say of the OVA, write the manifest, move all of it into place."""
    plan = job.plan
    made, packers = plan.made, plan.made.with_suffix(".sha256")
    try:
        facts = json.loads(plan.facts("package").read_text())
        root = json.loads(plan.facts("root").read_text())
        (said,) = packers.read_text().split()[:1]
    except (FileNotFoundError, ValueError) as error:
        raise HapxError(
            f"{plan.template}: this template ended well, but left something out: {error}",
            hint="the template that comes with hapx-build runs the stages root, disk and package, then a checksum",
        ) from None
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
    staged = {}
    for companion, text in attest.texts(whole, json.dumps(whole, indent=2) + "\n", job.output).items():
        staged[companion] = made.with_name(f"companion{companion}")
        staged[companion].write_text(text)
    # All renames in one go: nobody is to find an OVA beside another one's digest, or another one's signature.
    with interrupts.held():
        beside(job.output, Companion.SIGNATURE).unlink(missing_ok=True)
        for companion, path in staged.items():
            path.rename(beside(job.output, companion))
        made.rename(job.output)
    return Outcome(
        job.output, facts["sha256"], facts["size"], unchanged=False, work=Path(plan.work) if job.keep_work else None
    )


def _changes(job: Bake, mirror_state: str | None) -> str:
    """What tells the OVA that is there from the one that this bake would make; "" where nothing does."""
    known = manifest.read(job.manifest)
    if known is None:
        return f"no {job.manifest.name} beside it says what it was made from"
    if known["inputs"]["key"] != job.plan.key:
        return "it was made from other inputs"
    if mirror_state is not None and known["inputs"]["mirror_state"] != mirror_state:
        return "the mirror has other packages since it was made"
    with job.output.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known["ova"]["sha256"]:
        return "its contents are not what was made: it is damaged, or another file"
    if wrong := attest.wrong(known, job.output):
        return f"{wrong.name} beside it is not what was written with it"
    return ""


def _root_state(plan: BakePlan, reporter: Reporter) -> tuple[rootcache.RootState | None, str | None]:
    """The root that is in the cache, and the mirror's state now: the root's own, where the mirror does not answer.

    A bake in a virtual machine has no such root, and its mirror no state that would be known.
    """
    if plan.source in machine.MACHINES:
        return None, ""

    def waiting() -> None:
        reporter.note(WAITING)

    with rootcache.locked(plan.root_cache, shared=True, waiting=waiting):
        kept = rootcache.load(plan.root_cache)
        if kept is None:
            return None, None
        scratch = workplace.temporary_folder() / workplace.new_name()
        with workplace.folder(scratch, locked=True):
            now = rootcache.mirror_now(plan.root_cache, scratch)
    if now is None:
        reporter.note("the mirror does not answer: going on with the root file system that is in the cache")
        return kept, kept.mirror_state
    return kept, now


def _error(data: Mapping[str, Any], log: Path) -> HapxError:
    """The error that a stage reported, as it was raised there."""
    kind = getattr(errors, str(data["kind"]), HapxError)
    if kind is CommandError:
        error: HapxError = CommandError(str(data["message"]), returncode=1, hint=str(data["hint"]))
    else:
        error = kind(str(data["message"]), hint=str(data["hint"]))
    error.details = (*map(str, data["details"]), f"log: {log}")
    return error
