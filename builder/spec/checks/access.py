"""Who may log in, and what names mean on a node."""

from __future__ import annotations

from collections.abc import Iterator

from builder.spec import derived
from builder.spec.checks.repeated import repeated
from builder.spec.issues import Issue
from builder.spec.model import Cluster

# Accounts that are in the image before anybody's: Debian's own (base-passwd) and those of its packages.
_SYSTEM_ACCOUNTS = {
    "_apt", "_chrony", "backup", "bin", "daemon", "games", "hacluster", "haproxy", "irc", "list", "lp", "mail", "man",
    "messagebus", "news", "nobody", "polkitd", "proxy", "root", "sshd", "sync", "sys", "systemd-network",
    "systemd-resolve", "systemd-timesync", "uucp", "www-data",
}  # fmt: skip


def check(cluster: Cluster) -> Iterator[Issue]:
    """Every issue with accounts and with /etc/hosts."""
    users = list(enumerate(cluster.users))
    yield from repeated("user", ((("users", place, "name"), user.name) for place, user in users))
    for place, user in users:
        if user.name in _SYSTEM_ACCOUNTS:
            yield Issue(("users", place, "name"), f"{user.name} is an account of the system's own", "another name")
    own = {name: node.name for node in cluster.nodes for name in (node.name, derived.fqdn(cluster, node))}
    for name in cluster.hosts:
        if name in own or name == "localhost":
            yield Issue(
                ("hosts", name), f"{name} is known already: {own.get(name, 'every machine itself')}", "leave it out"
            )
