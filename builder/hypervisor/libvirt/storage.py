"""Our storage pool on a host: base volumes, nodes' disks, their CDs, what their consoles said.

    NAME.base.SHA256.qcow2    an imported OVA; whole once there is a volume NAME.base.SHA256.whole
    NODE.system.qcow2         a node's disk, over a base or a copy of one
    NODE.disk.NAME.qcow2      a further disk
    NODE.seed.DIGEST.iso      its CD
    NODE.console.log          what it said on its serial console (and NODE.console.log.0, what it said before)

libvirt keeps no notes on a volume, and gives a volume only one name for life: what there is to know is in the name.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from builder.errors import CommandError, InputError
from builder.hypervisor import Base
from builder.hypervisor.libvirt.virsh import AbsentError, Virsh, child, one_of

POOL = "hapx"
TARGET = "/var/lib/libvirt/images/hapx"
UPLOAD_SECONDS = 3600.0

_BASE = re.compile(r"(?P<name>.+)\.base\.(?P<sha256>[0-9a-f]{64})\.(?P<kind>qcow2|whole)")
_OF_NODE = r"{}\.(?:system\.qcow2|nvram\.fd|disk\.[^.]+\.qcow2|seed\.[0-9a-f]{{16}}\.iso|console\.log(?:\.\d+)?)"


@dataclass(frozen=True, slots=True)
class Place:
    """The pool's folder on its host, and the paths of what lies in it."""

    folder: PurePosixPath

    def path(self, volume: str) -> str:
        """A volume's path on the host."""
        return str(self.folder / volume)


def base_volume(base: Base) -> str:
    """The volume of an imported OVA."""
    return f"{base.name}.base.{base.sha256}.qcow2"


def system_volume(node: str) -> str:
    """The volume with a node's system."""
    return f"{node}.system.qcow2"


def disk_volume(node: str, disk: str) -> str:
    """The volume of a further disk."""
    return f"{node}.disk.{disk}.qcow2"


def nvram_volume(node: str) -> str:
    """The file with what a node's UEFI keeps when it is off."""
    return f"{node}.nvram.fd"


def console_volume(node: str) -> str:
    """The file with what a node said on its console."""
    return f"{node}.console.log"


def seed_volume(node: str, data: bytes) -> str:
    """The volume of a node's CD, named after what is on it."""
    return f"{node}.seed.{hashlib.sha256(data).hexdigest()[:16]}.iso"


class Storage:
    """The pool, made where it is missing. Its methods are for one thread at a time."""

    def __init__(self, virsh: Virsh) -> None:
        self._virsh = virsh

    def volumes(self) -> list[str]:
        """The names of all volumes; none where there is no pool. What came and went behind libvirt is seen."""
        try:
            self._refresh()
            listing = self._virsh.run("vol-list", "--pool", POOL)
        except AbsentError:
            return []
        except CommandError as error:
            if "is not active" not in " ".join(error.details):
                raise
            self._virsh.run("pool-start", POOL, "--build")
            listing = self._virsh.run("vol-list", "--pool", POOL)
        return [line.split()[0] for line in listing.splitlines() if line.strip()]

    def of_node(self, node: str) -> list[str]:
        """The names of all volumes that belong to a node."""
        return [match.group() for match in one_of(self.volumes(), re.compile(_OF_NODE.format(re.escape(node))))]

    def place(self) -> Place:
        """Where the pool is. Raises InputError for one of that name that is no folder, AbsentError where it is not."""
        found = self._virsh.xml("pool-dumpxml", POOL)
        if found is None:
            raise AbsentError(f"{self._virsh.uri}: there is no storage pool {POOL}")
        path = found.findtext("target/path")
        if found.get("type") != "dir" or not path:
            message = f"{self._virsh.uri}: the storage pool {POOL} is no folder, but of type {found.get('type')}"
            raise InputError(message, hint=f"give it another name: virsh pool-undefine {POOL}, pool-define")
        return Place(PurePosixPath(path))

    def prepare(self) -> Place:
        """The pool, made and started where it is not yet. Raises as `place` does."""
        if self._virsh.find("pool-uuid", POOL) is None:
            pool = Element("pool", type="dir")
            child(pool, "name", POOL)
            target = child(pool, "target")
            child(target, "path", TARGET)
            child(child(target, "permissions"), "mode", "0711")
            self._virsh.take("pool-define", pool)
        place = self.place()
        if (info := self._virsh.run("pool-info", POOL)) and not re.search(r"^State: +running$", info, re.MULTILINE):
            self._virsh.run("pool-start", POOL, "--build")
        if not re.search(r"^Autostart: +yes$", info, re.MULTILINE):
            self._virsh.run("pool-autostart", POOL)
        return place

    def bases(self) -> list[Base]:
        """The imported OVAs that are whole."""
        found: dict[Base, set[str]] = {}
        for match in one_of(self.volumes(), _BASE):
            found.setdefault(Base(match["name"], match["sha256"]), set()).add(match["kind"])
        return [base for base, kinds in found.items() if len(kinds) == 2]

    def add_base(self, base: Base, image: Path, *, capacity: int) -> None:
        """Upload a base's qcow2; `capacity` is the size in bytes that a guest sees."""
        volume = base_volume(base)
        self.remove(volume)
        self._create(volume, capacity, "qcow2", mode="0644")
        self._upload(volume, image)
        self._create(volume.removesuffix("qcow2") + "whole", 0, "raw", mode="0600")

    def remove_base(self, base: Base) -> None:
        """Remove a base; what is left when this is cut off counts as none."""
        volume = base_volume(base)
        self.remove(volume.removesuffix("qcow2") + "whole")
        self.remove(volume)

    def half_made_bases(self) -> list[Base]:
        """Those whose upload was cut off."""
        whole = set(self.bases())
        seen = [Base(match["name"], match["sha256"]) for match in one_of(self.volumes(), _BASE)]
        return [base for base in dict.fromkeys(seen) if base not in whole]

    def add_overlay(self, volume: str, base: Base, place: Place) -> None:
        """A disk that keeps what differs from a base's."""
        capacity, _ = self.sizes(base_volume(base))
        self._create(volume, capacity, "qcow2", mode="0600", backing=place.path(base_volume(base)))

    def add_copy(self, volume: str, base: Base) -> None:
        """A disk that is a full copy of a base's."""
        document = self._document(volume, self.sizes(base_volume(base))[0], "qcow2", mode="0600")
        self._virsh.run(
            *("vol-create-from", "--pool", POOL, "/dev/stdin", "--inputpool", POOL, base_volume(base)),
            input=_text(document),
            timeout=UPLOAD_SECONDS,
        )

    def add_disk(self, volume: str, size_mib: int) -> None:
        """An empty disk, thin."""
        self._create(volume, size_mib << 20, "qcow2", mode="0600")

    def grow(self, volume: str, size_mib: int) -> None:
        """Make a disk larger."""
        self._virsh.run("vol-resize", "--pool", POOL, volume, f"{size_mib}MiB")

    def add_file(self, volume: str, file: Path) -> None:
        """A file as it is, for its owner alone."""
        self.remove(volume)
        self._create(volume, file.stat().st_size, "raw", mode="0600")
        self._upload(volume, file)

    def sizes(self, volume: str) -> tuple[int, int]:
        """What a guest sees of a volume, and what it takes, in bytes. Raises AbsentError."""
        text = self._virsh.run("vol-info", "--pool", POOL, volume, "--bytes")
        capacity, allocation = (re.search(rf"^{key}: +(\d+)", text, re.MULTILINE) for key in ("Capacity", "Allocation"))
        return int(capacity[1]) if capacity else 0, int(allocation[1]) if allocation else 0

    def read(self, volume: str) -> str:
        """A volume's contents as text; empty where it is not there."""
        try:
            return self._virsh.run("vol-download", "--pool", POOL, volume, "/dev/stdout")
        except AbsentError:
            return ""

    def remove(self, volume: str) -> bool:
        """Delete a volume; False where it is not there."""
        return self._virsh.find("vol-delete", "--pool", POOL, volume) is not None

    def _create(self, volume: str, size: int, kind: str, *, mode: str, backing: str = "") -> None:
        document = self._document(volume, size, kind, mode=mode, backing=backing)
        self._virsh.run("vol-create", "--pool", POOL, "/dev/stdin", input=_text(document))

    @staticmethod
    def _document(volume: str, size: int, kind: str, *, mode: str, backing: str = "") -> Element:
        document = Element("volume")
        child(document, "name", volume)
        child(document, "capacity", str(size), unit="bytes")
        child(document, "allocation", "0")
        target = child(document, "target")
        child(target, "format", type=kind)
        child(child(target, "permissions"), "mode", mode)
        if backing:
            store = child(document, "backingStore")
            child(store, "path", backing)
            child(store, "format", type="qcow2")
        return document

    def _upload(self, volume: str, file: Path) -> None:
        self._virsh.run("vol-upload", "--pool", POOL, volume, str(file), timeout=UPLOAD_SECONDS)

    def _refresh(self) -> None:
        try:
            self._virsh.run("pool-refresh", POOL)
        except CommandError as error:
            # Somebody else's upload is under way (its end refreshes the pool), or a file went while it was looked at.
            if not re.search("asynchronous jobs|cannot open volume|cannot stat", " ".join(error.details)):
                raise


def _text(document: Element) -> str:
    from xml.etree.ElementTree import tostring

    return tostring(document, encoding="unicode")
