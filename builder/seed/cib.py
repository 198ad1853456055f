"""What Pacemaker is told: the cluster's CIB, the same on every node.

HAProxy runs on every node, ready; each VIP is where HAProxy answers and its network's link is up. By choice HAProxy
runs only beside the VIPs, and lost nodes are fenced. Ids of ours begin with "haproxy" or "hapx" (no VIP's name may) or
with the VIP's name, so a later payload finds what an earlier one made.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from builder.spec import derived
from builder.spec.model import Arrangement, Cluster, Fencing, Vip

# The newest schema that both Debian 12's Pacemaker (2.1.5) and Debian 13's (3.0.0) know, of those with all we use.
SCHEMA = "pacemaker-3.7"
HAPROXY = "haproxy"
HAPROXY_CLONE = "haproxy-clone"
# Another id than that of the primitive in the clone: where the arrangement changes, both are there for a moment.
HAPROXY_PRIMITIVE = "haproxy-beside-vip"
FENCING_KEY = "/etc/hapx/fencing.key"

PROPERTIES = {
    "no-quorum-policy": "stop",
    "stonith-enabled": "false",
    # A start that fails counts like any other failure: the node is tried again after failure-timeout.
    "start-failure-is-fatal": "false",
    # How long a node that starts waits for an answer of somebody who leads already; nothing else starts meanwhile. It
    # comes within milliseconds; where it does not, an election is called, which whoever leads wins again.
    "dc-deadtime": "500ms",
    # Pacemaker 3.0.0's controller sleeps a whole second where its own updates of the CIB are still on their way when it
    # asks for it (do_pe_invoke_callback), as they are when a node is lost: those 100 ms save it nearly always.
    "transition-delay": "100ms",
    # How often expired failures are looked for.
    "cluster-recheck-interval": "60s",
}
DEFAULTS = {"resource-stickiness": "1000", "migration-threshold": "1", "failure-timeout": "60s"}
# Found on two nodes, as after a split, it stays on one without being stopped there.
_ALONE = {"multiple-active": "stop_unexpected"}
_ANNOUNCE = {"arp_count": "5", "arp_count_refresh": "1"}


def cib(cluster: Cluster) -> str:
    """The CIB as XML: properties, defaults, resources, constraints; no nodes, those Pacemaker knows from Corosync.

    admin_epoch stays 0, so a node that starts with this takes over the CIB of a cluster that runs already.
    """
    root = ET.Element("cib", {"validate-with": SCHEMA, "admin_epoch": "0", "epoch": "0", "num_updates": "0"})
    configuration = ET.SubElement(root, "configuration")
    properties = ET.SubElement(configuration, "crm_config")
    _pairs(properties, "cluster_property_set", "cib-bootstrap-options", PROPERTIES | _fencing_properties(cluster))
    ET.SubElement(configuration, "nodes")
    resources = ET.SubElement(configuration, "resources")
    constraints = ET.SubElement(configuration, "constraints")
    _pairs(ET.SubElement(configuration, "rsc_defaults"), "meta_attributes", "rsc-options", DEFAULTS)
    ET.SubElement(root, "status")

    beside = _haproxy(resources, cluster.haproxy.arrangement)
    for interface in dict.fromkeys(derived.interface(cluster, vip.network) for vip in cluster.vips):
        _link(resources, interface)
    for vip in cluster.vips:
        _vip(resources, cluster, vip)
        _constraints(constraints, cluster, vip, beside)
    if cluster.fencing is not None:
        _fencing(resources, cluster, cluster.fencing)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _fencing_properties(cluster: Cluster) -> dict[str, str]:
    if cluster.fencing is None:
        return {}
    delay = {"priority-fencing-delay": f"{cluster.fencing.delay}s"} if derived.two_node(cluster) else {}
    return {"stonith-enabled": "true", **delay}


def _fencing(resources: ET.Element, cluster: Cluster, fencing: Fencing) -> None:
    """A device for each host: any node may ask it to power off the machines that are there, but for its own."""
    for host, machines in derived.fencing_machines(cluster, fencing).items():
        name = f"hapx-fencing-{host}"
        device = ET.SubElement(resources, "primitive", {"id": name, "class": "stonith", "type": str(fencing.agent)})
        there = fencing.hosts[host]
        parameters = {
            "ip": str(there.address),
            "ipport": str(there.port),
            "username": there.user,
            "identity_file": FENCING_KEY,
            "pcmk_host_check": "static-list",
            "pcmk_host_map": ";".join(f"{node}:{machine}" for node, machine in machines.items()),
        }
        _pairs(device, "instance_attributes", f"{name}-params", parameters)
        # It asks the host, and no VIP hangs on the answer: seldom is enough to find out before it is needed.
        _operations(device, name, monitor=("60s", "30s"), start="30s", stop="20s")


def _haproxy(resources: ET.Element, arrangement: Arrangement) -> str:
    """HAProxy itself; returns the id that VIPs go along with."""
    if arrangement is Arrangement.CLONE:
        primitive = _primitive(_clone(resources, HAPROXY_CLONE), HAPROXY, "hapx", "haproxy")
        _operations(primitive, HAPROXY, monitor=("2s", "10s"), start="30s", stop="30s")
        return HAPROXY_CLONE
    primitive = _primitive(resources, HAPROXY_PRIMITIVE, "hapx", "haproxy")
    _pairs(primitive, "meta_attributes", f"{HAPROXY_PRIMITIVE}-meta", _ALONE)
    _operations(primitive, HAPROXY_PRIMITIVE, monitor=("2s", "10s"), start="30s", stop="30s")
    return HAPROXY_PRIMITIVE


def _link(resources: ET.Element, interface: str) -> None:
    """Sets the node attribute ethmonitor-INTERFACE to 1 while the interface has a link, else to 0."""
    name = f"hapx-link-{interface}"
    clone = _clone(resources, f"{name}-clone")
    primitive = _primitive(clone, name, "heartbeat", "ethmonitor")
    # One look decides: its five, ten seconds apart, would keep the VIP where nobody reaches it.
    looks = {"interface": interface, "link_status_only": "true", "repeat_count": "1"}
    _pairs(primitive, "instance_attributes", f"{name}-params", looks)
    _operations(primitive, name, monitor=("2s", "20s"), start="20s", stop="20s")


def _vip(resources: ET.Element, cluster: Cluster, vip: Vip) -> None:
    primitive = _primitive(resources, vip.name, "heartbeat", "IPaddr2")
    whole = derived.vip_interface(cluster, vip)
    broadcast = derived.vip_broadcast(cluster, vip)
    parameters = {
        "ip": str(whole.ip),
        "cidr_netmask": str(whole.network.prefixlen),
        "nic": derived.interface(cluster, vip.network),
        **({"broadcast": str(broadcast)} if broadcast is not None else {}),
        **_ANNOUNCE,
        # Duplicate address detection would take a second of every move, and the cluster sees to it that there is none.
        **({"nodad": "true"} if whole.version == 6 else {}),
    }
    _pairs(primitive, "instance_attributes", f"{vip.name}-params", parameters)
    # What priority-fencing-delay goes by: whoever holds the VIP is shot at last.
    priority = {"priority": "1"} if "priority-fencing-delay" in _fencing_properties(cluster) else {}
    _pairs(primitive, "meta_attributes", f"{vip.name}-meta", _ALONE | priority)
    _operations(primitive, vip.name, monitor=("2s", "20s"), start="20s", stop="20s")


def _constraints(constraints: ET.Element, cluster: Cluster, vip: Vip, beside: str) -> None:
    name = f"hapx-{vip.name}"
    attributes = {"id": f"{name}-with-haproxy", "rsc": vip.name, "with-rsc": beside, "score": "INFINITY"}
    ET.SubElement(constraints, "rsc_colocation", attributes)
    first = cluster.vips[0]
    if vip is not first:
        # One owner of all: a service with an IPv4 and an IPv6 address is on one node.
        attributes = {"id": f"{name}-with-{first.name}", "rsc": vip.name, "with-rsc": first.name, "score": "INFINITY"}
        ET.SubElement(constraints, "rsc_colocation", attributes)
    order = {"id": f"{name}-after-haproxy", "first": beside, "then": vip.name, "kind": "Mandatory"}
    ET.SubElement(constraints, "rsc_order", order)
    location = ET.SubElement(constraints, "rsc_location", {"id": f"{name}-on-link", "rsc": vip.name})
    rule = ET.SubElement(location, "rule", {"id": f"{name}-on-link-rule", "score": "-INFINITY"})
    attribute = f"ethmonitor-{derived.interface(cluster, vip.network)}"
    expression = {"id": f"{name}-on-link-down", "attribute": attribute, "operation": "eq", "value": "0"}
    ET.SubElement(rule, "expression", expression)


def _clone(resources: ET.Element, name: str) -> ET.Element:
    clone = ET.SubElement(resources, "clone", {"id": name})
    _pairs(clone, "meta_attributes", f"{name}-meta", {"interleave": "true"})
    return clone


def _primitive(parent: ET.Element, name: str, provider: str, kind: str) -> ET.Element:
    return ET.SubElement(parent, "primitive", {"id": name, "class": "ocf", "provider": provider, "type": kind})


def _operations(primitive: ET.Element, name: str, *, monitor: tuple[str, str], start: str, stop: str) -> None:
    interval, timeout = monitor
    operations = ET.SubElement(primitive, "operations")
    for action, every, limit in (("monitor", interval, timeout), ("start", "0s", start), ("stop", "0s", stop)):
        attributes = {"id": f"{name}-{action}-{every}", "name": action, "interval": every, "timeout": limit}
        ET.SubElement(operations, "op", attributes)


def _pairs(parent: ET.Element, tag: str, name: str, values: Mapping[str, str]) -> None:
    block = ET.SubElement(parent, tag, {"id": name})
    for key, value in values.items():
        ET.SubElement(block, "nvpair", {"id": f"{name}-{key}", "name": key, "value": value})
