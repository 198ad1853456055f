from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from builder import command
from builder.errors import (
    CommandError,
    HapxError,
    InputError,
    NoSpaceError,
    UnreachableError,
    UntrustedError,
)
from builder.image import rootcache, rootfs
from tests.unit.test_plan import PLAN

TAR, APT = Path("/cache/it's here/root.tar"), Path("/cache/it's here/apt")


def flags(argv: list[str]) -> dict[str, str]:
    return dict(part.removeprefix("--").split("=", 1) for part in argv if part.startswith("--") and "=" in part)


@pytest.mark.parametrize(("uid", "mode"), [(0, "root"), (1000, "unshare")])
def test_mmdebstrap_is_told_the_same_by_whoever_runs_it(uid: int, mode: str) -> None:
    argv = rootfs.mmdebstrap_argv(PLAN, tar=TAR, apt=APT, uid=uid)
    assert argv[0] == "mmdebstrap"
    assert flags(argv)["mode"] == mode
    assert flags(argv)["variant"] == "minbase"
    assert flags(argv)["include"] == "haproxy,corosync"
    assert flags(argv)["architectures"] == "amd64"
    assert argv[-2:] == ["trixie", str(TAR)]
    others = [part for part in rootfs.mmdebstrap_argv(PLAN, tar=TAR, apt=APT, uid=0) if not part.startswith("--mode")]
    assert [part for part in argv if not part.startswith("--mode")] == others


def test_a_mirror_comes_last() -> None:
    plan = dataclasses.replace(PLAN, mirror="http://mirror.example/debian")
    argv = rootfs.mmdebstrap_argv(plan, tar=TAR, apt=APT, uid=0)
    assert argv[-3:] == ["trixie", str(TAR), "http://mirror.example/debian"]


@pytest.mark.parametrize(
    ("mirror", "snapshot"),
    [
        ("", False),
        ("http://mirror.example/debian", False),
        ("http://mirror.example/archive/debian/20260401T083000Z", True),
        ("file:///archive/debian/20260401T083000Z/", True),
        ("http://20260401T083000Z/debian", False),
    ],
)
def test_only_a_snapshot_may_be_out_of_date(mirror: str, snapshot: bool) -> None:
    argv = rootfs.mmdebstrap_argv(dataclasses.replace(PLAN, mirror=mirror), tar=TAR, apt=APT, uid=0)
    assert ('--aptopt=Acquire::Check-Valid-Until "false"' in argv) == snapshot
    assert rootfs.is_snapshot(mirror) == snapshot


def test_what_dpkg_leaves_out_is_told_once_it_is_there_and_not_by_a_filter() -> None:
    plan = dataclasses.replace(PLAN, template="/it's here")
    argv = rootfs.mmdebstrap_argv(plan, tar=TAR, apt=APT, uid=0)
    hooks = [part.partition("=")[2] for part in argv if part.startswith("--extract-hook=")]
    excludes = "/etc/dpkg/dpkg.cfg.d/hapx"
    assert shlex.split(hooks[0]) == ["upload", f"/it's here/files{excludes}", excludes]
    assert not any("path-exclude" in part or part.startswith("--dpkgopt=/") for part in argv)


def test_the_hook_takes_any_path() -> None:
    hook = flags(rootfs.mmdebstrap_argv(PLAN, tar=TAR, apt=APT, uid=0))["customize-hook"]
    assert shlex.split(hook) == ["copy-out", "/etc/apt/sources.list", "/var/lib/apt/lists", str(APT)]


FAILED = CommandError("mmdebstrap: exit code 25", returncode=25, details=["command: mmdebstrap …"])
URL = "http://mirror.example/debian"


# What apt of Debian 12 and 13 was seen to say.
SAID = [
    (InputError, "packages.list", "E: Unable to locate package nonesuch"),
    (InputError, "packages.list", "E: Package 'nonesuch' has no installation candidate"),
    (
        UntrustedError,
        "mirror",
        "W: GPG error: http://m trixie InRelease: The following signatures were invalid: BADSIG 1",
    ),
    (UntrustedError, "keyring", "couldn't be verified because the public key is not available: NO_PUBKEY 6ED0"),
    (UntrustedError, "mirror", "E: The repository 'http://m trixie InRelease' is not signed."),
    (
        UntrustedError,
        "mirror",
        "Err: OpenPGP signature verification failed: http://m trixie InRelease: Sub-process sqv",
    ),
    (UntrustedError, "date", "E: Release file for http://m/InRelease is expired (invalid since 3d 2h). Updates for"),
    (UntrustedError, "date", "E: Release file for http://m/InRelease is not valid yet (invalid for another 3h 2min)."),
    (UntrustedError, "try again", "E: Failed to fetch http://m/x.deb  Hash Sum mismatch"),
    (UntrustedError, "try again", "E: Failed to fetch http://m/x.deb  File has unexpected size (1 != 2). Mirror sync?"),
    (UnreachableError, "network", "E: The repository 'http://m trixie Release' does not have a Release file."),
    (
        UnreachableError,
        "http_proxy",
        "W: Failed to fetch http://m/InRelease  Could not connect to 127.0.0.1:1 - connect",
    ),
    (UnreachableError, "network", "W: Failed to fetch http://m/InRelease  Could not resolve 'mirror.example'"),
    (UnreachableError, "network", "W: Failed to fetch http://m/InRelease  Temporary failure resolving 'm'"),
    (UnreachableError, "network", "Err:1 http://m trixie InRelease  Connection timed out [IP: 192.0.2.1 80]"),
]


@pytest.mark.parametrize(("kind", "hint", "line"), SAID)
def test_what_apt_says_is_told_as_something_to_do(kind: type[HapxError], hint: str, line: str) -> None:
    lines = ["I: automatically chosen mode: root", line, "E: apt-get update failed"]
    error = rootfs.explain(FAILED, lines, dataclasses.replace(PLAN, mirror=URL))
    assert type(error) is kind
    assert error.message.startswith(f"trixie from mirror {URL}: ")
    assert hint in error.hint
    assert error.details == (line,)
    assert "mmdebstrap's default mirror" in rootfs.explain(FAILED, lines, PLAN).message


def test_what_nobody_has_seen_before_is_shown() -> None:
    lines = [f"line {number}" for number in range(30)]
    error = rootfs.explain(FAILED, lines, PLAN)
    assert type(error) is CommandError
    assert error.details == (*FAILED.details, *lines[-15:])


def said(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A mock: a program that says these lines and fails, as on a full disk."""

    def run(argv: list[str], **how: object) -> None:
        for line in lines:
            how["on_line"](line)  # type: ignore[operator]
        raise CommandError("unshare: exit code 1", returncode=1)

    monkeypatch.setattr(command, "run", run)


def test_a_program_that_fails_inside_is_named_with_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, *map(str, range(40)))
    heard: list[str] = []
    with pytest.raises(CommandError, match=r"^10-x.sh: exit code 1$") as caught:
        rootfs.run_there(["unshare"], PLAN, doing="10-x.sh", on_line=heard.append)
    assert caught.value.details == tuple(map(str, range(25, 40)))
    assert len(heard) == 40
    assert "--keep-work" in caught.value.hint


@pytest.mark.parametrize("line", ["cp: error writing '/x': No space left on device", "tar: ./x: Disk quota exceeded"])
def test_a_full_disk_inside_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    said(monkeypatch, line, "and so on")
    plan = dataclasses.replace(PLAN, work=str(tmp_path))
    with pytest.raises(NoSpaceError, match=rf"^10-x.sh: no space left on the disk of {tmp_path} "):
        rootfs.run_there(["unshare"], plan, doing="10-x.sh")


def test_a_root_that_cannot_be_unpacked_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(PLAN, work=str(tmp_path), cache=str(tmp_path / "cache"))
    plan.root_cache.mkdir(parents=True)
    rootcache.tar(plan.root_cache).write_text("no tar")
    said(monkeypatch, "tar: This does not look like a tar archive")
    with pytest.raises(CommandError, match="unpacking") as caught:
        rootfs.unpack(plan)
    assert "run this again" in caught.value.hint
    assert not plan.root_cache.exists()


def test_a_root_stays_where_only_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(PLAN, work=str(tmp_path), cache=str(tmp_path / "cache"))
    plan.root_cache.mkdir(parents=True)
    said(monkeypatch, "tar: ./usr/x: Cannot write: No space left on device")
    with pytest.raises(NoSpaceError):
        rootfs.unpack(plan)
    assert plan.root_cache.exists()
