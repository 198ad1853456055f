from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder import __version__, errors
from builder.errors import CommandError, HapxError, InputError
from builder.image import bake, packer
from builder.image.bake import Bake, BakeRequest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a template of its own, where nothing has to be installed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "packer", tmp_path / "packer")
    for name in ("TMPDIR", "SOURCE_DATE_EPOCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # A mock: which programs there are is not a plan's matter.
    monkeypatch.setattr(packer, "find", lambda: packer.Packer(Path("/usr/bin/packer"), (1, 6, 6)))
    monkeypatch.setattr(bake, "_require_programs", lambda: None)
    return tmp_path


def prepare(*assignments: str, **asked: object) -> Bake:
    return bake.prepare(BakeRequest(assignments=assignments, **asked))  # type: ignore[arg-type]


def test_a_plan_says_where_everything_goes(folder: Path) -> None:
    job = prepare()
    assert job.output == folder / f"dist/hapx-{__version__}-amd64.ova"
    assert job.log == folder / f"dist/hapx-{__version__}-amd64.log"
    assert job.manifest == folder / f"dist/hapx-{__version__}-amd64.manifest.json"
    assert Path(job.plan.staging).parent == job.output.parent  # so that a rename is all it takes
    assert Path(job.plan.work).parent == Path("/var/tmp")
    assert job.plan.root_cache.parent == folder / "cache/hapx-build/roots"
    assert job.plan.template == str(folder / "packer")
    assert list(folder.iterdir()) == [folder / "packer"]  # a plan is only that


@pytest.mark.parametrize(
    ("output", "made"),
    [
        (None, "dist/hapx-9-amd64.ova"),
        ("there", "there/hapx-9-amd64.ova"),
        ("there/", "there/hapx-9-amd64.ova"),
        ("there/x.ova", "there/x.ova"),
        ("/abs/x.y.ova", "/abs/x.y.ova"),
        (".", "hapx-9-amd64.ova"),
    ],
)
def test_output_is_a_folder_unless_it_is_an_ova(folder: Path, output: str | None, made: str) -> None:
    job = prepare("version=9", output=None if output is None else Path(output))
    assert job.output == folder / made


def test_another_release_is_in_the_name(folder: Path) -> None:
    assert prepare("version=9", release="bookworm").output.name == "hapx-9-bookworm-amd64.ova"


def test_flags_win_over_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "more.pkrvars.hcl").write_text('hostname = "file"\ncpus = 4\n')
    monkeypatch.setenv("PKR_VAR_hostname", "environment")
    monkeypatch.setenv("PKR_VAR_memory_mib", "2048")
    job = prepare("cpus=8", "release=trixie", var_files=(Path("more.pkrvars.hcl"),), release="bookworm")
    plan = job.plan
    assert (plan.hostname, plan.cpus, plan.memory_mib, plan.release) == ("file", 8, 2048, "bookworm")
    assert job.values["cpus"] == 8
    assert job.values["release"] == "bookworm"


def keys(*assignments: str, **asked: object) -> tuple[str, str]:
    plan = prepare(*assignments, **asked).plan
    return plan.root_key, plan.key


def test_the_same_inputs_have_the_same_keys_wherever_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = keys()
    assert keys("release=trixie", output=Path("elsewhere.ova"), force=True, keep_work=True) == here
    other = folder / "other"
    shutil.copytree(folder / "packer", other / "packer")
    monkeypatch.chdir(other)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert keys() == here


@pytest.mark.parametrize("assignment", ["hostname=x", "cpus=3", "memory_mib=600", "disk_size_mib=4096", "version=7"])
def test_what_shapes_only_the_disk_leaves_the_root(folder: Path, assignment: str) -> None:
    root, key = keys()
    other_root, other_key = keys(assignment)
    assert other_root == root
    assert other_key != key


@pytest.mark.parametrize("assignment", ["release=bookworm", "mirror=http://mirror.example/", 'extra_packages=["vim"]'])
def test_what_is_installed_makes_another_root(folder: Path, assignment: str) -> None:
    root, key = keys()
    other_root, other_key = keys(assignment)
    assert other_root != root
    assert other_key != key


def test_a_root_is_the_same_wherever_its_template_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = keys()
    elsewhere = folder / "it's [a] $place"
    elsewhere.mkdir()
    shutil.move(folder / "packer", elsewhere / "packer")
    monkeypatch.chdir(elsewhere)
    assert keys() == here


def test_a_snapshot_is_a_mirror_at_a_time(folder: Path) -> None:
    job = prepare("mirror=http://mirror.example/archive/debian/", snapshot="20260401T083000Z")
    assert job.plan.mirror == "http://mirror.example/archive/debian/20260401T083000Z"
    assert job.values["mirror"] == job.plan.mirror


@pytest.mark.parametrize(
    ("mirror", "moment", "says"),
    [
        ("", "20260401T083000Z", "no archive of snapshots is known"),
        ("http://mirror.example/debian", "yesterday", "not a time in UTC"),
        ("http://mirror.example/debian", "2026-04-01", "not a time in UTC"),
        ("http://mirror.example/debian/20260401T083000Z", "20260401T083000Z", "a snapshot already"),
    ],
)
def test_a_snapshot_that_is_none(folder: Path, mirror: str, moment: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        prepare(f"mirror={mirror}", snapshot=moment)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("file", "another_root"),
    [
        ("scripts/30-system.sh", False),
        ("files/etc/fresh", False),
        ("build.pkr.hcl", False),
        ("files/etc/dpkg/dpkg.cfg.d/hapx", True),
        ("packages.list", True),
    ],
)
def test_a_change_in_the_template_is_a_change(folder: Path, file: str, another_root: bool) -> None:
    root, key = keys()
    path = folder / "packer" / file
    path.write_text(
        (path.read_text() if path.exists() else "") + ("vim\n" if file == "packages.list" else "\n# more\n")
    )
    other_root, other_key = keys()
    assert other_key != key
    assert (other_root != root) == another_root


def test_a_date_that_is_asked_for_is_an_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, key = keys()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    other_root, other_key = keys()
    assert prepare().plan.epoch == 1_700_000_000
    assert root != other_root
    assert key != other_key


def test_a_variable_of_the_users_own_is_an_input(folder: Path) -> None:
    (folder / "packer/own.pkr.hcl").write_text('variable "motd" {\n  type = string\n  default = ""\n}\n')
    assert keys("motd=a") != keys("motd=b")


def test_what_is_sensitive_is_not_shown(folder: Path) -> None:
    (folder / "packer/own.pkr.hcl").write_text(
        'variable "token" {\n  type = string\n  default = ""\n  sensitive = true\n}\n'
    )
    job = prepare("token=sesame")
    assert job.values["token"] == "sesame"
    assert "sesame" not in json.dumps(job.shown_values)
    assert "sesame" not in str(job.plan)


def test_variables_that_are_set_here_are_nobody_elses(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepare("hapx_stage=rm")
    assert "hapx_stage" in str(caught.value.details)
    assert not any(str(row["name"]).startswith("hapx_") for row in bake.list_variables())


@pytest.mark.parametrize(
    ("text", "epoch"), [("0", 0), ("1700000000", 1_700_000_000), (str((1 << 32) - 1), (1 << 32) - 1)]
)
def test_source_date_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, epoch: int) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    assert prepare().plan.epoch == epoch


@pytest.mark.parametrize("text", ["", " 1", "+1", "0x10", "1e9", str(1 << 32), "٣"])
def test_source_date_epoch_that_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
        prepare()


def test_an_output_that_cannot_be_is_seen_first(folder: Path) -> None:
    (folder / "image.ova").mkdir()
    (folder / "file").touch()
    for output, says in (
        ("image.ova", "this is a folder"),
        ("file/below", "not a folder"),
        ("file/x.ova", "not a folder"),
    ):
        with pytest.raises(InputError, match=says):
            prepare(output=Path(output))


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HapxError)]
)
def test_an_error_of_a_stage_comes_back_as_what_it_was(kind: type[HapxError]) -> None:
    told = {"kind": kind.__name__, "message": "what", "hint": "do this", "details": ["a", "b"]}
    error = bake._error(told, Path("/out/x.log"))
    assert type(error) is kind
    assert (error.message, error.hint) == ("what", "do this")
    assert error.details == ("a", "b", "log: /out/x.log")


def test_an_error_that_nobody_knows_is_an_error_all_the_same() -> None:
    error = bake._error({"kind": "Path", "message": "what", "hint": "", "details": []}, Path("/x.log"))
    assert type(error) is HapxError
    assert not isinstance(error, CommandError)
