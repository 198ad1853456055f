"""What a seed puts on a node, judged by the node's own programs: cloud-init first, then those that read its files.

Each case is a boot without a machine: the ISO that `hapx-build seed-iso` writes, read by xorriso, is what cloud-init's
NoCloud datasource finds; network cards with the node's MAC addresses are there under other names; cloud-init's stages
run; and the programs then take their configuration from where they take it on a node.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from builder.command import run
from builder.seed.cib import cib
from builder.seed.network import Version
from builder.seed.seeding import ClusterSpec, SeedRequest, prepare, write_folders, write_isos
from builder.seed.templates import Templates
from builder.spec import Cluster, derived, load
from tests import node
from tests.unit.spec_samples import SHIPPED, changed, spec, specs

pytestmark = pytest.mark.slow

# cloud-init renames cards by their MAC addresses. A veth is a card to it, as far as its name and address go.
_BOOT = """
hostname hapx
number=0
for mac in {macs}; do
    ip link add "card$number" address "$mac" type veth peer name "peer$number"
    number=$((number + 1))
done
# HAProxy opens sockets to its name servers, so there has to be a way to them.
ip route add default dev lo
ip -6 route add default dev lo
install -d /var/lib/cloud/seed/nocloud
cp {folder}/{cd}/* /var/lib/cloud/seed/nocloud/
"""

# Each program's exit code and words, in files of its own.
_JUDGE = """
judge() {{
    name=$1; shift
    "$@" >{folder}/"$name.out" 2>&1 && code=0 || code=$?
    echo "$code" >{folder}/"$name.code"
}}
judge init-local cloud-init init --local
judge init cloud-init init
judge modules-config cloud-init modules --mode config
cp /var/lib/cloud/data/status.json {folder}/
judge user-data cloud-init schema -c {folder}/cd/user-data
judge network-config cloud-init schema -t network-config -c {folder}/cd/network-config
judge netplan netplan generate
judge haproxy haproxy -c -dW -V -f /etc/haproxy/haproxy.cfg
judge corosync corosync -t
judge crm_verify crm_verify --verbose --xml-file /etc/hapx/cib.xml
judge sshd sshd -t
# Debian 12's image has no netbase, and so no names of protocols.
[ ! -e /etc/protocols ] || mount --bind /dev/null /etc/protocols
judge nft nft -c -f /etc/nftables.conf
"""
STAGES = ("init-local", "init", "modules-config")
JUDGES = (*STAGES, "user-data", "network-config", "netplan", "haproxy", "corosync", "crm_verify", "sshd", "nft")

_LOOK = """
ip -json link >{folder}/links.json
cp -r /run/systemd/network {folder}/networkd
cp /run/systemd/system/systemd-networkd-wait-online.service.d/10-netplan.conf {folder}/wait-online
cp /etc/chrony/chrony.conf {folder}/
stat -c '%U:%G %a %n' $(sed -n 's/^  - path: //p' {folder}/cd/user-data) >{folder}/files
sshd -T | grep -E '^(trustedusercakeys|(password|kbdinteractive)authentication)' | sort >{folder}/sshd.effective
id -un {user} >{folder}/user
for name in {names}; do getent hosts "$name"; done >{folder}/hosts
hostname >{folder}/hostname; hostname -f >>{folder}/hostname
"""


@dataclass(frozen=True, slots=True)
class Booted:
    """What a boot left behind."""

    cluster: Cluster
    host: str
    folder: Path

    def said(self, name: str) -> str:
        return (self.folder / name).read_text()

    @property
    def status(self) -> dict[str, Any]:
        return json.loads(self.said("status.json"))["v1"]

    @property
    def failed(self) -> dict[str, str]:
        """The programs that were not content, and what they said."""
        return {name: self.said(f"{name}.out") for name in JUDGES if self.said(f"{name}.code") != "0\n"}


def boot(
    root: Path, folder: Path, values: Path | dict[str, Any], version: Version = Version.TWO, *, more: str = _LOOK
) -> Booted:
    """The last node of a spec, from its CD to the files on it, and `more` that is done there then."""
    folder.mkdir(exist_ok=True)
    if isinstance(values, Path):
        path = folder / values.name
        path.write_bytes(values.read_bytes())
    else:
        path = folder / "cluster.yaml"
        path.write_text(json.dumps(values))
    secrets = folder / "cluster.secrets.yaml"
    cluster = load(path)
    member = cluster.nodes[-1]
    request = SeedRequest((ClusterSpec(path, secrets),), (member.name,), output=folder / "node.iso", version=version)
    (iso,) = write_isos(prepare(request, Templates(folder / "templates")))
    run(["xorriso", "-osirrox", "on", "-indev", str(iso.path), "-extract", "/", str(folder / "cd")], timeout=60)
    (folder / "cd").chmod(0o700)
    facts = {
        "cd": "cd",
        "folder": node.FOLDER,
        "macs": " ".join(derived.mac(cluster, member, card) for card in derived.cards(cluster)),
        "user": cluster.users[0].name,
        "names": " ".join([each.name for each in cluster.nodes] + list(cluster.hosts)),
    }
    node.execute(root, "".join(part.format(**facts) for part in (_BOOT, _JUDGE, more)), folder)
    return Booted(cluster, member.name, folder)


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB ops@test"
EVERYTHING = changed(
    spec(2, 4, 6),
    {
        "domain": "hapx.test",
        "networks.public.gateway": "192.168.56.1",
        "networks.public.gateway6": "fe80::1",
        "networks.public.dns": ["192.0.2.53", "fd00::53"],
        "networks.public.search": ["hapx.test"],
        "networks.link.mtu": 9000,
        "networks.wire": {"kind": "bridged"},
        "networks.vlan": {"vlan": 7, "parent": "wire", "subnets": ["10.7.0.0/16"]},
        "networks.out": {"kind": "nat", "dhcp": True},
        "vips.2": {"name": "inside", "network": "vlan", "address": "10.7.9.9"},
        "haproxy.frontends.1": {"name": "site", "port": 443, "mode": "http", "backend": "site"},
        "haproxy.backends.1": {
            "name": "site",
            "mode": "http",
            "balance": "leastconn",
            "options": ["option httpchk GET /healthz"],
            "servers": [
                {"name": "named", "address": "web.test", "port": 80, "options": "weight 10 backup"},
                {"name": "known", "address": "known.test", "port": 80},
                {"name": "six", "address": "fd00::80", "port": 80},
            ],
        },
        "haproxy.stats": {"allow": ["192.0.2.0/24", "192.0.2.0/25", "fd00::/8"]},
        "hosts": {"known.test": "192.0.2.9"},
        "ssh": {"keys": [KEY], "trusted_ca": [KEY]},
        "users": [{"name": "ops"}, {"name": "log", "sudo": False, "keys": [KEY]}],
        "time_servers": ["192.0.2.123", "ntp.test"],
        "timezone": "Europe/Berlin",
    },
)
CASES: dict[str, tuple[Path | dict[str, Any], Version]] = {
    **{f"{path.stem}, v{version.value}": (path, version) for path in SHIPPED for version in Version},
    **{f"{nodes} nodes": (spec(nodes), Version.TWO) for nodes in (1, 3, 5)},
    "IPv6 alone": (spec(2, 6), Version.TWO),
    "IPv6 alone, v1": (spec(3, 6), Version.ONE),
    "everything": (EVERYTHING, Version.TWO),
}


@pytest.mark.parametrize(("values", "version"), CASES.values(), ids=CASES)
def test_a_node_takes_its_seed(
    node_root: Path, tmp_path: Path, values: Path | dict[str, Any], version: Version
) -> None:
    booted = boot(node_root, tmp_path, values, version)
    check(booted)
    assert_network(booted, version)


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],  # each example is a boot: a failing one is told as it is
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(values=specs())
def test_a_node_takes_the_seed_of_any_valid_spec(
    node_root: Path, tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    check(boot(node_root, tmp_path_factory.mktemp("any"), values))


def check(booted: Booted) -> None:
    """cloud-init has nothing to complain about, nor has any program, and the node knows who it is."""
    status = booted.status
    assert status["datasource"] == f"DataSourceNoCloud [seed={'/var/lib/cloud/seed/nocloud'}]"
    for stage in STAGES:
        assert (stage, status[stage]["errors"], status[stage]["recoverable_errors"]) == (stage, [], {})
    assert booted.failed == {}
    assert "Configuration file is valid" in booted.said("haproxy.out")
    assert booted.said("crm_verify.out") == ""
    member = next(each for each in booted.cluster.nodes if each.name == booted.host)
    assert booted.said("hostname").split() == [booted.host, derived.fqdn(booted.cluster, member)]
    names = {line.split()[-1] for line in booted.said("hosts").splitlines()}
    assert names == {each.name for each in booted.cluster.nodes} | set(booted.cluster.hosts)
    assert booted.said("user").strip() == booted.cluster.users[0].name
    modes = dict(reversed(line.rsplit(" ", 1)) for line in booted.said("files").splitlines())
    assert modes["/etc/corosync/authkey"] == "root:root 400"
    assert modes["/etc/haproxy/haproxy.cfg"] == "root:haproxy 640"
    assert modes["/etc/hapx/cib.xml"] == "root:root 600"
    assert set(modes.values()) == {"root:root 400", "root:haproxy 640", "root:root 600", "root:root 644"}
    authority = "/etc/ssh/hapx-user-ca.pub" if booted.cluster.ssh.trusted_ca else "none"
    assert booted.said("sshd.effective").split("\n") == [
        "kbdinteractiveauthentication no",
        "passwordauthentication no",
        f"trustedusercakeys {authority}",
        "",
    ]
    for server in booted.cluster.time_servers:
        assert f"server {server} iburst" in booted.said("chrony.conf")


def assert_network(booted: Booted, version: Version) -> None:
    """Cards have the names of their networks, and systemd-networkd is told what the spec says."""
    cluster = booted.cluster
    member = next(each for each in cluster.nodes if each.name == booted.host)
    cards = {link["ifname"]: link["address"] for link in json.loads(booted.said("links.json"))}
    for name in derived.cards(cluster):
        assert cards[name] == derived.mac(cluster, member, name)
    required = set()
    for name, network in cluster.networks.items():
        interface = derived.interface(cluster, name)
        told = booted.said(f"networkd/10-netplan-{interface}.network")
        addresses = re.findall(r"^Address=(.*)$", told, re.MULTILINE)
        assert addresses == [str(address) for address in derived.addresses(cluster, member, name)]
        gateways = {str(gateway) for gateway in (network.gateway, network.gateway6) if gateway is not None}
        assert set(re.findall(r"^Gateway=(.*)$", told, re.MULTILINE)) == gateways
        if version is Version.TWO:
            assert re.findall(r"^DNS=(.*)$", told, re.MULTILINE) == [str(server) for server in network.dns]
            assert ("IPv6AcceptRA=no" in told) != network.dhcp
        assert ("DHCP=" in told) == network.dhcp
        ipv6 = any(subnet.version == 6 for subnet in network.subnets)
        if version is Version.TWO:
            assert ("LinkLocalAddressing=no" in told) == (not ipv6 and not network.dhcp)
        if addresses:
            # All of them are configured then; systemd-networkd knows an address of IPv6's own as "degraded".
            required.add(f"{interface}:{'degraded' if ipv6 or network.dhcp else 'carrier'}")
    if version is Version.TWO:
        assert set(re.findall(r" -i (\S+:\S+)", booted.said("wait-online"))) == required
    for vip in cluster.vips:
        drop_in = f"/etc/systemd/network/10-netplan-{derived.interface(cluster, vip.network)}.network.d/50-hapx.conf"
        assert drop_in in booted.said("files")


FENCED = {"address": "192.0.2.1", "port": 2222, "user": "root", "host_key": KEY}
OPTIONS: dict[str, dict[str, Any]] = {
    **{
        agent: {"haproxy.arrangement": "primitive", "fencing": {"agent": agent, "hosts": {"host": FENCED}}}
        for agent in ("fence_vbox", "fence_virsh")
    },
    "qdevice": {"corosync.qdevice": {"host": "192.0.2.5"}},
}
_JUDGE_OPTIONS = """
for agent in fence_vbox fence_virsh; do "$agent" -o metadata >{folder}/"$agent.xml"; done
/usr/lib/pacemaker/pacemaker-fenced metadata >{folder}/fenced.xml
{{ /usr/lib/hapx/qdevice-certificate; certutil -L -d /etc/corosync/qdevice/net/nssdb; }} >{folder}/nss 2>&1 || :
ssh-keygen -y -f /etc/hapx/fencing.key >{folder}/public || :
ssh-keygen -F '[192.0.2.1]:2222' -f /etc/ssh/ssh_known_hosts >{folder}/known || :
"""


@pytest.mark.parametrize("option", OPTIONS)
def test_a_node_takes_what_a_spec_may_ask_for(
    node_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    key, certificate = tmp_path / "fencing.key", tmp_path / "cluster.p12"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], timeout=60)
    run(["sh", "-euc", _MAKE_CERTIFICATE], cwd=tmp_path, timeout=60)
    monkeypatch.setenv("HAPX_FENCING_KEY_FILE", str(key))
    monkeypatch.setenv("HAPX_QDEVICE_CERTIFICATE_FILE", str(certificate))
    folder = tmp_path / "boot"
    booted = boot(node_root, folder, changed(spec(), OPTIONS[option]), more=_LOOK + _JUDGE_OPTIONS)
    check(booted)
    if option == "qdevice":
        names = dict(line.rsplit(maxsplit=1) for line in booted.said("nss").splitlines() if line.endswith((",c", ",u")))
        assert {name.strip(): trust for name, trust in names.items()} == {"Cluster Cert": "u,u,u", "QNet CA": "CT,c,c"}
        return
    known = {
        element.get("name")
        for name in (f"{option}.xml", "fenced.xml")
        for element in ET.fromstring(booted.said(name)).iter("parameter")
    }
    (device,) = ET.fromstring(cib(booted.cluster)).iterfind(".//primitive[@class='stonith']")
    assert device.get("type") == option
    assert {pair.get("name") for pair in device.iterfind("instance_attributes/nvpair")} <= known
    assert booted.said("public").split()[:2] == key.with_suffix(".key.pub").read_text().split()[:2]
    assert KEY.split()[1] in booted.said("known")


# As corosync-qnetd's authority and corosync-qdevice-net-certutil make it.
_MAKE_CERTIFICATE = """
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=QNet CA' -keyout ca.pem -out ca.crt
openssl req -newkey rsa:2048 -nodes -subj /CN=hapx -keyout key.pem -out request.pem
openssl x509 -req -in request.pem -CA ca.crt -CAkey ca.pem -CAcreateserial -days 2 -out own.crt
openssl pkcs12 -export -in own.crt -inkey key.pem -certfile ca.crt -name 'Cluster Cert' -caname 'QNet CA' \
    -passout pass: -out cluster.p12
"""


def test_a_seed_is_applied_once_and_again_when_it_says_so(node_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    seeds = {"first": (spec(), False), "same": (spec(), False), "fresh": (spec(), True)}
    seeds["changed"] = (changed(spec(), {"haproxy.frontends.0.port": 81}), False)
    for name, (values, new_instance) in seeds.items():
        path.write_text(json.dumps(values))
        clusters = (ClusterSpec(path, tmp_path / "cluster.secrets.yaml"),)
        request = SeedRequest(clusters, ("hapx-node01",), folder=tmp_path / name, new_instance=new_instance)
        write_folders(prepare(request, Templates(tmp_path / "templates")))
    macs = " ".join(derived.mac(load(path), load(path).nodes[0], card) for card in ("public", "link"))
    boots = "".join(_AGAIN.format(folder=node.FOLDER, name=name) for name in seeds)
    node.execute(node_root, _BOOT.format(folder=node.FOLDER, macs=macs, cd="first/hapx-node01") + boots, tmp_path)
    assert (tmp_path / "applied").read_text().split() == ["first", "fresh", "changed"]


# A boot takes /run away. What a seed writes, it writes again only to what is a new instance to cloud-init.
_AGAIN = """
rm -rf /run/cloud-init /etc/hapx
cp {folder}/{name}/hapx-node01/* /var/lib/cloud/seed/nocloud/
cloud-init init --local
cloud-init init
[ ! -e /etc/hapx/cluster.json ] || echo {name} >>{folder}/applied
"""


def test_what_is_wrong_with_a_file_is_found_by_the_program_that_reads_it(node_root: Path, tmp_path: Path) -> None:
    """That is, the tests above would fail."""
    templates = tmp_path / "templates"
    templates.mkdir()
    for name, text in {
        "haproxy.cfg.j2": "global\n    nonsense\n",
        "corosync.conf.j2": "totem {\n    version: 2\n    transport: nonsense\n}\n",
        "nftables.conf.j2": "nonsense\n",
        "sshd-user-ca.conf.j2": "Nonsense yes\n",
        "user-data.j2": "#cloud-config\n{{ node_settings | yaml }}\n{{ cluster_settings | yaml }}\nruncmd: 7\n"
        "write_files:\n{{ files | yaml }}\n",
        "network-config.j2": "{{ network_config | yaml }}\nnonsense: true\n",
    }.items():
        (templates / name).write_text(text)
    booted = boot(node_root, tmp_path, spec(), more="")
    assert set(booted.failed) - {*STAGES, "netplan"} == {
        "haproxy",
        "corosync",
        "nft",
        "sshd",
        "user-data",
        "network-config",
    }


_ANSWER = """
systemd-tmpfiles --create haproxy.conf
haproxy -W -D -f /etc/haproxy/haproxy.cfg
ask() {{
    name=$1; shift
    curl --silent --max-time 5 --output {folder}/"$name" --write-out "$name %{{http_code}}\\n" "$@" >>{folder}/answers
}}
password=$(sed -n 's/^stats_password: "\\(.*\\)"$/\\1/p' {folder}/cluster.secrets.yaml)
ask alive http://127.0.0.1:61936/hapx/alive
ask nobody http://127.0.0.1:32700/
ask stranger --user hapx:wrong http://127.0.0.1:32700/metrics
ask page --user "hapx:$password" http://127.0.0.1:32700/
ask metrics --user "hapx:$password" 'http://[::1]:32700/metrics'
ss --listening --tcp --numeric --no-header >{folder}/listening
"""


def test_haproxy_is_ready_before_the_vip_comes_and_shows_its_statistics_to_who_has_the_password(
    node_root: Path, tmp_path: Path
) -> None:
    # No more files than whoever runs the tests may open.
    boot(node_root, tmp_path, changed(spec(2, 4, 6), {"haproxy.maxconn": 100}), more=_ANSWER)
    answers = dict(line.split() for line in (tmp_path / "answers").read_text().splitlines())
    assert answers == {"alive": "200", "nobody": "401", "stranger": "401", "page": "200", "metrics": "200"}
    assert "Statistics Report" in (tmp_path / "page").read_text()
    assert 'haproxy_frontend_status{proxy="web"' in (tmp_path / "metrics").read_text()
    listening = {line.split()[3] for line in (tmp_path / "listening").read_text().splitlines()}
    assert {"192.168.56.100:80", "[fd00:56::64]:80"} <= listening
