"""Before Pacemaker's first start: the cluster's configuration, from the seed, the same on every node.

No election decides who configures. `admin_epoch` stays 0 and the epoch is 1, so a node that is made again, or joins
late, takes over the configuration of the cluster that runs, whose epoch is higher from its first membership on.

Where there is a CIB it is Pacemaker's, whatever its state: one that a power cut has damaged Pacemaker moves aside,
takes its last copy or starts with an empty one, and has the rest from its peers, or from `hapx reconcile`.
"""

from __future__ import annotations

import grp
import pwd
from pathlib import Path
from xml.etree import ElementTree as ET

from hapx import files, merge
from hapx.errors import NodeError
from hapx.facts import PAYLOAD, Facts
from hapx.programs import checked

CIB = Path("/var/lib/pacemaker/cib/cib.xml")


def prepare(facts: Facts) -> bool:
    """Render the CIB where there is none; whether there was none. Raises NodeError, and then there still is none."""
    if CIB.exists():
        return False
    payload = merge.stamped(read_payload(), facts.generation)
    text = ET.tostring(payload, encoding="unicode") + "\n"
    try:
        # As Pacemaker's own daemons have it.
        user, group = pwd.getpwnam("hacluster").pw_uid, grp.getgrnam("haclient").gr_gid
        files.place(CIB, text.encode(), mode=0o600, uid=user, gid=group)
    except (OSError, KeyError) as error:
        raise NodeError(f"{CIB}: {error}", hint="see whether pacemaker is installed and the disk has room") from None
    try:
        # Checks it against its schema, and signs it.
        checked(["cibadmin", "--bump"], env={"CIB_file": str(CIB)}, hint=f"see: crm_verify -V -x {PAYLOAD}")
    except BaseException:
        for path in (CIB, CIB.with_name("cib.xml.sig")):
            path.unlink(missing_ok=True)
        raise
    return True


def read_payload(path: Path = PAYLOAD) -> ET.Element:
    """The seed's CIB; raises NodeError where it cannot be read."""
    try:
        return merge.parse(path.read_text())
    except (OSError, ET.ParseError) as error:
        raise NodeError(f"{path}: {error}", hint="apply the seed again: hapx reconcile") from None
