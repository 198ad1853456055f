"""SHA256SUMS, as sha256sum reads and writes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.image import checksums


def test_sha256sum_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    names = ["b.ova", "a.json", "with blank.json"]
    for name in names:
        (tmp_path / name).write_text(name)
    text = checksums.text({name: checksums.of_file(tmp_path / name) for name in names})
    (tmp_path / "SHA256SUMS").write_text(text)
    subprocess.run(["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    for flag in ("--text", "--binary"):
        said = subprocess.run(["sha256sum", flag, *names], cwd=tmp_path, check=True, capture_output=True, text=True)
        assert checksums.parse(said.stdout) == checksums.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists nothing"),
        ("hello\n", "line 1: not a SHA-256"),
        (f"{'a' * 64}  x\n{'a' * 63}  y\n", "line 2: not a SHA-256"),
        (f"{'A' * 64}  x\n", "line 1: not a SHA-256"),
        (f"{'a' * 64} x\n", "line 1: not a SHA-256"),
        (f"{'a' * 64}  ../x\n", "line 1: not a SHA-256"),
        (f"{'a' * 64}  /etc/passwd\n", "line 1: not a SHA-256"),
        (f"{'a' * 64}  .x\n", "line 1: not a SHA-256"),
        (f"{'a' * 64}  x\n{'b' * 64}  x\n", "line 2: x is listed twice"),
    ],
)
def test_what_is_no_such_file(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checksums.parse(text)
