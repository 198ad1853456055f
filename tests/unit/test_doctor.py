"""What doctor says of a machine: made-up facts for what it concludes, and real machines with something taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import apt, doctor, requirements
from builder.command import run
from builder.doctor import Check, Place
from builder.requirements import Purpose, Status

PACKAGE = Path(doctor.__file__).parent
NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def failed(name: str, *packages: str) -> Check:
    return Check(name, ("make test",), Status.MISSING, packages=packages)


# This machine


def test_machine_that_runs_the_tests_lacks_nothing() -> None:
    checks = doctor.examine([Purpose.TEST])
    assert [check for check in checks if check.failed] == []
    assert doctor.install_commands(checks) == []
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    programs = {entry.name for entry in requirements.needed([Purpose.TEST])}
    rooms = {place.name for place in doctor.default_places()}
    features = {"namespaces", "KVM", "VirtualBox", "libvirt", "memory", "clock"}
    assert set(names) == programs | rooms | features | {"bakes in QEMU", "bakes in VirtualBox"}
    assert all(check.needed_by for check in checks)


def test_answer_is_json() -> None:
    answer = json.loads(json.dumps(doctor.to_json(doctor.examine())))
    assert answer["ok"] is True
    assert answer["install"] == []
    packer = next(check for check in answer["checks"] if check["name"] == "packer")
    assert packer["status"] == "ok"
    assert packer["failed"] is False
    assert packer["needed_by"] == ["hapx-build image", "make test"]


# Programs taken away


@pytest.fixture
def path_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PATH of links to the real programs that doctor looks for, without packer and mtools. (Its /usr/sbin stays.)"""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in {entry.name for entry in requirements.REQUIREMENTS} - {"packer", "mcopy"}:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    (folder / "true").symlink_to("/usr/bin/true")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_missing_programs_and_the_one_command_that_installs_them(path_without: Path) -> None:
    checks = doctor.examine()
    lacking = {check.name: check.status for check in checks if check.failed}
    assert lacking == {"packer": Status.MISSING, "mcopy": Status.MISSING}
    packer = by_name(checks)["packer"]
    assert packer.detail == "drives every bake"
    assert "install the package packer" in packer.hint
    suite = requirements.REQUIREMENTS[0].suites.get(requirements.release_codename())
    spelled = f"packer/{suite}" if suite else "packer"
    sudo = "" if os.geteuid() == 0 else "sudo "
    assert doctor.install_commands(checks)[-1] == f"{sudo}apt-get install --no-install-recommends {spelled} mtools"
    assert doctor.to_json(checks)["ok"] is False


def test_other_peoples_packer(path_without: Path) -> None:
    """cracklib's reads words from its input until that ends, and says nothing of a version."""
    impostor = path_without / "packer"
    impostor.write_text('#!/bin/sh\nwhile read -r word; do :; done\necho "0 0"\n')
    impostor.chmod(0o755)
    check = by_name(doctor.examine())["packer"]
    assert (check.status, check.path, check.failed) == (Status.BROKEN, str(impostor), True)
    assert "another program of the same name" in check.detail
    assert check.hint.startswith("install the package packer")


def test_needless_for_root(path_without: Path) -> None:
    for name in ("newuidmap", "newgidmap"):
        (path_without / name).unlink()
    check = by_name(doctor.examine())["newuidmap"]
    assert check.status is Status.MISSING
    assert check.failed is (os.geteuid() != 0)


def test_machine_without_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is needed is said by Debian's names; whoever has another system knows theirs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    lines = doctor.install_commands([failed("packer", "packer/bookworm")])
    assert lines[-1] == "sudo apt-get install --no-install-recommends packer/bookworm"


# Bakes in machines


@pytest.mark.parametrize(
    ("name", "lacking", "hints"),
    [
        ("bakes in QEMU", ["qemu-img", "xorriso"], ["apt-get install qemu-utils xorriso"]),
        ("bakes in VirtualBox", ["xorriso", "VBoxManage"], ["apt-get install xorriso", "sid"]),
    ],
)
def test_what_a_bake_in_a_machine_lacks_is_no_failure(
    path_without: Path, name: str, lacking: list[str], hints: list[str]
) -> None:
    for program in ("qemu-img", "xorriso"):
        (path_without / program).unlink()
    check = by_name(doctor.examine())[name]
    assert (check.status, check.failed) == (Status.NOTE, False)
    assert check.detail == "; ".join(f"{program} is not installed" for program in lacking)
    assert all(hint in check.hint for hint in hints)


@pytest.mark.parametrize(
    ("version", "listed", "lacking"),
    [("1.6.6", "", ""), ("1.9.5", "", ""), ("1.11.2", "", "Packer 1.11.2 has no qemu builder"),
     ("1.11.2", "/x/github.com/hashicorp/qemu/packer-plugin-qemu_v1.1.0_x5.0_linux_amd64", "")],
)  # fmt: skip
def test_a_packer_that_brings_no_builders_along(path_without: Path, version: str, listed: str, lacking: str) -> None:
    # A stand-in: Debian has no Packer that is that new.
    packer = path_without / "packer"
    packer.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo Packer v{version} || echo "{listed}"\n')
    packer.chmod(0o755)
    check = by_name(doctor.examine())["bakes in QEMU"]
    assert check.detail == lacking
    assert bool(lacking) == ("packer init packer/plugins" in check.hint)


# The commands at the end


@pytest.mark.parametrize(
    ("checks", "known", "expected"),
    [
        ([], True, []),
        ([Check("packer", (), Status.OK), Check("KVM", (), Status.NOTE)], True, []),
        ([Check("uidmap", (), Status.MISSING, required=False, packages=("uidmap",))], True, []),
        ([failed("room")], True, []),
        (
            [failed("mcopy", "mtools"), failed("mmd", "mtools"), failed("tar", "tar")],
            True,
            ["apt-get install --no-install-recommends mtools tar"],
        ),
        (
            [failed("qemu", "qemu/bookworm-backports", "seabios/bookworm-backports")],
            True,
            ["apt-get install --no-install-recommends qemu/bookworm-backports seabios/bookworm-backports"],
        ),
        (
            [failed("qemu", "qemu/bookworm-backports", "seabios/bookworm-backports"), failed("tar", "tar")],
            False,
            [
                f"{sys.executable} -m builder.apt bookworm-backports",
                "apt-get update",
                "apt-get install --no-install-recommends qemu/bookworm-backports seabios/bookworm-backports tar",
            ],
        ),
    ],
)
@pytest.mark.parametrize(("uid", "prefix"), [(0, ""), (1000, "sudo ")])
def test_install_commands(
    monkeypatch: pytest.MonkeyPatch, checks: list[Check], known: bool, expected: list[str], uid: int, prefix: str
) -> None:
    monkeypatch.setattr(apt, "knows", lambda suite: known)
    monkeypatch.setattr(doctor.os, "geteuid", lambda: uid)
    assert doctor.install_commands(checks) == [prefix + line for line in expected]


# User namespaces


@pytest.mark.parametrize(
    ("subuid", "subgid", "lacking", "first"),
    [
        ("", "", "/etc/subuid and /etc/subgid", 100000),
        ("ann:100000:65536\n", "ann:100000:65536\n", "/etc/subuid and /etc/subgid", 165536),
        ("ann:100000:65536\nbob:165536:65536\n", "ann:100000:65536\n", "/etc/subgid", 231072),
        ("bob:100000:1000\n", "bob:100000:65536\n", "/etc/subuid", 165536),
        ("# bob:100000:65536\nbob\nbob:x:y\n", "bob:100000:65536\n", "/etc/subuid", 165536),
        ("bobby:100000:65536\n", "1001:100000:65536\n", "/etc/subuid", 165536),
        ("ann:5000:100\n", "bob:300000:65536\n", "/etc/subuid", 365536),
    ],
)
def test_user_without_subordinate_ids(subuid: str, subgid: str, lacking: str, first: int) -> None:
    check = doctor.namespaces_of_user(user="bob", uid=1001, subuid=subuid, subgid=subgid)
    assert check is not None
    assert check.failed
    assert check.detail == f"bob has no 65536 subordinate IDs in {lacking}"
    ids = f"{first}-{first + 65535}"
    assert check.hint == f"sudo usermod --add-subuids {ids} --add-subgids {ids} bob"


@pytest.mark.parametrize(
    "text", ["bob:100000:65536\n", "1001:100000:65536\n", "ann:100000:65536\nbob:1:10\nbob:200000:131072"]
)
def test_user_with_subordinate_ids(text: str) -> None:
    assert doctor.namespaces_of_user(user="bob", uid=1001, subuid=text, subgid=text) is None


@pytest.fixture
def everybodys_package() -> Iterator[Path]:
    """A folder with the package in it that every user may read, as a checkout in somebody's home may not be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "builder").mkdir(mode=0o755)
        for module in PACKAGE.glob("*.py"):
            shutil.copy(module, folder / "builder")
            (folder / "builder" / module.name).chmod(0o644)
        yield folder


def interpreter_for_nobody() -> str:
    """A Python, new enough, that every user may run: not one in somebody's home."""
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    for candidate in (sys.executable, "/usr/bin/python3"):
        # Through a shell: setpriv itself still has root's rights when it starts a program.
        argv = [*AS_NOBODY, "sh", "-c", 'exec "$0" -c "$1"', candidate, code]
        if subprocess.run(argv, check=False, capture_output=True).returncode == 0:
            return candidate
    pytest.skip("there is no Python here that every user may run")


@ONLY_ROOT
def test_nobody_is_told_how_to_get_subordinate_ids(everybodys_package: Path) -> None:
    """Somebody who really may not; with an interpreter that sees the standard library only."""
    code = "import json; from builder import doctor; print(json.dumps(doctor.to_json(doctor.examine())))"
    argv = [*AS_NOBODY, interpreter_for_nobody(), "-S", "-c", code]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        argv, cwd=everybodys_package, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    answer = json.loads(result.stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    assert checks["namespaces"]["status"] == "missing"
    assert checks["namespaces"]["detail"] == "nobody has no 65536 subordinate IDs in /etc/subuid and /etc/subgid"
    assert checks["namespaces"]["hint"].startswith("sudo usermod --add-subuids ")
    assert checks["namespaces"]["hint"].endswith(" nobody")
    assert checks["room for the cache"]["detail"] == "/ cannot be written to by this user"
    assert checks["room for the result"]["detail"] == f"{everybodys_package} cannot be written to by this user"
    assert checks["room to work"]["status"] == "ok"
    assert answer["ok"] is False


@ONLY_ROOT
def test_root_that_may_not_mount() -> None:
    """Root of a container without CAP_SYS_ADMIN: here, a root that gave it up."""
    code = "from builder import doctor; c = doctor.namespaces(); print(c.status, c.failed, c.detail, c.hint, sep='|')"
    dropped = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    said = run([*dropped, sys.executable, "-c", code], cwd=PACKAGE.parent, timeout=60).stdout
    status, fails, detail, hint = said.strip().split("|")
    assert (status, fails) == ("broken", "True")
    assert "Operation not permitted" in detail
    assert "--privileged" in hint


# Room, and time


def test_room_in_a_folder_yet_to_be_made(tmp_path: Path) -> None:
    check = doctor.room(Place("room", tmp_path / "a" / "b", 1))
    assert check.status is Status.OK
    assert check.path == str(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_room_that_nobody_has(tmp_path: Path) -> None:
    check = doctor.room(Place("room", tmp_path, 1 << 60))
    assert check.failed
    assert check.detail.endswith(f"{(1 << 30):.1f} GiB needed")


def test_room_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = doctor.room(Place("room", tmp_path / "file" / "below", 1))
    assert check.failed
    assert check.detail == f"{tmp_path}/file cannot be written to by this user"


@pytest.mark.parametrize(
    ("options", "needed", "expected"),
    [
        ("size=8m", 4 << 20, "ok: 0.0 GiB free"),
        ("size=8m", 4 << 30, "broken: 0.0 GiB free, 4.0 GiB needed"),
        ("size=8m,noexec", 4 << 20, "broken: {place} is mounted noexec: nothing installed there can run"),
        ("size=8m,ro", 4 << 20, "broken: {place} cannot be written to by this user"),
    ],
)
def test_room_on_a_file_system_of_its_own(tmp_path: Path, options: str, needed: int, expected: str) -> None:
    """A real one, mounted in a namespace that ends with the test."""
    code = (
        "import sys; from pathlib import Path; from builder import doctor;"
        f"c = doctor.room(doctor.Place('room', Path(sys.argv[1]), {needed})); print(f'{{c.status}}: {{c.detail}}')"
    )
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    inside = f'mount -t tmpfs -o {options} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    argv = ["unshare", *user, "--mount", "sh", "-c", inside, "sh", str(tmp_path), sys.executable, code]
    assert run(argv, cwd=PACKAGE.parent, timeout=60).stdout.strip() == expected.format(place=tmp_path)


@pytest.mark.parametrize(
    ("now", "marks", "fine"),
    [
        (1_800_000_000, [1_700_000_000, 1_799_999_999], True),
        (1_800_000_000, [], True),
        (1_800_000_000, [1_800_003_600], True),  # another time zone's clock, an hour ahead
        (1_800_000_000, [1_700_000_000, 1_800_200_000], False),
        (0, [1_700_000_000], False),
    ],
)
def test_clock(now: float, marks: list[float], fine: bool) -> None:
    check = doctor.clock(now=now, marks=marks)
    assert check.failed is not fine
    if not fine:
        assert "timedatectl" in check.hint


def test_clock_says_what_it_shows_and_what_it_cannot_be() -> None:
    check = doctor.clock(now=0, marks=[1_700_000_000])
    assert "it says 1970-01-01 00:00 UTC" in check.detail
    assert "written on 2023-11-14" in check.detail


def test_kvm_is_never_a_failure() -> None:
    check = by_name(doctor.examine())["KVM"]
    assert not check.failed
    assert check.status in {Status.OK, Status.NOTE}
    assert bool(check.hint) <= (check.status is Status.NOTE)
