from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.image import inputs

GOOD: dict[str, object] = {
    "release": "trixie",
    "arch": "amd64",
    "mirror": "",
    "version": "",
    "hostname": "hapx",
    "extra_packages": [],
    "disk_size_mib": 8192,
    "cpus": 2,
    "memory_mib": 1024,
}


def test_defaults_are_right() -> None:
    assert inputs.check(GOOD) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("release", "bookworm"),
        ("mirror", "http://mirror.example/debian"),
        ("mirror", "https://mirror.example:8443/debian/"),
        ("mirror", "http://[2001:db8::1]:3142/debian"),
        ("mirror", "file:///srv/mirror"),
        ("mirror", "copy:/srv/mirror"),
        ("version", "1.0-rc1+build.7"),
        ("hostname", "a"),
        ("hostname", "lb-01"),
        ("extra_packages", ["libstdc++6", "vim"]),
        ("disk_size_mib", 2048),
        ("disk_size_mib", 8192.0),
        ("cpus", 64),
        ("memory_mib", 512),
    ],
)
def test_these_are_taken(name: str, value: object) -> None:
    assert inputs.check(GOOD | {name: value}) == []


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("release", "sid", "one of trixie, bookworm"),
        ("release", "Trixie", "one of trixie, bookworm"),
        ("arch", "i386", "one of amd64"),
        ("mirror", "ftp://mirror.example/debian", "http://"),
        ("mirror", "mirror.example", "http://"),
        ("mirror", "http://mirror.example/debian trixie main", "http://"),
        ("mirror", "http://", "http://"),
        ("mirror", "http://user:secret@mirror.example/debian", "proxy"),
        ("version", "1/0", "up to 48 letters"),
        ("version", "-1", "up to 48 letters"),
        ("version", "1" * 49, "up to 48 letters"),
        ("version", "1~rc1", "up to 48 letters"),
        ("hostname", "", "letters a-z"),
        ("hostname", "-a", "letters a-z"),
        ("hostname", "a_b", "letters a-z"),
        ("hostname", "a" * 64, "letters a-z"),
        ("hostname", "lb.example", "letters a-z"),
        ("extra_packages", ["vim", "no such"], "letters a-z"),
        ("extra_packages", ["--purge"], "letters a-z"),
        ("disk_size_mib", 2047, "from 2048"),
        ("disk_size_mib", 8192.5, "whole number"),
        ("disk_size_mib", float("inf"), "whole number"),
        ("cpus", 0, "from 1 to 64"),
        ("cpus", "two", "from 1 to 64"),
        ("memory_mib", 511, "from 512"),
    ],
)
def test_these_are_refused_by_name(name: str, value: object, hint: str) -> None:
    (problem,) = inputs.check(GOOD | {name: value})
    assert problem.where == f"variable {name}"
    assert hint in problem.hint


def test_password_in_a_mirror_is_not_repeated() -> None:
    (problem,) = inputs.check(GOOD | {"mirror": "https://user:s3cret@mirror.example/"})
    assert "s3cret" not in str(problem)


def test_every_problem_is_told() -> None:
    wrong = dict.fromkeys(GOOD, "?") | {"extra_packages": ["?"]}
    names = [problem.where.removeprefix("variable ") for problem in inputs.check(wrong)]
    assert names == list(GOOD)


@given(st.fixed_dictionaries({name: st.text() | st.integers() | st.floats() | st.none() for name in GOOD}))
def test_no_value_is_a_surprise(values: dict[str, object]) -> None:
    for problem in inputs.check(values):
        assert problem.message
        assert problem.hint
