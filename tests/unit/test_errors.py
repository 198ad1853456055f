from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from builder import errors
from builder.errors import ExitCode, HapxError, InputError, Problem, of_os_error

REPOSITORY = Path(__file__).resolve().parents[2]


def family() -> list[type[HapxError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HapxError)]
    return [kind for kind in found if kind is not HapxError]


def test_every_error_has_an_exit_code_of_its_own() -> None:
    codes = [kind.exit_code for kind in family()]
    assert len(set(codes)) == len(codes)
    assert not {ExitCode.OK, ExitCode.FINDINGS, ExitCode.INTERNAL} & set(codes)


def test_the_readme_tells_every_exit_code() -> None:
    section = (REPOSITORY / "README.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([0-9, ]+) \|", section, re.MULTILINE)
    assert sorted(int(code) for cell in cells for code in cell.split(",")) == sorted(ExitCode)


@pytest.mark.parametrize(
    ("problem", "shown"),
    [
        (Problem("a.yaml:3", "wrong", "write it so"), "a.yaml:3: wrong (write it so)"),
        (Problem("a.yaml:3", "wrong"), "a.yaml:3: wrong"),
        (Problem("", "wrong"), "wrong"),
    ],
)
def test_a_problem_is_one_line(problem: Problem, shown: str) -> None:
    assert str(problem) == shown
    assert InputError("all of it", [problem]).details == (shown,)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ExitCode.NO_SPACE),
        (errno.EDQUOT, ExitCode.NO_SPACE),
        (errno.EACCES, ExitCode.INPUT),
        (errno.EROFS, ExitCode.INPUT),
        (errno.ENOTDIR, ExitCode.INPUT),
        (errno.EIO, ExitCode.FAILED),
    ],
)
def test_a_file_that_cannot_be_written_is_not_a_defect(number: int, code: ExitCode) -> None:
    explained = of_os_error(OSError(number, os.strerror(number), "/somewhere"))
    assert explained is not None
    assert explained.exit_code == code
    assert explained.message.startswith("/somewhere: ")
    assert explained.hint
    # A write that fails does not know its file.
    nameless = of_os_error(OSError(number, os.strerror(number)))
    assert nameless is not None
    assert not nameless.message.startswith("None")


def test_a_rename_that_fails_names_its_target() -> None:
    explained = of_os_error(OSError(errno.EACCES, "Permission denied", "/from", None, "/to"))
    assert explained is not None
    assert explained.message == "/to: Permission denied"


def test_a_file_that_should_be_there_is_a_defect() -> None:
    assert of_os_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone")) is None
