"""Tell the programs whose files have changed, without a break for anybody who is connected."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from hapx.changes import Part
from hapx.errors import NodeError
from hapx.programs import checked, run

# A reload that fails tries for two seconds to get at its ports (HAProxy's start retries).
_HAPROXY_SECONDS = 20.0
_HAPROXY_FAILED_SECONDS = 4.0
_EVERY_SECONDS = 0.1


def tell(part: Part) -> str | None:
    """Have a part take its new files; what was done, or None where it has nothing to do. Raises NodeError."""
    return _TELL[part]() if part in _TELL else None


def _firewall() -> str:
    checked(["nft", "-f", "/etc/nftables.conf"])
    return "packet filter loaded"


def _sshd() -> str | None:
    if not _is_active("ssh.service"):
        return None
    checked(["systemctl", "reload", "ssh.service"], hint="see: journalctl -u ssh")
    return "sshd reloaded"


def _networkd() -> str:
    checked(["networkctl", "reload"], hint="see: journalctl -u systemd-networkd")
    return "systemd-networkd reloaded"


def _corosync() -> str | None:
    if not _is_active("corosync.service"):
        return None
    # All nodes are told, and each reads its own file: one that has the old one goes on with that until its own turn.
    checked(["corosync-cfgtool", "-R"], hint="see: journalctl -u corosync")
    return "Corosync reloaded"


def _haproxy() -> str | None:
    """Reload it, and see that a new worker has taken over: `systemctl reload` ends well when none has."""
    if not _is_active("haproxy.service"):
        return None
    main = int(_property("MainPID") or 0)
    before = _children(main)
    hint = "journalctl -u haproxy; the worker of before goes on serving"
    checked(["systemctl", "reload", "haproxy.service"], timeout=_HAPROXY_SECONDS, hint=hint)
    started = time.monotonic()
    while (passed := time.monotonic() - started) < _HAPROXY_SECONDS:
        status = _property("StatusText")
        if _children(main) - before and status == "Ready.":
            return "HAProxy reloaded"
        if "failed" in status and passed > _HAPROXY_FAILED_SECONDS:
            break
        time.sleep(_EVERY_SECONDS)
    raise NodeError("HAProxy refused its new configuration when it was reloaded", hint=hint)


def _children(pid: int) -> set[str]:
    with contextlib.suppress(OSError):
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return set()


def _property(name: str) -> str:
    return run(["systemctl", "show", "--property", name, "--value", "haproxy.service"]).stdout.strip()


def _is_active(unit: str) -> bool:
    return run(["systemctl", "is-active", "--quiet", unit]).ok


_TELL: dict[Part, Callable[[], str | None]] = {
    Part.HAPROXY: _haproxy,
    Part.FIREWALL: _firewall,
    Part.SSHD: _sshd,
    Part.NETWORKD: _networkd,
    Part.COROSYNC: _corosync,
}
