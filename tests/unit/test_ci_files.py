"""The files for other people's CI: valid by the services' own schemas, and calling commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[2]
GITHUB = REPOSITORY / ".github/workflows/appliance.yml"
GITLAB = REPOSITORY / ".gitlab-ci.yml"
CHECK = str(Path(sys.executable).with_name("check-jsonschema"))
COMMAND = str(Path(sys.executable).with_name("hapx-build"))
SCHEMAS = {GITHUB: "vendor.github-workflows", GITLAB: "vendor.gitlab-ci"}


def check(path: Path, schema: str) -> subprocess.CompletedProcess[str]:
    argv = [CHECK, "--builtin-schema", schema, *(["--data-transform", "gitlab-ci"] if "gitlab" in schema else []), path]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_it_is_valid(path: Path, tmp_path: Path) -> None:
    done = check(path, SCHEMAS[path])
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / path.name
    broken.write_text(path.read_text().replace("runs-on:", "runs:").replace("script:", "scripts:"))
    assert check(broken, SCHEMAS[path]).returncode != 0


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_its_commands_exist_and_it_does_all_four(path: Path) -> None:
    text = path.read_text()
    commands = set(re.findall(r"\.venv/bin/hapx-build ([a-z-]+)", text))
    assert commands == {"sign", "verify", "report", "publish"}
    for command in commands:
        subprocess.run([COMMAND, command, "--help"], check=True, capture_output=True)
    targets = set(re.findall(r"(?m)^(?:.*\) )?make ([a-z-]+)", "\n".join(scripts(YAML(typ="safe").load(path)))))
    assert targets == {"image", "test"}
    for target in targets:
        assert f"\n{target}: ##" in (REPOSITORY / "Makefile").read_text()


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_its_shell_is_shell(path: Path) -> None:
    for script in scripts(YAML(typ="safe").load(path)):
        # What the services put in before a shell sees it.
        plain = re.sub(r"\$\{\{.*?\}\}", "x", script)
        done = subprocess.run(
            ["shellcheck", "--shell=sh", "--exclude=SC2086", "-"],
            input=plain,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def scripts(document: object) -> list[str]:
    """Every piece of shell in a document."""
    if isinstance(document, list):
        return [script for each in document for script in scripts(each)]
    if not isinstance(document, dict):
        return []
    found = [scripts(value) for value in document.values()]
    for name in ("run", "script", "before_script"):
        if name in document:
            lines = document[name]
            found.append(["\n".join(lines) if isinstance(lines, list) else lines])
    return [script for each in found for script in each]
