"""What a spec names outside itself, looked up: SSH keys, a configuration of the user's own, the time zone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from builder.spec.files import UnreadableError, located, read_text
from builder.spec.issues import Issue, KeyPath, closest, shown
from builder.spec.keys import KeyProblemError, resolve
from builder.spec.model import Cluster, Fencing

MAX_CONFIG_BYTES = 1 << 20
_ZONES = Path("/usr/share/zoneinfo")


def settle(cluster: Cluster, folder: Path) -> tuple[Cluster, list[Issue]]:
    """The cluster with everything from outside in it, for a spec that lies in `folder`, and what could not be found.

    Every entry of `ssh.keys`, `ssh.trusted_ca` and `users[].keys`, and every `host_key`, is a key then, on one line, no
    path; `haproxy.config` is an absolute path.
    """
    issues: list[Issue] = []
    ssh = cluster.ssh.model_copy(
        update={
            "keys": _keys(cluster.ssh.keys, ("ssh", "keys"), folder, issues),
            "trusted_ca": _keys(cluster.ssh.trusted_ca, ("ssh", "trusted_ca"), folder, issues),
        }
    )
    users = tuple(
        user.model_copy(update={"keys": _keys(user.keys, ("users", place, "keys"), folder, issues)})
        for place, user in enumerate(cluster.users)
    )
    haproxy = cluster.haproxy
    if haproxy.config is not None:
        try:
            path = located(haproxy.config, folder)
            read_text(path, limit=MAX_CONFIG_BYTES)
            haproxy = haproxy.model_copy(update={"config": str(path)})
        except UnreadableError as error:
            hint = "a path relative to the spec"
            issues.append(Issue(("haproxy", "config"), f"{shown(haproxy.config)}: {error}", hint))
    fencing = _fencing(cluster.fencing, folder, issues)
    issues += _time_zone(cluster.timezone)
    found = {"ssh": ssh, "users": users, "haproxy": haproxy, "fencing": fencing}
    return cluster.model_copy(update=found), issues


def _fencing(fencing: Fencing | None, folder: Path, issues: list[Issue]) -> Fencing | None:
    """Fencing with the hosts' keys in it."""
    if fencing is None:
        return None
    hosts = {}
    for name, host in fencing.hosts.items():
        path: KeyPath = ("fencing", "hosts", name, "host_key")
        hosts[name] = host
        try:
            keys = resolve(host.host_key, folder)
        except KeyProblemError as problem:
            issues.append(Issue(path, problem.message, problem.hint))
            continue
        if len(keys) > 1:
            issues.append(Issue(path, f"{shown(host.host_key)} holds {len(keys)} keys", "the one of the SSH server"))
        hosts[name] = host.model_copy(update={"host_key": keys[0]})
    return fencing.model_copy(update={"hosts": hosts})


def _keys(entries: tuple[str, ...], path: KeyPath, folder: Path, issues: list[Issue]) -> tuple[str, ...]:
    """The keys that entries stand for, each once."""
    keys: list[str] = []
    for place, entry in enumerate(entries):
        try:
            keys += resolve(entry, folder)
        except KeyProblemError as problem:
            issues.append(Issue((*path, place), problem.message, problem.hint))
    return tuple(dict.fromkeys(keys))


def _time_zone(name: str) -> Iterable[Issue]:
    """Where this machine has no tz database, the nodes' own has the last word."""
    if (_ZONES / "Etc/UTC").exists() and not (_ZONES / name).is_file():
        from zoneinfo import available_timezones

        yield Issue(("timezone",), f"there is no time zone {name}", _zone_hint(name, available_timezones()))


def _zone_hint(name: str, zones: Iterable[str]) -> str:
    """Names of zones have capitals, which `closest` does not expect."""
    by_lower = {zone.lower(): zone for zone in zones}
    close = closest(name, by_lower)
    return f"did you mean {by_lower[close]}?" if close else "as in Europe/Berlin; timedatectl list-timezones"
