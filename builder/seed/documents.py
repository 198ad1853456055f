"""Spec and secrets -> the NoCloud documents of each node: meta-data, user-data, network-config."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.errors import InputError, Problem
from builder.seed import files, nocloud
from builder.seed.network import Version, network_config
from builder.seed.secrets import Secrets
from builder.seed.templates import Templates
from builder.spec import derived
from builder.spec.model import Cluster, Node, User

NAMES = ("meta-data", "user-data", "network-config")


@dataclass(frozen=True, slots=True)
class Documents:
    """A node's documents by name, and the id by which cloud-init knows whether it has seen them."""

    host: str
    instance_id: str
    texts: Mapping[str, str] = field(repr=False)

    def encoded(self) -> dict[str, bytes]:
        """The documents as the bytes of files."""
        return {name: text.encode() for name, text in self.texts.items()}


def documents(
    cluster: Cluster,
    secrets: Secrets,
    templates: Templates,
    *,
    hosts: Collection[str] | None = None,
    version: Version = Version.TWO,
    suffix: str = "",
) -> tuple[Documents, ...]:
    """The documents of the nodes named in `hosts`, in the spec's order; None: of all.

    The same input gives the same text. The instance-id is the host's name and a digest of its other documents, so
    that cloud-init sets the node up again when any of them has changed; with `suffix`, a word, also when none has.
    `version` is that of the network-config. Raises InputError for templates, with file and line.
    """
    shared = {
        "cluster": cluster,
        "cluster_settings": _cluster_settings(cluster),
        "files": [file.as_data() for file in files.cluster_files(cluster, secrets, templates)],
        "secrets": secrets.values,
    }
    made, problems = [], []
    for node in cluster.nodes:
        if hosts is not None and node.name not in hosts:
            continue
        own = {
            "node": node,
            "node_settings": _node_settings(cluster, node),
            "network_config": network_config(cluster, node, version),
        }
        texts = {name: templates.render(f"{name}.j2", {**shared, **own}) for name in NAMES[1:]}
        instance_id = f"{node.name}-{_digest(texts)}" + (f"-{suffix}" if suffix else "")
        metadata = {"instance-id": instance_id, "local-hostname": node.name}
        meta_data = templates.render("meta-data.j2", {"cluster": cluster, "node": node, "metadata": metadata})
        made.append(Documents(node.name, instance_id, {"meta-data": meta_data, **texts}))
        problems += _check_own(made[-1], templates)
    if problems:
        raise InputError("templates of yours give documents that cloud-init does not take", problems)
    return tuple(made)


def _node_settings(cluster: Cluster, node: Node) -> dict[str, Any]:
    return {
        # Pacemaker calls a node what `uname -n` says, Corosync what nodelist says: both the short name.
        "hostname": node.name,
        "fqdn": derived.fqdn(cluster, node),
        "prefer_fqdn_over_hostname": False,
    }


def _cluster_settings(cluster: Cluster) -> dict[str, Any]:
    settings: dict[str, Any] = {
        # /etc/hosts is one of the files, with every node's name in it.
        "manage_etc_hosts": False,
        "timezone": cluster.timezone,
        "users": [_user(user, cluster.ssh.keys if user is cluster.users[0] else ()) for user in cluster.users],
        "disable_root": True,
        # A changed seed is a new instance to cloud-init, but the node is the same one, and known by its keys. The image
        # has none, so each node's are its own all the same.
        "ssh_deletekeys": False,
        # The image has all it needs: a node that forms a cluster asks nobody on the internet.
        "package_update": False,
        "package_upgrade": False,
    }
    if cluster.time_servers:
        settings["ntp"] = {"enabled": True, "ntp_client": "chrony", "servers": list(cluster.time_servers)}
    return settings


def _user(user: User, administrators: tuple[str, ...]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": user.name, "shell": "/bin/bash", "lock_passwd": True}
    if user.sudo:
        entry["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
    if keys := list(dict.fromkeys((*administrators, *user.keys))):
        entry["ssh_authorized_keys"] = keys
    return entry


def _digest(texts: Mapping[str, str]) -> str:
    whole = hashlib.sha256()
    for name in sorted(texts):
        data = texts[name].encode()
        whole.update(f"{name}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()[:16]


def _check_own(made: Documents, templates: Templates) -> list[Problem]:
    """What cloud-init would not take of documents whose templates are the user's; ours are tested."""
    own = [name for name in NAMES if templates.is_own(f"{name}.j2")]
    return [
        problem
        for name in own
        for problem in nocloud.check(
            name, made.texts[name].encode(), f"{name} of {made.host}, by {templates.where(f'{name}.j2')}"
        )
    ]
