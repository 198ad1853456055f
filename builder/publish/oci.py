"""Publishing to an OCI registry, as an artifact: one manifest, a layer for each file (OCI image specification 1.1).

A version is a tag, and so is `latest`. The registry is talked to through oras; credentials are those that docker,
podman or oras login keep (~/.docker/config.json, DOCKER_CONFIG, REGISTRY_AUTH_FILE). A registry on this machine is
spoken to without TLS, as docker does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from builder.errors import HapxError, InputError, OutputExistsError, UnreachableError, UntrustedError
from builder.image.companions import Companion
from builder.progress import Reporter
from builder.publish import web
from builder.publish.release import LARGEST, File, Release, check
from builder.publish.store import Meter, Published, require_digest

CHUNK = 16 << 20  # bytes of one request
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.hapx-build.appliance.v1"
LATEST = "latest"
TITLE, VERSION, NAME = (f"org.opencontainers.image.{each}" for each in ("title", "version", "ref.name"))
MEDIA_TYPES = {
    Companion.SPDX: "application/spdx+json",
    Companion.CYCLONEDX: "application/vnd.cyclonedx+json",
    Companion.PROVENANCE: "application/vnd.in-toto+json",
    Companion.MANIFEST: "application/vnd.hapx-build.manifest.v1+json",
    Companion.SIGNATURE: "application/vnd.hapx-build.minisig.v1",
    Companion.SUMS: "text/plain",
    Companion.DIGEST: "text/plain",
    ".ova": "application/ovf",
}
_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_LOCAL = ("localhost", "127.", "[::1]")


class Registry:
    """A repository of a registry; its methods raise of `builder.errors` what a person can act on."""

    def __init__(self, host: str, repository: str) -> None:
        self._host, self._repository = host, repository
        self.place = f"oci://{host}/{repository}"
        scheme = "http" if host.startswith(_LOCAL) else "https"
        self._base = f"{scheme}://{host}/v2/{repository}"

    def manifest(self, reference: str) -> bytes | None:
        """The manifest with that tag or digest; None where there is none."""
        response = self._ask("GET", f"/manifests/{reference}", headers={"Accept": MANIFEST}, stream=True)
        if response.status_code == 404:
            response.close()
            return None
        data = b""
        for chunk in web.pieces(self._expect(response, 200), self.place, 0):
            data += chunk
            if len(data) > LARGEST:
                raise HapxError(f"{self.place}: the manifest of {reference} is larger than any that was published")
        return data

    def tag(self, reference: str, manifest: bytes) -> None:
        """Give a manifest a tag, and read it back; raises UntrustedError where something else came back."""
        self._expect(
            self._ask("PUT", f"/manifests/{reference}", headers={"Content-Type": MANIFEST}, data=manifest), 201
        )
        if self.manifest(reference) != manifest:
            raise UntrustedError(
                f"{self.place}:{reference}: sent, but when read back it is something else",
                hint="is somebody else publishing the same version? See what is there, then publish again",
            )

    def has(self, digest: str) -> bool:
        """Whether a blob of that SHA-256 is there."""
        response = self._ask("HEAD", f"/blobs/sha256:{digest}")
        if response.status_code != 404:
            self._expect(response, 200)
        return bool(response.status_code == 200)

    def blob(self, digest: str, start: int = 0) -> Iterator[bytes] | None:
        """What the blob of that SHA-256 holds from byte `start` on; None where there is none."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self._ask("GET", f"/blobs/sha256:{digest}", headers=headers, stream=True)
        if response.status_code == 404:
            response.close()
            return None
        self._expect(response, 200, 206)
        skip = start if response.status_code == 200 else 0
        return web.pieces(response, self.place, skip)

    def send(self, digest: str, chunks: Iterator[bytes], on_progress: Callable[[int], None]) -> None:
        """Upload a blob in pieces (distribution specification, "Pushing a blob in chunks"); the registry checks it."""
        response = self._expect(self._ask("POST", "/blobs/uploads/", headers={"Content-Length": "0"}), 202)
        sent = 0
        for chunk in chunks:
            headers = {
                "Content-Range": f"{sent}-{sent + len(chunk) - 1}",
                "Content-Length": str(len(chunk)),
                "Content-Type": "application/octet-stream",
            }
            response = self._expect(self._ask("PATCH", self._location(response), headers=headers, data=chunk), 202)
            sent += len(chunk)
            on_progress(sent)
        url = self._location(response)
        url += f"{'&' if '?' in url else '?'}digest=sha256:{digest}"
        self._expect(self._ask("PUT", url, headers={"Content-Length": "0"}), 201)

    def _location(self, response: Any) -> str:
        from urllib.parse import urljoin

        return urljoin(self._base + "/", str(response.headers.get("Location", "")))

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        url = path if "://" in path else self._base + path
        with web.translated(self.place):
            try:
                # Without what oras wraps around it: two minutes of retries, whatever is wrong.
                return type(self._client).do_request.__wrapped__(self._client, url, method, **more)
            except ValueError as error:  # what oras raises where it has no credentials
                raise InputError(f"{self.place}: {error}", hint=LOG_IN) from None

    def _expect(self, response: Any, *codes: int) -> Any:
        if response.status_code in codes:
            return response
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            first = response.json()["errors"][0]
            said = f"{first['code']}: {first['message']}"
            if first["code"] == "DIGEST_INVALID":
                raise UntrustedError(
                    f"{self.place}: the registry received other bytes than were sent: {said}",
                    hint="something on the way changes data; publish again",
                )
            if response.status_code in {401, 403}:
                raise InputError(f"{self.place}: {said}", hint=LOG_IN)
            if response.status_code < 500:
                raise HapxError(f"{self.place}: the registry answers {response.status_code}: {said}")
            raise UnreachableError(f"{self.place}: the registry answers {response.status_code}: {said}", hint=web.AGAIN)
        raise web.refused(response)

    @cached_property
    def _client(self) -> Any:
        """oras, with the kind of login that this registry asks for, and time limits, which it has none of."""
        import requests
        from oras.container import Container
        from oras.logger import setup_logger
        from oras.provider import Registry as Oras

        setup_logger(quiet=True)
        insecure = self._host.startswith(_LOCAL)
        scheme = "http" if insecure else "https"
        with web.translated(self.place):
            said = requests.get(f"{scheme}://{self._host}/v2/", timeout=web.SECONDS)
        basic = said.status_code == 401 and said.headers.get("WWW-Authenticate", "").lower().startswith("basic")
        client = Oras(hostname=self._host, insecure=insecure, auth_backend="basic" if basic else "token")
        client.session.mount(f"{scheme}://", _limited())
        client.auth.load_configs(Container(f"{self._host}/{self._repository}"), _logins())
        if basic and not hasattr(client.auth, "_basic_auth"):
            raise InputError(f"{self.place}: this registry wants a user name and a password", hint=LOG_IN)
        return client


def _logins() -> list[str]:
    """Where docker and podman keep logins besides ~/.docker/config.json, which oras knows of."""
    docker, podman, runtime = (
        os.environ.get(name) for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR")
    )
    named = [docker and f"{docker}/config.json", podman, runtime and f"{runtime}/containers/auth.json"]
    return [path for path in named if path and Path(path).is_file()]


LOG_IN = "log in with `docker login`, `podman login` or `oras login`, or see who may push there"


def _limited() -> Any:
    from requests.adapters import HTTPAdapter

    class Limited(HTTPAdapter):
        """Waits no longer than it may."""

        def send(self, request: Any, **more: Any) -> Any:  # type: ignore[override]
            return super().send(request, **{**more, "timeout": web.SECONDS})

    return Limited()


def manifest(release: Release) -> bytes:
    """The manifest of a release; the same release gives the same bytes."""
    layers = [
        {
            "mediaType": media_type(file.name),
            "digest": f"sha256:{file.sha256}",
            "size": file.size,
            "annotations": {TITLE: file.name},
        }
        for file in release.files
    ]
    empty = {"mediaType": _EMPTY_TYPE, "digest": f"sha256:{_sha256(_EMPTY)}", "size": len(_EMPTY), "data": "e30="}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": empty,
        "layers": layers,
        "annotations": {TITLE: release.name, VERSION: release.version},
    }
    return json.dumps(document, indent=1).encode()


def media_type(name: str) -> str:
    """The media type of a file by the ending of its name."""
    fitting = [ending for ending in MEDIA_TYPES if name.endswith(ending)]
    return MEDIA_TYPES[max(fitting, key=len)] if fitting else "application/octet-stream"


def release_of(data: bytes, where: str) -> Release:
    """The release that a manifest tells of; raises InputError where it was not published by hapx-build."""
    try:
        document = json.loads(data)
        if document["artifactType"] != ARTIFACT:
            raise ValueError(f"its type is {document['artifactType']}")
        files = [
            File(layer["annotations"][TITLE], layer["size"], str(layer["digest"]).removeprefix("sha256:"))
            for layer in document["layers"]
        ]
        return check(document["annotations"][TITLE], document["annotations"][VERSION], files)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: not an appliance that hapx-build published: {error}") from None


def tag_of(version: str) -> str:
    """A version as a tag: + is not allowed in those."""
    return version.replace("+", "_")


def upload(release: Release, folder: Path, registry: Registry, reporter: Reporter, *, tag: str = "") -> Published:
    """Push a release, whose files are in `folder`, tag it, and move `latest`; with `tag`, that alone.

    Raises as `store.upload` does.
    """
    text, reference, sent = manifest(release), tag or tag_of(release.version), 0
    there = registry.manifest(reference)
    if there is not None:
        _require_same(release, there, text, f"{registry.place}:{reference}")
    else:
        with reporter.stage("send", title=f"Push {release.name}"):
            if not registry.has(_sha256(_EMPTY)):
                registry.send(_sha256(_EMPTY), iter([_EMPTY]), lambda _: None)
            meter = Meter(reporter, release.size)
            for file in release.files:
                if not registry.has(file.sha256):
                    registry.send(file.sha256, _chunks(folder / file.name), meter.within)
                    sent += file.size
                _read_back(file, registry)
                meter.whole(file.size)
            registry.tag(reference, text)
    if not tag:
        with reporter.stage("latest", title=f"{LATEST} is version {release.version}"):
            if registry.manifest(LATEST) != text:
                registry.tag(LATEST, text)
    return Published(registry.place, release.version, release.ova.sha256, sent, unchanged=there is not None)


def _require_same(release: Release, there: bytes, text: bytes, where: str) -> None:
    if there == text:
        return
    mine, known = set(release.files), set(release_of(there, where).files)
    other = ", ".join(sorted({file.name for file in mine ^ known})) or "its manifest"
    raise OutputExistsError(
        f"{where}: version {release.version} was published before, with other contents: {other}",
        hint="a version never changes once published: give this one another number, or another repository",
    )


def _read_back(file: File, registry: Registry) -> None:
    made = hashlib.sha256()
    for chunk in registry.blob(file.sha256) or ():
        made.update(chunk)
    require_digest(file, made.hexdigest(), f"{registry.place}: {file.name}")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
