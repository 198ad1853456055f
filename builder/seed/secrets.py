"""What only a cluster's own nodes may know: made once, kept beside the spec, never shown.

Values come from the environment or, where it has none, from the cluster's secrets file. They travel as `Secret`, which
shows none; a message says where a value stands and what is wrong with it, never the value.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import stat
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from builder import command
from builder.errors import InputError, Problem
from builder.seed import encoded, private, published
from builder.seed.marked import NotYamlError, compose, entries, is_mapping, is_null, is_scalar

AUTHKEY = "corosync_authkey"
STATS_PASSWORD = "stats_password"  # noqa: S105 - its name
STATS_HASH = "stats_password_hash"
FENCING_KEY = "fencing_key"
QDEVICE_CERTIFICATE = "qdevice_certificate"

AUTHKEY_BYTES = 256  # what corosync-keygen(8) makes
AUTHKEY_LENGTHS = range(128, 4096 + 1)  # totem.h: TOTEM_PRIVATE_KEY_LEN_MIN and _MAX
AUTHKEY_SUBSTANCE = 64  # bytes that zlib must need for it: 128 random ones take 139, 128 random hex digits about 80
PASSWORD_LENGTHS = range(12, 128 + 1)
LARGEST_FILE = 1 << 20
MASK = "***"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# The label stands by itself, so that nobody's search for keys finds one in this file.
_LABEL = b"OPENSSH PRIVATE KEY"
_PRIVATE_KEY = re.compile(rb"-----BEGIN %b-----\s+([A-Za-z0-9+/=\s]+)-----END %b-----\s*" % (_LABEL, _LABEL))
_OPENSSH_KEY = b"openssh-key-v1\0"
_UNUSABLE = "the cluster's secrets cannot be used"


class Secret:
    """A value that shows only where it is asked for: `reveal` and `text` give it, everything else gives ***."""

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: bytes) -> None:
        self.name = name
        self._value = value

    def reveal(self) -> bytes:
        """The value."""
        return self._value

    def text(self) -> str:
        """The value as text."""
        return self._value.decode()

    def __repr__(self) -> str:
        """Its name alone."""
        return f"Secret({self.name!r}, {MASK})"

    def __str__(self) -> str:
        """Three stars."""
        return MASK

    def __format__(self, specification: str) -> str:
        """Three stars, in the width that was asked for."""
        return format(MASK, specification)

    def __deepcopy__(self, memo: object) -> Secret:
        """Itself: it never changes, and dataclasses.asdict copies deeply."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: that would be a way out in plain."""
        raise TypeError("a secret cannot be pickled")


@dataclass(frozen=True, slots=True)
class Secrets:
    """A cluster's secrets by name: those every cluster has, and whatever else stands in its secrets file."""

    values: Mapping[str, Secret]

    @property
    def authkey(self) -> Secret:
        """Corosync's authkey, the bytes of /etc/corosync/authkey."""
        return self.values[AUTHKEY]

    @property
    def stats_password(self) -> Secret:
        """The password of HAProxy's statistics page."""
        return self.values[STATS_PASSWORD]

    @property
    def stats_hash(self) -> Secret:
        """The same for HAProxy's userlist: crypt(5), SHA-512; the same password and authkey give the same hash."""
        return self.values[STATS_HASH]


@dataclass(frozen=True, slots=True)
class _Known:
    """A secret by a name of ours; as text in the secrets file and in `variable`, as bytes in `variable`_FILE.

    Every cluster has those that can be made; `generate` is None for what somebody else has to know as well.
    """

    name: str
    variable: str
    generate: Callable[[], str] | None
    from_text: Callable[[str], bytes]
    from_file: Callable[[bytes], bytes]
    faults: Callable[[bytes], Iterator[tuple[str, str]]]

    def absence(self, path: Path) -> Problem:
        """What to say where it is needed and nowhere to be found."""
        place = f"add a line '{self.name}: …'"
        if self.generate is not None:
            hint = f"set {self.variable} as when the file was made, or {place}"
        else:
            hint = f"name its file in {self.variable}_FILE, or {place}"
        return Problem(str(path), f"{self.name} is missing", hint)


def path_beside(spec: Path) -> Path:
    """Where the secrets of a cluster are kept: cluster.yaml's in cluster.secrets.yaml."""
    return spec.with_name(f"{spec.stem}.secrets.yaml")


def load(path: Path, needed: Collection[str] = ()) -> Secrets:
    """A cluster's secrets: from the environment, else from the file at `path`, which is made where there is none.

    HAPX_AUTHKEY (base64) or HAPX_AUTHKEY_FILE (as corosync-keygen writes it), HAPX_STATS_PASSWORD or
    HAPX_STATS_PASSWORD_FILE go before what the file says; so do HAPX_FENCING_KEY (a private key as ssh-keygen writes
    it) and HAPX_QDEVICE_CERTIFICATE (base64, or as PKCS #12 in the file), which nobody makes here: they have to be
    there where `needed` has their names. Of several processes that come first at the same time one makes the file and
    all use it. Raises InputError for values that are missing, weak or published, a file that others may read, or one
    that git would take in; MissingError where there is no openssl to hash with.
    """
    values, problems = _from_environment()
    if problems:
        raise InputError(_UNUSABLE, problems)
    wanted = [known for known in _KNOWN if known.generate is not None or known.name in needed]
    missing = [known for known in wanted if known.name not in values]
    if missing and not path.exists():
        if absent := [known.absence(path) for known in missing if known.generate is None]:
            raise InputError(_UNUSABLE, absent)
        _make(path, missing)
    if missing or path.exists():
        stored, faults = _from_file(path)
        values = stored | values
        for known in missing:
            if known.name not in values and not faults:
                problems.append(known.absence(path))
        problems += faults
    if problems:
        raise InputError(_UNUSABLE, problems)
    values[STATS_HASH] = _hashed(values[STATS_PASSWORD], values[AUTHKEY])
    return Secrets(MappingProxyType(values))


def mask(text: str, values: Iterable[Secret]) -> str:
    """The text with *** wherever a secret stands in it: plain, quoted, in base64, or in a file that is in base64."""
    found = list(values)
    patterns = sorted({form for value in found for form in _forms(value.reveal())}, key=len, reverse=True)
    if not patterns:
        return text
    hidden = re.compile("|".join(patterns))

    plain = [value.reveal() for value in found]

    def unless_holding(match: re.Match[str]) -> str:
        content = encoded.decode(match)
        if hidden.search(content.decode(errors="replace")) or any(value in content for value in plain):
            return match[1] + MASK
        return match[0]

    for pattern in (encoded.BLOCK, encoded.WORD):
        text = pattern.sub(unless_holding, text)
    return hidden.sub(MASK, text)


def _forms(value: bytes) -> Iterator[str]:
    """Patterns for the ways a value may stand in a document."""
    letters = base64.b64encode(value).decode().rstrip("=")
    yield r"\s*".join(re.escape(letter) for letter in letters) + "={0,2}"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return
    for form in (text, json.dumps(text)[1:-1], text.replace("'", "''")):
        yield re.escape(form)


def _from_environment() -> tuple[dict[str, Secret], list[Problem]]:
    values: dict[str, Secret] = {}
    problems = []
    for known in _KNOWN:
        direct, indirect = known.variable, f"{known.variable}_FILE"
        given = [name for name in (direct, indirect) if name in os.environ]
        if len(given) > 1:
            problems.append(Problem(direct, f"{indirect} is set too", "set one of them"))
        elif given:
            (where,) = given
            try:
                text = os.environ[where]
                value = known.from_text(text) if where == direct else known.from_file(_read_given(Path(text)))
            except OSError as error:
                # Not the path: who mistakes one variable for the other has put the secret there.
                problems.append(Problem(where, error.strerror or "cannot be read"))
                continue
            except ValueError as error:
                problems.append(Problem(where, str(error)))
                continue
            values[known.name] = Secret(known.name, value)
            problems += _faults(known, value, where)
    return values, problems


def _from_file(path: Path) -> tuple[dict[str, Secret], list[Problem]]:
    """The values in a secrets file and what is wrong with it; errors tell lines and names, never a value."""
    try:
        text = _read_private(path).decode()
        root = compose(text)
    except UnicodeDecodeError:
        return {}, [Problem(str(path), "not UTF-8 text")]
    except NotYamlError as error:
        return {}, [Problem(f"{path}:{error.line}", "not YAML", "one 'name: \"value\"' a line, values in quotes")]
    if root is not None and not is_mapping(root):
        return {}, [Problem(f"{path}:1", "not a list of names and values", "one 'name: \"value\"' a line")]
    known_ones = {known.name: known for known in _KNOWN}
    ours = {*known_ones, STATS_HASH}
    values: dict[str, Secret] = {}
    problems = []
    for name, node, line in entries(root) if root is not None else ():
        # Only a name of ours is sure to be no value in the wrong place.
        where = f"{path}:{line}: {name}" if name in ours else f"{path}:{line}"
        if not _NAME.fullmatch(name):
            problems.append(Problem(where, "does not begin with a name", "lower-case letters, digits and '_'"))
        elif name in values:
            problems.append(Problem(where, "stands here twice"))
        elif not is_scalar(node) or is_null(node):
            problems.append(Problem(where, "has no value", "put it in quotes"))
        elif name == STATS_HASH:
            problems.append(Problem(where, "is derived from the password", "take this line out"))
        else:
            known = known_ones.get(name)
            try:
                value = known.from_text(node.value) if known else node.value.encode()
            except ValueError as error:
                problems.append(Problem(where, str(error)))
                value = b""
            else:
                problems += _faults(known, value, where) if known else ()
            values[name] = Secret(name, value)
    return values, problems


def _faults(known: _Known, value: bytes, where: str) -> list[Problem]:
    return [Problem(where, message, hint) for message, hint in known.faults(value)]


def _make(path: Path, wanted: Iterable[_Known]) -> None:
    _refuse_in_git(path)
    lines = [
        "# Secrets of a cluster, made by hapx-build: its nodes need them for as long as the cluster lives.",
        "# Keep this file to yourself, out of git, and in your backup.",
        *(f"{known.name}: {json.dumps(known.generate())}" for known in wanted if known.generate is not None),
    ]
    private.create(path, "\n".join([*lines, ""]).encode())


def _refuse_in_git(path: Path) -> None:
    """Raise InputError where the file would be committed with the next `git add`."""
    if command.which("git") is None or not path.parent.is_dir():
        return
    # 0: ignored; 1: not; 128: no work tree.
    asked = command.run(["git", "check-ignore", "--quiet", path.name], cwd=path.parent, timeout=30, check=False)
    if asked.returncode == 1:
        raise InputError(
            f"{path}: will hold secrets, and git does not ignore it",
            hint=f"echo '*.secrets.yaml' >> {shlex.quote(str(path.parent / '.gitignore'))}",
        )


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: not a file")
            if status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise InputError(
                    f"{path}: others may read these secrets (mode {mode:04o})",
                    hint=f"chmod 600 {shlex.quote(str(path))}",
                )
            if status.st_size > LARGEST_FILE:
                raise InputError(f"{path}: {status.st_size} bytes are no list of secrets")
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _read_given(path: Path) -> bytes:
    """What a file, or a pipe, holds that the user names."""
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"more than {LARGEST_FILE} bytes")
    return content


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise ValueError("not base64") from None


def _from_text(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _without_newline(content: bytes) -> bytes:
    return content.removesuffix(b"\n").removesuffix(b"\r")


def _authkey_faults(value: bytes) -> Iterator[tuple[str, str]]:
    new = "corosync-keygen makes one, or leave it to hapx-build"
    if name := published.name(value):
        yield f"this is {name}: everybody has it", new
    elif len(value) not in AUTHKEY_LENGTHS:
        yield f"{len(value)} bytes; Corosync takes {AUTHKEY_LENGTHS[0]} to {AUTHKEY_LENGTHS[-1]}", new
    elif len(zlib.compress(value, 9)) < AUTHKEY_SUBSTANCE:
        yield "its bytes repeat: this key can be guessed", new


def _password_faults(value: bytes) -> Iterator[tuple[str, str]]:
    if len(value) not in PASSWORD_LENGTHS:
        yield f"{len(value)} characters", f"{PASSWORD_LENGTHS[0]} to {PASSWORD_LENGTHS[-1]}"
    elif not all(0x21 <= byte <= 0x7E for byte in value):
        yield "holds something else than printable ASCII", "letters, digits and punctuation, no spaces"
    elif len(set(value)) < PASSWORD_LENGTHS[0] // 2:
        yield "its characters repeat: this password can be guessed", "leave it to hapx-build"


def _as_ssh_reads_it(text: str) -> bytes:
    """A private key with its last newline, without which ssh takes it for no key."""
    return text.strip().encode(errors="surrogateescape") + b"\n"


def _private_key_faults(value: bytes) -> Iterator[tuple[str, str]]:
    new = "ssh-keygen -t ed25519 -N '' -f fencing.key makes one"
    found = _PRIVATE_KEY.fullmatch(value)
    if found is None:
        yield "not a private key as ssh-keygen writes it", new
        return
    try:
        body = base64.b64decode(b"".join(found[1].split()), validate=True)
    except ValueError:
        body = b""
    # PROTOCOL.key: the magic, then the cipher's name as a string.
    if not body.startswith(_OPENSSH_KEY):
        yield "cut short, or changed", new
    elif not body.startswith(_OPENSSH_KEY + b"\0\0\0\4none"):
        yield "has a passphrase, and nobody is there to type it", "ssh-keygen -p -N '' -f FILE takes it away"


def _certificate_faults(value: bytes) -> Iterator[tuple[str, str]]:
    # RFC 7292, 4: a sequence, its length in any of BER's forms, which begins with the version, 3.
    if value[:1] != b"\x30" or b"\x02\x01\x03" not in value[:9]:
        yield (
            "not a certificate with its key (PKCS #12)",
            "qdevice-net-node.p12, as corosync-qdevice-net-certutil makes it",
        )


def _hashed(password: Secret, key: Secret) -> Secret:
    """The password for HAProxy's userlist, with a salt that follows from password and key."""
    openssl = command.require("openssl")
    digest = hmac.digest(key.reveal(), STATS_PASSWORD.encode() + b"\0" + password.reveal(), hashlib.sha256)
    salt = base64.b64encode(digest, altchars=b"./")[:16].decode()
    argv = [str(openssl), "passwd", "-6", "-salt", salt, "-stdin"]
    result = command.run(argv, input=f"{password.text()}\n", timeout=30)
    return Secret(STATS_HASH, result.stdout.strip().encode())


_KNOWN = (
    _Known(
        AUTHKEY,
        "HAPX_AUTHKEY",
        lambda: base64.b64encode(secrets.token_bytes(AUTHKEY_BYTES)).decode(),
        _from_base64,
        bytes,
        _authkey_faults,
    ),
    _Known(
        STATS_PASSWORD,
        "HAPX_STATS_PASSWORD",
        lambda: secrets.token_urlsafe(18),
        _from_text,
        _without_newline,
        _password_faults,
    ),
    _Known(
        FENCING_KEY,
        "HAPX_FENCING_KEY",
        None,
        _as_ssh_reads_it,
        bytes,
        _private_key_faults,
    ),
    _Known(
        QDEVICE_CERTIFICATE,
        "HAPX_QDEVICE_CERTIFICATE",
        None,
        _from_base64,
        bytes,
        _certificate_faults,
    ),
)
