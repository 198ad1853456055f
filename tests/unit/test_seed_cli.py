"""`hapx-build seed-iso` as it is typed: what it makes, what it refuses, what it leaves behind, what it never shows."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.errors import ExitCode
from builder.image.namespace import unshare_argv
from tests.unit.spec_samples import SHIPPED, changed, spec

COMMAND = str(Path(sys.executable).with_name("hapx-build"))
DOCUMENTS = {"meta-data", "user-data", "network-config"}
PASSWORD = "correct-horse-battery-staple"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with seeds/cluster.yaml in it: two nodes, and a key so that there is nothing to warn of."""
    blob = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))).decode()
    put(tmp_path / "seeds/cluster.yaml", changed(spec(), {"ssh": {"keys": [f"ssh-ed25519 {blob} ops@test"]}}))
    return tmp_path


def put(path: Path, values: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def renamed(cluster: str, first: int = 1) -> dict[str, Any]:
    """A spec of other nodes."""
    names = {f"nodes.{place}.name": f"{cluster}-node{first + place:02}" for place in range(2)}
    return changed(spec(), {"name": cluster, **names})


def seed_iso(place: Path, *arguments: object, env: dict[str, str] | None = None) -> Ended:
    argv = [COMMAND, "seed-iso", *map(str, arguments)]
    result = subprocess.run(
        argv, cwd=place, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(env or {})}
    )
    assert "Traceback" not in result.stderr
    return Ended(result.returncode, result.stdout, result.stderr)


def made(place: Path) -> list[str]:
    """Every file below a folder but specs and templates."""
    files = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if path.suffix not in {".j2"} and path.name != "cluster.yaml")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_node_gets_its_cd_and_the_cluster_its_secrets(place: Path) -> None:
    ended = seed_iso(place, "--host", "hapx-node02")
    assert ended.code == ExitCode.OK
    assert re.fullmatch(r"dist/hapx-node02-cidata\.iso: [0-9.]+ kB, sha256 [0-9a-f]{64}\n", ended.out)
    assert ended.err == "note: seeds/cluster.secrets.yaml holds the cluster's secrets from now on: keep it\n"
    assert made(place) == ["dist/hapx-node02-cidata.iso", "seeds/cluster.secrets.yaml"]
    assert mode(place / "dist/hapx-node02-cidata.iso") == mode(place / "seeds/cluster.secrets.yaml") == 0o600


def test_the_same_spec_gives_the_same_cds_and_says_nothing_new(place: Path) -> None:
    first = seed_iso(place, "--all")
    before = {path: (place / path).read_bytes() for path in made(place)}
    again = seed_iso(place, "--all")
    assert (again.code, again.out, again.err) == (ExitCode.OK, first.out, "")
    assert {path: (place / path).read_bytes() for path in made(place)} == before
    assert len(before) == 3


def test_a_new_instance_is_another_each_time(place: Path) -> None:
    said = [
        seed_iso(place, "--host", "hapx-node01", *flag).out for flag in ([], ["--new-instance"], ["--new-instance"])
    ]
    assert len(set(said)) == 3


def test_several_nodes_and_several_specs(place: Path) -> None:
    put(place / "b/cluster.yaml", renamed("b"))
    ended = seed_iso(place, "--host", "hapx-node01", "--host", "b-node02", "seeds/cluster.yaml", "b/cluster.yaml")
    assert ended.code == ExitCode.OK
    assert made(place) == [
        "b/cluster.secrets.yaml",
        "dist/b-node02-cidata.iso",
        "dist/hapx-node01-cidata.iso",
        "seeds/cluster.secrets.yaml",
    ]


def test_a_hundred_nodes_in_one_run(place: Path) -> None:
    specs = [put(place / f"{number}.yaml", renamed(f"c{number}")) for number in range(50)]
    ended = seed_iso(place, "--all", *specs)
    assert ended.code == ExitCode.OK
    assert len(ended.out.splitlines()) == len(list((place / "dist").iterdir())) == 100


def test_what_ships_works_at_once_from_any_folder_and_its_secrets_stay_there(tmp_path: Path) -> None:
    ended = seed_iso(tmp_path, "--all")
    assert ended.code == ExitCode.OK
    assert "names no SSH key and no authority: nobody will be able to log in" in ended.err
    assert made(tmp_path) == ["cluster.secrets.yaml", "dist/hapx-node01-cidata.iso", "dist/hapx-node02-cidata.iso"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_ships_can_be_copied_and_built(tmp_path: Path, path: Path) -> None:
    shutil.copy(path, tmp_path / "mine.yaml")
    assert seed_iso(tmp_path, "--all", "mine.yaml").code == ExitCode.OK
    assert "mine.secrets.yaml" in made(tmp_path)


def test_plain_files_instead_of_a_cd(place: Path) -> None:
    for attempt in range(2):
        ended = seed_iso(place, "--all", "--dir", "out/files")
        assert ended.code == ExitCode.OK, attempt
    folder = place / "out/files/hapx-node01"
    assert {path.name for path in folder.iterdir()} == DOCUMENTS
    assert mode(folder) == 0o700
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    assert not (place / "dist").exists()
    assert ended.out.splitlines()[0].startswith("out/files/hapx-node01: ")


def test_files_of_somebody_elses_are_left_alone(place: Path) -> None:
    (place / "out/hapx-node02").mkdir(parents=True)
    (place / "out/hapx-node02/thesis.txt").write_text("mine")
    ended = seed_iso(place, "--all", "--dir", "out")
    assert ended.code == ExitCode.EXISTS
    assert ended.err.startswith("error: out/hapx-node02: holds thesis.txt\n")
    assert made(place) == ["out/hapx-node02/thesis.txt"]


def test_a_file_of_ones_choice(place: Path) -> None:
    assert seed_iso(place, "--host", "hapx-node01", "--output", "a/b/one.iso").code == ExitCode.OK
    assert "a/b/one.iso" in made(place)
    ended = seed_iso(place, "--all", "-o", "a/c/two.iso")
    assert (ended.code, ended.err) == (
        ExitCode.USAGE,
        "error: --output a/c/two.iso: one file for 2 nodes\nhint: name a folder\n",
    )
    assert not (place / "a/c").exists()


def test_json_is_a_line_an_event(place: Path) -> None:
    ended = seed_iso(place, "--all", "--json")
    results = [event for event in map(json.loads, ended.out.splitlines()) if event["event"] == "result"]
    assert [(event["host"], event["path"]) for event in results] == [
        ("hapx-node01", "dist/hapx-node01-cidata.iso"),
        ("hapx-node02", "dist/hapx-node02-cidata.iso"),
    ]
    assert all(event["size"] == (place / event["path"]).stat().st_size for event in results)
    assert results[0]["instance_id"].startswith("hapx-node01-")
    assert ended.err == ""


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_documents_are_shown_without_their_secrets(place: Path, flags: list[str]) -> None:
    env = {"HAPX_STATS_PASSWORD": PASSWORD}
    assert seed_iso(place, "--all", "--dir", "plain", env=env).code == ExitCode.OK
    ended = seed_iso(place, "--all", "--show", *flags, env=env)
    assert ended.code == ExitCode.OK
    assert not (place / "dist").exists()
    real = {path.name: path.read_text() for path in (place / "plain/hapx-node01").iterdir()}
    (password_hash,) = re.findall(r"\$6\$\S+", real["user-data"])
    (authkey,) = re.findall(r"encoding: b64\n +content: (\S+)", real["user-data"])
    said = ended.out + ended.err
    for secret in (PASSWORD, password_hash, authkey, authkey[:40]):
        assert secret not in said
    shown = real["user-data"].replace(password_hash, "***").replace(authkey, "***")
    if flags:
        assert json.loads(ended.out)["hapx-node01"] == {**real, "user-data": shown}
    else:
        assert f"==> hapx-node01: user-data <==\n{shown}" in ended.out
        assert f"==> hapx-node01: meta-data <==\n{real['meta-data']}" in ended.out


def test_a_cd_has_version_1_of_network_config_where_that_is_wanted(place: Path) -> None:
    seed_iso(place, "--host", "hapx-node01", "--dir", "one", "--network-version", "1")
    assert (place / "one/hapx-node01/network-config").read_text().startswith("version: 1\n")
    assert seed_iso(place, "--all", "--network-version", "3").code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], ExitCode.USAGE, "error: which nodes?\nhint: --host NAME, once or more, or --all\n"),
        (["--all", "--host", "hapx-node01"], ExitCode.USAGE, "error: which nodes?\n"),
        (["--all", "--dir", "d", "--show"], ExitCode.USAGE, "error: --dir and --show do not go together\n"),
        (["--all", "--dir", "d", "-o", "o"], ExitCode.USAGE, "error: --output and --dir do not go together\n"),
        (
            ["--host", "hapx-node1", "--host", "zebra"],
            ExitCode.INPUT,
            "error: these seeds cannot be made\n"
            "  --host hapx-node1: no such node in seeds/cluster.yaml (did you mean hapx-node01?)\n"
            "  --host zebra: no such node in seeds/cluster.yaml (there are: hapx-node01, hapx-node02)\n",
        ),
        (["--all", "gone.yaml"], ExitCode.INPUT, "error: gone.yaml: there is no such spec\n"),
        (
            ["--all", "seeds/cluster.yaml", "copy/cluster.yaml"],
            ExitCode.INPUT,
            "error: these seeds cannot be made\n"
            "  copy/cluster.yaml: the node hapx-node01 is in seeds/cluster.yaml too (one name for one node)\n",
        ),
        (["--all", "bad1.yaml", "bad2.yaml"], ExitCode.INPUT, "error: errors in 2 cluster specs\n  bad1.yaml:2: "),
        (
            ["--all", "-o", "seeds/cluster.yaml/dist"],
            ExitCode.INPUT,
            "error: seeds/cluster.yaml/dist: seeds/cluster.yaml is not a folder\n",
        ),
    ],
)
def test_what_cannot_be_made_is_told_and_nothing_is_left(
    place: Path, arguments: list[str], code: ExitCode, said: str
) -> None:
    put(place / "copy/cluster.yaml", spec())
    for name in ("bad1.yaml", "bad2.yaml"):
        (place / name).write_text("name: [\n")
    ended = seed_iso(place, *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(said)
    assert made(place) == ["bad1.yaml", "bad2.yaml"]
    assert not (place / "dist").exists()


def test_a_template_that_is_wrong_is_told_before_there_are_secrets(place: Path) -> None:
    (place / "seeds/templates").mkdir()
    (place / "seeds/templates/hosts.j2").write_text("\n{{ nodse }}\n")
    ended = seed_iso(place, "--all")
    assert ended.code == ExitCode.INPUT
    assert f"  {place / 'seeds/templates/hosts.j2'}:2: 'nodse' is undefined\n" in ended.err
    assert made(place) == []


def test_a_full_disk_leaves_the_cds_as_they_were(place: Path) -> None:
    (place / "dist").mkdir()
    script = """
        mount -t tmpfs -o size=120k tmpfs dist
        echo old >dist/hapx-node01-cidata.iso
        "$@" && exit 99
        echo "exit code $?"
        cd dist; ls -A; cat *
    """
    argv = unshare_argv(["sh", "-c", script, "sh", COMMAND, "seed-iso", "--all"])
    result = subprocess.run(argv, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == f"exit code {ExitCode.NO_SPACE:d}\nhapx-node01-cidata.iso\nold\n"
    assert "no space left on the disk" in result.stderr
