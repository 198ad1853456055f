"""A cluster spelled out: every default, and what follows from what the spec says."""

from __future__ import annotations

import io
from typing import Any

from builder.spec import derived
from builder.spec.model import Cluster


def spelled_out(cluster: Cluster) -> dict[str, Any]:
    """The spec with every default and every derived id, MAC address and timing in it, as plain values.

    Without its last key, `derived`, which holds what a spec has no key for, it is a spec of the same cluster.
    """
    values: dict[str, Any] = cluster.model_dump(mode="json")
    for node, shown in zip(cluster.nodes, values["nodes"], strict=True):
        shown["id"] = derived.node_id(cluster, node)
        shown["macs"] = {card: derived.mac(cluster, node, card) for card in derived.cards(cluster)}
        shown["cpus"] = derived.cpus(cluster, node)
        shown["memory_mib"] = derived.memory_mib(cluster, node)
        shown["firmware"] = str(derived.firmware(cluster, node))
        for name, disk in zip(derived.disk_names(node), shown["disks"], strict=True):
            disk["name"] = name
    for network in values["networks"].values():
        if network["vlan"] is not None:
            del network["adapter"]  # its parent's
    values["corosync"]["consensus"] = derived.consensus(cluster)
    if (qdevice := cluster.corosync.qdevice) is not None:
        values["corosync"]["qdevice"]["algorithm"] = derived.qdevice_algorithm(cluster, qdevice)
    if cluster.fencing is not None:
        for name, machines in derived.fencing_machines(cluster, cluster.fencing).items():
            values["fencing"]["hosts"][name]["machines"] = machines
    haproxy = values["haproxy"]
    if haproxy["config"] is not None:
        for key in ("frontends", "backends", "stats"):
            del haproxy[key]
    elif haproxy["stats"] is not None:
        haproxy["stats"]["allow"] = [str(subnet) for subnet in derived.stats_allowed(cluster)]
    stats = {key: haproxy[key] for key in ("stats",) if key in haproxy}
    shown = _without_nulls(values)
    shown["haproxy"] |= stats  # null says there is no such page
    return {**shown, "derived": _derived(cluster)}


def to_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def _derived(cluster: Cluster) -> dict[str, Any]:
    return {
        "two_node": derived.two_node(cluster),
        "interfaces": {name: derived.interface(cluster, name) for name in cluster.networks},
        "nodes": {
            node.name: {
                "fqdn": derived.fqdn(cluster, node),
                "addresses": {
                    name: [str(address) for address in derived.addresses(cluster, node, name)]
                    for name in cluster.networks
                    if node.addresses.get(name)
                },
            }
            for node in cluster.nodes
        },
        "vips": {
            vip.name: {
                "address": str(derived.vip_interface(cluster, vip)),
                "broadcast": str(derived.vip_broadcast(cluster, vip) or "none"),
                "interface": derived.interface(cluster, vip.network),
            }
            for vip in cluster.vips
        },
        "links": [
            {
                "number": link.number,
                "network": link.network,
                "port": link.port,
                "addresses": {node: str(address) for node, address in link.addresses.items()},
            }
            for link in derived.links(cluster)
        ],
    }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value
