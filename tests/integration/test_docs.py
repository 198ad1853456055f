"""The documentation says what the commands are: pages are up to date, links lead somewhere, error texts are real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from builder.command import run

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
COMMAND = Path(sys.executable).with_name("hapx-build")
PAGES = (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))


def test_the_pages_of_the_commands_are_up_to_date(tmp_path: Path) -> None:
    run([sys.executable, str(DOCS / "generate.py"), str(tmp_path)], timeout=300)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.*")}
    kept = {
        path.relative_to(DOCS): path.read_text() for name in ("commands", "man") for path in (DOCS / name).iterdir()
    }
    assert kept == made, "make docs"


def test_every_man_page_is_one_that_man_shows() -> None:
    for page in (DOCS / "man").iterdir():
        said = run(["groff", "-man", "-Tutf8", "-ww", str(page)], timeout=60)
        assert "SYNOPSIS" in re.sub(r".\x08", "", said.stdout), page.name  # bold is a letter struck twice
        assert said.stderr == "", page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_and_flags_in_the_texts_exist(page: Path) -> None:
    """Every `hapx-build …` that stands as code, with its flags, is one that --help knows."""
    known: dict[str, str] = {}
    text = page.read_text()
    code = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    code += re.findall(r"^    .*$|(?<!`)`[^`\n]+`", text, re.MULTILINE)
    for words in re.findall(r"hapx-build((?: [a-z][a-z-]*(?=[\s`]|$))+|(?= --))([^`\n#|&]*)", "\n".join(code)):
        command, rest = words
        names = command.split()[: 2 if command.split()[:1] == ["spec"] else 1]
        name = " ".join(names)
        if name not in known:
            shown = subprocess.run([COMMAND, *names, "--help"], capture_output=True, text=True, timeout=60, check=False)
            assert shown.returncode == 0, f"{page.name}: hapx-build {name}"
            known[name] = shown.stdout
        for flag in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert flag in known[name], f"{page.name}: hapx-build {name} {flag}"


@pytest.mark.parametrize(("typed", "offered"), [("hapx-build see", "seed-iso"), ("hapx-build spec sh", "show")])
def test_the_shell_completes_commands(typed: str, offered: str) -> None:
    words = typed.split(" ")
    env = {
        **os.environ,
        "_HAPX_BUILD_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    said = subprocess.run([COMMAND], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert offered in said.stdout.split()


def test_error_texts_that_are_explained_are_those_of_the_programs() -> None:
    """What is quoted in troubleshooting.md as an error stands in the source: a placeholder (…) for each value."""
    source = "\n".join(
        path.read_text(errors="replace")
        for folder in ("builder", "packer", ".ci")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    for quoted in re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE):
        for part in filter(None, (part.strip(" :") for part in quoted.split("…"))):
            assert part in source, quoted
