"""From power on of two new nodes to their floating IP: our image with its seeds, beside the guide's flow, in one run.

    python tests/bench/bench_forming.py [--runs N]

The guide installs Pacemaker, Corosync, crmsh and HAProxy at the first boot, reboots, and then has a person configure
Pacemaker. Both run in containers from one root; the guide's is that root without those packages, which come from a
folder on its own disk: nothing is downloaded, and the configuration is loaded the moment both nodes are online. Both
are kinder to the guide than the real thing. HAPX_TEST_OVA names an OVA to take. Needs root.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from tests.bench.bench_failover import baked_root
from tests.bench.contenders import GUIDE_AGENT, GUIDE_CIB, changed_copy
from tests.cluster import lab
from tests.cluster.lab import Lab
from tests.cluster.observers import wait_until

WANTED = 0.35
GUIDE_SECONDS = 600.0
PACKAGES = ("pacemaker", "corosync", "crmsh", "haproxy", "curl")
FOLDER = "opt/debs"
AGENT = "/usr/lib/ocf/resource.d/heartbeat/haproxy"

# $1 the copy of the root: every package the guide's bring is noted, then fetched, indexed and removed.
_WITHOUT = f"""
in_root() {{ chroot "$1" sh -euc "$2"; }}
rm -rf "$1"/etc/systemd/system/*.service.d/hapx.conf "$1"/etc/systemd/system/hapx-*
in_root "$1" 'apt-get -qq update; dpkg-query -W -f "\\${{Package}}\\n" | sort >/tmp/before
    apt-get -qq purge --yes --allow-remove-essential {" ".join(PACKAGES)} corosync-qdevice pacemaker-cli-utils \\
        resource-agents "fence-agents*" 2>/dev/null >/dev/null
    apt-get -qq autoremove --purge --yes >/dev/null
    dpkg-query -W -f "\\${{Package}}\\n" | sort >/tmp/after
    mkdir -p /{FOLDER}; cd /{FOLDER}
    apt-get -qq download $(comm -23 /tmp/before /tmp/after) >/dev/null
    for deb in *.deb; do dpkg-deb --field $deb; echo "Filename: ./$deb"; echo "Size: $(stat -c %s $deb)"
        echo "SHA256: $(sha256sum $deb | cut -d " " -f 1)"; echo; done >Packages
    rm -rf /var/lib/apt/lists/* /etc/apt/sources.list.d/*
    echo "deb [trusted=yes] file:/{FOLDER} ./" >/etc/apt/sources.list
    echo "DPkg::Options {{ \\"--force-confold\\"; }};" >/etc/apt/apt.conf.d/guide'
"""


def without_packages(root: Path, copy: Path) -> None:
    """A copy of the baked root in which the guide's packages are files in a folder."""
    changed_copy(root, copy, _WITHOUT)


def guide_seeds(cluster: Lab) -> dict[str, dict[str, bytes]]:
    """The guide's user-data, with this cluster's names and addresses; network-config and meta-data are ours."""
    made = {}
    for name, texts in cluster.seeds().items():
        ours = yaml.safe_load(texts["user-data"])
        taken = ("/etc/hosts", "/etc/corosync/corosync.conf", "/etc/corosync/authkey")
        files = [each for each in ours["write_files"] if each["path"] in taken]
        # Its owner is a group that is not there before the package.
        files += [
            {**each, "owner": "root:root", "permissions": "0644"}
            for each in ours["write_files"]
            if each["path"] == "/etc/haproxy/haproxy.cfg"
        ]
        files.append({"path": AGENT, "content": GUIDE_AGENT, "permissions": "0755"})
        user_data = {
            "hostname": name,
            "write_files": files,
            "package_update": True,
            "packages": list(PACKAGES),
            "runcmd": [
                ["systemctl", "stop", "haproxy", "pacemaker", "corosync"],
                ["systemctl", "disable", "haproxy", "pacemaker", "corosync"],
                ["systemctl", "restart", "corosync", "pacemaker"],
                ["systemctl", "enable", "pacemaker", "corosync"],
            ],
            "power_state": {"mode": "reboot", "timeout": 30, "condition": True},
        }
        made[name] = {**texts, "user-data": b"#cloud-config\n" + yaml.safe_dump(user_data).encode()}
    return made


def first_page(cluster: Lab, began: float, seconds: float) -> float:
    """Seconds from then until the first page came through the floating IP."""
    cluster.client.wait_served(began, seconds, streak=0.3)
    return next(each.ended for each in cluster.client.requests(began) if each.good) - began


def ours(root: Path, folder: Path) -> float:
    """Seconds to the floating IP from our image and seeds."""
    with lab.create(root, folder) as cluster:
        began = time.monotonic()
        cluster.start()
        return first_page(cluster, began, lab.FORM_SECONDS)


def guide(root: Path, folder: Path) -> float:
    """Seconds to the floating IP by the guide's flow."""
    with lab.create(root, folder) as cluster:
        for name, texts in guide_seeds(cluster).items():
            cluster.nodes[name].seed(texts)
        began = time.monotonic()
        cluster.start()
        wait_until(lambda: all(node.resets for node in cluster.running), GUIDE_SECONDS, "both nodes reboot", every=0.5)
        cluster.wait_nodes(GUIDE_SECONDS)
        first = cluster.running[0]
        nodes = first.run("cibadmin", "--query", "--scope", "nodes").stdout
        text = GUIDE_CIB.replace("<nodes/>", nodes)
        first.run("cibadmin", "--replace", "--scope", "configuration", "--xml-pipe", input=text)
        return first_page(cluster, began, lab.FORM_SECONDS)


def main() -> None:
    """Run and print the table; exit 1 where it is slower than wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {"ours": [], "guide": []}
    with tempfile.TemporaryDirectory(prefix="bench-forming-", dir="/var/tmp") as name:
        folder = Path(name)
        root, bare = baked_root(folder), folder / "without"
        without_packages(root, bare)
        for place in range(arguments.runs):
            found["ours"].append(ours(root, folder / f"ours{place}"))
            found["guide"].append(guide(bare, folder / f"guide{place}"))
    medians = {what: statistics.median(seconds) for what, seconds in found.items()}
    table = Table(
        title=f"from power on of two new nodes to the floating IP, {arguments.runs} runs", title_justify="left"
    )
    for heading in ("what", "median s", "worst s", "of the guide's", "wanted"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    ratio = medians["ours"] / medians["guide"]
    for what, share in (("ours", f"{ratio:.2f}"), ("guide", "")):
        wanted = f"at most {WANTED}" if share else ""
        table.add_row(what, f"{medians[what]:.1f}", f"{max(found[what]):.1f}", share, wanted)
    Console(width=100).print(table)
    raise SystemExit(ratio > WANTED)


if __name__ == "__main__":
    main()
