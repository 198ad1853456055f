"""Signatures by the real minisign: made, checked, refused; the passphrase where nobody sees it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import InputError, UsageError
from builder.image import signature

PASSPHRASE = "correct horse battery staple"


@dataclass(frozen=True)
class Pair:
    secret: Path
    public: Path


def pair(folder: Path, passphrase: str = "") -> Pair:
    folder.mkdir()
    made = Pair(folder / "minisign.key", folder / "minisign.pub")
    argv = ["minisign", "-G", *([] if passphrase else ["-W"]), "-s", made.secret, "-p", made.public]
    subprocess.run(argv, input=f"{passphrase}\n{passphrase}\n", text=True, check=True, capture_output=True)
    return made


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("keys") / "plain")


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("keys") / "locked", PASSPHRASE)


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (signature.KEY, signature.PASSPHRASE):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    path = tmp_path / "x.SHA256SUMS"
    path.write_text(f"{'a' * 64}  x.ova\n")
    return path


def test_minisign_itself_takes_the_signature_and_it_is_the_same_each_time(sums: Path, plain: Pair) -> None:
    first, second = sums.with_name("first"), sums.with_name("second")
    signature.sign(sums, first, key=plain.secret)
    signature.sign(sums, second, key=plain.secret)
    assert first.read_bytes() == second.read_bytes()
    said = subprocess.run(
        ["minisign", "-V", "-m", sums, "-x", first, "-p", plain.public], capture_output=True, text=True, check=True
    )
    assert "Trusted comment: file:x.SHA256SUMS" in said.stdout
    for key in (str(plain.public), plain.public.read_text().splitlines()[1]):
        assert signature.fault(sums, first, key) == ""


@pytest.mark.slow
def test_key_and_passphrase_by_environment_and_nobody_sees_them(
    sums: Path, locked: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "argv"
    program = tmp_path / "bin" / "minisign"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{seen}\nexec {shutil.which("minisign")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    monkeypatch.setenv(signature.KEY, locked.secret.read_text())
    monkeypatch.setenv(f"{signature.PASSPHRASE}_FILE", str(tmp_path / "passphrase"))
    signed = sums.with_name("signed")
    signature.sign(sums, signed)
    assert signature.fault(sums, signed, str(locked.public)) == ""
    assert "-S" in seen.read_text()
    assert PASSPHRASE not in seen.read_text()


def test_no_key(sums: Path) -> None:
    with pytest.raises(UsageError, match="which key"):
        signature.sign(sums, sums.with_name("signed"))


@pytest.mark.parametrize("text", ["", "hello\n", "untrusted comment: x\nRWQ=\n", "untrusted comment: x\n???\n"])
def test_a_file_that_is_no_key(text: str, sums: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(InputError, match="not a secret key"):
        signature.sign(sums, sums.with_name("signed"), key=tmp_path / "key")


def test_a_public_key_does_not_sign(sums: Path, plain: Pair) -> None:
    with pytest.raises(InputError, match="not a secret key"):
        signature.sign(sums, sums.with_name("signed"), key=plain.public)


@pytest.mark.slow
def test_a_passphrase_that_is_missing_or_wrong(sums: Path, locked: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{signature.KEY}_FILE", str(locked.secret))
    with pytest.raises(InputError, match="has a passphrase") as missing:
        signature.sign(sums, sums.with_name("signed"))
    assert signature.PASSPHRASE in missing.value.hint
    monkeypatch.setenv(signature.PASSPHRASE, "wrong and private")
    with pytest.raises(InputError, match="Wrong password") as wrong:
        signature.sign(sums, sums.with_name("signed"))
    assert "private" not in wrong.value.message
    assert [path.name for path in sums.parent.iterdir()] == [sums.name]


def test_what_is_no_signature_of_it(sums: Path, plain: Pair, tmp_path: Path) -> None:
    signed = sums.with_name("signed")
    signature.sign(sums, signed, key=plain.secret)
    assert "key id" in signature.fault(sums, signed, str(pair(tmp_path / "other").public))
    text = signed.read_text()
    signed.write_text(text.replace("file:x.SHA256SUMS", "file:y.SHA256SUMS"))
    assert "verification failed" in signature.fault(sums, signed, str(plain.public))
    signed.write_text("rubbish\n")
    assert signature.fault(sums, signed, str(plain.public))
    signed.write_text(text)
    sums.write_text(f"{'b' * 64}  x.ova\n")
    assert "verification failed" in signature.fault(sums, signed, str(plain.public))


@pytest.mark.parametrize("key", ["", "no-such-file", "RWQx", "x" * 56])
def test_what_is_no_public_key(key: str) -> None:
    with pytest.raises(InputError, match="neither a file nor a public key"):
        signature.public_key(key)
