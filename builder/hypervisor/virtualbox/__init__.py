"""VirtualBox through VBoxManage, on this machine or on one reached by SSH."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from builder import interrupts, remote
from builder.errors import HapxError, InputError
from builder.hypervisor import Base, Converged, Found, Machine, Progress, State
from builder.hypervisor.virtualbox import mark, plan, said, storage
from builder.hypervisor.virtualbox.bases import SNAPSHOT, Bases
from builder.hypervisor.virtualbox.hostonly import HostOnlyNetworks
from builder.hypervisor.virtualbox.manage import LOCKED, LONG, POLL, QUICK, SETTLE, Manage
from builder.hypervisor.virtualbox.plan import Wanted
from builder.hypervisor.virtualbox.reading import Card, Settings

SERIAL = "console.log"


class VirtualBox:
    """One VirtualBox; meets `Hypervisor`. `uri` is ssh://…, or None for this machine. Takes several threads at once."""

    def __init__(self, uri: str | None = None) -> None:
        self._place = remote.place(uri)
        self._manage = Manage(self._place)
        self._host_only = HostOnlyNetworks(self._manage)
        self._bases = Bases(self._manage)
        self._cloning = threading.Lock()  # VirtualBox refuses a second clone of a base that it is cloning

    @property
    def where(self) -> str:
        """See `Hypervisor`."""
        return self._place.where

    @property
    def manage(self) -> Manage:
        """VBoxManage itself."""
        return self._manage

    @contextlib.contextmanager
    def alone(self, *, on_wait: Callable[[], None]) -> Iterator[None]:
        """See `Hypervisor`."""
        with self._place.alone("virtualbox", on_wait=on_wait):
            self._manage.forget()  # others made and removed machines until now
            yield

    def bases(self) -> Sequence[Base]:
        """See `Hypervisor`."""
        return self._bases.all()

    def import_base(self, ova: Path, base: Base, *, on_progress: Progress | None = None) -> bool:
        """See `Hypervisor`."""
        return self._bases.add(ova, base, on_progress=on_progress)

    def remove_base(self, name: str) -> None:
        """See `Hypervisor`."""
        self._bases.remove(name)

    def machines(self, cluster: str | None = None) -> Sequence[Found]:
        """See `Hypervisor`."""
        ours = [uuid for name, uuid in self._manage.machines_lately() if mark.is_ours(uuid, name)]
        found = [_found(settings) for settings in self._manage.all(ours)]
        return [each for each in found if cluster is None or each.cluster == cluster]

    def converge(self, machine: Machine) -> Converged:
        """See `Hypervisor`."""
        # What can be wrong with the input is found before anything is made.
        plan.plugs(machine.nics, {nic.network: ("hostonly", "") for nic in machine.nics})
        found = self.own(machine.name, fresh=False)
        if found is not None and _is_untouched(found) and mark.read_base(found.description) != machine.base:
            # A clone of another base that was never made into anything.
            storage.check_children(self._manage, found)
            self._manage.unregister(found)
            found = None
        if found is not None and (origin := mark.read_origin(found.description)) and origin.cluster != machine.cluster:
            raise InputError(
                f"{self.where}: {machine.name} is a machine of "
                + (f"the cluster {origin.cluster}" if origin.cluster else "hapx-build create"),
                hint="destroy that one first, or name this node otherwise",
            )
        host_only = self._host_only.resolve(machine.cluster, machine.nics)
        if found is not None:
            return self._converge(machine, found, host_only, self._manage.promiscuous(found.uuid))
        source = self._bases.source(machine.base)
        uuid = mark.fresh_uuid(machine.name)
        group = mark.group(machine.cluster)
        with self.undone(uuid, self._expected(source, group, machine.name)):
            with self._cloning:
                fresh = self.clone(source, machine.name, uuid, group, linked=machine.linked)
            self._manage.note(machine.name, uuid)
            self._converge(machine, fresh, host_only, {})
        kind = "linked clone" if machine.linked else "full clone"
        return Converged(machine.name, True, (f"{kind} of {machine.base.name}",))

    def start(self, name: str) -> bool:
        """See `Hypervisor`."""
        found = self._our(name)
        match found.state:
            case State.RUNNING | State.STARTING:
                return False
            case State.PAUSED:
                self._manage.run("controlvm", found.uuid, "resume")
            case _:
                self._manage.run("startvm", found.uuid, "--type", "headless", timeout=QUICK)
        return True

    def stop(self, name: str, *, timeout: float) -> bool:
        """See `Hypervisor`."""
        found = self._our(name)
        if not _is_on(found):
            return False
        if found.state is State.PAUSED:
            self._manage.run("controlvm", found.uuid, "resume")
        if timeout > 0 and found.state is not State.BROKEN:
            self._manage.run("controlvm", found.uuid, "acpipowerbutton")
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline:
                time.sleep(POLL)
                if not _is_on(self._our(name)):
                    return True
        self.power_off(name)
        return True

    def power_off(self, name: str) -> bool:
        """See `Hypervisor`."""
        found = self._our(name)
        if not _is_on(found):
            return False
        self._manage.run("controlvm", found.uuid, "poweroff")
        deadline = time.monotonic() + LOCKED
        while _is_on(self._our(name)) and time.monotonic() < deadline:
            time.sleep(POLL)
        return True

    def destroy(self, name: str) -> bool:
        """See `Hypervisor`. A machine of that name that is not ours is in the way: InputError."""
        found = self.own(name)
        if found is None:
            return False
        storage.check_children(self._manage, found)
        if _is_on(found):
            self.power_off(name)
        storage.remove_detached(self._manage, found)
        self.remove(found)
        return True

    def remove(self, found: Settings) -> None:
        """Remove a machine that is off, its disks, and the files that we put into its folder."""
        media = [medium for medium in found.media if storage.is_cd(found, medium.path)]
        # What is secret goes first: a run that is cut off here leaves a machine without a CD, and no CD without one.
        storage.remove_cds(self._manage, found)
        self._place.run(["rm", "-f", "--", str(found.folder / SERIAL)], timeout=QUICK)
        self._manage.unregister(found)
        for medium in media:
            self._manage.run("closemedium", "dvd", medium.path, check=False)
        # The cluster's folder, with its last machine.
        self._place.run(["rmdir", "--", str(found.folder.parent)], timeout=QUICK, check=False)

    def destroy_networks(self, cluster: str) -> Sequence[str]:
        """See `Hypervisor`."""
        return self._host_only.remove(cluster)

    def console(self, name: str) -> Sequence[str]:
        """See `Hypervisor`."""
        return self._place.interactive(["tail", "-n", "+1", "-F", str(self._our(name).folder / SERIAL)])

    def console_tail(self, name: str, lines: int) -> Sequence[str]:
        """See `Hypervisor`."""
        file = str(self._our(name).folder / SERIAL)
        result = self._place.run(["tail", "-n", str(lines), "--", file], timeout=QUICK, check=False)
        return result.stdout.splitlines()

    def ask(self, name: str, argv: Sequence[str], *, timeout: float) -> str | None:
        """See `Hypervisor`. Never answers: VirtualBox' own guest additions are not in the image."""
        return None

    def clone(self, source: Settings, name: str, uuid: str, group: str, *, linked: bool | None) -> Settings:
        """Clone a machine, from its snapshot where `linked` is said or denied, else all of it; its settings, unread.

        What is left of one that was cut off there, and that VirtualBox does not know, is taken away.
        """
        flags = [f"--name={name}", f"--uuid={uuid}", f"--groups={group}", "--register"]
        if linked is None:
            flags.append("--mode=all")
        else:
            flags += [f"--snapshot={SNAPSHOT}", "--options=link" if linked else "--mode=machine"]
        expected = self._expected(source, group, name)
        if expected is not None:
            flags.append(f"--basefolder={expected.parents[2]}")
        argv = ["clonevm", source.uuid, *flags]
        result = self._manage.run(*argv, timeout=LONG, check=False)
        if result.returncode != 0:
            if expected is None or not said.is_in_the_way(result):
                raise said.error(result, self.where)
            storage.make_way(self._manage, expected)
            self._manage.run(*argv, timeout=LONG)
        if expected is None:
            settings = self._manage.settings(uuid)
            if settings is None:
                raise HapxError(f"{self.where}: {name} is gone, just after it was made")
            return settings
        # Nothing is known of what a snapshot's settings are: these differ from everything that is wanted.
        unknown = {slot: Card("", None, "", "", cable=False) for slot in range(1, plan.SLOTS + 1)}
        return replace(
            source,
            uuid=uuid,
            name=name,
            groups=(),
            config=expected / f"{name}.vbox",
            state=State.OFF,
            cpus=0,
            memory_mib=0,
            firmware="",
            cards=unknown,
            media=(),
            serial=("off", ""),
            snapshots=frozenset(),
        )

    def apply(self, found: Settings, changes: plan.Changes) -> None:
        """Make changes to a machine's settings."""
        if changes.modify:
            self._manage.run("modifyvm", found.uuid, *changes.modify)
        for each in changes.control:
            self._manage.run("controlvm", found.uuid, *each)

    def _converge(
        self, machine: Machine, found: Settings, host_only: dict[str, tuple[str, str]], modes: dict[int, str]
    ) -> Converged:
        wanted = Wanted(
            groups=(mark.group(machine.cluster),),
            description=mark.of_node(machine.cluster, machine.name, self._base_of(machine, found)),
            cpus=machine.cpus,
            memory_mib=machine.memory_mib,
            firmware=machine.firmware,
            plugs=plan.plugs(machine.nics, host_only),
            serial=found.folder / SERIAL,
        )
        if found.state not in (State.OFF, State.RUNNING, State.PAUSED, State.BROKEN):
            first = "wait until that is over"
            if found.state is State.SAVED:
                first = f"hapx-build start resumes it, VBoxManage discardstate {machine.name} is the plug"
            raise InputError(f"{self.where}: {machine.name} is {found.state}", hint=f"{first}; then run this again")
        changes = plan.changes(wanted, found, modes, self._manage.dialect)
        disks = storage.plan_disks(self._manage, found, machine.disks)
        self.apply(found, changes)
        done, later = list(changes.done), list(changes.later)
        if wanted.description != mark.of_node(machine.cluster, machine.name, machine.base.name):
            later.append(f"base: stays {self._base_of(machine, found)}; destroy it and clone it again for another")
        for part in (
            storage.attach_cd(self._manage, found, machine.seed),
            storage.converge_disks(self._manage, found, disks),
        ):
            done += part.done
            later += part.later
        return Converged(machine.name, False, tuple(done), tuple(later))

    @staticmethod
    def _base_of(machine: Machine, found: Settings) -> str:
        """The base that a machine was made from: it keeps that one, whatever the spec says by now."""
        origin = mark.read_origin(found.description)
        return origin.base if origin is not None else machine.base.name

    @contextlib.contextmanager
    def undone(self, uuid: str, folder: PurePosixPath | None) -> Iterator[None]:
        """A new machine: gone again where the block fails or is interrupted."""
        try:
            yield
        except BaseException:
            with interrupts.held(), contextlib.suppress(HapxError):
                self._undo(uuid, folder)
            raise

    def _undo(self, uuid: str, folder: PurePosixPath | None) -> None:
        """Take a new machine away, or what VirtualBox's daemon may still make of one that was cut off."""
        deadline = time.monotonic() + SETTLE
        while (found := self._manage.settings(uuid)) is None:
            if folder is not None:
                storage.sweep(self._manage, folder)
            if time.monotonic() >= deadline:
                return
            time.sleep(POLL)
        self.remove(found)

    @staticmethod
    def _expected(source: Settings, group: str, name: str) -> PurePosixPath | None:
        """The folder of a clone: beside its base, where that is in the group of the bases; else VirtualBox chooses."""
        bases = PurePosixPath(mark.BASES)
        if source.folder.parts[-3:-1] != bases.parts[1:]:
            return None
        return source.folder.parents[2] / group.lstrip("/") / name

    def own(self, name: str, *, fresh: bool = True) -> Settings | None:
        """Our machine of that name, None where there is none of that name; InputError where it is somebody else's."""
        listed = self._manage.machines() if fresh else self._manage.machines_lately()
        uuids = [uuid for each, uuid in listed if each == name]
        if len(uuids) > 1 or not all(mark.is_ours(uuid, name) for uuid in uuids):
            raise mark.in_the_way(self.where, name)
        return self._manage.settings(uuids[0]) if uuids else None

    def _our(self, name: str) -> Settings:
        """Our machine of that name; raises InputError where there is none."""
        found = self.own(name)
        if found is None:
            raise InputError(f"{self.where}: there is no machine {name}", hint=f"hapx-build clone --host {name}")
        return found


def _found(settings: Settings) -> Found:
    origin = mark.read_origin(settings.description)
    if origin is None:
        # Never got further than clonevm: its folder is named after its cluster.
        state = State.BROKEN if _is_untouched(settings) else settings.state
        return Found(settings.folder.parent.name, settings.name, state, "")
    return Found(origin.cluster, settings.name, settings.state, origin.base)


def _is_untouched(settings: Settings) -> bool:
    """Whether it is a clone and nothing more yet: it still says of itself what its base does."""
    return mark.read_base(settings.description) is not None and settings.state is State.OFF


def _is_on(settings: Settings) -> bool:
    if settings.state is State.BROKEN:
        # A guest that crashed still holds its process; one whose process is gone ("aborted") is off.
        return settings.crashed
    return settings.state not in (State.OFF, State.SAVED)
