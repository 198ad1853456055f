"""SSH keys in a spec: what ssh-keygen makes is taken, everything else is named for what it is."""

from __future__ import annotations

import base64
import hashlib
import struct
from pathlib import Path

import pytest

from builder.command import run, which
from builder.seed import published
from builder.spec import load
from builder.spec.keys import KeyProblemError, parse, resolve
from tests.unit.spec_samples import changed, said_of, spec

needs_ssh_keygen = pytest.mark.skipif(which("ssh-keygen") is None, reason="needs ssh-keygen (openssh-client)")


def _make(folder: Path, *options: str, name: str = "key") -> Path:
    run(["ssh-keygen", "-q", "-N", "", "-C", "admin@example.net", "-f", str(folder / name), *options], timeout=60)
    return folder / f"{name}.pub"


def _blob(*fields: bytes) -> str:
    return base64.b64encode(b"".join(struct.pack(">I", len(field)) + field for field in fields)).decode()


ED25519 = f"ssh-ed25519 {_blob(b'ssh-ed25519', b'k' * 32)}"


@needs_ssh_keygen
@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ed25519"), ("-t", "rsa", "-b", "2048"), ("-t", "ecdsa", "-b", "256"), ("-t", "ecdsa", "-b", "384"),
        ("-t", "ecdsa", "-b", "521"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_ssh_keygen_makes_is_taken_as_text_and_as_a_file(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = _make(tmp_path, *options)
    (line,) = path.read_text().splitlines()
    assert resolve(line, tmp_path) == resolve("key.pub", tmp_path) == resolve(str(path), Path("/")) == (line,)


@needs_ssh_keygen
def test_a_cut_key_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    for options in (("-t", "ed25519"), ("-t", "rsa", "-b", "2048"), ("-t", "ecdsa")):
        kind, encoded, comment = _make(tmp_path, *options, name=options[1]).read_text().split()
        for length in range(0, len(encoded), 7):
            with pytest.raises(KeyProblemError, match="not a whole"):
                parse(f"{kind} {encoded[:length]} {comment}")


@needs_ssh_keygen
def test_a_certificate_is_no_key(tmp_path: Path) -> None:
    _make(tmp_path, "-t", "ed25519", name="ca")
    key = _make(tmp_path, "-t", "ed25519")
    run(["ssh-keygen", "-q", "-s", str(tmp_path / "ca"), "-I", "me", "-n", "debian", str(key)], timeout=60)
    with pytest.raises(KeyProblemError, match="this is a certificate"):
        resolve("key-cert.pub", tmp_path)


@needs_ssh_keygen
@pytest.mark.parametrize("form", ["PEM", "RFC4716", "PKCS8"])
def test_a_private_key_is_called_one_in_every_form_and_is_not_repeated(tmp_path: Path, form: str) -> None:
    _make(tmp_path, "-t", "rsa", "-b", "2048", "-m", form)
    private = (tmp_path / "key").read_text()
    secret = private.splitlines()[5]
    for entry in (private, "key"):
        with pytest.raises(KeyProblemError, match="private key") as raised:
            resolve(entry, tmp_path)
        assert secret not in f"{raised.value.message} {raised.value.hint}"


@needs_ssh_keygen
@pytest.mark.parametrize("form", ["PEM", "RFC4716", "PKCS8"])
def test_another_form_of_a_public_key_says_how_to_convert_it(tmp_path: Path, form: str) -> None:
    path = _make(tmp_path, "-t", "rsa", "-b", "2048")
    (tmp_path / "other").write_text(run(["ssh-keygen", "-e", "-m", form, "-f", str(path)], timeout=60).stdout)
    with pytest.raises(KeyProblemError, match="another form") as raised:
        resolve("other", tmp_path)
    assert "ssh-keygen -i" in raised.value.hint


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"ssh-dss {_blob(b'ssh-dss', b'p', b'q', b'g', b'y')}", "ssh-dss is no kind of key that sshd takes"),
        (f"ssh-rsa {_blob(b'ssh-rsa', b'e', bytes([0, 0x80]) + bytes(127))}", "an RSA key of 1024 bits is too weak"),
        (f"ssh-ed25519 {_blob(b'ssh-rsa', b'k' * 32)}", "is not a whole ssh-ed25519 key"),
        (f"ssh-ed25519 {_blob(b'ssh-ed25519', b'k' * 31)}", "is not a whole ssh-ed25519 key"),
        (f"ssh-ed25519 {_blob(b'ssh-ed25519', b'k' * 32, b'more')}", "is not a whole ssh-ed25519 key"),
        ("ssh-ed25519", "is not a whole ssh-ed25519 key"),
        ("ssh-ed25519 äöü", "is not a whole ssh-ed25519 key"),
        (f"{ED25519} a\u202eb", "has a control character in its comment"),
        (f'from="10.0.0.1" {ED25519}', "begins with something that is no kind of key"),
        (f"- {ED25519}", "begins with something that is no kind of key"),
    ],
)
def test_what_is_no_usable_key_is_named(line: str, expected: str) -> None:
    with pytest.raises(KeyProblemError) as raised:
        resolve(line, Path("/"))
    assert raised.value.message.startswith(expected)


def test_a_file_of_several_keys_gives_them_all_and_none_twice(tmp_path: Path) -> None:
    other = f"ssh-ed25519 {_blob(b'ssh-ed25519', b'o' * 32)} other"
    (tmp_path / "keys").write_text(f"# mine\n{ED25519}   me   here\n\n{other}\n")
    assert resolve("keys", tmp_path) == (f"{ED25519} me here", other)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.pub", None, '"missing.pub": no such file'),
        ("empty.pub", b"# none\n", '"empty.pub" holds no key'),
        ("binary.pub", b"\xff\xfe", '"binary.pub": is no UTF-8 text'),
        ("large.pub", b"x" * 70000, '"large.pub": larger than 64 KiB'),
        ("other.pub", b"ssh-ed25519 AAAA\n", '"other.pub": is not a whole ssh-ed25519 key'),
        (".", None, '".": is no regular file'),
        ("~nobody-of-this-name/key.pub", None, '"~nobody-of-this-name/key.pub": nobody\'s home'),
    ],
)
def test_a_file_that_holds_no_key_is_named(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(KeyProblemError) as raised:
        resolve(name, tmp_path)
    assert raised.value.message == expected


def test_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "id.pub").write_text(ED25519)
    assert resolve("~/id.pub", Path("/")) == (ED25519,)


def test_published_keys_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real ones are known by digest alone: this one stands in for them.
    digest = hashlib.sha256(base64.b64decode(ED25519.split()[1])).hexdigest()
    monkeypatch.setitem(published._PUBLISHED, digest, "the guide's SSH CA")
    for place in ("ssh.keys", "ssh.trusted_ca", "users.0.keys"):
        (line,) = said_of(changed(spec(), {"users": [{"name": "debian"}], place: [ED25519]}))
        assert "the guide's SSH CA: its private key is published, anybody could log in" in line


def test_every_problem_of_a_key_has_its_line(tmp_path: Path) -> None:
    lines = said_of(
        changed(spec(), {"ssh.keys": [ED25519, "nowhere.pub", "ssh-ed25519 AAAA"], "ssh.trusted_ca": ["x"]})
    )
    assert [line.partition(":")[0] for line in lines] == ["ssh.keys[1]", "ssh.keys[2]", "ssh.trusted_ca[0]"]


def test_a_loaded_cluster_holds_keys_not_paths(tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text(f"{ED25519} me\n")
    (tmp_path / "cluster.yaml").write_text(
        str(changed(spec(), {"ssh": {"keys": ["id.pub", f"{ED25519} me"], "trusted_ca": ["id.pub"]}}))
    )
    cluster = load(tmp_path / "cluster.yaml")
    assert cluster.ssh.keys == cluster.ssh.trusted_ca == (f"{ED25519} me",)
