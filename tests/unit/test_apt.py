"""Adding a suite of Debian to apt: what is planned by tables, what is written read back by apt itself."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder import apt
from builder.apt import Index
from builder.command import run
from builder.errors import ExitCode, MissingError
from builder.requirements import release_codename

MIRROR = "http://mirror.test/debian/"
BOOKWORM = Index(MIRROR, "bookworm", "bookworm", "Debian", "/etc/apt/sources.list.d/debian.sources:1")
UPDATES = Index(MIRROR, "bookworm-updates", "bookworm-updates", "Debian", "/etc/apt/sources.list.d/debian.sources:1")
BACKPORTS = Index(MIRROR, "bookworm-backports", "bookworm-backports", "Debian Backports", "/etc/apt/sources.list:4")
BY_AGE = Index(MIRROR, "oldstable", "bookworm", "Debian", "/etc/apt/sources.list:1")
VENDOR = Index("https://vendor.test/apt/", "bookworm", "bookworm", "vendor", "/etc/apt/sources.list.d/vendor.list:1")
DISC = Index("cdrom://[Debian 12]/", "bookworm", "bookworm", "Debian", "/etc/apt/sources.list:1")


@pytest.mark.parametrize(
    ("indexes", "suite", "expected"),
    [
        ([BOOKWORM, UPDATES], "bookworm-backports", BOOKWORM),
        ([VENDOR, DISC, UPDATES, BOOKWORM], "bookworm-backports", BOOKWORM),
        ([BY_AGE], "bookworm-backports", BY_AGE),
        ([BOOKWORM, BACKPORTS], "bookworm-backports", None),
        ([BOOKWORM], "bookworm", None),
        ([BY_AGE], "bookworm", None),
    ],
)
def test_whose_mirror_has_the_suite(indexes: list[Index], suite: str, expected: Index | None) -> None:
    assert apt.plan(indexes, codename="bookworm", suite=suite) == expected


@pytest.mark.parametrize("indexes", [[], [VENDOR], [DISC], [UPDATES]])
def test_no_mirror_of_this_release(indexes: list[Index]) -> None:
    with pytest.raises(MissingError, match="apt has no source for Debian bookworm to find bookworm-backports beside"):
        apt.plan(indexes, codename="bookworm", suite="bookworm-backports")


def test_release_without_a_codename() -> None:
    with pytest.raises(MissingError, match="its codename is unknown"):
        apt.plan([BOOKWORM], codename="", suite="bookworm-backports")


def test_reading_what_apt_tells() -> None:
    text = (
        f"{MIRROR}\tbookworm\tbookworm\tDebian\t/etc/apt/sources.list.d/debian.sources:1\n"
        "https://vendor.test/apt/\tbookworm\t$(CODENAME)\t\t/etc/apt/sources.list.d/vendor.list:1\n"
        "W: something else\n"
    )
    assert apt.parse_indexes(text) == [
        BOOKWORM,
        Index("https://vendor.test/apt/", "bookworm", "$(CODENAME)", "", "/etc/apt/sources.list.d/vendor.list:1"),
    ]


TWO_STANZAS = """\
# Debian
Types: deb
URIs: http://mirror.test/debian
# an old one
Suites: bookworm
Signed-By: /usr/share/keyrings/first.gpg

# commented out

Types: deb
URIs: http://mirror.test/security
signed-by: /usr/share/keyrings/second.gpg
"""
KEY_IN_PLACE = """\
Types: deb
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc=
 -----END PGP PUBLIC KEY BLOCK-----
Suites: bookworm
"""
ONE_LINES = """\
# Debian
deb http://mirror.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://mirror.test/debian bookworm main
deb [signed-by=/usr/share/keyrings/b.gpg arch=amd64] http://mirror.test/signed-by=c bookworm main
"""


@pytest.mark.parametrize(
    ("text", "deb822", "number", "expected"),
    [
        (TWO_STANZAS, True, 1, "/usr/share/keyrings/first.gpg"),
        (TWO_STANZAS, True, 2, "/usr/share/keyrings/second.gpg"),
        (TWO_STANZAS, True, 3, ""),
        ("Types: deb\nSuites: bookworm\n", True, 1, ""),
        (
            KEY_IN_PLACE,
            True,
            1,
            "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n -----END PGP PUBLIC KEY BLOCK-----",
        ),
        (ONE_LINES, False, 2, ""),
        (ONE_LINES, False, 3, "/usr/share/keyrings/a.gpg"),
        (ONE_LINES, False, 4, "/usr/share/keyrings/b.gpg"),
        (ONE_LINES, False, 9, ""),
    ],
)
def test_who_signs(text: str, deb822: bool, number: int, expected: str) -> None:
    assert apt.signed_by(text, deb822=deb822, number=number) == expected


# Real apt, with a configuration of its own and an archive in a folder


@dataclass(frozen=True)
class Machine:
    """Where apt looks: `etc` for its configuration, `archive` for packages."""

    etc: Path
    archive: Path

    def ask(self, *argv: str) -> str:
        return run(argv, env={"LC_ALL": "C.UTF-8"}, timeout=60).stdout

    def publish(self, suite: str, version: str) -> None:
        """A suite of Debian with one package, `thing`, in that version."""
        folder = self.archive / "dists" / suite
        indexes = folder / "main" / "binary-all", folder / "main" / f"binary-{self.ask(*ARCHITECTURE).strip()}"
        for index in indexes:
            index.mkdir(parents=True)
            (index / "Packages").write_text(THING.format(version=version))
        sums = [
            f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.relative_to(folder)}"
            for path in (index / "Packages" for index in indexes)
        ]
        (folder / "Release").write_text("\n".join([RELEASE.format(suite=suite), "SHA256:", *sums, ""]))

    def sources(self) -> list[Index]:
        """What apt makes of its configuration; it tells only of what it has fetched."""
        self.ask("apt-get", "-qq", "update")
        return apt.configured_indexes()


ARCHITECTURE = ("dpkg", "--print-architecture")
RELEASE = "Origin: Debian\nLabel: Debian\nSuite: {suite}\nCodename: {suite}\nArchitectures: all\nComponents: main"
THING = """\
Package: thing
Version: {version}
Architecture: all
Maintainer: somebody <somebody@example.org>
Filename: thing.deb
Size: 1
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
Description: a thing
"""
CONFIG = """\
Dir::Etc "{folder}/etc";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "";
Acquire::AllowInsecureRepositories "true";
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in ("etc/sources.list.d", "etc/preferences.d", "etc/apt.conf.d", "state/lists/partial", "cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "status").touch()
    (tmp_path / "apt.conf").write_text(CONFIG.format(folder=tmp_path))
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return Machine(tmp_path / "etc", tmp_path / "archive")


@pytest.mark.parametrize(
    "keys",
    ["", "/usr/share/keyrings/debian-archive-keyring.gpg", apt.signed_by(KEY_IN_PLACE, deb822=True, number=1)],
    ids=["apt's own keys", "a keyring", "a key in place"],
)
def test_apt_reads_the_source(machine: Machine, keys: str) -> None:
    file = machine.etc / "sources.list.d" / "suite.sources"
    machine.publish("bookworm-backports", "1.0")
    file.write_text(apt.render_source(uri=f"file:{machine.archive}", suite="bookworm-backports", keys=keys))
    suite = "bookworm-backports"
    assert set(machine.sources()) == {Index(f"file:{machine.archive}/", suite, suite, "Debian", f"{file}:1")}
    assert apt.signed_by(file.read_text(), deb822=True, number=1) == keys


ENTRIES = {
    "entries.sources": """\
# first
Types: deb
URIs: file:{archive}
Suites: one
Components: main
Signed-By: /usr/share/keyrings/one.gpg

# nothing but a comment

Types: deb
# a comment inside
URIs: file:{archive}
Suites: two
Components: main
Signed-By: /usr/share/keyrings/two.gpg
""",
    "entries.list": """\
# a comment

deb [signed-by=/usr/share/keyrings/one.gpg] file:{archive} one main
deb [lang=none signed-by=/usr/share/keyrings/two.gpg] file:{archive} two main
""",
}


@pytest.mark.parametrize("name", ENTRIES)
def test_apt_counts_entries_as_we_do(machine: Machine, name: str) -> None:
    machine.publish("one", "1.0")
    machine.publish("two", "2.0")
    (machine.etc / "sources.list.d" / name).write_text(ENTRIES[name].format(archive=machine.archive))
    keys = {}
    for index in machine.sources():
        file, _, number = index.entry.rpartition(":")
        found = apt.signed_by(Path(file).read_text(), deb822=name.endswith(".sources"), number=int(number))
        keys[index.release] = found
    assert keys == {"one": "/usr/share/keyrings/one.gpg", "two": "/usr/share/keyrings/two.gpg"}


def test_suite_is_added_once_and_gives_only_what_is_asked_for(machine: Machine) -> None:
    release = release_codename()
    machine.publish(release, "1.0")
    machine.publish("elsewhere", "2.0")
    (machine.etc / "sources.list").write_text(f"deb file:{machine.archive} {release} main\n")
    machine.ask("apt-get", "-qq", "update")
    assert not apt.knows("elsewhere")

    added = apt.add("elsewhere", root=machine.etc)
    assert added == [
        machine.etc / "preferences.d" / "hapx-build-elsewhere",
        machine.etc / "sources.list.d" / "hapx-build-elsewhere.sources",
    ]
    assert [oct(path.stat().st_mode & 0o777) for path in added] == ["0o644", "0o644"]
    machine.ask("apt-get", "-qq", "update")
    assert apt.knows("elsewhere")
    assert apt.add("elsewhere", root=machine.etc) == []

    policy = machine.ask("apt-cache", "policy", "thing")
    assert "Candidate: 1.0" in policy
    assert re.search(r"2\.0 100\n\s+100 file:.* elsewhere/main", policy)
    assert "Inst thing (1.0 " in machine.ask("apt-get", "-s", "install", "thing")
    assert "Inst thing (2.0 " in machine.ask("apt-get", "-s", "install", "thing/elsewhere")


def test_nothing_is_left_where_one_file_cannot_be_written(machine: Machine) -> None:
    release = release_codename()
    machine.publish(release, "1.0")
    (machine.etc / "sources.list").write_text(f"deb file:{machine.archive} {release} main\n")
    machine.ask("apt-get", "-qq", "update")
    (machine.etc / "sources.list.d").rmdir()
    with pytest.raises(MissingError, match=r"hapx-build-elsewhere\.sources cannot be written") as error:
        apt.add("elsewhere", root=machine.etc)
    assert error.value.hint == "run this as root"
    assert list((machine.etc / "preferences.d").iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("../etc",), ("-x",), ("a b",)])
def test_program_takes_one_suite(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert apt.main(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err == "usage: python3 -m builder.apt SUITE\n"


def test_program_says_what_is_wrong(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """apt has no source at all here."""
    assert apt.main(["elsewhere"]) == ExitCode.MISSING
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("apt has no source for Debian ")
    assert "add a source for elsewhere to /etc/apt/sources.list.d/ yourself" in said.err
