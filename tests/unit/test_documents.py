"""A node's documents: what is in them for specs of every shape."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.seed.files import cluster_files
from builder.seed.network import Version, network_config
from builder.seed.secrets import AUTHKEY
from builder.seed.templates import Templates
from builder.spec import load
from tests.unit.document_samples import (
    AUTHKEY_BYTES,
    HASH,
    NOTHING_OWN,
    SECRETS,
    edited,
    made_secrets,
    read,
    render,
    written,
)
from tests.unit.spec_samples import SHIPPED, loaded, spec, specs


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", Version)
def test_the_specs_that_ship_give_documents(path: Path, version: Version) -> None:
    cluster = load(path)
    made = render(cluster, version=version)
    assert [each.host for each in made] == ["hapx-node01", "hapx-node02"]
    for each in made:
        assert list(each.texts) == ["meta-data", "user-data", "network-config"]
        assert each.texts["user-data"].startswith("#cloud-config\n")
        data = {name: read(text) for name, text in each.texts.items()}
        assert data["meta-data"] == {"instance-id": each.instance_id, "local-hostname": each.host}
        assert data["user-data"]["hostname"] == each.host
        assert data["user-data"]["fqdn"] == f"{each.host}.{cluster.domain}"
        assert data["network-config"]["version"] == version


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(specs(), st.sampled_from(Version))
def test_any_valid_spec_gives_documents_that_say_it(values: dict[str, Any], version: Version) -> None:
    cluster = loaded(values)
    files = [file.as_data() for file in cluster_files(cluster, SECRETS, Templates(NOTHING_OWN))]
    for node, made in zip(cluster.nodes, render(cluster, version=version), strict=True):
        user_data = read(made.texts["user-data"])
        assert user_data["write_files"] == files
        assert all(
            entry["content"].endswith("\n") or not entry["content"] for entry in files if "encoding" not in entry
        )
        assert read(made.texts["network-config"]) == network_config(cluster, node, version)
        assert user_data["timezone"] == cluster.timezone
        assert user_data.get("ntp", {}).get("servers", []) == list(cluster.time_servers)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
@pytest.mark.parametrize("versions", [(4,), (6,), (4, 6)], ids=str)
def test_clusters_of_every_size_and_ip_version(nodes: int, versions: tuple[int, ...]) -> None:
    cluster = loaded(spec(nodes, *versions))
    assert len(render(cluster)) == nodes
    corosync = written(cluster, "/etc/corosync/corosync.conf")
    assert corosync.count("ring1_addr: ") == nodes
    assert ("two_node: 1" in corosync) == (nodes == 2)
    assert "expected_votes" not in corosync
    assert f"consensus: {200 if nodes <= 2 else 1200}\n" in corosync
    assert "token_coefficient: 0\n" in corosync


def test_only_the_nodes_that_were_asked_for_are_made() -> None:
    cluster = loaded(spec(5))
    all_of_them = {each.host: each for each in render(cluster)}
    (only,) = render(cluster, hosts={"hapx-node03"})
    assert only == all_of_them["hapx-node03"]


def test_the_same_input_gives_the_same_text() -> None:
    assert render(loaded(spec())) == render(loaded(spec()))


@pytest.mark.parametrize(
    "changes",
    [
        {"haproxy.frontends.0.port": 81},
        {"networks.link.mtu": 9000},
        {"corosync.token": 1500},
        {"time_servers": ["192.0.2.1"]},
        {"nodes.1.addresses.public": "192.168.56.77"},
    ],
    ids=str,
)
def test_what_changes_on_a_node_makes_it_a_new_instance(changes: dict[str, Any]) -> None:
    before, after = (render(cluster)[0].instance_id for cluster in (loaded(spec()), edited(changes)))
    assert before != after


def test_another_secret_makes_a_new_instance_of_another_generation() -> None:
    cluster = loaded(spec())
    other = made_secrets(**{AUTHKEY: bytes(256)})
    ids = {render(cluster, secrets=each)[0].instance_id for each in (SECRETS, other)}
    generations = {
        json.loads(written(cluster, "/etc/hapx/cluster.json", secrets=each))["generation"] for each in (SECRETS, other)
    }
    assert len(ids) == len(generations) == 2


def test_what_only_the_hypervisor_sees_changes_nothing() -> None:
    other = edited({"machine": {"cpus": 7, "firmware": "uefi"}, "nodes.0.disks": [{"size_mib": 9}]})
    assert render(other) == render(loaded(spec()))


def test_a_suffix_makes_a_new_instance_of_the_same_documents() -> None:
    (plain, _), (fresh, _) = render(loaded(spec())), render(loaded(spec()), suffix="0a1b")
    assert fresh.instance_id == f"{plain.instance_id}-0a1b"
    assert plain.instance_id.startswith("hapx-node01-")
    assert {name: fresh.texts[name] for name in ("user-data", "network-config")} == {
        name: plain.texts[name] for name in ("user-data", "network-config")
    }


def test_documents_show_no_secret_where_nobody_asks() -> None:
    shown = f"{render(loaded(spec()))} {cluster_files(loaded(spec()), SECRETS, Templates(NOTHING_OWN))}"
    assert HASH not in shown
    assert base64.b64encode(AUTHKEY_BYTES).decode() not in shown


def test_files_have_their_owners_and_modes() -> None:
    entries = read(render(loaded(spec()))[0].texts["user-data"])["write_files"]
    private = {
        entry["path"]: (entry["owner"], entry["permissions"]) for entry in entries if entry["permissions"] != "0644"
    }
    assert private == {
        "/etc/corosync/authkey": ("root:root", "0400"),
        "/etc/haproxy/haproxy.cfg": ("root:haproxy", "0640"),
        "/etc/corosync/qdevice/cluster.p12": ("root:root", "0600"),
        "/etc/hapx/cib.xml": ("root:root", "0600"),
        "/etc/hapx/fencing.key": ("root:root", "0600"),
    }
    (authkey,) = [entry for entry in entries if entry["path"] == "/etc/corosync/authkey"]
    assert authkey["encoding"] == "b64"
    assert base64.b64decode(authkey["content"]) == AUTHKEY_BYTES


_ED25519 = b"\0\0\0\x0bssh-ed25519\0\0\0 "
KEYS = [
    f"ssh-ed25519 {base64.b64encode(_ED25519 + bytes([number]) * 32).decode()} {number}@test" for number in range(1, 4)
]


def test_the_administrators_keys_are_the_first_accounts() -> None:
    cluster = edited(
        {"ssh.keys": KEYS[:1], "users": [{"name": "ops", "keys": KEYS[1:2]}, {"name": "log", "sudo": False}]}
    )
    data = read(render(cluster)[0].texts["user-data"])
    first, second = data["users"]
    assert first["ssh_authorized_keys"] == KEYS[:2]
    assert first["sudo"] == "ALL=(ALL) NOPASSWD:ALL"
    assert "ssh_authorized_keys" not in second
    assert "sudo" not in second
    assert all(user["lock_passwd"] is True for user in data["users"])
    # The image's sshd takes no passwords; a word here would only have it restarted.
    assert "ssh_pwauth" not in data
    assert data["disable_root"] is True


def test_certificates_of_an_authority_are_trusted_and_no_longer_when_it_goes() -> None:
    drop_in, keys = "/etc/ssh/sshd_config.d/20-hapx-user-ca.conf", "/etc/ssh/hapx-user-ca.pub"
    trusting = edited({"ssh.trusted_ca": KEYS[:2]})
    assert written(trusting, drop_in) == f"TrustedUserCAKeys {keys}\n"
    assert written(trusting, keys) == "".join(f"{key}\n" for key in KEYS[:2])
    assert "TrustedUserCAKeys" not in written(loaded(spec()), drop_in)
    assert written(loaded(spec()), keys) == ""


def test_every_name_is_in_the_hosts_file() -> None:
    cluster = edited({"domain": "hapx.test", "hosts": {"web.example.net": "192.0.2.9"}}, 2, 6, 4)
    lines = [line.split() for line in written(cluster, "/etc/hosts").splitlines() if line and not line.startswith("#")]
    assert lines[4:] == [
        ["192.168.56.11", "hapx-node01.hapx.test", "hapx-node01"],
        ["fd00:56::b", "hapx-node01.hapx.test", "hapx-node01"],
        ["192.168.56.12", "hapx-node02.hapx.test", "hapx-node02"],
        ["fd00:56::c", "hapx-node02.hapx.test", "hapx-node02"],
        ["192.0.2.9", "web.example.net"],
    ]
    assert "192.168.56.11 hapx-node01\n" in written(loaded(spec()), "/etc/hosts")


def test_time_comes_from_the_servers_of_the_spec_or_from_the_images() -> None:
    assert "ntp" not in read(render(loaded(spec()))[0].texts["user-data"])
    data = read(render(edited({"time_servers": ["192.0.2.1", "ntp.test"]}))[0].texts["user-data"])
    assert data["ntp"] == {"enabled": True, "ntp_client": "chrony", "servers": ["192.0.2.1", "ntp.test"]}


def test_a_nodes_own_tools_find_the_cluster_in_one_file() -> None:
    facts = json.loads(written(loaded(spec(3)), "/etc/hapx/cluster.json"))
    assert [node["name"] for node in facts["nodes"]] == ["hapx-node01", "hapx-node02", "hapx-node03"]
    assert facts["nodes"][2] == {"name": "hapx-node03", "id": 3, "links": ["192.168.56.13", "10.56.0.13"]}
    assert facts["links"] == [{"number": 0, "interface": "public"}, {"number": 1, "interface": "link"}]
    assert facts["vips"] == [{"name": "vip4", "address": "192.168.56.100", "prefix": 24, "interface": "public"}]
    assert facts["monitor"] == {"address": "127.0.0.1", "port": 61936, "uri": "/hapx/alive"}
    assert re.fullmatch("[0-9a-f]{16}", facts["generation"])
