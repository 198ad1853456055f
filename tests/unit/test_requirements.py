"""The table of what a machine needs, and how a program is found, asked and judged: with real programs and packages."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder import requirements
from builder.command import run, which
from builder.errors import ExitCode
from builder.requirements import Finding, Purpose, Requirement, Status

ROOT = Path(requirements.__file__).parents[1]
BY_NAME = {requirement.name: requirement for requirement in requirements.REQUIREMENTS}
PACKER = BY_NAME["packer"]
QEMU = BY_NAME["qemu-system-x86_64"]


def script(folder: Path, name: str, text: str) -> Path:
    """An executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# The table


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(requirements.REQUIREMENTS)


def test_every_purpose_has_requirements_and_a_command() -> None:
    assert {purpose for entry in requirements.REQUIREMENTS for purpose in entry.purposes} == set(Purpose)
    assert set(requirements.COMMANDS) == set(Purpose)


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in requirements.REQUIREMENTS])
def test_entry_is_well_formed(entry: Requirement) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", entry.package)
    assert entry.use
    assert re.compile(entry.version_pattern).groups == 1
    assert all(Path(file).is_absolute() for file in entry.files)
    assert bool(entry.minimum) == bool(entry.reason)
    assert re.fullmatch(r"(\d+(\.\d+)*)?", entry.minimum)
    assert entry.version_flags or not entry.minimum, "a minimum needs a way to ask for the version"
    assert entry.suites or not entry.companions


def test_packages_exist_in_debian() -> None:
    if not any(Path("/var/lib/apt/lists").glob("*Packages*")):
        pytest.skip("apt has no package lists here: apt-get update")
    packages = {entry.package for entry in requirements.REQUIREMENTS}
    said = run(["apt-cache", "show", "--no-all-versions", *sorted(packages)], timeout=60, check=False).stdout
    assert packages - set(re.findall(r"^Package: (.*)$", said, re.MULTILINE)) == set()


def test_programs_come_from_their_packages() -> None:
    entries = {which(entry.name): entry for entry in requirements.needed(Purpose) if not entry.files}
    assert None not in entries, "something is not installed: make test does that"
    # Debian 12's database has some programs in /bin and /sbin, which are links into /usr.
    paths = [candidate for path in entries for candidate in (str(path), str(path).removeprefix("/usr"))]
    said = run(["dpkg", "-S", *paths], check=False, timeout=60).stdout
    owners = {Path(path).name: owner for owner, path in re.findall(r"^([^:\s]+)(?::\w+)?: (/.*)$", said, re.MULTILINE)}
    assert len(owners) > len(entries) / 2
    # What was installed by other means has no owner.
    wrong = {entry.name: owners.get(entry.name, entry.package) for entry in entries.values()}
    assert wrong == {entry.name: entry.package for entry in entries.values()}


def test_programs_here_are_in_order_and_tell_their_versions() -> None:
    for found in requirements.probe_all(requirements.needed(Purpose)):
        name = found.requirement.name
        assert (found.status, found.detail) == (Status.OK, ""), name
        if found.requirement.version_flags and not found.requirement.files:
            assert re.fullmatch(r"\d+(\.\d+)*", found.version), name


@pytest.mark.parametrize(
    ("purpose", "machine", "has", "has_not"),
    [
        (Purpose.IMAGE, "x86_64", {"packer", "mmdebstrap", "newuidmap"}, {"shellcheck", "qemu-img", "arch-test"}),
        (Purpose.IMAGE, "aarch64", {"packer", "arch-test", "qemu-x86_64-static"}, {"qemu-img"}),
        (Purpose.LINT, "x86_64", {"shellcheck"}, {"packer", "qemu-img"}),
        (Purpose.LIBVIRT, "x86_64", {"virsh", "libvirtd", "qemu-img", "dnsmasq"}, {"packer", "chromium"}),
        (Purpose.QEMU, "x86_64", {"qemu-system-x86_64", "qemu-img", "xorriso", "ssh-keygen"}, {"virsh", "packer"}),
        (Purpose.VIRTUALBOX, "x86_64", {"xorriso", "ssh-keygen"}, {"qemu-img"}),
        (Purpose.TEST, "x86_64", {"packer", "shellcheck", "qemu-img"}, {"arch-test"}),
    ],
)
def test_what_a_purpose_needs(purpose: Purpose, machine: str, has: set[str], has_not: set[str]) -> None:
    names = [entry.name for entry in requirements.needed([purpose], machine=machine)]
    assert has <= set(names)
    assert not has_not & set(names)
    assert len(names) == len(set(names))


# Versions, releases, packages


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("7.2", "8", True),
        ("7.2.22", "8", True),
        ("8", "8", False),
        ("8", "8.0", False),
        ("8.0.1", "8.1", True),
        ("10.0.2", "8", False),
        ("1.6.6", "1.6.6", False),
        ("1.6.5", "1.6.6", True),
        ("1.14.3", "1.6.6", False),
        ("252", "252.1", True),
    ],
)
def test_older(version: str, minimum: str, expected: bool) -> None:
    assert requirements.older(version, minimum) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n', "bookworm"),
        ('ID=ubuntu\nVERSION_CODENAME="noble"\nUBUNTU_CODENAME=jammy\n', "noble"),
        ("ID=arch\nBUILD_ID=rolling\n", ""),
        ("", ""),
    ],
)
def test_codename(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(text)
    assert requirements.release_codename(path) == expected


def test_codename_where_there_is_no_os_release(tmp_path: Path) -> None:
    assert requirements.release_codename(tmp_path / "os-release") == ""


@pytest.mark.parametrize(
    ("codename", "expected"),
    [
        (
            "bookworm",
            [
                "packer",
                "uidmap",
                "qemu-system-x86/bookworm-backports",
                "qemu-system-common/bookworm-backports",
                "qemu-system-data/bookworm-backports",
                "seabios/bookworm-backports",
            ],
        ),
        ("trixie", ["packer/bookworm", "uidmap", "qemu-system-x86"]),
        ("", ["packer", "uidmap", "qemu-system-x86"]),
    ],
)
def test_packages_for_what_is_not_in_order(codename: str, expected: list[str]) -> None:
    findings = [
        Finding(PACKER, Status.BROKEN),
        Finding(BY_NAME["mmdebstrap"], Status.OK),
        Finding(BY_NAME["newuidmap"], Status.MISSING),
        Finding(BY_NAME["newgidmap"], Status.MISSING),
        Finding(QEMU, Status.OLD),
    ]
    assert requirements.missing_packages(findings, codename) == expected


# Finding and asking a program


def test_program_that_is_not_there() -> None:
    found = requirements.probe(Requirement("hapx-no-such-program", "nothing", (Purpose.LINT,), "nothing"))
    assert (found.status, found.path) == (Status.MISSING, None)


def test_files_of_which_one_is_there(tmp_path: Path) -> None:
    (tmp_path / "second").touch()
    files = tuple(str(tmp_path / name) for name in ("first", "second"))
    entry = Requirement("data", "data", (Purpose.LINT,), "data", files=files)
    assert requirements.probe(entry) == Finding(entry, Status.OK, tmp_path / "second")
    (tmp_path / "second").unlink()
    assert requirements.probe(entry) == Finding(entry, Status.MISSING)


READS_WORDS = "while read -r word; do :; done; echo 0 0"


@pytest.mark.parametrize(
    ("text", "status", "version", "detail"),
    [
        ("echo Packer v1.11.2", Status.OK, "1.11.2", ""),
        ("echo Packer v1.6.6; exit 3", Status.OK, "1.6.6", ""),
        ("echo Packer v1.5.6", Status.OLD, "1.5.6", "1.6.6 or later is needed: the templates are HCL2"),
        ("echo; echo 1.6.6", Status.BROKEN, "", "says '1.6.6', exit code 0: another program of the same name"),
        ("exit 1", Status.BROKEN, "", "says 'nothing', exit code 1: another program of the same name, or broken"),
        (READS_WORDS, Status.BROKEN, "", "says '0 0', exit code 0: another program of the same name"),
    ],
    ids=["new", "failing", "old", "nameless", "silent", "reads words"],
)
def test_packer_is_asked_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: Status, version: str, detail: str
) -> None:
    path = script(tmp_path, "packer", text)
    monkeypatch.setenv("PATH", str(tmp_path))
    # Asked even by the quick check, because it has a minimum.
    found = requirements.probe(PACKER, ask=False)
    assert (found.status, found.path, found.version) == (status, path, version)
    assert detail in found.detail


def test_cracklibs_packer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, under the name it has on other systems. It writes a database, and not where we are."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    script(elsewhere, "packer", 'exec /usr/sbin/cracklib-packer "$@"')
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", f"{elsewhere}:/usr/bin")
    hidden = requirements.probe(PACKER)
    assert (hidden.status, hidden.path) == (Status.OK, Path("/usr/bin/packer"))
    monkeypatch.setenv("PATH", str(elsewhere))
    found = requirements.probe(PACKER)
    assert (found.status, found.path) == (Status.BROKEN, elsewhere / "packer")
    assert "another program of the same name" in found.detail
    assert list(here.iterdir()) == []


def test_of_several_that_will_not_do_the_first_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        script(tmp_path / name, "packer", "echo Packer v1.5.6" if name == "first" else "echo me")
    monkeypatch.setenv("PATH", f"{tmp_path}/first:{tmp_path}/second")
    found = requirements.probe(PACKER)
    assert (found.status, found.path) == (Status.OLD, tmp_path / "first/packer")


def test_program_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "packer", f"trap '' TERM; echo $$ >{tmp_path}/pid; while :; do /usr/bin/sleep 60; done")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(requirements, "PROBE_SECONDS", 0.5)
    started = time.monotonic()
    found = requirements.probe(PACKER)
    assert time.monotonic() - started < 10
    assert found.status is Status.BROKEN
    assert "did not end within" in found.detail
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_file_that_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "packer"
    path.write_bytes(b"\x7fELF\x02\x01\x01")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = requirements.probe(PACKER)
    assert found.status is Status.BROKEN
    assert "could not be started" in found.detail


def test_quick_check_starts_only_what_has_a_minimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "mmdebstrap", f"touch {tmp_path}/started")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert requirements.probe(BY_NAME["mmdebstrap"], ask=False).status is Status.OK
    assert not (tmp_path / "started").exists()


def test_answers_come_in_the_order_of_the_questions() -> None:
    wanted = requirements.needed([Purpose.IMAGE])
    assert [found.requirement for found in requirements.probe_all(wanted)] == list(wanted)


# The module as a program: what make calls before there is a virtual environment


def called(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it by an interpreter that sees the standard library only."""
    # -I -S would also keep the working directory out; PYTHONPATH stands for it.
    return subprocess.run(
        [sys.executable, "-S", "-m", "builder.requirements", *arguments],
        cwd=ROOT,
        env={"PATH": path or "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_program_prints_missing_packages_one_a_line(tmp_path: Path) -> None:
    """With the real programs hidden, as far as they are not in /usr/sbin, where they are always looked for."""
    for name in ("unshare", "tar", "apt-get", "gpgv"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    result = called("image", path=str(tmp_path))
    assert result.returncode == ExitCode.OK
    lines = result.stdout.splitlines()
    packer = requirements.package_specs(PACKER, requirements.release_codename())
    assert lines == [*packer, "mmdebstrap", "uidmap", "mtools"]
    assert result.stderr == ""


def test_program_says_on_standard_error_why_a_program_will_not_do(tmp_path: Path) -> None:
    script(tmp_path, "packer", "echo Packer v1.2.3")
    result = called("image", path=str(tmp_path))
    packer = requirements.package_specs(PACKER, requirements.release_codename())
    assert result.stdout.splitlines()[0] == packer[0]
    assert result.stderr.startswith("packer: 1.6.6 or later is needed")


@pytest.mark.parametrize("arguments", [(), ("everything",), ("image", "everything")])
def test_program_knows_its_purposes(arguments: tuple[str, ...]) -> None:
    result = called(*arguments)
    assert result.returncode == ExitCode.USAGE
    assert ",".join(requirements.Purpose) in result.stderr
    assert result.stdout == ""
