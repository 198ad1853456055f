"""The files that a seed puts on a node: the same on every node of a cluster."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import collapse_addresses
from typing import Any

from builder.seed import haproxy, network
from builder.seed.cib import FENCING_KEY as FENCING_KEY_PATH
from builder.seed.cib import cib
from builder.seed.haproxy import Listening, Ports
from builder.seed.secrets import FENCING_KEY, QDEVICE_CERTIFICATE, Secret, Secrets
from builder.seed.templates import Templates
from builder.spec import derived
from builder.spec.derived import Subnet
from builder.spec.model import Cluster

USER_CA = "/etc/ssh/hapx-user-ca.pub"
SSH_PORT = 22
QDEVICE_P12 = "/etc/corosync/qdevice/cluster.p12"


@dataclass(frozen=True, slots=True)
class File:
    """A file on a node; its content as text, or a secret's bytes."""

    path: str
    content: str | Secret = field(repr=False)
    owner: str = "root:root"
    permissions: str = "0644"

    def as_data(self) -> dict[str, str]:
        """The file as cloud-init's write_files takes it."""
        place = {"path": self.path, "owner": self.owner, "permissions": self.permissions}
        if isinstance(self.content, Secret):
            return {**place, "encoding": "b64", "content": base64.b64encode(self.content.reveal()).decode()}
        return {**place, "content": self.content}


def cluster_files(cluster: Cluster, secrets: Secrets, templates: Templates) -> tuple[File, ...]:
    """Every file that a node of the cluster gets; raises InputError for templates that cannot be rendered.

    A file is there even when it says nothing, so that a later seed takes back what an earlier one said.
    """
    files = tuple(_files(cluster, secrets, templates))
    return (*files, File("/etc/hapx/cluster.json", _facts(cluster, generation(files))))


def needed_secrets(cluster: Cluster) -> tuple[str, ...]:
    """The names of the secrets that the cluster needs and that nobody can make for it."""
    qdevice = cluster.corosync.qdevice
    wanted = {FENCING_KEY: cluster.fencing is not None, QDEVICE_CERTIFICATE: qdevice is not None and qdevice.tls}
    return tuple(name for name, needed in wanted.items() if needed)


def generation(files: Iterable[File]) -> str:
    """16 hexadecimal digits that differ whenever any of the files does: nodes compare what they were seeded with."""
    whole = hashlib.sha256()
    for file in files:
        for part in file.as_data().values():
            data = part.encode()
            whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:16]


def _files(cluster: Cluster, secrets: Secrets, templates: Templates) -> Iterator[File]:
    configuration = haproxy.configuration(cluster, secrets, templates)
    values: dict[str, Any] = {"cluster": cluster, "secrets": secrets.values}
    nodes = [
        {
            "name": node.name,
            "fqdn": derived.fqdn(cluster, node),
            "id": derived.node_id(cluster, node),
            "addresses": [str(address) for address in network.known_by(cluster, node)],
            "links": [str(link.addresses[node.name]) for link in derived.links(cluster)],
        }
        for node in cluster.nodes
    ]
    yield File("/etc/hosts", templates.render("hosts.j2", {**values, "nodes": nodes}))
    yield File(
        "/etc/corosync/corosync.conf", templates.render("corosync.conf.j2", {**values, **_membership(cluster, nodes)})
    )
    yield File("/etc/corosync/authkey", secrets.authkey, permissions="0400")
    # Credentials, if only hashed ones, are in it.
    yield File("/etc/haproxy/haproxy.cfg", configuration, owner="root:haproxy", permissions="0640")
    yield File("/etc/hapx/cib.xml", cib(cluster), permissions="0600")
    needed = {name: secrets.values[name] for name in needed_secrets(cluster)}
    yield File(FENCING_KEY_PATH, needed.get(FENCING_KEY, ""), permissions="0600")
    yield File("/etc/ssh/ssh_known_hosts", _known_hosts(cluster))
    yield File(QDEVICE_P12, needed.get(QDEVICE_CERTIFICATE, ""), permissions="0600")
    firewall = _firewall(cluster, haproxy.listening(configuration))
    yield File("/etc/nftables.conf", templates.render("nftables.conf.j2", {**values, **firewall}))
    yield File(USER_CA, "".join(f"{key}\n" for key in cluster.ssh.trusted_ca))
    sshd = {**values, "user_ca": USER_CA if cluster.ssh.trusted_ca else None}
    yield File("/etc/ssh/sshd_config.d/20-hapx-user-ca.conf", templates.render("sshd-user-ca.conf.j2", sshd))
    for interface in dict.fromkeys(derived.interface(cluster, vip.network) for vip in cluster.vips):
        # Beside the .network file that netplan makes for the interface.
        path = f"/etc/systemd/network/10-netplan-{interface}.network.d/50-hapx.conf"
        yield File(path, templates.render("vip.network.j2", {**values, "interface": interface}))


def _membership(cluster: Cluster, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    links = derived.links(cluster)
    return {
        "nodes": nodes,
        # In knet's passive mode the highest priority carries everything: the spec's first link, while it is up.
        "links": [{"number": link.number, "port": link.port, "priority": len(links) - link.number} for link in links],
        "token": cluster.corosync.token,
        "token_coefficient": derived.TOKEN_COEFFICIENT,
        "consensus": derived.consensus(cluster),
        "two_node": derived.two_node(cluster),
        "qdevice": _qdevice(cluster),
    }


def _qdevice(cluster: Cluster) -> dict[str, Any] | None:
    qdevice = cluster.corosync.qdevice
    if qdevice is None:
        return None
    return {
        "host": str(qdevice.host),
        "port": qdevice.port,
        "algorithm": derived.qdevice_algorithm(cluster, qdevice),
        # "on" would do without where the server says it has none, and so would whoever says so in its place.
        "tls": "required" if qdevice.tls else "off",
    }


def _known_hosts(cluster: Cluster) -> str:
    """The hosts that fence agents log in to, as ssh looks them up (sshd(8)): an unknown one they cannot answer for."""
    hosts = cluster.fencing.hosts.values() if cluster.fencing is not None else ()
    names = [(str(host.address) if host.port == SSH_PORT else f"[{host.address}]:{host.port}", host) for host in hosts]
    return "".join(f"{name} {host.host_key}\n" for name, host in names)


def _firewall(cluster: Cluster, listening: Listening) -> dict[str, Any]:
    """The names of nftables.conf.j2: each rule's addresses of one IP version, each port as nftables writes it."""
    stats = cluster.haproxy.stats
    guarded = Ports(stats.port, stats.port) if stats is not None else None
    peers = [
        {"family": _family(version), "addresses": sorted(map(str, addresses)), "port": link.port}
        for link in derived.links(cluster)
        for version in (4, 6)
        if (addresses := [address for address in link.addresses.values() if address.version == version])
    ]
    allowed = [
        {"family": _family(version), "subnets": subnets}
        for version in (4, 6)
        if (subnets := _collapsed(derived.stats_allowed(cluster), version))
    ]
    return {
        "ssh_port": SSH_PORT,
        "peers": peers,
        "tcp": [str(ports) for ports in listening.tcp if ports != guarded],
        "udp": [str(ports) for ports in listening.udp],
        "stats": {"port": str(guarded), "allowed": allowed} if guarded in listening.tcp else None,
    }


def _family(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _collapsed(subnets: Iterable[Subnet], version: int) -> list[str]:
    """The subnets of one IP version; none within another, which nftables refuses."""
    # mypy: the same version for all, which its type does not say.
    same: Any = [subnet for subnet in subnets if subnet.version == version]
    return [str(subnet) for subnet in collapse_addresses(same)]


def _facts(cluster: Cluster, made: str) -> str:
    """What the node's own tools ask about the cluster, as JSON."""
    links = derived.links(cluster)
    facts = {
        "cluster": cluster.name,
        "generation": made,
        "nodes": [
            {
                "name": node.name,
                "id": derived.node_id(cluster, node),
                "links": [str(link.addresses[node.name]) for link in links],
            }
            for node in cluster.nodes
        ],
        "links": [{"number": link.number, "interface": derived.interface(cluster, link.network)} for link in links],
        "vips": [
            {
                "name": vip.name,
                "address": str(vip.address),
                "prefix": derived.vip_interface(cluster, vip).network.prefixlen,
                "interface": derived.interface(cluster, vip.network),
            }
            for vip in cluster.vips
        ],
        "haproxy": {"arrangement": str(cluster.haproxy.arrangement)},
        "monitor": {"address": haproxy.MONITOR_ADDRESS, "port": haproxy.MONITOR_PORT, "uri": haproxy.MONITOR_URI},
    }
    return json.dumps(facts, indent=2) + "\n"
