"""What `bench_failover` compares: three ways to keep one floating IP on two nodes, set up on the same containers."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from builder.command import run
from builder.resources import shipped
from tests.cluster.container import Container
from tests.cluster.lab import VIP, Lab
from tests.cluster.observers import wait_until

READY_SECONDS = 90.0


class Contender(ABC):
    """One way to do it."""

    name: str

    def prepare(self, cluster: Lab) -> None:  # noqa: B027 - most have nothing to do
        """What its seeds need, before they are made."""

    def configure(self, cluster: Lab) -> None:  # noqa: B027
        """What is done by hand once both nodes are on."""

    @abstractmethod
    def trouble(self, cluster: Lab) -> str:
        """Why it is not ready for a failure; empty where it is."""

    @abstractmethod
    def move(self, cluster: Lab, node: Container) -> None:
        """An administrator has a node give the address away."""

    @abstractmethod
    def take_back(self, cluster: Lab, node: Container) -> None:
        """Let the node take part again."""

    def wait_ready(self, cluster: Lab, seconds: float = READY_SECONDS) -> None:
        """Wait until the next failure may come: nothing is left of the last one."""
        said = [""]

        def ready() -> bool:
            said[:] = [self.trouble(cluster)]
            return not said[0]

        try:
            wait_until(ready, seconds, f"{self.name} is ready", every=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}: {said[0]}\n{cluster.words()}") from None
        cluster.client.wait_served(time.monotonic(), 30, streak=0.5)


class Ours(Contender):
    """The spec's cluster as its seeds make it."""

    name = "hapx"

    def trouble(self, cluster: Lab) -> str:
        """Failures are forgotten at once, not in a minute."""
        found = cluster.trouble()
        if "failures" in found:
            cluster.forget_failures()
        return found

    def move(self, cluster: Lab, node: Container) -> None:
        node.run("crm_standby", "--node", node.name, "--update", "on")

    def take_back(self, cluster: Lab, node: Container) -> None:
        node.run("crm_standby", "--node", node.name, "--delete")


# What the guide pipes into `crm configure`, as the CIB that comes of it; its agent is downloaded, so this stands in: it
# starts HAProxy itself, not through systemd, and asks whether the process is there.
GUIDE_CIB = f"""
<configuration>
  <crm_config><cluster_property_set id="cib-bootstrap-options">
    <nvpair id="stonith" name="stonith-enabled" value="no"/>
    <nvpair id="quorum" name="no-quorum-policy" value="ignore"/>
  </cluster_property_set></crm_config>
  <nodes/>
  <resources>
    <primitive id="vip" class="ocf" provider="heartbeat" type="IPaddr2">
      <instance_attributes id="vip-params">
        <nvpair id="vip-ip" name="ip" value="{VIP}"/><nvpair id="vip-nic" name="nic" value="public"/>
        <nvpair id="vip-mask" name="cidr_netmask" value="24"/>
      </instance_attributes>
      <meta_attributes id="vip-meta"><nvpair id="vip-threshold" name="migration-threshold" value="2"/></meta_attributes>
      <operations><op id="vip-monitor" name="monitor" interval="20" timeout="60" on-fail="restart"/></operations>
    </primitive>
    <primitive id="haproxy" class="ocf" provider="heartbeat" type="haproxy">
      <operations><op id="haproxy-monitor" name="monitor" interval="20" timeout="60" on-fail="restart"/></operations>
    </primitive>
  </resources>
  <constraints>
    <rsc_colocation id="loc" score="INFINITY" rsc="vip" with-rsc="haproxy"/>
    <rsc_order id="ord" score="INFINITY" first="vip" then="haproxy"/>
  </constraints>
</configuration>
"""
GUIDE_AGENT = """#!/bin/sh
pidfile=/run/haproxy-guide.pid
running() { [ -e $pidfile ] && kill -0 $(cat $pidfile) 2>/dev/null; }
case $1 in
meta-data) cat <<'END'
<?xml version="1.0"?>
<resource-agent name="haproxy"><version>1.0</version><longdesc lang="en">HAProxy</longdesc>
<shortdesc lang="en">HAProxy</shortdesc><parameters/>
<actions><action name="start" timeout="20s"/><action name="stop" timeout="20s"/>
<action name="monitor" interval="10s" timeout="20s"/><action name="meta-data" timeout="5s"/></actions></resource-agent>
END
;;
start) running || { mkdir -p /run/haproxy; haproxy -D -f /etc/haproxy/haproxy.cfg -p $pidfile; } ;;
stop) if running; then kill $(cat $pidfile); while running; do sleep 0.1; done; fi; rm -f $pidfile ;;
monitor) running || exit 7 ;;
validate-all) ;;
*) exit 3 ;;
esac
"""


class Guide(Contender):
    """The guide's own values: token 3000, monitors every 20 s, HAProxy as a primitive that moves with the address.

    Its multicast and names, which Corosync on Debian 13 does not take, are our node list.
    """

    name = "guide"

    def prepare(self, cluster: Lab) -> None:
        templates = cluster.world.folder / "templates"
        text = (shipped("seeds") / "templates/corosync.conf.j2").read_text()
        text = text.replace("{{ token }}", "3000\n    token_retransmits_before_loss_const: 10")
        text = text.replace("{{ consensus }}", "3600").replace("{{ token_coefficient }}", "650")
        (templates / "corosync.conf.j2").write_text(text)

    def configure(self, cluster: Lab) -> None:
        for node in cluster.running:
            node.run("sh", "-c", "cat >/usr/lib/ocf/resource.d/heartbeat/haproxy", input=GUIDE_AGENT)
            node.run("chmod", "0755", "/usr/lib/ocf/resource.d/heartbeat/haproxy")
            # What would put our own configuration back at the next boot.
            node.run("systemctl", "disable", "--quiet", "hapx-reconcile.service")
        first = cluster.running[0]
        for resource in ("vip", "haproxy"):
            first.run(
                "crm_resource", "--resource", resource, "--set-parameter", "target-role", "--meta", "-v", "Stopped"
            )
        wait_until(lambda: not cluster.owners.now(), 30, "what was there is stopped")
        for node in cluster.running:
            node.run("systemctl", "stop", "haproxy")
        nodes = ET.tostring(cluster.cib(first).find("configuration/nodes"), encoding="unicode")  # type: ignore[arg-type]
        text = GUIDE_CIB.replace("<nodes/>", nodes)
        first.run("cibadmin", "--replace", "--scope", "configuration", "--xml-pipe", input=text)
        first.run("crm_resource", "--refresh", check=False)

    def trouble(self, cluster: Lab) -> str:
        running = {node.name for node in cluster.running}
        for node in cluster.running:
            state = cluster.state(node)
            if state is None or state.dc is None or state.online != running or state.unclean:
                return f"{node.name} sees {state}"
            if state.failures:
                cluster.forget_failures()
                return f"failures: {state.failures}"
            if len(state.resources.get("vip", ())) != 1 or state.resources.get("haproxy") != state.resources["vip"]:
                return f"{state.resources}"
        return "" if len(cluster.owners.now()) == 1 else f"{cluster.owners.now()} have the address"

    def move(self, cluster: Lab, node: Container) -> None:
        node.run("crm_standby", "--node", node.name, "--update", "on")

    def take_back(self, cluster: Lab, node: Container) -> None:
        node.run("crm_standby", "--node", node.name, "--delete")


_KEEPALIVED = f"""
vrrp_script haproxy {{
    script "/bin/pidof haproxy"
    interval 2
}}
vrrp_instance vip {{
    state BACKUP
    nopreempt
    interface public
    virtual_router_id 51
    priority 100
    virtual_ipaddress {{
        {VIP}/24
    }}
    track_script {{
        haproxy
    }}
}}
"""


class Keepalived(Contender):
    """Debian's keepalived with its defaults (advert_int 1); HAProxy runs on both nodes, kept by systemd."""

    name = "keepalived"

    def prepare(self, cluster: Lab) -> None:
        templates = cluster.world.folder / "templates"
        text = (shipped("seeds") / "templates/nftables.conf.j2").read_text()
        text = text.replace('        iif "lo" accept\n', '        iif "lo" accept\n        ip protocol vrrp accept\n')
        (templates / "nftables.conf.j2").write_text(text)

    def configure(self, cluster: Lab) -> None:
        for node in cluster.running:
            with contextlib.suppress(AssertionError):
                wait_until(lambda node=node: bool(cluster.state(node)), 30, "Pacemaker is up")  # type: ignore[misc]
        for node in cluster.running:
            node.run(
                "systemctl", "disable", "--now", "hapx-reconcile", "pacemaker", "corosync", "hapx-cib", check=False
            )
        for node in cluster.running:
            node.run("sh", "-c", "mkdir -p /etc/keepalived; cat >/etc/keepalived/keepalived.conf", input=_KEEPALIVED)
            node.run("systemctl", "enable", "--now", "haproxy", "keepalived")

    def trouble(self, cluster: Lab) -> str:
        for node in cluster.running:
            for unit in ("haproxy", "keepalived"):
                since = node.run(
                    "systemctl", "show", "--property=ActiveState,ActiveEnterTimestampMonotonic", unit, check=False
                ).stdout
                values = dict(line.split("=", 1) for line in since.splitlines())
                if values.get("ActiveState") != "active":
                    return f"{unit} on {node.name}: {values}"
                # A backup counts the master's advertisements for some seconds before it can take over.
                if unit == "keepalived" and time.monotonic() - int(values["ActiveEnterTimestampMonotonic"]) / 1e6 < 6:
                    return f"keepalived on {node.name} has just started"
        return "" if len(cluster.owners.now()) == 1 else f"{cluster.owners.now()} have the address"

    def move(self, cluster: Lab, node: Container) -> None:
        node.run("systemctl", "stop", "keepalived")

    def take_back(self, cluster: Lab, node: Container) -> None:
        node.run("systemctl", "start", "keepalived")


def with_keepalived(root: object, copy: object) -> None:
    """A copy of the baked root with keepalived in it, from the mirror that the root knows."""
    changed_copy(root, copy, _INSTALL)


def changed_copy(root: object, copy: object, script: str) -> None:
    """A copy of the baked root, changed by a script: its $1 is the copy, with its mirror and names within reach.

    Packages start and stop programs by their names: in there they find nobody else's.
    """
    run(["cp", "--archive", "--reflink=auto", str(root), str(copy)], timeout=120)
    alone = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    run([*alone, "sh", "-euc", _ENTER + script, "change", str(copy)], timeout=600)


_ENTER = """
cp --remove-destination /etc/resolv.conf "$1/etc/resolv.conf"
mount --bind /dev "$1/dev"; mount -t proc proc "$1/proc"; mount -t tmpfs tmpfs "$1/tmp"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
"""
_INSTALL = """
chroot "$1" apt-get -qq update
chroot "$1" apt-get -qq install --yes --no-install-recommends keepalived
chroot "$1" systemctl disable keepalived
"""

CONTENDERS: Mapping[str, type[Contender]] = {each.name: each for each in (Ours, Guide, Keepalived)}
