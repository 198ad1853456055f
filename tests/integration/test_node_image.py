"""How the image is set up as a cluster node, by what its own programs make of its files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import node

pytestmark = pytest.mark.slow

# Debian's source packages of what holds the addresses: none of theirs is updated behind anybody's back.
CLUSTER_SOURCES = {
    *("cluster-glue", "corosync", "corosync-qdevice", "crmsh", "fence-agents", "haproxy", "kronosnet", "libqb"),
    *("pacemaker", "resource-agents"),
}

# The functions are unattended-upgrade's own; it is a program without a module's name.
_BLACKLISTED = f"""
import apt_pkg, importlib.machinery, importlib.util, json
apt_pkg.init()
loader = importlib.machinery.SourceFileLoader("upgrades", "/usr/bin/unattended-upgrade")
upgrades = importlib.util.module_from_spec(importlib.util.spec_from_loader("upgrades", loader))
loader.exec_module(upgrades)
expressions = apt_pkg.config.value_list("Unattended-Upgrade::Package-Blacklist")
for line in open("{node.FOLDER}/packages"):
    source, package = line.split()
    held = upgrades.is_pkgname_in_blacklist(package, expressions)
    print("held" if held else "free", source, package)
for origin in upgrades.get_allowed_origins():
    print("origin", origin)
"""


@pytest.fixture(scope="module")
def upgrades(node_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What unattended-upgrade says of each package of the image, and where it takes updates from."""
    folder = tmp_path_factory.mktemp("upgrades")
    (folder / "ask.py").write_text(_BLACKLISTED)
    script = (
        f"dpkg-query -W -f '${{source:Package}} ${{Package}}\\n' >{node.FOLDER}/packages\n"
        f"python3 {node.FOLDER}/ask.py >{node.FOLDER}/said\n"
    )
    node.execute(node_root, script, folder)
    return [line.split(maxsplit=2) for line in (folder / "said").read_text().splitlines()]


def test_unattended_upgrades_leave_the_cluster_alone(upgrades: list[list[str]]) -> None:
    held = {each[2] for each in upgrades if each[0] == "held"}
    ours = {each[2] for each in upgrades if each[0] != "origin" and each[1] in CLUSTER_SOURCES}
    assert {"corosync", "haproxy", "pacemaker", "libknet1t64", "libqb100"} <= ours | {"libknet1", "libknet1t64"}
    assert held == ours


def test_unattended_upgrades_are_for_security(upgrades: list[list[str]]) -> None:
    origins = [" ".join(each[1:]) for each in upgrades if each[0] == "origin"]
    assert len(origins) == 1
    assert re.fullmatch(r"origin=Debian,codename=\w+-security,label=Debian-Security", origins[0])


def test_systemd_starts_what_the_preset_says(node_root: Path, tmp_path: Path) -> None:
    # systemctl is a stand-in in there: the image's own is asked by its path.
    script = (
        "sed -nE 's/^(enable|disable) //p' /etc/systemd/system-preset/10-hapx.preset |"
        ' while read -r unit; do echo "$(/usr/bin/systemctl is-enabled "$unit" 2>/dev/null || true) $unit"; done'
        f" >{node.FOLDER}/units; cp /etc/systemd/system-preset/10-hapx.preset {node.FOLDER}/preset"
    )
    node.execute(node_root, script, tmp_path)
    states = {unit: state for state, unit in map(str.split, _whole((tmp_path / "units").read_text()))}
    for line in (tmp_path / "preset").read_text().splitlines():
        word, _, unit = line.partition(" ")
        if word in {"enable", "disable"} and unit in states:
            assert (unit, states[unit]) == (unit, f"{word}d")
    assert {states[f"{unit}.service"] for unit in ("corosync", "pacemaker", "nftables", "hapx-cib")} == {"enabled"}


def test_nothing_restarts_services_after_updates(node_root: Path) -> None:
    assert not (node_root / "usr/sbin/needrestart").exists()


def test_pacemakers_account_is_locked(node_root: Path) -> None:
    fields = dict(line.split(":")[:2] for line in (node_root / "etc/shadow").read_text().splitlines())
    assert fields["hacluster"].startswith("!")


def _whole(text: str) -> list[str]:
    """The lines that have a state and a unit: of a unit that is not there, systemctl says nothing or `not-found`."""
    return [line for line in text.splitlines() if re.fullmatch(r"(enabled|disabled) \S+", line)]
