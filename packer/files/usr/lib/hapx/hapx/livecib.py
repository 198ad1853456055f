"""The CIB of the running cluster: read, and changed in one step or not at all."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from hapx import merge
from hapx.errors import NodeError
from hapx.programs import checked, failure, run

# Statuses change all the time, and each change is a version: a change that was made for an older one is made again.
_ATTEMPTS = 30
_PAUSE_SECONDS = 0.2
# pcmk_rc_old_data and pcmk_err_diff_resync as exit codes (crm/common/results.h: CRM_EX_OLD, CRM_EX_DIGEST and others).
_OVERTAKEN = ("older than existing", "diff", "resync", "Application of an update")


@dataclass(frozen=True, slots=True)
class Applied:
    """What an application of a payload did: whether it was due, whether anything had to change, what one may miss."""

    due: bool
    changed: bool
    notes: tuple[str, ...]


def query(*, timeout: float = 15.0) -> ET.Element:
    """The CIB as this node's Pacemaker has it; raises NodeError where it does not answer."""
    hint = "see: systemctl status pacemaker corosync"
    result = checked(["cibadmin", "--query"], timeout=timeout, hint=hint)
    try:
        return merge.parse(result.stdout)
    except ET.ParseError as error:
        raise NodeError(f"cibadmin --query: not XML: {error}", hint=hint) from None


def apply(payload: ET.Element, generation: str, *, only_if_due: bool = False) -> Applied:
    """Make the cluster's configuration say what the payload says, with `only_if_due` where it is (`merge.due`).

    One change from one version of the CIB to the next, refused by Pacemaker when that version is no longer the
    current one: two nodes that do this at the same time, or an operator meanwhile, lose nothing of each other's.
    Raises NodeError.
    """
    for _ in range(_ATTEMPTS):
        current = query()
        if only_if_due and not merge.due(merge.stamp_of(current), generation):
            return Applied(due=False, changed=False, notes=())
        made = merge.merged(current, payload, generation)
        if not made.changed:
            return Applied(due=True, changed=False, notes=made.notes)
        merge.bump(made.cib)
        result = _patch(current, made.cib)
        if result is None:
            return Applied(due=True, changed=True, notes=made.notes)
        if not any(word in line for line in result.details for word in _OVERTAKEN):
            raise result
        time.sleep(_PAUSE_SECONDS)
    raise NodeError(
        f"the cluster's configuration changed {_ATTEMPTS} times while it was being changed",
        hint="see who changes it (crm_mon, the journal), then run hapx reconcile again",
    )


def _patch(current: ET.Element, made: ET.Element) -> NodeError | None:
    with tempfile.TemporaryDirectory(prefix="hapx-") as folder:
        old, new, patch = (Path(folder, name) for name in ("old.xml", "new.xml", "patch.xml"))
        old.write_text(ET.tostring(current, encoding="unicode"))
        new.write_text(ET.tostring(made, encoding="unicode"))
        found = run(["crm_diff", "--original", str(old), "--new", str(new)])
        # 1: they differ (crm_diff(8)).
        if found.returncode != 1:
            raise failure(found)
        patch.write_text(found.stdout)
        result = run(["cibadmin", "--patch", "--sync-call", "--xml-file", str(patch)])
        return None if result.ok else failure(result, hint="see: journalctl -u pacemaker")
