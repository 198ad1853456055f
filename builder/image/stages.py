"""The stages of a bake that run inside Packer: `python -m builder.image.stages STAGE`, called by packer/build.pkr.hcl.

A stage reads the plan named by HAPX_PLAN. What it tells goes to standard output as lines `@hapx {JSON}`, which come
back through Packer to the bake that started it; everything else it prints is Packer's log.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder import interrupts
from builder.errors import ExitCode, HapxError, NoSpaceError, UsageError, of_os_error
from builder.image import disk as disks
from builder.image import rootcache, rootfs, workplace
from builder.image.plan import RELEASES, BakePlan
from builder.progress import Reporter

MARKER = "@hapx "
PLAN_VARIABLE = "HAPX_PLAN"
WAITING = "another bake is at work on the same root file system: waiting for it"


@dataclass
class StageReporter(Reporter):
    """Sends events through Packer to the bake; progress at most ten times a second."""

    _last: float = field(default=0.0)

    def _show(self, event: str, **facts: Any) -> None:
        now = time.monotonic()
        if event == "progress":
            if now - self._last < 0.1 and facts["done"] < facts["total"]:
                return
            self._last = now
        print(MARKER + json.dumps({"event": event, **facts}), flush=True)  # noqa: T201 - this is the protocol


def log(line: str) -> None:
    """A line for Packer's log."""
    print(line, flush=True)  # noqa: T201 - this is the protocol


def root(plan: BakePlan, reporter: Reporter) -> None:
    """The root file system: from the cache where it is still what it would be, from mmdebstrap where not; unpacked."""

    def waiting() -> None:
        reporter.note(WAITING)

    entry = plan.root_cache
    before = rootcache.load(entry)
    with rootcache.locked(entry, waiting=waiting):
        state = rootcache.load(entry)
        # Another bake may have made it while this one waited.
        if state is None or (plan.refresh_root and state == before):
            with reporter.stage("bootstrap", title=f"Debian {plan.release}, {len(plan.packages)} packages and theirs"):
                state = rootfs.bootstrap(plan, on_progress=reporter.advance, on_line=log)
        else:
            reporter.note("root file system: from the cache, nothing in it changed")
            rootcache.used(entry)
        with reporter.stage("unpack", title="Unpack the root file system"):
            rootfs.unpack(plan)
    epoch = plan.epoch if plan.epoch is not None else state.date
    plan.facts("root").write_text(json.dumps({"mirror_state": state.mirror_state, "epoch": epoch}) + "\n")


def provision(plan: BakePlan, reporter: Reporter, script: Path) -> None:
    """One provisioning script, inside the root."""
    names = ("DEBIAN_FRONTEND", "LC_ALL")
    env = {name: value for name, value in os.environ.items() if name in names or name.startswith("HAPX_")}
    env.pop(PLAN_VARIABLE)
    env["SOURCE_DATE_EPOCH"] = str(_facts(plan, "root")["epoch"])
    with reporter.stage(script.stem, title=f"Provision: {script.stem}"):
        rootfs.provision(plan, script, env=env, on_line=log)


def disk(plan: BakePlan, reporter: Reporter) -> None:
    """The disk that boots, from the root."""
    with reporter.stage("disk", title="Partitions, boot loaders, file systems"):
        disks.build(plan, epoch=_facts(plan, "root")["epoch"], on_line=log)


def adopt(plan: BakePlan, reporter: Reporter) -> None:
    """The disk of a virtual machine that has been provisioned and switched off, packaged."""
    from builder.image import machine

    with reporter.stage("adopt", title="Take the machine's disk"):
        machine.adopt(plan)
    package(plan, reporter)


def package(plan: BakePlan, reporter: Reporter) -> None:
    """VMDK, OVF and OVA, from the disk, in one pass."""
    from builder.image import ova, ovf

    debian = RELEASES[plan.release]
    appliance = ovf.Appliance(
        name=plan.name,
        product="HAProxy cluster node",
        vendor="hapx-build",
        version=plan.version,
        full_version=f"{plan.version} (Debian {debian} {plan.release}, {plan.arch})",
        description="HAProxy, Corosync and Pacemaker, waiting for a NoCloud seed that says which cluster.",
        cpus=plan.cpus,
        memory_mib=plan.memory_mib,
        vmw_os_type="debian12_64Guest" if debian == 12 else "other4xLinux64Guest",
    )
    with reporter.stage("package", title="VMDK, OVF, OVA"):
        info = ova.write(
            plan.disk,
            plan.made,
            appliance,
            timestamp=_facts(plan, "root")["epoch"],
            on_progress=lambda done, total: reporter.advance(done, total, unit="B"),
        )
    plan.facts("package").write_text(json.dumps(dataclasses.asdict(info), default=str) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run one stage; returns its exit code. An error goes to the bake as an event, whole."""
    interrupts.unwind()
    main_thread = threading.get_ident()
    os.umask(0o022)  # what is made in the image is for everybody to read, whatever the baker's own files are
    try:
        plan = BakePlan.read(Path(os.environ[PLAN_VARIABLE]))
        workplace.when_abandoned(Path(plan.work), lambda: signal.pthread_kill(main_thread, signal.SIGTERM))
        try:
            _run(plan, list(arguments))
        except OSError as error:
            raise _explained(error, plan, arguments[0]) from error
    except HapxError as error:
        facts = {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "details": error.details}
        print(MARKER + json.dumps({"event": "error", **facts}), flush=True)  # noqa: T201 - this is the protocol
        return int(error.exit_code)
    return int(ExitCode.OK)


def _run(plan: BakePlan, arguments: list[str]) -> None:
    reporter = StageReporter()
    stages: dict[str, Callable[[BakePlan, Reporter], None]] = {
        "root": root,
        "disk": disk,
        "package": package,
        "adopt": adopt,
    }
    match arguments:
        case ["provision", script]:
            provision(plan, reporter, Path(script))
        case [name] if name in stages:
            stages[name](plan, reporter)
        case _:
            raise UsageError(f"no such stage: {' '.join(arguments)}")


def _explained(error: OSError, plan: BakePlan, stage: str) -> Exception:
    """The error that a person can act on, or the one that came."""
    explained = of_os_error(error)
    if isinstance(explained, NoSpaceError):
        places = {"TMPDIR": plan.work, "--output": plan.staging, "XDG_CACHE_HOME": plan.cache}
        return workplace.full({name: Path(place) for name, place in places.items()}, doing=stage)
    return explained or error


def _facts(plan: BakePlan, stage: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(plan.facts(stage).read_text())
    return facts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
