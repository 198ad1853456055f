"""haproxy.cfg, from the spec or of one's own, and the firewall that lets its clients in."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.seed.haproxy import listening
from tests.unit.document_samples import (
    HASH,
    PASSWORD,
    edited,
    haproxy_cfg,
    made_secrets,
    own_configuration,
    section,
    written,
)
from tests.unit.spec_samples import loaded, spec


def test_frontends_listen_on_every_vip_and_the_statistics_everywhere() -> None:
    configuration = haproxy_cfg(loaded(spec(2, 4, 6)))
    assert [line for line in section(configuration, "frontend web") if line.startswith("bind")] == [
        "bind 192.168.56.100:80 transparent",
        "bind [fd00:56::64]:80 transparent",
    ]
    assert [line for line in section(configuration, "frontend stats") if line.startswith("bind")] == [
        "bind :32700",
        "bind [::]:32700 v6only",
    ]
    assert section(configuration, "userlist stats") == [f"user hapx password {HASH}"]
    assert PASSWORD not in configuration
    assert section(configuration, "frontend hapx.monitor from hapx.monitor") == [
        "bind 127.0.0.1:61936",
        "monitor-uri /hapx/alive",
    ]


@pytest.mark.parametrize(
    ("server", "backend", "line"),
    [
        ({}, {}, "server web1 192.0.2.1:80 check inter 2s fall 3 rise 2"),
        ({}, {"check": ""}, "server web1 192.0.2.1:80"),
        ({"options": "weight 5 backup"}, {"check": ""}, "server web1 192.0.2.1:80 weight 5 backup"),
        ({"address": "fd00::5"}, {"check": "inter 9s"}, "server web1 [fd00::5]:80 check inter 9s"),
        (
            {"address": "web.test", "options": "backup"},
            {"check": "inter 9s"},
            "server web1 web.test:80 check inter 9s resolvers dns resolve-prefer ipv4 init-addr last,libc,none backup",
        ),
        # Names of the spec's own are known without asking anybody.
        ({"address": "known.test"}, {"check": ""}, "server web1 192.0.2.9:80"),
        ({"address": "hapx-node02"}, {"check": ""}, "server web1 192.168.56.12:80"),
    ],
    ids=str,
)
def test_servers(server: dict[str, Any], backend: dict[str, Any], line: str) -> None:
    changes = {f"haproxy.backends.0.servers.0.{key}": value for key, value in server.items()}
    changes |= {f"haproxy.backends.0.{key}": value for key, value in backend.items()}
    cluster = edited(
        {**changes, "networks.public.dns": ["192.0.2.53", "fd00::53"], "hosts": {"known.test": "192.0.2.9"}}
    )
    configuration = haproxy_cfg(cluster)
    assert section(configuration, "backend servers")[2:] == [line]
    if "resolvers dns" in line:
        assert section(configuration, "resolvers dns")[:2] == [
            "nameserver dns1 192.0.2.53:53",
            "nameserver dns2 [fd00::53]:53",
        ]
    else:
        assert "resolvers" not in configuration


def test_names_are_looked_up_where_dhcp_says_if_the_spec_does_not() -> None:
    cluster = edited(
        {"networks.out": {"kind": "nat", "dhcp": True}, "haproxy.backends.0.servers.0.address": "web.test"}
    )
    assert section(haproxy_cfg(cluster), "resolvers dns")[0] == "nameserver dns1 127.0.0.53:53"


def test_modes_and_lines_of_the_users_own() -> None:
    cluster = edited(
        {
            "haproxy.frontends.0": {
                "name": "web",
                "port": 80,
                "mode": "http",
                "backend": "servers",
                "options": ["maxconn 9"],
            },
            "haproxy.backends.0.mode": "http",
            "haproxy.backends.0.options": ["option httpchk GET /healthz"],
            "haproxy.client_timeout": "5m",
        }
    )
    configuration = haproxy_cfg(cluster)
    frontend = section(configuration, "frontend web")
    assert {"mode http", "option httplog", "option forwardfor", "maxconn 9", "default_backend servers"} <= set(frontend)
    assert "option httpchk GET /healthz" in section(configuration, "backend servers")
    assert {"timeout client 5m", "timeout server 1h"} <= set(section(configuration, "defaults"))
    assert {"mode tcp", "option tcplog"} <= set(section(haproxy_cfg(loaded(spec())), "frontend web"))


def test_without_statistics_there_are_no_credentials() -> None:
    cluster = edited({"haproxy.stats": None})
    assert HASH not in haproxy_cfg(cluster)
    assert "32700" not in written(cluster, "/etc/nftables.conf")


@pytest.mark.parametrize(
    "content", ["listen a\n    bind :81\n", "listen a\n    bind :81", "listen a\r\n    bind :81\r\n"], ids=repr
)
def test_a_configuration_of_ones_own_is_taken_as_it_is_with_the_clusters_question_behind(
    tmp_path: Path, content: str
) -> None:
    cluster = own_configuration(tmp_path, "my.cfg", content)
    whole = haproxy_cfg(cluster)
    assert whole.startswith("listen a\n    bind :81\n\n")
    assert "monitor-uri /hapx/alive\n" in whole
    assert "tcp dport { 81 } accept" in written(cluster, "/etc/nftables.conf")


def test_braces_in_a_configuration_of_ones_own_are_no_template(tmp_path: Path) -> None:
    line = "    http-response set-header x {{ nobody }} if { path / }"
    assert line in haproxy_cfg(own_configuration(tmp_path, "my.cfg", f"listen a\n{line}\n"))


def test_a_template_of_ones_own_knows_the_spec_and_its_secrets(tmp_path: Path) -> None:
    template = """\
{% for frontend in frontends %}{% endfor %}
listen {{ cluster.name }}
    stats auth {{ stats.user }}:{{ stats.password | reveal }}
    # {{ stats.password }} {{ secrets.tls_key | reveal }}
{% include "neighbour.cfg" %}
"""
    (tmp_path / "neighbour.cfg").write_text("    bind {{ monitor.bind }}\n")
    cluster = own_configuration(tmp_path, "my.cfg.j2", template)
    assert haproxy_cfg(cluster, secrets=made_secrets(tls_key=b"a key")).startswith(
        f"listen hapx\n    stats auth hapx:{PASSWORD}\n    # *** a key\n    bind 127.0.0.1:61936\n\n"
    )


@pytest.mark.parametrize(
    ("lines", "tcp", "udp"),
    [
        ("bind *:6443", "6443", ""),
        ("bind :80,:443", "80 443", ""),
        ("bind 192.0.2.1:80-90 transparent\n bind [fd00::1]:85-95", "80-95", ""),
        ("bind ipv4@:80 ssl crt /etc/x.pem\n bind ipv6@[::]:443 v6only", "80 443", ""),
        ("bind quic4@:443 ssl crt x\n bind :443 ssl crt x", "443", "443"),
        ("dgram-bind :514", "", "514"),
        ("bind 127.0.0.1:1\n bind [::1]:2\n bind localhost:3\n bind 127.9.9.9:4", "", ""),
        ("bind /run/a.sock\n bind unix@/run/b:5\n bind abns@c:6\n bind fd@7", "", ""),
        ('bind "${ADDRESS}:80"\n bind :"${PORT}"', "80", ""),
        ("# bind :80\n server a :81\n bindings :82\nlisten bind", "", ""),
        ("bind :0\n bind :65536\n bind :90-80", "", ""),
        ("bind\t*:1 name x\nbind *:1", "1", ""),
    ],
)
def test_the_firewall_opens_what_haproxy_listens_on(lines: str, tcp: str, udp: str) -> None:
    found = listening(f"listen x\n {lines}\n")
    assert (" ".join(map(str, found.tcp)), " ".join(map(str, found.udp))) == (tcp, udp)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 9)), max_size=8))
def test_ports_are_let_through_once_each(ranges: list[tuple[int, int]]) -> None:
    found = listening("".join(f" bind :{first}-{first + more}\n" for first, more in ranges)).tcp
    ports = [port for each in found for port in range(each.first, each.last + 1)]
    assert ports == sorted({port for first, more in ranges for port in range(first, first + more + 1)})
    assert all(one.last < other.first for one, other in pairwise(found))


def test_the_firewall_lets_in_nodes_clients_and_administrators() -> None:
    rules = written(
        edited({"haproxy.stats": {"allow": ["192.0.2.0/25", "192.0.2.128/25", "192.0.2.7/32", "fd00::/8"]}}, 2, 4, 6),
        "/etc/nftables.conf",
    )
    accepting = [line.strip() for line in rules.splitlines() if line.strip().endswith("accept")]
    assert accepting[4:] == [
        "ip saddr { 192.168.56.11, 192.168.56.12 } udp dport 5405 accept",
        "ip saddr { 10.56.0.11, 10.56.0.12 } udp dport 5406 accept",
        "tcp dport 22 accept",
        "tcp dport { 80 } accept",
        "ip saddr { 192.0.2.0/24 } tcp dport 32700 accept",
        "ip6 saddr { fd00::/8 } tcp dport 32700 accept",
    ]
    assert rules.count("policy drop;") == 2
