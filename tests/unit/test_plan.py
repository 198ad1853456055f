from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.image import bake, manifest
from builder.image.plan import RELEASES, BakePlan, digest, digest_tree, read_packages

PLAN = BakePlan(
    name="hapx-1.2.3-amd64",
    source="null.bootstrap",
    release="trixie",
    arch="amd64",
    mirror="",
    version="1.2.3",
    hostname="hapx",
    packages=("haproxy", "corosync"),
    disk_size_mib=8192,
    cpus=2,
    memory_mib=1024,
    epoch=None,
    template="/t",
    output="/out/hapx-1.2.3-amd64.ova",
    work="/w",
    staging="/out/.staging",
    cache="/c",
    root_key="0123456789abcdef" * 4,
    refresh_root=False,
    key="k",
)


def test_plan_is_the_same_when_read_back(tmp_path: Path) -> None:
    for plan in (PLAN, dataclasses.replace(PLAN, epoch=1_700_000_000, refresh_root=True, packages=())):
        plan.write(tmp_path / "plan.json")
        assert BakePlan.read(tmp_path / "plan.json") == plan


def test_roots_are_kept_by_their_key() -> None:
    assert PLAN.root_cache == Path("/c/roots/trixie-amd64-0123456789abcdef")


def test_digest_tells_values_apart() -> None:
    assert digest("a", "b") == digest("a", "b")
    assert len({digest("ab"), digest("a", "b"), digest(["a", "b"]), digest("a", None), digest("a", "None")}) == 5


def test_digest_of_a_folder_sees_names_contents_and_the_executable_bit(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    script = tmp_path / "sub/script"
    script.write_text("one")
    script.chmod(0o644)
    seen = [digest_tree(tmp_path)]
    script.touch()
    assert digest_tree(tmp_path) == seen[0]
    script.write_text("two")
    seen.append(digest_tree(tmp_path))
    script.chmod(0o755)
    seen.append(digest_tree(tmp_path))
    script.rename(tmp_path / "sub/other")
    seen.append(digest_tree(tmp_path))
    assert len(set(seen)) == 4


def test_packages_are_one_a_line_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "packages.list"
    path.write_text("# all\n\nhaproxy\n  corosync # the cluster\nlibstdc++6\nold [bookworm] # or\nnew [trixie]\n")
    assert read_packages(path, "trixie") == ["haproxy", "corosync", "libstdc++6", "new"]
    assert read_packages(path, "bookworm") == ["haproxy", "corosync", "libstdc++6", "old"]


def test_every_line_that_is_no_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "packages.list"
    path.write_text("haproxy corosync\nok\nBAD\nfine [trixie]\nother [sid]\n")
    with pytest.raises(InputError) as caught:
        read_packages(path, "trixie")
    assert [problem.where for problem in caught.value.problems] == [f"{path}:{line}" for line in (1, 3, 5)]


def test_missing_package_list_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        read_packages(tmp_path / "packages.list", "trixie")


def test_shipped_template_can_be_planned() -> None:
    folder = bake.template_folder()
    for each in RELEASES:
        packages = set(read_packages(folder / "packages.list", each))
        assert {"haproxy", "corosync", "pacemaker", "crmsh", "cloud-init"} <= packages
        assert not {"pcs", "pcsd"} & packages
    release = next(row for row in bake.list_variables() if row["name"] == "release")
    assert all(name in str(release["description"]) for name in RELEASES)


def test_modules_that_shape_the_image_are_there() -> None:
    for name in bake.SHAPING:
        assert Path(bake.__file__).with_name(f"{name}.py").is_file(), name


STATUS = """\
Package: haproxy
Status: install ok installed
Installed-Size: 5661
Architecture: amd64
Version: 3.0.11-1+deb13u1
Description: fast and reliable
 load balancing
 Version: of nothing

Package: gone
Status: deinstall ok config-files
Installed-Size: 1
Architecture: amd64
Version: 1

Package: adduser
Status: install ok installed
Architecture: all
Version: 3.152
"""


def test_installed_packages_are_those_that_dpkg_calls_installed(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    assert manifest.installed_packages(tmp_path) == [
        {"name": "adduser", "version": "3.152", "arch": "all", "size_kib": 0},
        {"name": "haproxy", "version": "3.0.11-1+deb13u1", "arch": "amd64", "size_kib": 5661},
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', "{", "\x00"])
def test_manifest_that_is_none_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.manifest.json"
    path.write_text(text)
    assert manifest.read(path) is None
    assert manifest.read(tmp_path / "missing") is None
