"""create-image.sh's files: taken as they are but for the placeholders, and everything wrong in them told at once."""

import base64
import json
import re
import shlex
import struct
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import InputError
from builder.seed import legacy, placeholders, postconfig
from builder.seed.legacy import CreatePlan, CreateRequest
from builder.seed.postconfig import InterfacePlan, NicType, ResourcesPlan, StoragePlan


def public_key(comment: str = "me@here", kind: str = "ssh-ed25519") -> str:
    """A public key that nobody has the private half of."""
    name = kind.encode()
    blob = struct.pack(">I", len(name)) + name + struct.pack(">I", 32) + bytes(range(32))
    return f"{kind} {base64.b64encode(blob).decode()} {comment}"


KEY = public_key()
META_DATA = "instance-id: #UUID#\nlocal-hostname: #HOSTNAME#\nhostname: #HOSTNAME#\n"
# The guide's hapx/user-data with its contents made short: every construct that is in it.
USER_DATA = """\
#cloud-config
write_files:

# We want to configure Corosync to use cryptographic techniques to ensure the
#  For more details, read corosync-keygen man page on Linux: $ man 8 corosync-keygen
- path: /etc/corosync/authkey
  permissions: '0400'
  content: !!binary |
    AAECAwQFBgcICQoLDA0ODw==

- path: /etc/haproxy/haproxy.cfg
  permissions: '0644'  \n\
  content: |
    global
      log /dev/log\tlocal0
      ssl-default-bind-ciphers ECDH+AESGCM:DH+AESGCM:!aNULL:!MD5:!DSS

    listen stats
      bind *:32700
      stats auth admin:admin

runcmd:
  - [ systemctl, stop, haproxy, pacemaker, corosync ]
  - [ chmod, "0755", /usr/lib/ocf/resource.d/heartbeat/haproxy ]
  # SSH server to trust the CA
  - echo '\\nTrustedUserCAKeys /etc/ssh/ca.pub' | tee -a /etc/ssh/sshd_config
  - sed -i -e s#OLD#NEW# -e y#AB#CD# /etc/motd; echo "${HOME#ROOT#}"

apt:
  sources_list: |
    deb <mirror> $RELEASE main contrib non-free
  conf: |
    APT {
      Get {
        Assume-Yes "true";
      };
    };

users:
- name: debian
  sudo: ALL=(ALL) NOPASSWD:ALL
  ssh_authorized_keys:
    - #SSH-PUB-KEY#
- name: root
  lock_passwd: true

ssh_deletekeys: 1

fqdn: #HOSTNAME#.kube.demo

hostname: #HOSTNAME#

power_state:
  mode: reboot
  condition: true"""
NETWORK = """\
---
version: 1
config:
  - type: physical
    name: enp0s3
  - type: vlan
    name: enp0s3.41
    vlan_link: enp0s3
    vlan_id: 41
    subnets:
      - type: manual
  - type: vlan
    name: enp0s3.43
    vlan_link: enp0s3
    vlan_id: 43
    subnets:
      - type: dhcp
"""
INTERFACES = "---\nnic1:\n  id: 1\n  type: intnet\n  name: dmz"
RESOURCES = "---\nprocessors: 1\nmemory: 512"
STORAGES = "---\nstorage1:\n  id: 1\n  size: 512000\n  format: VDI\n  variant: Standard"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide's data/ folder, beside a public key, in the working folder."""
    monkeypatch.chdir(tmp_path)
    hapx = tmp_path / "data/debian/hapx"
    hapx.mkdir(parents=True)
    (tmp_path / "key.pub").write_text(f"{KEY}\n")
    (hapx.parent / "meta-data").write_text(META_DATA)
    (hapx.parent / "user-data").write_text("#cloud-config\nhostname: #HOSTNAME#\n")
    for name, text in {
        "user-data": USER_DATA,
        "network-config": NETWORK,
        "post-config-interfaces": INTERFACES,
        "post-config-resources": RESOURCES,
        "post-config-storages": STORAGES,
    }.items():
        (hapx / name).write_bytes(text.encode())
    return Path("data")


def request(**changed: object) -> CreateRequest:
    return CreateRequest(
        **{
            "hostname": "hapx-node01",
            "ssh_key": Path("key.pub"),
            "user_data": Path("hapx/user-data"),
            "network_interfaces": Path("hapx/network-config"),
            "interfaces": Path("hapx/post-config-interfaces"),
            "resources": Path("hapx/post-config-resources"),
            "storages": Path("hapx/post-config-storages"),
        }
        | changed
    )


def plan(**changed: object) -> CreatePlan:
    return legacy.plan(request(**changed), data=Path("data"))


def problems(**changed: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        plan(**changed)
    return list(caught.value.details)


def edit(name: str, old: str, new: str) -> None:
    path = Path("data/debian/hapx") / name
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


@pytest.mark.usefixtures("data")
class TestRendering:
    def test_nothing_but_the_placeholders_changes(self):
        made = plan()
        assert made.documents["network-config"] == NETWORK.encode()
        lines = zip(made.documents["user-data"].decode().split("\n"), USER_DATA.split("\n"), strict=True)
        assert {(new, old) for new, old in lines if new != old} == {
            (f"    - {KEY}", "    - #SSH-PUB-KEY#"),
            ("fqdn: hapx-node01.kube.demo", "fqdn: #HOSTNAME#.kube.demo"),
            ("hostname: hapx-node01", "hostname: #HOSTNAME#"),
        }

    def test_the_machine(self):
        made = plan(base_image="debian-base-image", auto_start=False)
        assert made.interfaces == (InterfacePlan(1, NicType.INTNET, "dmz"),)
        assert made.resources == ResourcesPlan(1, 512)
        assert made.storages == (StoragePlan(1, 512000, "VDI", "Standard"),)
        assert (made.hostname, made.base_image, made.auto_start) == ("hapx-node01", "debian-base-image", False)

    def test_what_is_not_named_is_not_there(self):
        made = legacy.plan(CreateRequest("x"), data=Path("data"))
        assert made.documents["user-data"] == b"#cloud-config\nhostname: x\n"
        assert made.documents.keys() == {"user-data", "meta-data"}
        assert (made.interfaces, made.resources, made.storages) == ((), None, ())

    def test_the_host_name_in_lower_case_as_the_script_has_it(self):
        assert b"local-hostname: hapx-node01\n" in plan(hostname="HAPX-Node01").documents["meta-data"]

    @pytest.mark.parametrize(
        "comment",
        ["a|b", "a&b", "a/b", r"a\1b\n", r"a\g<0>b", "x#HOSTNAME#", "x#UUID#", "$HOME `id` %s {0} ü", ""],
    )
    def test_a_key_is_literal(self, comment):
        key = public_key(comment).strip()
        Path("key.pub").write_text(f"{key}\n")
        assert f"\n    - {key}\n".encode() in plan().documents["user-data"]

    @pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n", "  \n# a comment\n"])
    def test_a_keys_line_end_is_not_part_of_it(self, ending):
        Path("key.pub").write_bytes(f"{KEY}{ending}".encode())
        assert f"\n    - {KEY}\n".encode() in plan().documents["user-data"]

    @pytest.mark.parametrize("ending", ["\r\n", "\n"])
    def test_line_ends_stay(self, ending):
        Path("data/debian/hapx/user-data").write_bytes(f"#cloud-config{ending}hostname: #HOSTNAME#{ending}".encode())
        assert plan().documents["user-data"] == f"#cloud-config{ending}hostname: hapx-node01{ending}".encode()

    @pytest.mark.parametrize(
        "content", [b"", b"\n \n", b"\x1f\x8b\x08\x00 #A# \xff", b"#!/bin/sh\necho '\xc3\xbc: ['\n"]
    )
    def test_other_kinds_of_user_data(self, content):
        Path("data/debian/hapx/user-data").write_bytes(content)
        assert plan().documents["user-data"] == content

    def test_absolute_paths(self, tmp_path):
        (tmp_path / "elsewhere").write_text("#cloud-config\n")
        assert plan(user_data=tmp_path / "elsewhere").documents["user-data"] == b"#cloud-config\n"

    def test_documents_are_not_in_what_is_printed(self):
        assert "admin:admin" not in repr(plan())


@pytest.mark.usefixtures("data")
class TestInstanceId:
    def id_of(self, **changed: object) -> uuid.UUID:
        meta_data = plan(**changed).documents["meta-data"].decode()
        return uuid.UUID(re.findall(r"instance-id: (\S+)", meta_data)[0])

    def test_the_same_as_long_as_nothing_changes(self):
        assert self.id_of() == self.id_of()

    def test_another_for_another_host(self):
        assert self.id_of(hostname="hapx-node02") != self.id_of()

    @pytest.mark.parametrize("name", ["user-data", "network-config"])
    def test_another_for_another_text(self, name):
        before = self.id_of()
        with (Path("data/debian/hapx") / name).open("a") as file:
            file.write("\n# changed\n")
        assert self.id_of() != before

    def test_another_for_another_key(self):
        before = self.id_of()
        Path("key.pub").write_text(public_key("somebody@else"))
        assert self.id_of() != before

    def test_a_fresh_one_on_demand(self):
        assert len({self.id_of(new_instance=True) for _ in range(3)} | {self.id_of()}) == 4

    def test_a_fresh_one_needs_a_place(self):
        Path("data/debian/meta-data").write_text("instance-id: fixed\n")
        assert problems(new_instance=True)[0].startswith("--new-instance: no file holds #UUID#")

    def test_wherever_it_stands(self):
        Path("data/debian/hapx/network-config").write_text("version: 2\n# #UUID# #HOSTNAME#\n")
        made = plan()
        instance = re.findall(rb"instance-id: (\S+)", made.documents["meta-data"])[0]
        assert made.documents["network-config"] == b"version: 2\n# " + instance + b" hapx-node01\n"


@pytest.mark.usefixtures("data")
class TestLeftovers:
    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("hostname: #hostname#", "did you mean #HOSTNAME#?"),
            ("hostname: #Host-Name#.demo", "did you mean #HOSTNAME#?"),
            ("hostname: x#HOSTNAM#x", "did you mean #HOSTNAME#?"),
            ("keys: [#SSH_PUB_KEY#]", "did you mean #SSH-PUB-KEY#?"),
            ("x: #UUIDS#", "did you mean #UUID#?"),
            ("x: #UUID", "#UUID is a comment here"),
            ("- #SSH-PUB-KEY", "#SSH-PUB-KEY is a comment here"),
            ("- - a: #HOSTNAME", "#HOSTNAME is a comment here"),
            ("x: a.#DOMAIN#", "#DOMAIN# is not replaced"),
            ("x: '#MY_OWN-ONE#'", "#MY_OWN-ONE# is not replaced"),
        ],
    )
    def test_are_told_with_their_line(self, line, told):
        Path("data/debian/hapx/user-data").write_text(f"#!/bin/sh\n{line}\n")
        (found,) = problems()
        assert found.startswith("data/debian/hapx/user-data:2: ")
        assert told in found

    @pytest.mark.parametrize(
        "line",
        [
            "### HOSTNAME ###",
            "#-----#",
            "#NOTE# in a comment",
            "color: '#FFF'",
            "# hostname # of the node",
            "sed s#AB#CD#",
            "sed 's#AB#CD#g; y#AB#CD#'",
            "echo ${HOME#ROOT#} ${HOME##ROOT#}",
            "x: 'a#b#c'",
            "x: 1 # HOSTNAME",
            "x: # hostname",
            "#include",
        ],
    )
    def test_what_only_looks_like_one(self, line):
        Path("data/debian/hapx/user-data").write_text(f"#!/bin/sh\n{line}\n")
        assert line in plan().documents["user-data"].decode()

    def test_no_key_for_its_placeholder(self):
        (found,) = problems(ssh_key=None)
        assert found.startswith("data/debian/hapx/user-data:43: there is nothing to put for #SSH-PUB-KEY#")

    @pytest.mark.parametrize("name", ["hostname", "fqdn"])
    def test_a_name_that_became_a_comment(self, name):
        Path("data/debian/hapx/user-data").write_text(f"#cloud-config\n{name}: #the name\n")
        assert problems() == [f"data/debian/hapx/user-data:2: {name}: has no value (after '#' YAML sees a comment)"]


@pytest.mark.usefixtures("data")
class TestRefused:
    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("#cloud-config\na: [\n", "user-data:3: "),
            ("#cloud-config\na: b\n c: d\n", "user-data:3: "),
            ("#cloud-config\na: *b\n", "user-data:2: found undefined alias"),
            ("#cloud-config\n\ta: b\n", "user-data:2: "),
            ("#cloud-config\n- a\n- b\n", "user-data:1: not a mapping"),
            ("#cloud-config\na: \x01\n", "user-data:2: character U+0001"),
            ("#cloud-config\n" + "[" * 1500, "user-data:1: nested too deeply"),
            ("users: []\n", "user-data:1: cloud-init does not know what this is"),
            ("# cloud-config\nusers: []\n", "the first line is '#cloud-config'"),
            ("\ufeff#cloud-config\n", "user-data:1: begins with a byte order mark"),
        ],
    )
    def test_user_data(self, content, told):
        Path("data/debian/hapx/user-data").write_text(content)
        (found,) = problems()
        assert told in found

    def test_user_data_in_another_encoding(self):
        Path("data/debian/hapx/user-data").write_bytes("#cloud-config\nx: ü\n".encode("latin-1"))
        assert problems() == ["data/debian/hapx/user-data:2: byte 0xfc is not UTF-8"]

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("", "network-config:1: holds nothing"),
            ("config: []\n", "network-config:1: has no version"),
            ("network:\n  version: 3\n", "network-config:2: version: neither 1 nor 2"),
            ("version: [1]\n", "network-config:1: version: neither 1 nor 2"),
            ("- version: 1\n", "network-config:1: not a mapping"),
            ("version: 1\nconfig: {\n", "network-config:3: "),
        ],
    )
    def test_network_config(self, content, told):
        Path("data/debian/hapx/network-config").write_text(content)
        (found,) = problems()
        assert told in found

    @pytest.mark.parametrize("key", ["instance-id", "local-hostname", "hostname"])
    def test_meta_data(self, key):
        Path("data/debian/meta-data").write_text(f"{key}:\n")
        (found,) = problems()
        assert found.startswith(f"data/debian/meta-data:1: {key}: has no value")

    @pytest.mark.parametrize("name", ["", "-a", "a-", "a.b", "a_b", "a b", "ä", "a" * 64, "a/b", "..", "a\n"])
    def test_host_names(self, name):
        assert problems(hostname=name)[0].startswith(f"--hostname: {name!r} is no host name")

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("", "0 lines that could be keys"),
            (f"{KEY}\n{KEY}\n", "2 lines that could be keys"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "this is a private key (its public half ends in .pub)"),
            ("ssh-ed25519 AAAA me", "not an SSH public key"),
            (KEY.replace("ssh-ed25519", "ssh-rsa"), "not an SSH public key"),
            (KEY.replace("ssh-ed25519 ", ""), "not an SSH public key"),
            ("hello", "not an SSH public key"),
        ],
    )
    def test_keys(self, content, told):
        Path("key.pub").write_text(content)
        (found,) = problems()
        assert found.startswith("key.pub: ")
        assert told in found
        assert "abc" not in found

    @pytest.mark.parametrize("comment", ["my: key", "key:", "a #b"])
    def test_a_key_that_yaml_would_take_apart(self, comment):
        Path("key.pub").write_text(public_key(comment))
        assert problems() == [
            "data/debian/hapx/user-data: YAML would not take the SSH key for one text (give the key a simpler comment)"
        ]
        edit("user-data", "#SSH-PUB-KEY#", '"#SSH-PUB-KEY#"')
        assert public_key(comment).encode() in plan().documents["user-data"]

    def test_no_such_distribution(self):
        assert (
            problems(distribution="debain")[0] == "--linux-distribution: data/debain is no folder (there are: debian)"
        )

    def test_no_data_at_all(self, monkeypatch, tmp_path):
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        assert "run this where the guide's data/ folder is" in problems(ssh_key=None)[0]

    def test_everything_at_once(self):
        Path("key.pub").unlink()
        edit("user-data", "#HOSTNAME#.kube", "#HOST_NAME#.kube")
        edit("network-config", "config:", "config: {")
        edit("post-config-interfaces", "intnet", "intent")
        edit("post-config-resources", "512", "lots")
        edit("post-config-storages", "Standard", "Standart")
        assert problems(hostname="a.b", meta_data=Path("hapx/none")) == [
            "--hostname: 'a.b' is no host name (letters, digits and '-', at most 63, '-' at neither end)",
            "data/debian/hapx/none: No such file or directory",
            "key.pub: No such file or directory",
            "data/debian/hapx/user-data:49: #HOST_NAME# is not replaced (did you mean #HOSTNAME#?)",
            "data/debian/hapx/network-config:4: while parsing a flow node, expected the node content, but found '-'",
            "data/debian/hapx/post-config-interfaces:4: nic1.type: 'intent' (did you mean intnet?)",
            "data/debian/hapx/post-config-storages:6: storage1.variant: 'Standart' (did you mean Standard?)",
            "data/debian/hapx/post-config-resources:3: memory: 'lots' (a whole number, 4 to 2097152)",
        ]


class TestPostConfig:
    def test_every_kind_of_interface(self):
        text = """---
nic1:
  id: 1
  type: nat

nic2: {id: "2", type: INTNET, name: mast}
nic6:
  id: 6
  type: hostonly
  adapter: vboxnet0
"""
        assert postconfig.interfaces(text, "f") == (
            (
                InterfacePlan(1, NicType.NAT, None),
                InterfacePlan(2, NicType.INTNET, "mast"),
                InterfacePlan(6, NicType.HOSTONLY, "vboxnet0"),
            ),
            [],
        )

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", ["f:1: holds nothing"]),
            ("{}", ["f:1: not a mapping"]),
            ("a", ["f:1: not a mapping"]),
            ("nic1:\n", ["f:1: nic1: has no fields"]),
            ("nic1: {}\n", ["f:1: nic1.id: is missing", "f:1: nic1.type: is missing"]),
            ("nic1:\n  id: 1\n  type: intnet\n", ["f:2: nic1.name: is missing"]),
            ("nic1:\n  id: 1\n  type: hostonly\n  name: x\n", ["f:2: nic1.adapter: is missing"]),
            ("nic1:\n  id: 1\n  type: bridged\n", ["f:3: nic1.type: 'bridged' (one of nat, intnet, hostonly)"]),
            ("nic1:\n  id: 0\n  type: nat\n", ["f:2: nic1.id: '0' (a whole number, 1 to 8)"]),
            ("nic1:\n  id: 9\n  type: nat\n", ["f:2: nic1.id: '9'"]),
            ("nic1:\n  id: 010\n  type: nat\n", ["f:2: nic1.id: '010'"]),
            ("nic1:\n  id:\n  type: nat\n", ["f:2: nic1.id: has no value"]),
            ("nic1:\n  id: [1]\n  type: nat\n", ["f:2: nic1.id: has no value"]),
            ("nic1:\n  id: 1\n  tpye: nat\n", ["f:2: nic1.type: is missing", "f:3: nic1.tpye: is not known (did you"]),
            ("nic1:\n  id: 1\n  id: 2\n  type: nat\n", ["f:3: nic1.id: stands here twice, first in line 2"]),
            (
                "nic1:\n  id: 1\n  type: nat\nnic2:\n  id: 1\n  type: nat\n",
                ["f:5: nic2.id: 1 is nic1's already"],
            ),
            (
                "nic1:\n  id: 1\n  type: nat\nnic1:\n  id: 2\n  type: nat\n",
                ["f:4: nic1: stands here twice, first in line 1"],
            ),
            ("? [a]\n: {id: 1, type: nat}\n? [b]\n: {id: 2, type: foo}\n", ["stands here twice"]),
        ],
    )
    def test_interfaces_that_are_none(self, text, told):
        found = [str(problem) for problem in postconfig.interfaces(text, "f")[1]]
        assert len(found) == len(told)
        for each, wanted in zip(found, told, strict=True):
            assert wanted in each

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("processors: 1\n", ["f:1: memory: is missing"]),
            ("processors: 0\nmemory: 3\n", ["f:1: processors: '0'", "f:2: memory: '3'"]),
            ("processors: 1.5\nmemory: 512MB\n", ["f:1: processors: '1.5'", "f:2: memory: '512MB'"]),
            ("processors: 1\nmemory: 512\ncpu: 2\n", ["f:3: cpu: is not known"]),
            ("- 1\n", ["f:1: not a mapping"]),
            ("processors: 1\nmemory: [\n", ["f:3: "]),
        ],
    )
    def test_resources_that_are_none(self, text, told):
        plan, found = postconfig.resources(text, "f")
        assert [wanted in str(each) for each, wanted in zip(found, told, strict=True)] == [True] * len(told)
        assert plan is None or len(found) == 1

    @pytest.mark.parametrize(
        ("fields", "wanted"),
        [
            ("id: 1, size: 1024, format: vdi, variant: fixed", StoragePlan(1, 1024, "VDI", "Fixed")),
            ("id: 29, size: 1, format: VMDK, variant: 'Split2G,Stream'", StoragePlan(29, 1, "VMDK", "Split2G,Stream")),
            ("id: 0, size: 1, format: VDI, variant: Standard", "f:1: s.id: '0' (a whole number, 1 to 29)"),
            ("id: 1, size: 1G, format: VDI, variant: Standard", "f:1: s.size: '1G'"),
            ("id: 1, size: 1, format: QCOW2, variant: Standard", "f:1: s.format: 'QCOW2' (one of VDI, VMDK, VHD)"),
            ("id: 1, size: 1, format: VDI, variant: 'Fixed,thick'", "f:1: s.variant: 'thick'"),
            ("id: 1, size: 1, format: VDI", "f:1: s.variant: is missing"),
        ],
    )
    def test_storages(self, fields, wanted):
        plans, found = postconfig.storages(f"s: {{{fields}}}\n", "f")
        if isinstance(wanted, StoragePlan):
            assert (plans, found) == ((wanted,), [])
        else:
            (problem,) = found
            assert wanted in str(problem)
            assert plans == ()


WORDS = ("nic1", "id", "type", "1", "intnet", "name", "processors", "memory", "#HOSTNAME#", "#UUID")
SIGNS = (": ", ":\n  ", "\n", "\n  ", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "!x ", "!!binary ", "| \n ", ">-\n ")
SIGNS += ("'", '"', "? ", "<<: ", "---\n", "...\n", "%YAML 1.1\n", "#", "\t", "\\x", "\ufeff", "\x00", "\x85")
TRAPS = ('"\\UFFFFFFFF"', '"\\uD800"')
NOT_QUITE_YAML = st.lists(st.one_of(st.text(max_size=8), st.sampled_from([*WORDS, *SIGNS, *TRAPS])), max_size=30).map(
    "".join
)


@settings(max_examples=300, deadline=None)
@given(NOT_QUITE_YAML)
def test_no_post_config_file_ends_in_a_traceback(text):
    for read in (postconfig.interfaces, postconfig.resources, postconfig.storages):
        plans, found = read(text, "f")
        assert plans or found
        assert all(re.match(r"f:\d+: ", str(problem)) for problem in found)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["user-data", "network-config", "post-config-interfaces"]), text=NOT_QUITE_YAML)
def test_no_file_ends_in_a_traceback(data, name, text):
    head = "#cloud-config\n" if name == "user-data" else ""
    path = data / "debian/hapx" / name
    before = path.read_bytes()
    written = (head + text).encode(errors="surrogatepass")
    path.write_bytes(written)
    try:
        documents = plan().documents
    except InputError as refused:
        documents = {}
        found = refused.problems
    else:
        found = ()
    finally:
        path.write_bytes(before)
    assert documents or found
    values = {"HOSTNAME": b"hapx-node01", "SSH-PUB-KEY": KEY.encode()}
    if name in documents:
        pieces = placeholders.replace(written, values).split(b"#UUID#")
        assert all(piece in documents[name] for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=30), st.binary(max_size=30))
def test_replacing_is_literal(before, after, value):
    content = before + b"#HOSTNAME#" + after
    replaced = placeholders.replace(content, {"HOSTNAME": value})
    # One step, by hand: what is put in is not looked at again.
    assert replaced == value.join(content.split(b"#HOSTNAME#"))


class TestCommand:
    """`hapx-build create`, as the guide calls it."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "builder.cli", "create", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    GUIDE = shlex.split(
        "-k key.pub -u hapx/user-data -n hapx/network-config -i hapx/post-config-interfaces"
        " -r hapx/post-config-resources -o hapx-node01 -l debian"
    )
    LONG = shlex.split(
        "--ssh-pub-keyfile=key.pub --user-data=hapx/user-data --network-interfaces=hapx/network-config"
        " --post-config-interfaces=hapx/post-config-interfaces --post-config-resources=hapx/post-config-resources"
        " --hostname=HAPX-node01 --linux-distribution=debian"
        " --auto-start=false --meta-data=meta-data"
    )

    @pytest.mark.usefixtures("data")
    def test_the_guides_own_call_and_its_long_form_make_the_same(self):
        made = []
        for arguments in (self.GUIDE, self.LONG):
            ran = self.run(*arguments)
            assert ran.returncode == 0, ran.stderr
            assert ran.stdout.startswith("dist/hapx-node01-cidata.iso: ")
            assert "hapx-node01 gets its CD, but no machine" in ran.stderr
            made.append(Path("dist/hapx-node01-cidata.iso").read_bytes())
            Path("dist/hapx-node01-cidata.iso").unlink()
        assert made[0] == made[1]
        assert KEY.encode() in made[0]

    @pytest.mark.usefixtures("data")
    def test_without_virtualbox_nothing_is_made(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        ran = self.run(*self.GUIDE, "-b", "debian-base-image")
        assert ran.returncode == 4
        assert "VirtualBox is not installed" in ran.stderr
        assert not Path("dist").exists()

    @pytest.mark.usefixtures("data")
    def test_as_json(self):
        ran = self.run(*self.GUIDE, "-s", "hapx/post-config-storages", "-a", "false", "--json")
        *notes, result = [json.loads(line) for line in ran.stdout.splitlines()]
        assert {note["event"] for note in notes} == {"note"}
        assert result["event"] == "result"
        assert result["interfaces"] == [{"slot": 1, "type": "intnet", "name": "dmz"}]
        assert result["resources"] == {"processors": 1, "memory_mib": 512}
        assert result["storages"] == [{"port": 1, "size_mib": 512000, "format": "VDI", "variant": "Standard"}]
        assert result["size"] == Path(result["path"]).stat().st_size

    @pytest.mark.usefixtures("data")
    def test_nothing_is_made_where_anything_is_wrong(self):
        edit("post-config-interfaces", "id: 1", "id: 99")
        ran = self.run(*self.GUIDE)
        assert ran.returncode == 3
        assert "data/debian/hapx/post-config-interfaces:3: nic1.id: '99'" in ran.stderr
        assert not Path("dist").exists()

    @pytest.mark.usefixtures("data")
    @pytest.mark.parametrize("arguments", [[], ["-o", "x", "-a", "perhaps"], ["-o"], ["-o", "x", "-z"]])
    def test_flags_that_are_none(self, arguments):
        ran = self.run(*arguments)
        assert ran.returncode == 2
        assert "Traceback" not in ran.stderr
