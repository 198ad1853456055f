"""The commands of a checkout: make, .ci/prepare and .ci/run; on this machine, and on a Debian that has nothing yet."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder import requirements
from builder.command import Result, require, run

ROOT = Path(__file__).parents[2]
OUR_FILES = ("Makefile", "pyproject.toml", "README.md", "LICENSE", ".ci", "builder", "packer", "seeds")
SHELL = re.compile(rb"^#! ?(/usr)?/bin/(env )?(ba|da)?sh\b")


def copy_checkout(target: Path) -> None:
    """What git would check out of the parts that make needs, at `target`."""
    for name in OUR_FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class Checkout:
    """A copy of this checkout whose .venv is this test run's own, ready as `make test` leaves it.

    apt-get and pip are stand-ins that write what they are asked for to `log`: the real ones would change the machine.
    (The last tests of this file run the real ones, on a machine of their own.)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.log = folder / "asked"
        self.programs = folder / "bin"
        (self.folder / "tests").mkdir(parents=True)
        copy_checkout(self.folder)
        self.log.touch()
        self.apt_get("true")
        program(
            self.folder / ".venv/bin/python",
            f'if [ "$1 $2" = "-m pip" ]; then echo "$@" >>{self.log}; else exec {sys.executable} "$@"; fi',
        )
        program(self.folder / ".venv/bin/hapx-build", f'exec {sys.executable} -m builder.cli "$@"')
        self.stamp("test")

    def apt_get(self, does: str) -> None:
        said = 'apt-get $DEBIAN_FRONTEND $(echo "$*" | sed "s/-o [^ ]* //g")'
        program(self.programs / "apt-get", f'echo "{said}" >>{self.log}; {does}')

    def stamp(self, extra: str) -> None:
        """Note in .venv what it was made from."""
        digest = hashlib.sha256((self.folder / "pyproject.toml").read_bytes()).hexdigest()
        (self.folder / ".venv/installed").write_text(f"{self.folder}\n{digest}  pyproject.toml\n{extra}\n")

    def run(self, *argv: str, env: Mapping[str, str] | None = None) -> Result:
        """A command in the checkout; one that starts with .ci/ is the checkout's own."""
        path = f"{self.programs}:{os.environ['PATH']}"
        argv = tuple(str(self.folder / word) if word.startswith(".ci/") else word for word in argv)
        return run(argv, cwd=self.folder, env={"PATH": path, **(env or {})}, timeout=120, check=False)

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


# make


@pytest.mark.parametrize("argv", [("make",), ("make", "help")])
def test_help_names_every_target(checkout: Checkout, argv: tuple[str, ...]) -> None:
    result = checkout.run(*argv)
    shown = re.findall(r"^  ([a-z-]+)  +\S", result.stdout, re.MULTILINE)
    assert shown == ["help", "image", "test", "test-fast", "test-vms", "lint", "docs", "bench", "clean"]
    assert checkout.asked() == []


def test_image_reaches_the_command_line_and_installs_nothing(checkout: Checkout) -> None:
    result = checkout.run("make", "image", "ARGS=--help")
    assert result.returncode == 0, result.stderr
    assert "--dry-run" in result.stdout
    assert result.stderr == ""
    assert checkout.asked() == []


def test_image_fails_as_the_command_does(checkout: Checkout) -> None:
    result = checkout.run("make", "image", "ARGS=--no-such-option")
    assert result.returncode == 2  # make's own, for a target that failed
    assert "No such option" in result.stderr
    assert "Error 2" in result.stderr


def test_lint_covers_every_shell_script() -> None:
    """Compared with what git has, or this folder where there is no git: the first line makes a shell script."""
    said = run(["make", "--no-print-directory", "-n", "run-lint"], cwd=ROOT, timeout=60).stdout
    linted = next(line for line in said.splitlines() if line.startswith("shellcheck ")).split()[1:]
    folders = [ROOT / name for name in (".ci", "packer", "seeds", "builder", "tests")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    scripts = {
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix not in {".py", ".j2", ".pyc"} and SHELL.match(path.read_bytes()[:64])
    }
    assert {".ci/prepare", ".ci/run"} <= scripts
    assert set(linted) == scripts


def test_shell_scripts_are_clean() -> None:
    said = run(["make", "--no-print-directory", "-n", "run-lint"], cwd=ROOT, timeout=60).stdout
    run([*next(line for line in said.splitlines() if line.startswith("shellcheck ")).split()], cwd=ROOT, timeout=120)


def test_clean_leaves_what_git_has(checkout: Checkout) -> None:
    for name in ("dist/a.ova", ".mypy_cache/x", ".coverage", ".coverage.host.1", "builder/__pycache__/a.pyc"):
        (checkout.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout.folder / name).touch()
    assert checkout.run("make", "clean").returncode == 0
    assert {path.name for path in checkout.folder.iterdir()} == {*OUR_FILES, "tests"}
    assert not (checkout.folder / "builder/__pycache__").exists()


# .ci/prepare


@pytest.mark.parametrize("arguments", [("image",), ("lint", "test"), ("test", "test")])
def test_prepared_machine_is_left_alone_without_a_word(checkout: Checkout, arguments: tuple[str, ...]) -> None:
    result = checkout.run(".ci/prepare", *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert checkout.asked() == []


def hide(checkout: Checkout, *hidden: str) -> dict[str, str]:
    """An environment whose PATH has all programs of /usr/bin but these; the stand-ins come first in it."""
    folder = checkout.programs.parent / "usr-bin"
    folder.mkdir()
    for path in Path("/usr/bin").iterdir():
        if path.name not in {*hidden, "apt-get", "sudo"}:
            (folder / path.name).symlink_to(path)
    return {"PATH": f"{checkout.programs}:{folder}"}


def test_missing_packages_are_named_then_installed_at_once(checkout: Checkout) -> None:
    environment = hide(checkout, "shellcheck", "xorriso")
    links = f"ln -s /usr/bin/shellcheck /usr/bin/xorriso {checkout.programs}"
    checkout.apt_get(f'case "$*" in *install*) {links};; esac')
    if os.geteuid() != 0:
        program(checkout.programs / "sudo", 'exec "$@"')
    result = checkout.run(".ci/prepare", "test", "test", env=environment)
    assert result.returncode == 0, result.stderr
    with_sudo = "" if os.geteuid() == 0 else "sudo "
    assert result.stderr.splitlines() == [
        "hapx-build: missing for this: shellcheck xorriso",
        f"hapx-build: installing them with {with_sudo}apt-get",
    ]
    assert checkout.asked() == [
        "apt-get noninteractive -qq update",
        "apt-get noninteractive -qq install --yes --no-install-recommends shellcheck xorriso",
    ]
    assert checkout.run(".ci/prepare", "test", "test", env=environment).stderr == ""
    assert len(checkout.asked()) == 2


def test_installing_that_does_not_help_ends_with_an_error(checkout: Checkout) -> None:
    if os.geteuid() != 0:
        program(checkout.programs / "sudo", 'exec "$@"')
    result = checkout.run(".ci/prepare", "lint", "test", env=hide(checkout, "shellcheck"))
    assert result.returncode == 4
    assert result.stderr.splitlines()[-1] == "hapx-build: still missing after that: shellcheck"


@pytest.mark.parametrize("step", ["update", "install"])
def test_apt_that_fails_ends_with_an_error(checkout: Checkout, step: str) -> None:
    if os.geteuid() != 0:
        program(checkout.programs / "sudo", 'exec "$@"')
    checkout.apt_get(f'case "$*" in *{step}*) echo "E: no" >&2; exit 100;; esac')
    result = checkout.run(".ci/prepare", "lint", "test", env=hide(checkout, "shellcheck"))
    assert result.returncode == 4
    assert result.stderr.splitlines()[-2:] == ["E: no", f"hapx-build: apt-get {step} failed, see above"]


def as_user(checkout: Checkout) -> list[str]:
    """What makes a command one of an ordinary user's: nothing where the tests run as one."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for folder in (checkout.folder, *checkout.folder.parents[:-1]):
        if subprocess.run([*prefix, "test", "-x", str(folder)], check=False).returncode:
            folder.chmod(folder.stat().st_mode | 0o755)
    return prefix


def python_for(prefix: list[str]) -> str:
    """A Python that can make virtual environments and that whoever `prefix` stands for may run."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        # Through a shell: setpriv itself still has root's rights when it starts a program.
        argv = [*prefix, "sh", "-c", 'exec "$0" -c "import ensurepip"', candidate]
        if run(argv, timeout=60, check=False).returncode == 0:
            return candidate
    pytest.skip("there is no Python here that an ordinary user may run")


def test_without_sudo_what_root_has_to_type_is_said(checkout: Checkout) -> None:
    environment = hide(checkout, "shellcheck", "qemu-system-x86_64") | {"HOME": "/nonexistent"}
    prefix = as_user(checkout)
    program(checkout.folder / ".venv/bin/python", f'exec {python_for(prefix)} "$@"')
    result = checkout.run(*prefix, ".ci/prepare", "test", "test", env=environment)
    qemu = next(entry for entry in requirements.REQUIREMENTS if entry.name == "qemu-system-x86_64")
    packages = requirements.package_specs(qemu, requirements.release_codename())
    before = ""
    if len(packages) > 1:  # Debian 12: from backports
        before = ".venv/bin/python -m builder.apt bookworm-backports; apt-get update; "
    assert result.returncode == 4
    assert result.stderr == (
        "hapx-build: Debian packages are missing, and there is no sudo to install them. As root, in "
        f"{checkout.folder}: {before}apt-get install --no-install-recommends shellcheck {' '.join(packages)}\n"
    )
    assert checkout.asked() == []


PIP = "-m pip install --quiet --disable-pip-version-check --editable"


@pytest.mark.parametrize(
    ("stamped", "arguments", "expected"),
    [
        ("test", ("image",), []),
        ("", ("image",), []),
        ("", ("image", "test"), [f"{PIP} .[test]"]),
        (None, ("image",), [f"{PIP} ."]),
    ],
)
def test_pip_runs_only_for_what_is_not_there(
    checkout: Checkout, stamped: str | None, arguments: tuple[str, ...], expected: list[str]
) -> None:
    if stamped is None:
        (checkout.folder / ".venv/installed").unlink()
    else:
        checkout.stamp(stamped)
    assert checkout.run(".ci/prepare", *arguments).returncode == 0
    assert checkout.asked() == expected
    assert checkout.run(".ci/prepare", *arguments).stderr == ""
    assert checkout.asked() == expected


def test_pip_runs_again_when_pyproject_changes(checkout: Checkout) -> None:
    with (checkout.folder / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    result = checkout.run(".ci/prepare", "test", "test")
    assert result.stderr == (
        "hapx-build: installing hapx-build[test] and the Python packages pyproject.toml names into .venv\n"
    )
    assert checkout.asked() == [f"{PIP} .[test]"]
    assert checkout.run(".ci/prepare", "test", "test").stderr == ""


def test_pip_that_fails_ends_with_an_error_and_is_tried_again(checkout: Checkout) -> None:
    python = checkout.folder / ".venv/bin/python"
    python.write_text(python.read_text().replace("; else", "; exit 1; else"))
    checkout.stamp("")
    for _ in range(2):
        result = checkout.run(".ci/prepare", "test", "test")
        assert result.returncode == 4
        assert result.stderr.endswith("hapx-build: pip failed, see above\n")
    assert len(checkout.asked()) == 2


def test_moved_checkout_gets_a_new_virtual_environment(checkout: Checkout) -> None:
    """A real one, as its scripts would name the old place; pip is kept from running by what it is to install from."""
    (checkout.folder / ".venv/installed").write_text("/somewhere/else\nold\ntest\n")
    (checkout.folder / "pyproject.toml").write_text("")
    result = checkout.run(".ci/prepare", "image")
    assert "hapx-build: making the virtual environment .venv with Python 3." in result.stderr
    assert (checkout.folder / ".venv/pyvenv.cfg").exists()
    assert not (checkout.folder / ".venv/bin/hapx-build").exists()


# .ci/run


@pytest.mark.parametrize(
    ("said", "code", "last"),
    [
        ("=== 3 passed in 0.10s ===\nName Stmts\nTOTAL 100%", 0, "=== 3 passed in 0.10s ==="),
        (
            "= 1 failed, 2 passed, 1 skipped in 83.01s (0:01:23) =\nmake: Error 1",
            2,
            "= 1 failed, 2 passed, 1 skipped in 83.01s (0:01:23) =",
        ),
        ("== 1 passed in 0.10s ==\n== 5 passed, 1 xfailed in 2.00s ==", 0, "== 5 passed, 1 xfailed in 2.00s =="),
        ("ruff found 1 error.", 2, "pytest did not get to its end"),
    ],
)
def test_ci_ends_with_pytests_closing_line(checkout: Checkout, said: str, code: int, last: str) -> None:
    """make is a stand-in: the real one would run these tests again."""
    program(checkout.programs / "make", f"cat <<'END'\n{said}\nEND\nread -r _ && echo 'has input'; exit {code}")
    result = checkout.run(".ci/run", env={"CI": "true"})
    assert result.returncode == code
    assert result.stdout.splitlines() == [*said.splitlines(), last]


def test_ci_finds_the_line_real_pytest_writes(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    pytest_there = f"{sys.executable} -m pytest -p no:cacheprovider --rootdir {tmp_path} {tmp_path}/test_it.py"
    program(checkout.programs / "make", f"{pytest_there}; echo 'TOTAL 100%'")
    # FORCE_COLOR: as many CI systems have it set.
    result = checkout.run(".ci/run", env={"CI": "true", "FORCE_COLOR": "1"})
    assert re.fullmatch(r"=+ 1 passed in [0-9.]+s =+", result.stdout.splitlines()[-1])


# A Debian that has nothing yet: the real apt-get and pip, in namespaces that end with the test

_INSIDE = """
set -eu
root=$1
shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
for node in null zero full random urandom; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
"""


@pytest.fixture(params=["bookworm", "trixie"])
def fresh_debian(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The root of a minimal Debian with make in it, and this checkout in /src."""
    require("mmdebstrap")
    root, sources, tar = (tmp_path / name for name in ("root", "src", "root.tar"))
    user = [] if os.geteuid() == 0 else ["--mode=unshare"]
    run(["mmdebstrap", *user, "--quiet", "--variant=apt", "--include=make", request.param, str(tar)], timeout=600)
    sources.mkdir()
    copy_checkout(sources)
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificates:  # of a proxy that looks into TLS, say: they have to hold in there too
        shutil.copy(certificates, sources / "certificates.pem")
    root.mkdir()
    unpack = f"""
        tar --extract --file {tar} --directory {root} --exclude './dev/*'
        cp --recursive {sources} {root}/src
        cp /etc/resolv.conf {root}/etc/resolv.conf
    """
    try:
        run([*_namespace(), "sh", "-eu", "-c", unpack], timeout=300)
        tar.unlink()
        yield root
    finally:
        run([*_namespace(), "rm", "-rf", str(root)], timeout=300)


def _namespace() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto"]
    return ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child"]


@pytest.mark.slow
def test_image_on_a_debian_that_has_nothing(fresh_debian: Path) -> None:
    environment = [f"{name}={value}" for name, value in os.environ.items() if re.match("PIP_|https?_proxy", name)]
    if (fresh_debian / "src/certificates.pem").exists():
        environment += [f"{name}=/src/certificates.pem" for name in ("PIP_CERT", "SSL_CERT_FILE")]
    inside = [*_namespace(), "sh", "-c", _INSIDE, "sh", str(fresh_debian), *environment]
    first = run([*inside, "make", "-C", "/src", "image", "ARGS=--help"], timeout=1200)
    assert "--dry-run" in first.stdout
    assert "hapx-build: missing for this: python3 python3-venv\n" in first.stderr
    assert re.search(r"hapx-build: missing for this: packer(/bookworm)? mmdebstrap ", first.stderr)
    assert "hapx-build: making the virtual environment .venv with Python 3." in first.stderr
    second = run([*inside, "make", "-C", "/src", "image", "ARGS=--help"], timeout=120)
    assert second.stderr == ""
    doctor = run([*inside, "/src/.venv/bin/hapx-build", "doctor", "--json"], timeout=120, check=False).stdout
    # Room is this machine's matter; everything else is as it has to be.
    failed = [check for check in json.loads(doctor)["checks"] if check["failed"] and "room" not in check["name"]]
    assert failed == []
