"""Documents of specs by hand: made, read back as YAML 1.1, and taken apart."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML

from builder.seed.documents import Documents, documents
from builder.seed.secrets import AUTHKEY, STATS_HASH, STATS_PASSWORD, Secret, Secrets
from builder.seed.templates import Templates
from builder.spec import Cluster
from tests.unit.spec_samples import changed, loaded, spec

AUTHKEY_BYTES = bytes(range(256))
HASH = "$6$saltsaltsaltsalt$thehashofthepassword./"
PASSWORD = "the-password-itself"
NOTHING_OWN = Path("/nonexistent")


def made_secrets(**more: bytes) -> Secrets:
    values = {AUTHKEY: AUTHKEY_BYTES, STATS_PASSWORD: PASSWORD.encode(), STATS_HASH: HASH.encode(), **more}
    return Secrets(MappingProxyType({name: Secret(name, value) for name, value in values.items()}))


SECRETS = made_secrets()


def read(text: str) -> Any:
    """What cloud-init and netplan read: YAML 1.1."""
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 1)
    return reader.load(text)


def render(
    cluster: Cluster, own: Path = NOTHING_OWN, secrets: Secrets = SECRETS, **options: Any
) -> tuple[Documents, ...]:
    return documents(cluster, secrets, Templates(own), **options)


def written(cluster: Cluster, path: str, own: Path = NOTHING_OWN, secrets: Secrets = SECRETS) -> str:
    """The content of a file that each node of the cluster gets."""
    (first, *others) = [read(node.texts["user-data"])["write_files"] for node in render(cluster, own, secrets)]
    assert all(other == first for other in others)
    (found,) = [entry["content"] for entry in first if entry["path"] == path]
    return str(found)


def haproxy_cfg(cluster: Cluster, own: Path = NOTHING_OWN, secrets: Secrets = SECRETS) -> str:
    return written(cluster, "/etc/haproxy/haproxy.cfg", own, secrets)


def section(configuration: str, head: str) -> list[str]:
    """The lines of a section of haproxy.cfg."""
    (found,) = [part for part in re.split(r"\n(?=\S)", configuration) if part.splitlines()[0] == head]
    return [line.strip() for line in found.splitlines()[1:] if line.strip()]


def edited(changes: dict[str, Any], nodes: int = 2, *versions: int) -> Cluster:
    return loaded(changed(spec(nodes, *versions), changes))


def own_configuration(folder: Path, name: str, content: str | bytes) -> Cluster:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return edited({"haproxy": {"config": str(path)}})
