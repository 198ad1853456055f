"""What of corosync.conf a running Corosync does not take: it has to be started again for that, on every node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from hapx.changes import Change

_CONF = Path("/etc/corosync/corosync.conf")
_KEY = Path("/etc/corosync/authkey")


def fixed(planned: Iterable[Change]) -> Iterator[str]:
    """What changes, in words, that only a restart brings about."""
    for change in planned:
        if change.before is None:
            continue
        if change.file.path == _CONF:
            old, new = parse(change.before.data.decode()), parse(change.file.data.decode())
            for key in sorted(old.keys() | new.keys()):
                if old.get(key) != new.get(key) and _is_fixed(key):
                    yield f"{key} from {old.get(key, 'nothing')} to {new.get(key, 'nothing')}"


def parse(text: str) -> dict[str, str]:
    """corosync.conf as flat names: totem.token, totem.interface.0.mcastport, nodelist.node.1.ring0_addr."""
    found: dict[str, str] = {}
    path: list[str] = []
    for line in (each.partition("#")[0].strip() for each in text.splitlines()):
        if line.endswith("{"):
            path.append(line[:-1].strip())
        elif line == "}":
            path.pop()
        elif ":" in line:
            key, _, value = (part.strip() for part in line.partition(":"))
            found[".".join([*path, key])] = value
    return found


def _is_fixed(key: str) -> bool:
    return key in {"totem.transport"}
