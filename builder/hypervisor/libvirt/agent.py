"""QEMU's guest agent through virsh: run a program inside a guest, as root, and take what it prints."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from builder.errors import CommandError, CommandTimeoutError
from builder.hypervisor.libvirt.virsh import Virsh

POLL_SECONDS = 0.1
# The guest agent does not answer, or there is no guest to have one.
_SILENT = re.compile(
    "agent is not connected|agent is not responding|agent not available|domain is not running|agent.*disappeared"
    "|QEMU guest agent is not configured",
    re.IGNORECASE,
)


def ask(virsh: Virsh, name: str, argv: Sequence[str], *, timeout: float) -> str | None:
    """The program's output, whatever its exit code; None where no agent answers within `timeout` seconds.

    In the guest it ends when the time is over. Raises CommandError where the guest has no timeout(1),
    CommandTimeoutError where it does not end in time.
    """
    deadline = time.monotonic() + timeout
    # What nobody waits for any more must not go on: asked again and again, a busy node would only get busier.
    call = {"path": "/usr/bin/timeout", "arg": [f"{max(timeout, 1):.0f}", *argv], "capture-output": True}
    started = _call(virsh, name, "guest-exec", call, deadline)
    if started is None:
        return None
    while True:
        status = _call(virsh, name, "guest-exec-status", {"pid": started["pid"]}, deadline)
        if status is None:
            return None
        if status["exited"]:
            return base64.b64decode(status.get("out-data", "")).decode(errors="replace")
        if time.monotonic() > deadline:
            raise CommandTimeoutError(f"{name}: {argv[0]} did not end within {timeout:g} seconds")
        time.sleep(POLL_SECONDS)


def _call(virsh: Virsh, name: str, command: str, arguments: dict[str, Any], deadline: float) -> Any:
    """What the agent returns; None where it does not answer."""
    seconds = max(1, round(deadline - time.monotonic()))
    message = json.dumps({"execute": command, "arguments": arguments})
    try:
        # libvirt gives up first; should it not, so does virsh.
        said = virsh.run("qemu-agent-command", name, "--timeout", str(seconds), message, timeout=seconds + 10)
    except CommandTimeoutError:
        return None
    except CommandError as error:
        text = " ".join(error.details)
        if _SILENT.search(text):
            return None
        refusal = next((line for line in error.details if line.startswith("error: ")), error.message)
        raise CommandError(f"{name}: {refusal.removeprefix('error: ')}", returncode=error.returncode) from None
    return json.loads(said)["return"]
