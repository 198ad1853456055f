"""Where OVAs are put for others, and taken from: a folder, a web server, S3-compatible storage, an OCI registry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from builder.errors import InputError

FORMS = (
    "a folder, file:///FOLDER, https://HOST/PATH, http://HOST/PATH, s3://BUCKET/PREFIX, oci://REGISTRY/REPOSITORY[:TAG]"
)
# Repository names and tags as the OCI distribution specification has them (v1.1, "Pulling manifests").
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Kind(StrEnum):
    """What an address leads to."""

    FOLDER = "folder"
    HTTP = "http"
    S3 = "s3"
    OCI = "oci"


@dataclass(frozen=True, slots=True)
class Address:
    """An address that was understood; it holds no user name and no password, so it may be shown.

    `host` is the server or the bucket, `path` what is below it: a folder's path, a URL's, a prefix, a repository. `tag`
    is an OCI tag, where one was given.
    """

    kind: Kind
    text: str
    host: str
    path: str
    tag: str = ""

    def __str__(self) -> str:
        """As it was given."""
        return self.text


def is_remote(text: str) -> bool:
    """Whether this is a URL and not the path of something here."""
    return "://" in text and not text.startswith("file://")


def parse(text: str) -> Address:
    """What `text` leads to; raises InputError, without the text where a password may be in it."""
    if "://" not in text:
        return Address(Kind.FOLDER, text, "", str(Path(text).absolute()))
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        _ = url.port
    except ValueError as error:
        raise InputError(f"this address is no URL: {error}", hint=FORMS) from None
    if "@" in url.netloc:
        raise InputError(
            f"this {url.scheme}:// address carries a user name or a password, which logs would keep",
            hint="it belongs into ~/.netrc (http), the environment or ~/.aws (s3), ~/.docker/config.json (oci)",
        )
    if url.query or url.fragment:
        raise InputError(f"{url.scheme}://{url.netloc}{url.path}: an address ends before any ? and #", hint=FORMS)
    path = url.path.strip("/")
    match url.scheme:
        case "file" if not url.netloc and url.path:
            return Address(Kind.FOLDER, text, "", unquote(url.path))
        case "http" | "https" if host:
            return Address(Kind.HTTP, text, url.netloc, path)
        case "s3" if _BUCKET.fullmatch(url.netloc):
            return Address(Kind.S3, text, url.netloc, path)
        case "oci" if host:
            repository, colon, tag = path.partition(":")
            if _REPOSITORY.fullmatch(repository) and (not colon or _TAG.fullmatch(tag)):
                return Address(Kind.OCI, text, url.netloc, repository, tag)
    raise InputError(f"{text}: not an address for OVAs", hint=FORMS)
