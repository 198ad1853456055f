"""What the node's own tool makes of a seed: its files, whose each is, and what a running node cannot take."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hapx import binding, changes, facts, membership, reconcile, seed
from hapx.changes import Change, Part
from hapx.errors import NodeError
from hapx.seed import File

from builder.seed.files import cluster_files
from builder.seed.templates import Templates
from tests.unit.document_samples import NOTHING_OWN, SECRETS, render, written
from tests.unit.spec_samples import changed, loaded, spec

CONF = "/etc/corosync/corosync.conf"


def folder(tmp_path: Path, **changes: object) -> Path:
    (made,) = render(loaded(changed(spec(), changes) if changes else spec()), hosts={"hapx-node01"})
    for name, text in made.texts.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_seed_of_ours_is_read_as_cloud_init_would(tmp_path: Path) -> None:
    found = seed.read(str(folder(tmp_path)))
    assert found is not None
    assert found.host == "hapx-node01"
    wanted = {file.path: file for file in cluster_files(loaded(spec()), SECRETS, Templates(NOTHING_OWN))}
    assert [str(file.path) for file in found.files] == list(wanted)
    for file in found.files:
        its = wanted[str(file.path)]
        content = its.content if isinstance(its.content, str) else its.content.reveal()
        assert file.data == (content.encode() if isinstance(content, str) else content)
        assert (file.owner, file.mode) == (its.owner, int(its.permissions, 8))


def test_content_may_be_wrapped_as_cloud_init_has_it() -> None:
    raw = b"\0raw\xff"
    entries = [
        {"path": "/a", "content": "text"},
        {"path": "/b", "content": base64.b64encode(raw).decode(), "encoding": "b64", "permissions": "0600"},
        {"path": "/c", "content": base64.b64encode(gzip.compress(raw)).decode(), "encoding": "gz+b64"},
        {"path": "/d", "content": gzip.compress(raw), "encoding": "gzip", "permissions": 0o400},
        {"path": "/a", "content": "later"},
    ]
    found = {str(file.path): file for file in seed.files_of({"write_files": entries}, "here")}
    assert {path: file.data for path, file in found.items()} == {"/a": b"later", "/b": raw, "/c": raw, "/d": raw}
    assert {path: file.mode for path, file in found.items()} == {"/a": 0o644, "/b": 0o600, "/c": 0o644, "/d": 0o400}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"content": "x"}, "KeyError"),
        ({"path": "etc/x"}, "not absolute"),
        ({"path": "/etc/../x"}, "not absolute"),
        ({"path": "/x", "append": True}, "reboot the node"),
        ({"path": "/x", "source": {"uri": "http://x"}}, "reboot the node"),
        ({"path": "/x", "permissions": "rw"}, "ValueError"),
        ({"path": "/x", "encoding": "b64", "content": "abc"}, "Error"),
        ({"path": "/x", "encoding": "gz", "content": "x"}, "BadGzipFile"),
        ("x", "TypeError"),
    ],
    ids=str,
)
def test_what_a_running_node_cannot_write_is_said_with_its_place(entry: object, message: str) -> None:
    with pytest.raises(NodeError, match=f"write_files, entry 1: .*{message}"):
        seed.files_of({"write_files": [entry]}, "here")


@pytest.mark.parametrize(
    "text", ["#!/bin/sh\n", "", "Content-Type: multipart/mixed\n", "#cloud-config\n- a\n", "#cloud-config\n{"]
)
def test_user_data_of_another_kind_is_left_to_a_boot(text: str) -> None:
    with pytest.raises(NodeError):
        seed.parse_user_data(text, "here")


def test_a_folder_without_a_seed_is_none(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="no user-data"):
        seed.read(str(tmp_path))
    with pytest.raises(NodeError, match="no such folder"):
        seed.read(str(tmp_path / "nothing"))


def test_a_seed_of_another_node_or_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = facts.parse(written(loaded(spec()), "/etc/hapx/cluster.json"), "here")
    found = seed.read(str(folder(tmp_path)))
    assert found is not None
    monkeypatch.setattr(facts, "own_name", lambda: "hapx-node01")
    assert reconcile.check_seed(known, found) == known
    monkeypatch.setattr(facts, "own_name", lambda: "hapx-node02")
    with pytest.raises(NodeError, match="this is the seed of hapx-node01, and this node is hapx-node02"):
        reconcile.check_seed(known, found)
    monkeypatch.setattr(facts, "own_name", lambda: "hapx-node01")
    other = seed.read(str(folder(tmp_path, name="another")))
    assert other is not None
    with pytest.raises(NodeError, match="a seed of the cluster another"):
        reconcile.check_seed(known, other)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/etc/haproxy/haproxy.cfg", Part.HAPROXY),
        ("/etc/haproxy/errors/503.http", Part.HAPROXY),
        ("/srv/certs/site.pem", Part.HAPROXY),
        ("/srv/lists/allow.acl", Part.HAPROXY),
        ("/srv/certs.txt", Part.NONE),
        ("/etc/nftables.conf", Part.FIREWALL),
        ("/etc/ssh/sshd_config.d/20-hapx-user-ca.conf", Part.SSHD),
        ("/etc/systemd/network/10-netplan-public.network.d/50-hapx.conf", Part.NETWORKD),
        (CONF, Part.COROSYNC),
        ("/etc/hapx/cib.xml", Part.PACEMAKER),
        ("/etc/hapx/cluster.json", Part.NONE),
        ("/etc/hosts", Part.NONE),
    ],
)
def test_each_file_is_some_programs(path: str, part: Part) -> None:
    assert changes.part_of(Path(path), b"bind :443 ssl crt /srv/certs/ \n acl a src -f /srv/lists/allow.acl\n") is part


def owned(path: Path, data: bytes, mode: int = 0o644) -> File:
    name = "root" if os.geteuid() == 0 else __import__("getpass").getuser()
    return File(path, data, name, mode)


def test_only_what_differs_is_written_and_all_of_it_is_put_back(tmp_path: Path) -> None:
    same, other, mode, new = (tmp_path / name for name in ("same", "other", "mode", "new/file"))
    for path in (same, other, mode):
        path.write_bytes(b"old")
        path.chmod(0o644)
    wanted = [owned(same, b"old"), owned(other, b"new"), owned(mode, b"old", 0o600), owned(new, b"new", 0o400)]
    planned = changes.changes(wanted)
    assert [change.file.path for change in planned] == [other, mode, new]
    changes.write(planned)
    assert (other.read_bytes(), new.read_bytes(), mode.stat().st_mode & 0o777) == (b"new", b"new", 0o600)
    assert changes.changes(wanted) == ()
    changes.restore(planned)
    assert (other.read_bytes(), mode.stat().st_mode & 0o777, new.exists()) == (b"old", 0o644, False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mode", "new", "other", "same"]


def test_nothing_is_written_where_one_file_cannot_be(tmp_path: Path) -> None:
    good, blocked = tmp_path / "good", tmp_path / "file/below"
    good.write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"not a folder")
    planned = [Change(owned(path, b"new"), None, (0, 0), Part.NONE) for path in (good, blocked)]
    with pytest.raises(NodeError, match="nothing was changed"):
        changes.write(planned)
    assert good.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "good"]


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("127.0.0.1:{free}", ""),
        (":{free}", "transparent" if os.geteuid() == 0 else ""),
        ("[::1]:{free}", "ssl crt /x"),
        ("127.0.0.1:{held}", ""),
        ("/run/haproxy/x.sock", ""),
        ("fd@3", ""),
        ("name.test:{taken}", ""),
    ],
)
def test_an_address_that_haproxy_gets_is_no_obstacle(bind: str, words: str, ports: dict[str, int]) -> None:
    assert list(binding.refused(f"frontend a\n    bind {bind.format(**ports)} {words}\n")) == []


@pytest.mark.parametrize(
    ("bind", "said"),
    [
        ("127.0.0.1:{taken}", "Address already in use"),
        ("127.0.0.2:{free},:{taken}", "Address already in use"),
        ("203.0.113.9:{free}", "Cannot assign requested address"),
    ],
)
def test_an_address_that_haproxy_does_not_get_is_found_before_a_reload(
    bind: str, said: str, ports: dict[str, int]
) -> None:
    (found,) = binding.refused(f"frontend a\n    bind {bind.format(**ports)}\n")
    assert found.endswith(said)


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    """Ports on 127.0.0.1: one that a program has alone, one that it shares as HAProxy does, one that nobody has."""
    with socket.socket() as alone, socket.socket() as shares, socket.socket() as nobody:
        shares.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for each in (alone, shares, nobody):
            each.bind(("127.0.0.1", 0))
        numbers = [each.getsockname()[1] for each in (alone, shares, nobody)]
        nobody.close()
        alone.listen()
        shares.listen()
        yield dict(zip(("taken", "held", "free"), numbers, strict=True))


def corosync(**changes: object) -> str:
    return written(loaded(changed(spec(), changes) if changes else spec()), CONF)


def change(path: str, before: str, after: str) -> Change:
    old, new = (File(Path(path), text.encode(), "root:root", 0o644) for text in (before, after))
    return Change(new, old, (0, 0), Part.COROSYNC)


@pytest.mark.parametrize(
    ("wanted", "refused"),
    [
        ({}, []),
        ({"corosync.token": 1500}, []),
        ({"corosync.links": ["public"]}, []),
        (
            {"corosync.port": 5505},
            ["interface 0: mcastport from 5405 to 5505", "interface 1: mcastport from 5406 to 5506"],
        ),
        ({"nodes.1.addresses.link": "10.56.0.99"}, ["node 2: ring1_addr from 10.56.0.12 to 10.56.0.99"]),
    ],
    ids=str,
)
def test_what_corosync_cannot_change_while_it_runs_is_refused(wanted: dict[str, object], refused: list[str]) -> None:
    planned = [change(CONF, corosync(), corosync(**wanted))]
    if not refused:
        membership.check(planned, ["hapx-node01", "hapx-node02"])
        return
    with pytest.raises(NodeError, match="cannot change while the cluster runs") as error:
        membership.check(planned, [])
    assert sorted(error.value.details) == refused


def test_another_key_or_cipher_would_part_the_nodes() -> None:
    planned = [
        change("/etc/corosync/authkey", "a", "b"),
        change(CONF, corosync(), corosync().replace("aes256", "aes128")),
    ]
    with pytest.raises(NodeError) as error:
        membership.check(planned, [])
    assert error.value.details == ("authkey: another key", "totem: crypto_cipher from aes256 to aes128")


def test_nodes_join_a_running_cluster_and_leave_it_when_they_are_off() -> None:
    two, three = (written(loaded(spec(number)), CONF) for number in (2, 3))
    membership.check([change(CONF, two, three)], ["hapx-node01", "hapx-node02"])
    membership.check([change(CONF, three, two)], ["hapx-node01", "hapx-node02"])
    with pytest.raises(NodeError, match="hapx-node03: to leave the cluster, and still in it"):
        membership.check([change(CONF, three, two)], ["hapx-node01", "hapx-node02", "hapx-node03"])


def test_facts_say_where_haproxy_is_asked() -> None:
    text = written(loaded(spec()), "/etc/hapx/cluster.json")
    assert facts.parse(text, "here").monitor.uri == json.loads(text)["monitor"]["uri"]
