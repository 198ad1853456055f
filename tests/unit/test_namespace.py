from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from builder import command
from builder.errors import CommandTimeoutError
from builder.image import namespace

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a chroot made by hand belongs to root")


def test_root_needs_no_user_namespace() -> None:
    argv = namespace.unshare_argv(["true"], uid=0)
    assert argv[0] == "unshare"
    assert {"--mount", "--pid", "--fork", "--kill-child", "--net"} <= set(argv)
    assert not {"--user", "--map-root-user", "--map-auto"} & set(argv)
    assert argv[-2:] == ["--", "true"]


def test_anybody_else_gets_one_with_their_subordinate_ids() -> None:
    assert {"--user", "--map-root-user", "--map-auto"} <= set(namespace.unshare_argv(["true"], uid=1000))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system that is this machine's programs, read only, and folders of its own."""
    folder = tmp_path / "root"
    for name in ("proc", "dev", "run", "tmp", "mnt", "usr", "etc"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (folder / name).symlink_to(Path("/", name).readlink())
    (folder / "etc/marker").write_text("the root itself\n")
    return folder


def inside(root: Path, script: str, **arguments: object) -> str:
    """What a shell script says inside the root; this machine's /usr is bound there, in a mount namespace around it."""
    argv = namespace.enter_argv(root, ["/bin/sh", "-c", script], **arguments)  # type: ignore[arg-type]
    around = ["unshare", "--mount", "sh", "-c", 'mount --bind /usr "$0/usr" && exec "$@"', str(root), *argv]
    return command.run(around, timeout=30).stdout


@as_root
def test_program_inside_sees_the_root_and_little_else(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "hello").write_text("from outside\n")
    said = inside(
        root,
        "cat /etc/marker /run/hapx/hello; echo $GREETING; id -u; ls /proc/1 >/dev/null && echo has proc;"
        " echo x >/dev/null && echo has null; ls /sys/class/net 2>/dev/null; env | cut -d= -f1 | sort | tr '\\n' ' '",
        binds={data: "/run/hapx"},
        env={"GREETING": "good morning"},
    )
    assert said.splitlines()[:6] == ["the root itself", "from outside", "good morning", "0", "has proc", "has null"]
    assert set(said.splitlines()[-1].split()) == {"GREETING", "HOME", "PATH", "PWD"}  # nothing of the caller's


@as_root
def test_view_shows_the_root_with_nothing_mounted_over_it(root: Path) -> None:
    said = inside(root, "cat /mnt/etc/marker; ls -A /mnt/proc; ls -A /mnt/dev; ls -A /mnt/run", view=True)
    assert said == "the root itself\n"
    assert "marker" not in inside(root, "ls -A /mnt")


@as_root
def test_no_network_inside(root: Path) -> None:
    lines = [line for line in inside(root, "cat /proc/net/dev").splitlines()[2:] if line.strip()]
    assert [line.partition(":")[0].strip() for line in lines] == ["lo"]


@as_root
def test_nothing_stays_mounted(root: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    inside(root, "true")
    assert Path("/proc/self/mountinfo").read_text() == before
    assert sorted(path.name for path in (root / "dev").iterdir()) == []
    assert sorted(path.name for path in (root / "run").iterdir()) == []


@as_root
def test_what_runs_inside_ends_with_the_command(root: Path) -> None:
    argv = namespace.enter_argv(root, ["/bin/sh", "-c", "sleep 4711 & sleep 4711"])
    around = ["unshare", "--mount", "sh", "-c", 'mount --bind /usr "$0/usr" && exec "$@"', str(root), *argv]
    with pytest.raises(CommandTimeoutError):
        command.run(around, timeout=2, grace=0.5)
    for _ in range(100):  # the kernel takes a moment to end a whole namespace
        if not sleepers():
            break
        time.sleep(0.05)
    assert not sleepers()


def sleepers() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", b"4711"]:
            found.append(folder.name)
    return found
