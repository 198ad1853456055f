"""Keys that the whole world has: those published with the guide this project replaces, by their digests alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

from builder.seed import encoded

# SHA-256 of the key itself: an authkey's bytes, an SSH public key's blob (RFC 4253, 6.6).
_PUBLISHED = {
    "ea68d5e7611507d2525451f227d7dd57ce41109596d6c00b2fe2dea537d45974": "the guide's Corosync authkey",
    "3f5df63ad82972ea63b05e324e97de88a4dda05ece90bb7eeac67cc619a839b6": "the Corosync authkey of the guide's scripts",
    "50c743aef12aa26731316dd546718fdb515aa6acaec7f8d6586cf1b1dcc3771c": "the guide's SSH CA (ca@kube.demo, RSA)",
    "9daf2abb6457172042267790c3146917a751176aaa1646bae60e08f3c13bf8f1": "the guide's SSH CA (ca@kube.demo, Ed25519)",
    "958aa89e0162871176eeebe44a3ee3889dcd1814e31873c2878e517f91b1a288": "the guide's SSH key of debian@kube.demo",
    "dbcd4054f7d7b6e6475c52d02400592009ebed3dc63fc4ec423226f08e12092a": "the guide's SSH key of debian@kube.demo",
    "4fe9bf0e1d758ce6741beeaaf0db05515b20ac29a24b9d7a9bddd02c0172e348": "the guide's SSH key of ubuntu@kube.demo",
}
_SSH_KEY = re.compile(r"\b(?:ssh|ecdsa|sk)-[\w@.-]+[ \t]+([A-Za-z0-9+/]+={0,2})", re.ASCII)


def name(key: bytes) -> str | None:
    """What a published key is called, given an authkey's bytes or an SSH public key's blob; None for any other."""
    return _PUBLISHED.get(hashlib.sha256(key).hexdigest())


def find(text: str) -> Iterator[tuple[int, str]]:
    """The published keys in a text, plain or in base64: each with its line, counted from 1."""
    yield from sorted(set(_find(text)))


def _find(text: str) -> Iterator[tuple[int, str]]:
    for match in _SSH_KEY.finditer(text):
        if found := name(_decode(match[1])):
            yield _line(text, match), found
    for pattern in (encoded.BLOCK, encoded.WORD):
        for match in pattern.finditer(text):
            content = encoded.decode(match)
            if found := name(content):
                yield _line(text, match), found
            for inner in _SSH_KEY.finditer(content.decode(errors="replace")):
                if found := name(_decode(inner[1])):
                    yield _line(text, match), found


def _decode(blob: str) -> bytes:
    try:
        return base64.b64decode(blob, validate=True)
    except binascii.Error:
        return b""


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1
