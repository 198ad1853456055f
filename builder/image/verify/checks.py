"""What `verify` looks for: the table of checks, and how a finding is kept.

The table drives the documentation and the severity of every finding; an id is never renamed once released, because
people filter on it in CI. Rules marked DSP0243 are from DMTF's OVF specification 1.1, those about disks from VMware's
"Virtual Disk Format 5.0"; the others are what importers are known to refuse although no standard says so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

SHOWN_PER_CHECK = 25  # of one kind in one file; a disk of rubbish would otherwise give a million lines
LONGEST_TEXT = 400  # characters of a message; names come from the file and may be anything


class Severity(StrEnum):
    """`error`: some importer refuses the OVA or gets another machine out of it. `warning`: it imports all the same."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Check:
    """One rule an OVA is held to."""

    severity: Severity
    description: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: which check, where in the file, what it is, what to do."""

    check: str
    severity: Severity
    where: str
    message: str
    hint: str

    def __str__(self) -> str:
        """One line for a person."""
        text = f"{self.severity}: {self.where}: {self.message} [{self.check}]"
        return f"{text} ({self.hint})" if self.hint else text


def _error(description: str) -> Check:
    return Check(Severity.ERROR, description)


def _warning(description: str) -> Check:
    return Check(Severity.WARNING, description)


CHECKS: dict[str, Check] = {
    # The archive
    "tar.format": _error("the file is an uncompressed tar archive"),
    "tar.header": _error("every member's header is sound: checksum, numbers, a size that can be"),
    "tar.magic": _error("headers are ustar headers (DSP0243: an OVA is a ustar archive)"),
    "tar.gnu": _warning("GNU headers only where a member of 8 GiB or more needs them"),
    "tar.pax": _error("no pax headers: vSphere, Fusion, ovftool and oVirt take them for the first member"),
    "tar.longname": _error("no GNU long-name headers"),
    "tar.size": _error("a size is written in octal; in base 256 only from 8 GiB on"),
    "tar.type": _error("members are regular files"),
    "tar.name": _error("names are flat: no folder, no ./, no .., not empty"),
    "tar.name-characters": _warning("names are letters, digits and . _ + = - (Proxmox VE refuses others)"),
    "tar.duplicate": _error("no name appears twice"),
    "tar.mode": _warning("mode 0644"),
    "tar.owner": _warning("owner and group 0"),
    "tar.padding": _warning("members are padded with zeros to 512 bytes"),
    "tar.truncated": _error("every member is there to its last byte"),
    "tar.end": _warning("two blocks of zeros end the archive (VirtualBox writes none)"),
    "tar.trailing": _error("nothing follows the end of the archive"),
    "tar.too-large": _error("descriptor, manifest and certificate have a size a reader can take into memory"),
    "tar.first": _error("the descriptor (.ovf) is the first member (DSP0243)"),
    "tar.order": _error("descriptor, manifest, certificate, then the files in the order of References (DSP0243)"),
    "tar.manifest-last": _warning("the manifest follows the descriptor; at the end it comes too late for a stream"),
    "tar.basename": _error("descriptor, manifest and certificate have the same base name (DSP0243)"),
    "tar.missing": _error("every file of References is in the archive"),
    "tar.extra": _error("nothing is in the archive that References does not list"),
    # The manifest and the signature
    "manifest.absent": _error("there is a manifest; the standard lets it out, but then nothing tells a damaged disk"),
    "manifest.format": _error("lines are `SHA256(name)= hex`: no space before (, one after =, lowercase, LF"),
    "manifest.algorithm": _error("digests are SHA1, SHA256 or SHA512"),
    "manifest.not-sha256": _warning("digests are SHA256: SHA1 proves nothing any more, and not everybody reads SHA512"),
    "manifest.digest": _error("digests are those of the members"),
    "manifest.incomplete": _error("descriptor and every file of References are listed"),
    "manifest.extra": _error("nothing else is listed, and nothing twice"),
    "cert.format": _error("a certificate file signs the manifest and holds a PEM certificate"),
    "cert.unchecked": _warning("a signature is not verified here: ask `openssl` or ovftool"),
    # The descriptor
    "ovf.absent": _error("there is a descriptor"),
    "ovf.xml": _error("the descriptor is well-formed XML without DTD and entities"),
    "ovf.version": _error("the root is an OVF 1 Envelope (OVF 2 is not read by VMware)"),
    "ovf.prefix": _error("the prefixes ovf, rasd, vssd and vmw are declared (Proxmox VE fails without vmw)"),
    "ovf.prefix-unused": _warning("the prefixes cim, xsi and vbox are declared as well"),
    "ovf.structure": _error("References, DiskSection, NetworkSection, then exactly one VirtualSystem"),
    "ovf.file": _error("every File has an id of its own and a flat href, and is stored whole"),
    "ovf.file-size": _error("ovf:size is the size of the file"),
    "ovf.file-size-absent": _warning("every File has an ovf:size (DSP0243 lets it out)"),
    "ovf.disk": _error("every Disk has an id of its own, a capacity, and a fileRef that exists"),
    "ovf.disk-format": _error("ovf:format of a Disk is the URI of streamOptimized VMDK"),
    "ovf.disk-order": _warning("disk ids sort in the order of the files (Fusion attaches by id)"),
    "ovf.disk-unused": _warning("every Disk is attached to the machine"),
    "ovf.units": _error("capacities are integers, in `byte` or `byte * b^n` (Proxmox VE reads nothing else)"),
    "ovf.capacity": _error("the capacity of a Disk is that of its file"),
    "ovf.hardware": _error("one VirtualHardwareSection that names its virtual system type"),
    "ovf.system-type": _warning("the virtual system type is one that VMware or VirtualBox knows"),
    "ovf.os": _error("one OperatingSystemSection with a numeric CIM id"),
    "ovf.item": _error("every Item has ElementName, ResourceType and an InstanceID of its own"),
    "ovf.item-order": _error("children of an Item stand in alphabetical order, vmw:Config after them"),
    "ovf.parent": _error("the Parent of an Item exists"),
    "ovf.host-resource": _error("HostResource is exactly ovf:/disk/ID or ovf:/file/ID, and the ID exists"),
    "ovf.address": _error("disks hang on a controller, each at an address of its own"),
    "ovf.controller": _warning("controllers are of a kind that every importer knows"),
    "ovf.cpu-memory": _error("one item each for CPU and memory, with a quantity"),
    "ovf.item-units": _warning("CPU in `hertz * 10^6`, memory in `byte * 2^20`"),
    "ovf.nic": _error("the Connection of a network card is in NetworkSection"),
    "ovf.nic-type": _warning("network cards are E1000, VirtioNet or PCNet32 (VirtualBox maps nothing else)"),
    "ovf.transport": _error("a machine with properties names the transport that brings them in"),
    "ovf.vbox-machine": _warning("no vbox:Machine: VirtualBox would ignore the rest of the descriptor"),
    "ovf.required": _warning("foreign elements carry ovf:required=false, else importers must refuse them (DSP0243)"),
    # The disk
    "vmdk.format": _error("a disk is a streamOptimized VMDK"),
    "vmdk.version": _error("version 3 (ESXi calls version 1 too old)"),
    "vmdk.flags": _error("flags: newline detector, compressed grains, markers"),
    "vmdk.redundant": _warning("no redundant grain directory (the specification has none in this subformat)"),
    "vmdk.newline": _error("the newline detector is intact"),
    "vmdk.compression": _error("compressAlgorithm is 1 (deflate)"),
    "vmdk.grain-size": _error("grainSize is 128 sectors"),
    "vmdk.table-size": _error("numGTEsPerGT is 512"),
    "vmdk.unclean": _warning("the disk was closed properly"),
    "vmdk.layout": _error("descriptor, directory and first grain lie inside the file, one after the other"),
    "vmdk.descriptor-place": _warning("the descriptor is at sector 1 and has 20 sectors, as every tool writes it"),
    "vmdk.capacity": _error("the capacity is a whole number of MiB, and not 0"),
    "vmdk.descriptor": _error("the embedded descriptor begins with `# Disk DescriptorFile` and has its keys"),
    "vmdk.extent": _error("one extent, `RW n SPARSE \"name\"`, n being the capacity in sectors"),
    "vmdk.cid": _error("CID is a content id (not ffffffff, not fffffffe), parentCID is ffffffff"),
    "vmdk.adapter": _warning("ddb.adapterType is lsilogic (qemu-img writes ide)"),
    "vmdk.ddb": _warning("the disk database has geometry, hardware and tools version, longContentID"),
    "vmdk.grain": _error("grains have an LBA inside the disk, on a grain's boundary"),
    "vmdk.grain-order": _error("grains come in ascending order, each once"),
    "vmdk.inflate": _error("every grain inflates to exactly one grain"),
    "vmdk.oversize": _error("a compressed grain is at most one sector longer than the grain"),
    "vmdk.zero-grain": _warning("grains of zeros are left out"),
    "vmdk.padding": _warning("header, descriptor, grains and markers are padded with zeros"),
    "vmdk.marker": _error("between grains there is nothing but markers"),
    "vmdk.eos": _error("the end-of-stream marker is the last sector"),
    "vmdk.trailing": _error("nothing follows the end-of-stream marker"),
    "vmdk.truncated": _error("the disk is there to its last byte"),
    "vmdk.directory": _error("the grain directory points to the grain tables"),
    "vmdk.table": _error("the grain tables point to the grains, every entry"),
    "vmdk.footer": _error("a disk with its directory at the end has a footer that repeats the header"),
    # What stands beside the OVA, where anything does
    "sums.absent": _warning("SHA256SUMS is there"),
    "sums.format": _error("SHA256SUMS is what sha256sum writes: `DIGEST  NAME` lines, each name once, no folders"),
    "sums.missing": _error("every file that SHA256SUMS lists is there"),
    "sums.digest": _error("digests in SHA256SUMS are those of the files"),
    "sums.incomplete": _error("SHA256SUMS lists the OVA, the build manifest, the lists of packages and the provenance"),
    "signature.absent": _error("where a key is given, SHA256SUMS is there, and signed"),
    "signature.wrong": _error("the signature of SHA256SUMS was made with that key"),
    "build.manifest": _error("the build manifest is there, and is one"),
    "build.digest": _error("the build manifest was written for this OVA"),
    "sbom.absent": _warning("both lists of packages are there: SPDX and CycloneDX"),
    "sbom.format": _error("the lists of packages can be read"),
    "sbom.digest": _error("the lists of packages describe this OVA"),
    "sbom.packages": _error("the lists of packages name what the build manifest names: no more, no less"),
    "provenance.absent": _warning("the provenance is there"),
    "provenance.format": _error("the provenance is an in-toto statement with SLSA's predicate, and can be read"),
    "provenance.subject": _error("the provenance has this OVA for its subject, and nothing else"),
    "provenance.packages": _error("the provenance names the packages that the build manifest names"),
}  # fmt: skip


class Findings:
    """Collects findings in the order they are made; of one kind in one file the first 25, and how many more."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._made: Counter[tuple[str, str]] = Counter()

    def add(self, check: str, subject: str, place: str, message: str, *, hint: str = "") -> None:
        """`subject` is the file inside the OVA, `place` where in it ("line 12", "sector 7", or nothing)."""
        self._made[check, subject] += 1
        if self._made[check, subject] <= SHOWN_PER_CHECK:
            self._keep(check, f"{subject}: {place}" if place else subject, message, hint)

    def full(self, check: str, subject: str) -> bool:
        """Whether a further finding of this kind would only be counted."""
        return self._made[check, subject] > SHOWN_PER_CHECK

    def all(self) -> tuple[Finding, ...]:
        """Everything found, with a line for what was only counted."""
        rest = [
            Finding(check, CHECKS[check].severity, printable(subject), f"and at least {more:,} more of this kind", "")
            for (check, subject), made in self._made.items()
            if (more := made - SHOWN_PER_CHECK) > 0
        ]
        return (*self._findings, *rest)

    def _keep(self, check: str, where: str, message: str, hint: str) -> None:
        severity = CHECKS[check].severity
        self._findings.append(Finding(check, severity, printable(where), printable(message), printable(hint)))


def printable(text: str) -> str:
    """The text on one line of at most 400 characters, without what would steer a terminal."""
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
