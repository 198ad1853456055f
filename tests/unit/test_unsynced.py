from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CALLS = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for call in (lambda: libc.fsync(999), lambda: libc.fdatasync(999), lambda: libc.syncfs(999),
             lambda: libc.sync_file_range(999, ctypes.c_long(0), ctypes.c_long(0), 2)):
    print(errno.errorcode[ctypes.get_errno()] if call() else "nothing done", end=" ")
try:
    os.write(999, b"x")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def said(*prefix: str) -> str:
    argv = [*prefix, sys.executable, "-c", CALLS]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="filters on x86-64 only")
def test_no_program_below_waits_for_the_disk_where_root_runs_it() -> None:
    # A file that is not open tells whether the kernel looked at it.
    assert said() == "EBADF EBADF EBADF EBADF EBADF"
    filtered = said(sys.executable, "-m", "builder.image.unsynced", "sh", "-c", '"$@"; exit', "sh")
    done = "nothing done" if os.geteuid() == 0 else "EBADF"
    assert filtered == f"{done} {done} {done} {done} EBADF"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_anybody_elses_program_runs_as_it_is() -> None:
    code = "import os; from builder.image import unsynced; os.setuid(65534); print(unsynced.install())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_a_program_keeps_its_arguments_and_its_exit_code() -> None:
    argv = [sys.executable, "-m", "builder.image.unsynced", "sh", "-c", 'echo "$1"; exit 7', "sh", "it's --this"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("it's --this\n", 7)
