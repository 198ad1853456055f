"""Specs -> seeds of their nodes -> CDs or folders; everything is known to be right before anything is made."""

from __future__ import annotations

import contextlib
import os
import secrets as randomness
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from builder.errors import InputError, OutputExistsError, Problem, UsageError
from builder.seed import iso, private, secrets
from builder.seed.documents import NAMES, Documents, documents
from builder.seed.files import needed_secrets
from builder.seed.network import Version
from builder.seed.secrets import Secret, Secrets
from builder.seed.templates import Templates
from builder.spec import load
from builder.spec.issues import nearest
from builder.spec.loading import spoken
from builder.spec.model import Cluster

ISO_SUFFIX = "-cidata.iso"


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A spec's file, and where the secrets of its cluster are kept."""

    path: Path
    secrets: Path


@dataclass(frozen=True, slots=True)
class SeedRequest:
    """Which nodes of which specs (without `hosts` all), and where their seeds go, if anywhere.

    CDs go to `output`: a folder or, for a single one, a file that ends in .iso. Plain files go to `folder`, for each
    node one below it. `new_instance`: cloud-init sets each node up once more.
    """

    specs: tuple[ClusterSpec, ...]
    hosts: tuple[str, ...] = ()
    output: Path | None = None
    folder: Path | None = None
    version: Version = Version.TWO
    new_instance: bool = False


@dataclass(frozen=True, slots=True)
class Seed:
    """A node's documents, and the secrets that may stand in them."""

    documents: Documents
    secrets: Secrets

    def masked(self) -> dict[str, str]:
        """The documents with *** for every secret."""
        values = list(self.secrets.values.values())
        return {name: secrets.mask(text, values) for name, text in self.documents.texts.items()}


@dataclass(frozen=True, slots=True)
class Written:
    """A CD, or a folder of documents, that was written: its size in bytes and, for a CD, the SHA-256 of the file."""

    path: Path
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The seeds that were asked for, where each goes (nothing where none does), and what a person should know."""

    seeds: tuple[Seed, ...]
    targets: tuple[Path, ...]
    notes: tuple[str, ...]


def prepare(request: SeedRequest, templates: Templates) -> Prepared:
    """The seeds; a cluster that has no secrets yet gets them, when all the rest is known to be right.

    Raises InputError: specs, hosts that are in none of them, templates, secrets, a place where nothing can be written;
    UsageError or OutputExistsError: other faults of targets.
    """
    clusters = [(spec, cluster) for spec, cluster in zip(request.specs, _load(request.specs), strict=True)]
    _check_hosts(request.hosts, clusters)
    wanted = [
        (spec, cluster, hosts)
        for spec, cluster in clusters
        if (hosts := {node.name for node in cluster.nodes if not request.hosts or node.name in request.hosts})
    ]
    targets = tuple(
        _targets(request, [node for _, cluster, hosts in wanted for node in _names(cluster) if node in hosts])
    )
    if targets:
        _check_place(targets[0].parent)
    suffix = randomness.token_hex(4) if request.new_instance else ""

    def made(cluster: Cluster, values: Secrets, hosts: set[str]) -> tuple[Documents, ...]:
        return documents(cluster, values, templates, hosts=hosts, version=request.version, suffix=suffix)

    notes = []
    for spec, cluster, hosts in wanted:
        if not spec.secrets.exists():
            made(cluster, _rehearsal(), hosts)
            notes.append(f"{spoken(spec.secrets)} holds the cluster's secrets from now on: keep it")
        if not cluster.ssh.trusted_ca and not any((*cluster.ssh.keys, *(user.keys for user in cluster.users))):
            notes.append(f"{spoken(spec.path)} names no SSH key and no authority: nobody will be able to log in")
    seeds = []
    for spec, cluster, hosts in wanted:
        values = secrets.load(spec.secrets, needed_secrets(cluster))
        seeds += [Seed(each, values) for each in made(cluster, values, hosts)]
    return Prepared(tuple(seeds), targets, tuple(notes))


def write_isos(prepared: Prepared) -> tuple[Written, ...]:
    """Write the CDs, mode 0600, in place of what is there: all of them, or none.

    Raises NoSpaceError, InputError (no right to write there), OSError.
    """
    timestamp = iso.default_timestamp()
    pairs = list(zip(prepared.seeds, prepared.targets, strict=True))
    with _workplace(prepared.targets[0].parent) as work:
        media = {work / target.name: seed.documents.encoded() for seed, target in pairs}
        made = iso.write_all(media, timestamp=timestamp)
        for target in prepared.targets:
            (work / target.name).replace(target)
    return tuple(Written(target, each.size, each.sha256) for target, each in zip(prepared.targets, made, strict=True))


def write_folders(prepared: Prepared) -> tuple[Written, ...]:
    """Write each node's documents into its folder, mode 0700, in place of older ones. Raises as `write_isos`."""
    written = []
    with _workplace(prepared.targets[0].parent) as work:
        for seed, target in zip(prepared.seeds, prepared.targets, strict=True):
            contents = seed.documents.encoded()
            (work / target.name).mkdir(mode=0o700)
            for name, data in contents.items():
                private.replace(work / target.name / name, data)
            written.append(Written(target, sum(map(len, contents.values())), None))
        for target in prepared.targets:
            if target.exists():
                target.rename(work / f"{target.name}.before")
            (work / target.name).rename(target)
    return tuple(written)


def _targets(request: SeedRequest, hosts: Sequence[str]) -> Iterator[Path]:
    if request.folder is not None:
        for host in hosts:
            target = request.folder / host
            others = sorted({path.name for path in target.iterdir()} - set(NAMES)) if target.is_dir() else []
            if others or (target.exists() and not target.is_dir()):
                what = f"holds {', '.join(others)}" if others else "is a file"
                raise OutputExistsError(f"{target}: {what}", hint="take it away, or name another folder")
            yield target
    elif request.output is not None and request.output.suffix != ".iso":
        yield from (request.output / f"{host}{ISO_SUFFIX}" for host in hosts)
    elif request.output is not None:
        if len(hosts) != 1:
            raise UsageError(f"--output {request.output}: one file for {len(hosts)} nodes", hint="name a folder")
        yield request.output


def _check_place(folder: Path) -> None:
    """Raise InputError where nothing could be written into a folder, be it there or not."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{folder}: {spoken(there)} is not a folder", hint="name another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: no right to write into {spoken(there)}", hint="name another folder")


def _names(cluster: Cluster) -> list[str]:
    return [node.name for node in cluster.nodes]


def _load(specs: Sequence[ClusterSpec]) -> list[Cluster]:
    clusters, errors = [], []
    for spec in specs:
        try:
            clusters.append(load(spec.path))
        except InputError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        problems = [problem for error in errors for problem in error.problems or (Problem("", error.message),)]
        raise InputError(f"errors in {len(errors)} cluster specs", problems)
    return clusters


def _check_hosts(hosts: Sequence[str], clusters: Sequence[tuple[ClusterSpec, Cluster]]) -> None:
    owners: dict[str, Path] = {}
    problems = []
    for spec, cluster in clusters:
        for node in cluster.nodes:
            if (other := owners.setdefault(node.name, spec.path)) != spec.path:
                problems.append(
                    Problem(
                        spoken(spec.path), f"the node {node.name} is in {spoken(other)} too", "one name for one node"
                    )
                )
    where = ", ".join(spoken(spec.path) for spec, _ in clusters)
    for host in dict.fromkeys(hosts):
        if host not in owners:
            problems.append(Problem(f"--host {host}", f"no such node in {where}", nearest(host, owners)))
    if problems:
        raise InputError("these seeds cannot be made", problems)


def _rehearsal() -> Secrets:
    """Stand-ins for secrets, to see whether documents can be made before the real ones are."""
    names = (
        secrets.AUTHKEY,
        secrets.STATS_PASSWORD,
        secrets.STATS_HASH,
        secrets.FENCING_KEY,
        secrets.QDEVICE_CERTIFICATE,
    )
    return Secrets(MappingProxyType({name: Secret(name, b"-") for name in names}))


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A folder of our own in `folder`, gone afterwards; and `folder` too, where it was made for it in vain."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        work = Path(tempfile.mkdtemp(prefix=".hapx-", dir=folder))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
