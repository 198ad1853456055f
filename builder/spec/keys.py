"""SSH public keys, as text or in a file: whole, of a kind that sshd takes, and neither private nor published."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from builder.seed import published
from builder.spec.files import UnreadableError, located, read_text
from builder.spec.issues import shown

# Kind -> how many strings the key's blob has after its kind (RFC 4253 6.6, RFC 5656 3.1, RFC 8709 4, PROTOCOL.u2f).
_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
_MIN_RSA_BYTES = 256  # 2048 bits
_MAX_BYTES = 64 << 10
_PRIVATE = re.compile(r"PRIVATE KEY|PuTTY-User-Key-File")
_KIND = re.compile(r"(ssh|ecdsa|sk)-[\w@.-]+(?=\s|$)")


class KeyProblemError(Exception):
    """A key that cannot be used: what is wrong with it, and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def resolve(entry: str, folder: Path) -> tuple[str, ...]:
    """The public keys an entry stands for, each as one line: itself, or those in the file it names.

    A path may begin with ~ and is relative to `folder`. Raises KeyProblemError; its texts quote no key.
    """
    text = entry.strip()
    if _PRIVATE.search(text):
        raise KeyProblemError(
            "this is a private key: it belongs to nobody but its owner", "the public one ends in .pub"
        )
    if _KIND.match(text):
        return (parse(text),)
    if "AAAA" in text and " " in text:
        raise KeyProblemError("begins with something that is no kind of key", "the key alone: kind, key, comment")
    return tuple(_in_file(text, folder))


def parse(line: str) -> str:
    """A public key in OpenSSH's one-line form, with single spaces. Raises KeyProblemError."""
    kind, _, rest = " ".join(line.split()).partition(" ")
    encoded, _, comment = rest.partition(" ")
    if "-cert-v" in kind:
        raise KeyProblemError("this is a certificate", "name the key of the CA that signed it, under ssh.trusted_ca")
    if kind not in _FIELDS:
        raise KeyProblemError(f"{kind[:40]} is no kind of key that sshd takes", f"one of {', '.join(_FIELDS)}")
    if not comment.isprintable():
        raise KeyProblemError("has a control character in its comment")
    try:
        blob = base64.b64decode(encoded, validate=True)
        fields = list(_strings(blob))
    except (binascii.Error, struct.error, ValueError):
        fields, blob = [], b""
    if not fields or fields[0] != kind.encode() or len(fields) != _FIELDS[kind] + 1 or not all(fields):
        raise KeyProblemError(f"is not a whole {kind} key", "copy all of it, on one line")
    if kind.startswith("ssh-rsa") and len(fields[2].lstrip(b"\0")) < _MIN_RSA_BYTES:
        bits = int.from_bytes(fields[2], "big").bit_length()
        raise KeyProblemError(f"an RSA key of {bits} bits is too weak", "ssh-keygen -t ed25519")
    if kind.endswith("ssh-ed25519") and len(fields[1]) != 32:
        raise KeyProblemError(f"is not a whole {kind} key", "copy all of it, on one line")
    if name := published.name(blob):
        raise KeyProblemError(
            f"{name}: its private key is published, anybody could log in", "make one: ssh-keygen -t ed25519"
        )
    return f"{kind} {encoded} {comment}".rstrip()


def _strings(blob: bytes) -> Iterator[bytes]:
    """The strings of an SSH blob (RFC 4251, 5). Raises ValueError or struct.error where it is cut."""
    while blob:
        (length,) = struct.unpack_from(">I", blob)
        if length > len(blob) - 4:
            raise ValueError("cut")
        yield blob[4 : 4 + length]
        blob = blob[4 + length :]


def _in_file(name: str, folder: Path) -> Iterator[str]:
    try:
        content = read_text(located(name, folder), limit=_MAX_BYTES)
    except UnreadableError as error:
        hint = "the path of a public key, or the key itself: ssh-ed25519 AAAA…"
        raise KeyProblemError(f"{shown(name)}: {error}", hint) from None
    if _PRIVATE.search(content):
        raise KeyProblemError(f"{shown(name)} is a private key", "the public one ends in .pub")
    if "BEGIN SSH2 PUBLIC KEY" in content or "BEGIN PUBLIC KEY" in content or "BEGIN RSA PUBLIC KEY" in content:
        raise KeyProblemError(f"{shown(name)} has another form than OpenSSH's", "ssh-keygen -i converts it")
    lines = [line for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise KeyProblemError(f"{shown(name)} holds no key")
    for line in lines:
        try:
            yield parse(line)
        except KeyProblemError as problem:
            raise KeyProblemError(f"{shown(name)}: {problem.message}", problem.hint) from None
