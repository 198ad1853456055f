"""HAProxy: frontends, backends, servers, ports. Sources: HAProxy 3.0's configuration manual, and `haproxy -c`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from ipaddress import ip_address

from builder.spec import derived
from builder.spec.checks.repeated import repeated
from builder.spec.issues import Issue, KeyPath, nearest
from builder.spec.model import Arrangement, Backend, Cluster, HaproxyMode

SSH_PORT = 22
MONITOR_PORT = 61936  # where the cluster asks HAProxy whether it answers: seed.haproxy
STATS_NAME = "stats"

_SECTIONS = {
    "acme", "backend", "cache", "crt-store", "defaults", "fcgi-app", "frontend", "global", "http-errors", "listen",
    "log-forward", "log-profile", "mailers", "peers", "program", "resolvers", "ring", "traces", "userlist",
}  # fmt: skip
_MAX_TIMEOUT = 2**31 - 1  # milliseconds: HAProxy's own maximum
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_WITH_ARGUMENT = {"hash": "src", "url_param": "NAME"}
_HTTP_BALANCE = ("uri", "url_param", "hdr")
_BALANCE = (
    "roundrobin", "static-rr", "leastconn", "first", "hash", "source", "random", "rdp-cookie", *_HTTP_BALANCE,
)  # fmt: skip


def check(cluster: Cluster) -> Iterator[Issue]:
    """Every issue with what HAProxy shall do."""
    haproxy = cluster.haproxy
    if haproxy.config is not None:
        yield from _arrangement(cluster)
        yield from _own_configuration(cluster)
        return
    frontends, backends = list(enumerate(haproxy.frontends)), list(enumerate(haproxy.backends))
    top: KeyPath = ("haproxy",)
    yield from repeated("frontend", (((*top, "frontends", place, "name"), each.name) for place, each in frontends))
    yield from repeated("backend", (((*top, "backends", place, "name"), each.name) for place, each in backends))
    yield from _arrangement(cluster)
    yield from _timeouts(cluster)
    yield from _ports(cluster)
    yield from _frontends(cluster)
    for place, backend in backends:
        yield from _backend(cluster, (*top, "backends", place), backend)
    if haproxy.stats is None and not frontends:
        yield Issue(
            top, "HAProxy would have nothing to listen on, and does not start so", "add a frontend", absence=True
        )


def _own_configuration(cluster: Cluster) -> Iterator[Issue]:
    haproxy = cluster.haproxy
    for key in ("frontends", "backends", "stats"):
        if key in haproxy.model_fields_set and getattr(haproxy, key):
            message = f"{haproxy.config} is the whole configuration: {key} would not be in it"
            yield Issue(("haproxy", key), message, f"leave out {key}, or config")


def _arrangement(cluster: Cluster) -> Iterator[Issue]:
    if cluster.haproxy.arrangement is Arrangement.PRIMITIVE and not cluster.vips:
        message = "HAProxy would be beside the VIPs, and there is none"
        yield Issue(("haproxy", "arrangement"), message, "add a VIP, or arrangement: clone", absence=True)


def _timeouts(cluster: Cluster) -> Iterator[Issue]:
    for key in ("client_timeout", "server_timeout"):
        number, unit = re.findall(r"\d+|[a-z]+", getattr(cluster.haproxy, key))
        if int(number) * _MILLISECONDS[unit] > _MAX_TIMEOUT:
            yield Issue(("haproxy", key), "is longer than HAProxy can count", f"{_MAX_TIMEOUT // 3_600_000}h at most")


def _ports(cluster: Cluster) -> Iterator[Issue]:
    corosync = cluster.corosync
    taken = {SSH_PORT: "sshd"}
    taken |= {corosync.port + number: f"Corosync's link {number} (UDP)" for number in range(len(corosync.links))}
    stats = cluster.haproxy.stats
    if stats is not None:
        # On every address, so on the loopback too.
        of_others = {**taken, MONITOR_PORT: "the cluster's own questions to HAProxy"}
        if stats.port in of_others:
            message = f"{stats.port} is the port of {of_others[stats.port]}"
            yield Issue(("haproxy", "stats", "port"), message, "another port")
        taken[stats.port] = "the statistics page"
    for place, frontend in enumerate(cluster.haproxy.frontends):
        path: KeyPath = ("haproxy", "frontends", place, "port")
        if frontend.port in taken:
            yield Issue(path, f"{frontend.port} is the port of {taken[frontend.port]}", "another port")
        taken[frontend.port] = f"the frontend {frontend.name}"


def _frontends(cluster: Cluster) -> Iterator[Issue]:
    backends = {backend.name: backend for backend in cluster.haproxy.backends}
    if cluster.haproxy.frontends and not cluster.vips:
        message = "the frontends listen on the VIPs, and there is none"
        yield Issue(("vips",), message, "add a VIP: - {address: ADDRESS, network: NETWORK}", absence=True)
    for place, frontend in enumerate(cluster.haproxy.frontends):
        path: KeyPath = ("haproxy", "frontends", place)
        if frontend.name == STATS_NAME:
            yield Issue((*path, "name"), f"{STATS_NAME} is the statistics page's own name", "another name")
        backend = backends.get(frontend.backend)
        if backend is None:
            hint = nearest(frontend.backend, backends)
            yield Issue((*path, "backend"), f"there is no backend {frontend.backend}", hint, absence=True)
        elif frontend.mode is HaproxyMode.HTTP and backend.mode is HaproxyMode.TCP:
            message = f"an http frontend cannot use the tcp backend {backend.name}"
            yield Issue((*path, "mode"), message, "the same mode for both")
        for line, text in enumerate(frontend.options):
            yield from _words((*path, "options", line), text)


def _backend(cluster: Cluster, path: KeyPath, backend: Backend) -> Iterator[Issue]:
    if backend.name == STATS_NAME:
        yield Issue((*path, "name"), f"{STATS_NAME} is the statistics page's own name", "another name")
    algorithm = backend.balance.split()[0].partition("(")[0] if backend.balance.strip() else ""
    if algorithm not in _BALANCE:
        yield Issue((*path, "balance"), f"there is no balance algorithm {algorithm}", nearest(algorithm, _BALANCE))
    elif algorithm in _WITH_ARGUMENT and len(backend.balance.split()) == 1:
        yield Issue(
            (*path, "balance"), f"{algorithm} needs to be told by what", f"{algorithm} {_WITH_ARGUMENT[algorithm]}"
        )
    elif algorithm in _HTTP_BALANCE and backend.mode is not HaproxyMode.HTTP:
        yield Issue((*path, "balance"), f"{algorithm} balances by a request, so only in http mode", "mode: http")
    yield from _words((*path, "balance"), backend.balance)
    yield from _words((*path, "check"), backend.check)
    for line, text in enumerate(backend.options):
        yield from _words((*path, "options", line), text)
        yield from _cookie((*path, "options", line), backend, text.split()[:1])
    known = {*cluster.hosts, *(name for node in cluster.nodes for name in (node.name, derived.fqdn(cluster, node)))}
    servers = list(enumerate(backend.servers))
    yield from repeated("server", (((*path, "servers", place, "name"), server.name) for place, server in servers))
    for place, server in servers:
        where = (*path, "servers", place)
        yield from _words((*where, "options"), server.options)
        yield from _cookie((*where, "options"), backend, server.options.split())
        if not _is_address(server.address) and server.address not in known and not _has_dns(cluster):
            message = f"nobody could look up {server.address}: no network has name servers"
            yield Issue((*where, "address"), message, "add dns to a network, or the name to hosts", absence=True)


def _cookie(path: KeyPath, backend: Backend, words: list[str]) -> Iterator[Issue]:
    if backend.mode is not HaproxyMode.HTTP and "cookie" in words:
        message = "a cookie is HTTP's, and HAProxy takes no notice of it in tcp mode"
        yield Issue(path, message, "leave it out, or mode: http")


def _words(path: KeyPath, text: str) -> Iterator[Issue]:
    """HAProxy quotes as a shell does (2.2): an open quote, or a section of its own, would break the file elsewhere."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        yield Issue(path, "a quote or a backslash at the end is not closed", "HAProxy's own rules for quotes apply")
        return
    if words and words[0] in _SECTIONS and path[-2] == "options":
        yield Issue(path, f"{words[0]} would begin a section of its own here", "use haproxy.config for a whole file")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _has_dns(cluster: Cluster) -> bool:
    return any(network.dns or network.dhcp for network in cluster.networks.values())
