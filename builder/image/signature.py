"""The detached signature of a SHA256SUMS, by minisign: one small key file, and a public key of one line.

minisign and not GPG, because there is nothing around the key: no keyring, agent or trust model whose state decides what
a check says, so that a build server, a laptop and an air-gapped importer give the same answer. Both are in Debian.

The key is a file, or comes by the environment: HAPX_SIGN_KEY holds it, HAPX_SIGN_KEY_FILE names its file. Its
passphrase, where it has one, is in HAPX_SIGN_PASSPHRASE or in the file that HAPX_SIGN_PASSPHRASE_FILE names, and goes
to minisign through its standard input: nobody sees it in a list of processes.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from builder import command
from builder.errors import CommandError, InputError, UsageError

KEY, PASSPHRASE = "HAPX_SIGN_KEY", "HAPX_SIGN_PASSPHRASE"
SECONDS = 300.0  # deriving a key from a passphrase takes seconds and 1 GB of memory, and longer on a busy machine
LARGEST_KEY = 4096  # bytes
_ENCRYPTED = b"Sc"  # scrypt, bytes 3 and 4 of a secret key (minisign's format: signature, kdf, checksum algorithm)


def sign(sums: Path, signature: Path, *, key: Path | None = None) -> None:
    """Sign a SHA256SUMS with the key in the file `key`, by default the environment's; the signature comes by rename.

    The same key and text give the same signature: its comment names the file, and no date.

    Raises InputError for a key or a passphrase that is not right, UsageError where there is no key, MissingError
    without minisign.
    """
    command.require("minisign")
    staged = signature.with_name(f".{signature.name}.{os.getpid()}")
    with _key_file(key) as (path, spoken):
        phrase = _passphrase(spoken) if _is_encrypted(path, spoken) else ""
        argv = ["minisign", "-S", "-s", str(path), "-m", str(sums), "-x", str(staged), "-t", f"file:{sums.name}"]
        try:
            command.run(argv, input=f"{phrase}\n", timeout=SECONDS)
            staged.rename(signature)
        except CommandError as error:
            said = error.details[-1] if error.details else ""
            raise InputError(
                f"{spoken}: minisign cannot sign with this key: {said}", hint=f"is {PASSPHRASE} its passphrase?"
            ) from None
        finally:
            staged.unlink(missing_ok=True)


def public_key(text: str) -> list[str]:
    """The public key as minisign takes it: a file, or the key itself as one line of base64.

    Raises InputError where it is neither.
    """
    if Path(text).is_file():
        return ["-p", text]
    with contextlib.suppress(binascii.Error, ValueError):
        key = base64.b64decode(text, validate=True)
        if len(key) == 42 and key.startswith(b"Ed"):
            return ["-P", text]
    raise InputError(f"{text}: neither a file nor a public key of minisign", hint="give the .pub file of the signer")


def fault(signed: Path, signature: Path, key: str) -> str:
    """What is wrong with the signature of a file, in minisign's words; "" where it was made with that key.

    Raises InputError for a key that is none (see `public_key`), MissingError without minisign.
    """
    command.require("minisign")
    argv = ["minisign", "-V", "-m", str(signed), "-x", str(signature), *public_key(key)]
    result = command.run(argv, timeout=SECONDS, check=False)
    if result.returncode == 0:
        return ""
    return " ".join((result.stderr or result.stdout).split()) or f"minisign: exit code {result.returncode}"


@contextlib.contextmanager
def _key_file(given: Path | None) -> Iterator[tuple[Path, str]]:
    """The secret key in a file, and what to call it: the environment's own is in a private one for as long."""
    if given is not None:
        yield given, str(given)
    elif value := os.environ.get(KEY):
        with tempfile.TemporaryDirectory(prefix="hapx-key-") as folder:
            path = Path(folder, "minisign.key")
            path.touch(0o600)
            path.write_text(value.strip() + "\n")
            yield path, KEY
    elif name := os.environ.get(f"{KEY}_FILE"):
        yield Path(name), f"{KEY}_FILE"
    else:
        raise UsageError("which key to sign with?", hint=f"--key FILE, {KEY} or {KEY}_FILE; `minisign -G` makes one")


def _is_encrypted(path: Path, spoken: str) -> bool:
    hint = "give the secret key of minisign (minisign -G makes one)"
    try:
        with path.open("rb") as file:
            comment, _, rest = file.read(LARGEST_KEY).partition(b"\n")
        key = base64.b64decode(rest.split(b"\n")[0].strip(), validate=True)
    except OSError as error:
        raise InputError(f"{spoken}: {error.strerror}", hint=hint) from None
    except binascii.Error:
        key = b""
    if not comment.startswith(b"untrusted comment:") or key[:2] != b"Ed" or len(key) < 100:
        raise InputError(f"{spoken}: not a secret key of minisign", hint=hint)
    return key[2:4] == _ENCRYPTED


def _passphrase(spoken: str) -> str:
    if value := os.environ.get(PASSPHRASE):
        return value
    if name := os.environ.get(f"{PASSPHRASE}_FILE"):
        try:
            return Path(name).read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise InputError(f"{PASSPHRASE}_FILE: {reason}") from None
    raise InputError(f"{spoken}: this key has a passphrase", hint=f"set {PASSPHRASE} or {PASSPHRASE}_FILE")
