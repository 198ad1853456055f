"""Publishing to real servers, and what is there when that goes wrong in the middle."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from builder import publish as publishing
from builder.errors import ExitCode, HapxError, InputError
from builder.progress import Reporter
from builder.publish import address
from builder.publish.fetch import fetch
from builder.publish.store import Published
from tests import releases
from tests.integration import servers
from tests.integration.baking import COMMAND
from tests.integration.servers import Server

MIB = 1 << 20
OLD = b"the version before" * 1000
PASSWORD = "no-one-is-to-see-this"


@dataclass
class Target:
    """Where a test publishes to: an address, and the server behind it, if there is one."""

    address: str
    server: Server | None
    of_version: Callable[[str], str]

    def publish(self, ova: Path, reporter: Reporter | None = None) -> Published:
        return publishing.publish(ova, address.parse(self.address), reporter or Reporter())

    def fetched(self, folder: Path, version: str = "") -> bytes:
        """What somebody gets who asks for the latest version, or for one by its number."""
        return fetch(self.of_version(version) if version else self.address, folder, Reporter()).read_bytes()

    def has(self, version: str, folder: Path) -> bool:
        """Whether a version is there for anybody; whatever else goes wrong is raised."""
        try:
            self.fetched(folder, version)
        except InputError:
            return False
        return True


@dataclass
class Hook(Reporter):
    """Does something once: when a stage is over, or when so many bytes of one went."""

    stage_name: str = ""
    after: int | None = None
    act: Callable[[], None] = lambda: None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def _show(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))
        if facts.get("stage") != self.stage_name:
            return
        reached = event == "done" if self.after is None else event == "progress" and facts["done"] >= self.after
        if reached:
            self.stage_name = ""
            self.act()


START = {"http": servers.nginx, "oci": servers.registry, "s3": servers.swift}


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """One server of each kind for all tests, from when it is first asked for; whoever kills it starts it again."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def of(kind: str) -> Server:
            return stack.enter_context(START[kind](tmp_path_factory.mktemp(kind)))

        yield of


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A destination of the kind that the test is for, with nothing in it."""
    kind = getattr(request, "param", "http")
    server = None if kind == "folder" else request.getfixturevalue("started")(kind)
    return leading(kind, server, tmp_path, monkeypatch)


@pytest.fixture
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """The same, with a disk that gets full."""
    folder = tmp_path / "server"
    folder.mkdir()
    with START[request.param](folder, small=True) as server:
        yield leading(request.param, server, tmp_path, monkeypatch)


def leading(kind: str, server: Server | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """An address on a server, or of a folder, that nothing was published to yet."""
    name = f"{folder.name.lower().replace('_', '-').strip('-')}-x"
    if server is None:
        root = folder / "published"
        return Target(str(root), None, lambda version: str(root / version))
    if kind == "oci":
        place = f"oci://127.0.0.1:{server.port}/team/{name}"
        return Target(place, server, lambda version: f"{place}:{version}")
    url = f"{server.url}/images/{name}"
    if kind == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        bucket = f"bucket-{name}"[:60]
        boto3.Session().client("s3").create_bucket(Bucket=bucket)
        url = f"s3://{bucket}/team/hapx"
    return Target(url, server, lambda version: f"{url}/{version}")


@pytest.fixture(autouse=True)
def nobody_in_particular(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials or proxies of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in servers.KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="session")
def large() -> bytes:
    """More than two parts of S3, and than two pieces of OCI."""
    return random.Random(7).randbytes(34 * MIB)


KINDS = ("folder", "http", "s3", "oci")
every_kind = pytest.mark.parametrize("target", KINDS, indirect=True)
every_server = pytest.mark.parametrize("target", KINDS[1:], indirect=True)


@every_kind
def test_a_version_is_published_once_and_fetched_as_it_was(target: Target, tmp_path: Path, large: bytes) -> None:
    old = releases.make(tmp_path / "old", OLD, version="1.1")
    new = releases.make(tmp_path / "new", large)
    assert not target.publish(old).unchanged
    assert target.fetched(tmp_path / "got") == OLD
    first = target.publish(new)
    assert first.sent > len(large)
    assert not first.unchanged
    assert target.fetched(tmp_path / "got") == large
    assert target.fetched(tmp_path / "got", "1.1") == OLD
    again = target.publish(new)
    assert (again.unchanged, again.sent, again.sha256) == (True, 0, first.sha256)

    other = releases.make(tmp_path / "other", b"something else", version="1.1")
    with pytest.raises(HapxError, match=r"version 1\.1 was published before") as refused:
        target.publish(other)
    assert refused.value.exit_code is ExitCode.EXISTS
    assert "hapx-1.1-amd64.ova" in refused.value.message
    assert target.fetched(tmp_path / "again", "1.1") == OLD
    assert target.fetched(tmp_path / "again") == large


@every_server
def test_a_server_that_is_killed(target: Target, tmp_path: Path, large: bytes) -> None:
    old = releases.make(tmp_path / "old", OLD, version="1.1")
    new = releases.make(tmp_path / "new", large)
    assert target.server is not None
    target.publish(old)
    with pytest.raises(HapxError) as failed:
        target.publish(new, Hook(stage_name="send", after=18 * MIB, act=target.server.kill))
    assert failed.value.exit_code is ExitCode.UNREACHABLE, failed.value.message
    assert target.address.partition("//")[2].partition("/")[0] in failed.value.message
    target.server.start()
    assert not target.has("1.2", tmp_path / "got")
    assert target.fetched(tmp_path / "got") == OLD

    target.publish(new)
    assert target.fetched(tmp_path / "got") == large


@every_kind
def test_what_arrives_is_not_what_was_checked(target: Target, tmp_path: Path, large: bytes) -> None:
    old = releases.make(tmp_path / "old", OLD, version="1.1")
    new = releases.make(tmp_path / "new", large)

    def change() -> None:
        with new.open("r+b") as file:
            file.seek(30 * MIB)
            file.write(b"changed")

    target.publish(old)
    with pytest.raises(HapxError) as failed:
        target.publish(new, Hook(stage_name="check", act=change))
    assert failed.value.exit_code is ExitCode.UNTRUSTED, failed.value.message
    assert not target.has("1.2", tmp_path / "got")
    assert target.fetched(tmp_path / "got") == OLD

    new.write_bytes(large)
    target.publish(new)
    assert target.fetched(tmp_path / "got") == large


@pytest.mark.parametrize("small", KINDS[1:], indirect=True)
def test_a_server_whose_disk_gets_full(small: Target, tmp_path: Path, large: bytes) -> None:
    old = releases.make(tmp_path / "old", OLD, version="1.1")
    new = releases.make(tmp_path / "new", large)
    small.publish(old)
    with pytest.raises(HapxError) as failed:
        small.publish(new)
    # What a full disk is called, each server says in its own way, and most do not tell it from other faults.
    assert failed.value.exit_code in {ExitCode.NO_SPACE, ExitCode.FAILED, ExitCode.UNREACHABLE}
    assert not small.has("1.2", tmp_path / "got")
    assert small.fetched(tmp_path / "got") == OLD


def test_a_folder_whose_disk_gets_full(tmp_path: Path, large: bytes) -> None:
    old = releases.make(tmp_path / "old", OLD, version="1.1")
    new = releases.make(tmp_path / "new", large)
    disk = tmp_path / "disk"
    disk.mkdir()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = f"""
        mount -t tmpfs -o {servers.SMALL} tmpfs "$1"
        "$2" publish "$3" "$1"
        cp "$1/latest.json" "$1.before"
        "$2" publish "$4" "$1" && exit 1 || code=$?
        cmp "$1/latest.json" "$1.before"
        find "$1" -mindepth 1 -printf '%P\\n' | sort >"$1.after"
        exit "$code"
    """
    argv = ["unshare", *user, "--mount", "--", "sh", "-euc", script, "sh", disk, COMMAND, old, new]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.NO_SPACE, done.stderr
    assert f"error: {disk}: no space left on this disk" in done.stderr
    names = [file.name for file in old.parent.iterdir()]
    assert disk.with_name("disk.after").read_text().split() == sorted(
        ["1.1", *(f"1.1/{name}" for name in (*names, "release.json")), "latest.json"]
    )


def test_a_folder_where_something_else_has_the_name(tmp_path: Path) -> None:
    ova = releases.make(tmp_path / "new", OLD)
    (tmp_path / "published/1.2").mkdir(parents=True)
    (tmp_path / "published/1.2/mine").write_text("precious")
    with pytest.raises(HapxError, match="no version that hapx-build published") as refused:
        publishing.publish(ova, address.parse(str(tmp_path / "published")), Reporter())
    assert refused.value.exit_code is ExitCode.EXISTS
    assert [path.name for path in (tmp_path / "published").rglob("*")] == ["1.2", "mine"]


def test_two_publish_the_same_version_at_once(tmp_path: Path, large: bytes) -> None:
    ova = releases.make(tmp_path / "new", large)
    target = address.parse(str(tmp_path / "published"))

    def second() -> None:
        with pytest.raises(HapxError, match="another process is publishing this version") as refused:
            publishing.publish(ova, target, Reporter())
        assert refused.value.exit_code is ExitCode.BUSY

    first = publishing.publish(ova, target, Hook(stage_name="send", after=MIB, act=second))
    assert not first.unchanged


@pytest.mark.parametrize("target", ["folder", "http", "oci"], indirect=True)
def test_what_arrived_before_an_interruption_is_not_sent_again(target: Target, tmp_path: Path) -> None:
    ova = releases.make(tmp_path / "new", OLD)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target.publish(ova, Hook(stage_name="send", after=len(OLD) + 1, act=interrupt))
    assert not target.has("1.2", tmp_path / "got")
    published = target.publish(ova)
    assert 0 < published.sent <= sum(path.stat().st_size for path in ova.parent.iterdir()) - len(OLD)
    assert target.fetched(tmp_path / "got") == OLD


@pytest.mark.parametrize("target", ["s3"], indirect=True)
def test_parts_that_arrived_are_not_sent_again(
    target: Target, tmp_path: Path, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ova = releases.make(tmp_path / "new", large)
    assert target.server is not None
    with pytest.raises(HapxError):
        target.publish(ova, Hook(stage_name="send", after=30 * MIB, act=target.server.kill))
    target.server.start()
    client, key = boto3.Session().client("s3"), "team/hapx/1.2/hapx-1.2-amd64.ova"
    bucket = address.parse(target.address).host
    (begun,) = client.list_multipart_uploads(Bucket=bucket, Prefix=key)["Uploads"]
    parts = client.list_parts(Bucket=bucket, Key=key, UploadId=begun["UploadId"])["Parts"]
    assert [part["PartNumber"] for part in parts] == [1, 2]
    sent: list[int] = []
    session = boto3.Session()
    session.events.register(
        "provide-client-params.s3.UploadPart", lambda params, **_: sent.append(params["PartNumber"])
    )
    monkeypatch.setattr(boto3, "Session", lambda: session)
    target.publish(ova)
    assert sent == [3]
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket, Prefix=key)
    assert target.fetched(tmp_path / "got") == large


def test_credentials_come_from_where_the_tools_keep_them_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ova = releases.make(tmp_path / "new", OLD)
    bcrypt = subprocess.run(
        ["perl", "-e", 'print crypt($ARGV[0], q($2y$05$) . "s" x 22)', PASSWORD],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "users").write_text(f"alice:{bcrypt}\n")
    said = ""

    def run(argv: list[str], code: int) -> str:
        nonlocal said
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        said += done.stdout + done.stderr
        assert done.returncode == code, said
        return done.stdout

    for start, form, hint, file, text in (
        (
            servers.nginx,
            "http://127.0.0.1:{}/x",
            "~/.netrc",
            "netrc",
            f"machine 127.0.0.1 login alice password {PASSWORD}",
        ),
        (servers.registry, "oci://127.0.0.1:{}/x", "docker login", "docker/config.json", None),
    ):
        folder = tmp_path / start.__name__
        folder.mkdir()
        with start(folder, password_file=tmp_path / "users") as server:
            (tmp_path / "netrc").unlink(missing_ok=True)
            argv = [COMMAND, "publish", str(ova), form.format(server.port), "--json"]
            assert hint in run(argv, ExitCode.INPUT)
            auth = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(text or json.dumps({"auths": {f"127.0.0.1:{server.port}": {"auth": auth}}}))
            (tmp_path / file).chmod(0o600)
            run(argv, ExitCode.OK)
    with pytest.raises(InputError, match="a user name or a password") as shown:
        address.parse(f"https://alice:{PASSWORD}@example.org/x")
    assert PASSWORD not in said + shown.value.message + shown.value.hint


@pytest.mark.parametrize("target", ["s3"], indirect=True)
def test_storage_that_does_not_know_the_key(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ova = releases.make(tmp_path / "new", OLD)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    with pytest.raises(InputError, match="SignatureDoesNotMatch") as refused:
        target.publish(ova)
    assert "AWS_ACCESS_KEY_ID" in refused.value.hint
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="credentials"):
        target.publish(ova)


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:{}/x", "https://127.0.0.1:{}/x", "oci://127.0.0.1:{}/x", "s3://images/x"]
)
def test_nobody_listens(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ova = releases.make(tmp_path / "new", OLD)
    port = servers.free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    with pytest.raises(HapxError) as failed:
        publishing.publish(ova, address.parse(text.format(port)), Reporter())
    assert failed.value.exit_code is ExitCode.UNREACHABLE, failed.value.message


def test_the_signature_is_published_and_asked_for(target: Target, tmp_path: Path) -> None:
    ova = releases.make(tmp_path / "new", OLD)
    secret, public, other = (tmp_path / name for name in ("minisign.key", "minisign.pub", "other.pub"))
    for key, pub in ((tmp_path / "other.key", other), (secret, public)):
        subprocess.run(["minisign", "-G", "-W", "-s", key, "-p", pub], check=True, capture_output=True)
    target.publish(releases.make(tmp_path / "old", OLD, version="1.1"))
    with pytest.raises(HapxError, match="published without") as unsigned:
        fetch(target.address, tmp_path / "got", Reporter(), key=str(public))
    assert unsigned.value.exit_code is ExitCode.UNTRUSTED
    subprocess.run([COMMAND, "sign", ova, "--key", secret], check=True, capture_output=True)
    target.publish(ova)
    assert fetch(target.address, tmp_path / "got", Reporter(), key=str(public)).read_bytes() == OLD
    with pytest.raises(HapxError, match="not signed with this key") as foreign:
        fetch(target.address, tmp_path / "got", Reporter(), key=str(other))
    assert foreign.value.exit_code is ExitCode.UNTRUSTED


def test_a_download_goes_on_where_it_was_interrupted_and_is_checked(
    target: Target, tmp_path: Path, large: bytes
) -> None:
    ova = releases.make(tmp_path / "new", large)
    got = tmp_path / "got"

    def interrupt() -> None:
        raise KeyboardInterrupt

    target.publish(ova)
    assert target.server is not None
    with pytest.raises(KeyboardInterrupt):
        fetch(target.address, got, Hook(stage_name="fetch", after=20 * MIB, act=interrupt))
    (part,) = got.iterdir()
    assert part.name.startswith(".hapx-1.2")
    hook = Hook()
    assert fetch(f"{target.address}/1.2/{ova.name}", got, hook).read_bytes() == large
    first = next(facts["done"] for event, facts in hook.events if event == "progress")
    assert first > 20 * MIB
    assert [path.name for path in got.iterdir()] == [ova.name]

    (got / ova.name).unlink()
    (stored,) = (target.server.data / address.parse(target.address).path).rglob(ova.name)
    with stored.open("r+b") as file:
        file.seek(MIB)
        file.write(b"changed on the server")
    with pytest.raises(HapxError, match="the SHA-256 of") as damaged:
        fetch(target.address, got, Reporter())
    assert damaged.value.exit_code is ExitCode.UNTRUSTED
    assert list(got.iterdir()) == []
