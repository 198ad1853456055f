"""What HAProxy's templates need to know of a spec, and which ports a finished haproxy.cfg listens on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from builder.errors import InputError
from builder.seed import network
from builder.seed.secrets import Secrets
from builder.seed.templates import Templates
from builder.spec import derived
from builder.spec.derived import Address
from builder.spec.files import UnreadableError, read_text
from builder.spec.model import Backend, Cluster, Server
from builder.spec.outside import MAX_CONFIG_BYTES

# Where the cluster asks whether HAProxy answers: below nobody's notice, above the ports that the kernel gives away
# (net.ipv4.ip_local_port_range ends at 60999).
MONITOR_ADDRESS = "127.0.0.1"
MONITOR_PORT = 61936
MONITOR_URI = "/hapx/alive"
# systemd-resolved's own, for nodes that have their name servers from DHCP.
_STUB_RESOLVER = "127.0.0.53:53"


def configuration(cluster: Cluster, secrets: Secrets, templates: Templates) -> str:
    """haproxy.cfg: from the spec, or the user's own with what the cluster asks HAProxy by; raises InputError."""
    values = {**context(cluster, secrets), "cluster": cluster, "secrets": secrets.values}
    if cluster.haproxy.config is None:
        return templates.render("haproxy.cfg.j2", values)
    path = Path(cluster.haproxy.config)
    if path.suffix == ".j2":
        text = templates.render_file(path, values)
    else:
        try:
            text = read_text(path, limit=MAX_CONFIG_BYTES)
        except UnreadableError as error:
            raise InputError(f"{path}: {error}") from None
    monitor = templates.render("haproxy-monitor.cfg.j2", values)
    whole = text.replace("\r\n", "\n").rstrip("\n")
    return f"{whole}\n\n{monitor}"


def context(cluster: Cluster, secrets: Secrets) -> dict[str, Any]:
    """The names that haproxy.cfg.j2 and a template of the user's own may use, beside the spec itself as `cluster`."""
    haproxy = cluster.haproxy
    known = _known_names(cluster)
    return {
        "frontends": [
            {
                "name": frontend.name,
                "mode": frontend.mode.value,
                "binds": [_endpoint(vip.address, frontend.port) for vip in cluster.vips],
                "options": frontend.options,
                "backend": frontend.backend,
            }
            for frontend in haproxy.frontends
        ],
        "backends": [_backend(backend, known) for backend in haproxy.backends],
        "resolvers": _resolvers(cluster) if any(_is_looked_up(server, known) for server in _servers(cluster)) else (),
        "prefer": "ipv4" if 4 in _versions(cluster) else "ipv6",
        "stats": haproxy.stats
        and {
            "port": haproxy.stats.port,
            "binds": [
                *([f":{haproxy.stats.port}"] if 4 in _versions(cluster) else []),
                *([f"[::]:{haproxy.stats.port} v6only"] if 6 in _versions(cluster) else []),
            ],
            "user": haproxy.stats.user,
            "password": secrets.stats_password,
            "password_hash": secrets.stats_hash,
        },
        "monitor": {"bind": f"{MONITOR_ADDRESS}:{MONITOR_PORT}", "uri": MONITOR_URI},
    }


class Ports(NamedTuple):
    """Ports from the first to the last."""

    first: int
    last: int

    def __str__(self) -> str:
        """As nftables writes them."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Listening:
    """The ports a configuration listens on for others than its own machine, in order, none twice."""

    tcp: tuple[Ports, ...]
    udp: tuple[Ports, ...]


# A bind line's addresses: "[family@][address]:ports", a comma between several (HAProxy 3.0, 5.1 and 11). Where there is
# no port, it is a socket's path, a file descriptor, or an environment variable that only the node knows.
_BIND = re.compile(r"^[ \t]*(bind|dgram-bind)[ \t]+(\S+)", re.MULTILINE)
_ADDRESS = re.compile(r"(?:(?P<family>[a-z0-9+]+)@)?(?P<host>.*):(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?")
_ELSEWHERE = {"abns", "abnsz", "fd", "sockpair", "unix"}
_UDP = {"quic4", "quic6", "quic", "udp", "udp4", "udp6"}


def listening(configuration: str) -> Listening:
    """What has to be let through the firewall for a haproxy.cfg."""
    found: dict[str, list[Ports]] = {"tcp": [], "udp": []}
    for match in _BIND.finditer(configuration):
        for part in match[2].strip("\"'").split(","):
            address = _ADDRESS.fullmatch(part)
            if address is None or address["family"] in _ELSEWHERE or _is_loopback(address["host"]):
                continue
            ports = Ports(int(address["first"]), int(address["last"] or address["first"]))
            if 0 < ports.first <= ports.last <= 65535:
                udp = match[1] == "dgram-bind" or address["family"] in _UDP
                found["udp" if udp else "tcp"].append(ports)
    return Listening(*(tuple(_merged(found[protocol])) for protocol in ("tcp", "udp")))


def _merged(ranges: list[Ports]) -> Iterator[Ports]:
    current: Ports | None = None
    for ports in sorted(ranges):
        if current is not None and ports.first <= current.last:
            current = Ports(current.first, max(current.last, ports.last))
            continue
        if current is not None:
            yield current
        current = ports
    if current is not None:
        yield current


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _backend(backend: Backend, known: dict[str, Address]) -> dict[str, Any]:
    return {
        "name": backend.name,
        "mode": backend.mode.value,
        "balance": backend.balance,
        "options": backend.options,
        "check": backend.check,
        "servers": [
            {
                "name": server.name,
                "endpoint": _endpoint(known.get(server.address, server.address), server.port),
                "looked_up": _is_looked_up(server, known),
                "options": server.options,
            }
            for server in backend.servers
        ],
    }


def _servers(cluster: Cluster) -> Iterator[Server]:
    for backend in cluster.haproxy.backends:
        yield from backend.servers


def _known_names(cluster: Cluster) -> dict[str, Address]:
    """Names of the spec's own: `resolvers` ask name servers alone, which may not know them, and drop the server."""
    known = dict(cluster.hosts)
    for node in cluster.nodes:
        known[node.name] = known[derived.fqdn(cluster, node)] = network.known_by(cluster, node)[0]
    return known


def _is_looked_up(server: Server, known: dict[str, Address]) -> bool:
    if server.address in known:
        return False
    try:
        ip_address(server.address)
    except ValueError:
        return True
    return False


def _resolvers(cluster: Cluster) -> tuple[str, ...]:
    servers = dict.fromkeys(server for each in cluster.networks.values() for server in each.dns)
    return tuple(_endpoint(server, 53) for server in servers) or (_STUB_RESOLVER,)


def _versions(cluster: Cluster) -> set[int]:
    nodes = {address.version for node in cluster.nodes for found in node.addresses.values() for address in found}
    return nodes | {vip.address.version for vip in cluster.vips}


def _endpoint(address: Address | str, port: int) -> str:
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
