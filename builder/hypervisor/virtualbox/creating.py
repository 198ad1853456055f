"""The machine of `hapx-build create`: what create-image.sh and its three post-config scripts did, in their order.

A full clone of the base image with all its snapshots, the CD, network cards, additional disks, processors and memory.
Run again, it changes what differs. A clone that fails is removed, where the scripts went on with whatever machine had
the name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.errors import InputError
from builder.hypervisor import Converged
from builder.hypervisor.virtualbox import VirtualBox, mark, plan, storage
from builder.hypervisor.virtualbox.plan import Plug, Wanted
from builder.hypervisor.virtualbox.reading import Settings
from builder.seed.legacy import CreatePlan

GROUP = "/"
VRAM_MIB = 33  # post-config-resources.sh
IDE_SLOT = (1, 0)  # create-image.sh: port and device of the CD


def create(virtualbox: VirtualBox, planned: CreatePlan, base_image: str, cd: Path) -> Converged:
    """Make the machine, or what differs of it; it is not started. Raises as `Hypervisor.converge`."""
    found = virtualbox.own(planned.hostname)
    if found is not None:
        if (origin := mark.read_origin(found.description)) is not None and origin.cluster:
            raise InputError(f"{planned.hostname} is a machine of the cluster {origin.cluster}", hint="another name")
        done, later = _converge(virtualbox, planned, base_image, cd, found)
        return Converged(planned.hostname, False, tuple(done), tuple(later))
    source = virtualbox.manage.the_one(base_image)
    uuid = mark.fresh_uuid(planned.hostname)
    with virtualbox.undone(uuid, None):
        fresh = virtualbox.clone(source, planned.hostname, uuid, GROUP, linked=None)
        _converge(virtualbox, planned, base_image, cd, fresh)
    return Converged(planned.hostname, True, (f"full clone of {base_image}",))


def _converge(
    virtualbox: VirtualBox, planned: CreatePlan, base_image: str, cd: Path, found: Settings
) -> tuple[list[str], list[str]]:
    manage = virtualbox.manage
    resources = planned.resources
    wanted = Wanted(
        groups=found.groups,
        description=mark.of_created(planned.hostname, base_image),
        cpus=resources.processors if resources else None,
        memory_mib=resources.memory_mib if resources else None,
        plugs={each.slot: Plug(each.type, each.name, None, None, None) for each in planned.interfaces},
        vram_mib=VRAM_MIB if resources else None,
        cpu_hotplug=resources is not None,
        others=False,
    )
    steps = list(_disks(virtualbox, planned, found))
    part = storage.attach_cd(manage, found, cd, slot=_cd_slot(found, {step.port for step in steps}))
    changes = plan.changes(wanted, found, {}, manage.dialect)
    disks = storage.converge_disks(manage, found, steps)
    virtualbox.apply(found, changes)
    return [*part.done, *disks.done, *changes.done], [*part.later, *disks.later, *changes.later]


def _cd_slot(found: Settings, taken: set[int | None]) -> tuple[str, int, int]:
    """Where the CD goes: where ours is; where the scripts had it; else at a free port of the disks' controller."""
    for medium in found.media:
        if storage.is_cd(found, medium.path):
            return medium.controller, medium.port, medium.device
    ide = next((each.name for each in found.controllers if each.type in ("PIIX3", "PIIX4", "ICH6")), None)
    if ide is not None:
        return (ide, *IDE_SLOT)
    controller = plan.disk_controller(found)
    used = {medium.port for medium in found.media if medium.controller == controller.name}
    for port in reversed(range(controller.ports)):
        if port not in used and port not in taken:
            return controller.name, port, 0
    raise InputError(f"{found.name}: no room for a CD at {controller.name}")


def _disks(virtualbox: VirtualBox, planned: CreatePlan, found: Settings) -> Iterator[storage.DiskStep]:
    """What is to be done for each additional disk; it hangs at the port that its file says."""
    for each in planned.storages:
        path = found.folder / f"{planned.hostname}-disk-{each.port}.{each.format.lower()}"
        wanted = storage.DiskStep(path, each.size_mib, each.port, make=True, format=each.format, variant=each.variant)
        yield storage.step(virtualbox.manage, found, wanted)
