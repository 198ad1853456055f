"""YAML that is broken, hostile, or read otherwise elsewhere: one clear fault each, with its line."""

from __future__ import annotations

import codecs
import time

import pytest

from builder.spec import tree
from tests.unit.spec_samples import said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: is empty (start from one of the specs in seeds/)"),
        ("# nothing\n", "1: is empty (start from one of the specs in seeds/)"),
        ("name: hapx\n\tdomain: x\n", "2: a tab: YAML is indented with spaces"),
        (
            "name: hapx\n  domain: x\n",
            "2: a colon where no key can stand (indent it like its neighbours; quote text with ': ')",
        ),
        ("name: hapx\ndomain\nx: 1\n", "3: a key without a colon, or a line that is indented wrongly"),
        ("nodes:\n  - a\n - b\n", "3: this line is indented differently from those it belongs to"),
        ("nodes: [a, b\n", "2: a bracket or a brace is not closed"),
        ("name: @x\n", "1: a value cannot begin with @ (put it in quotes)"),
        ("name: `x`\n", "1: a value cannot begin with ` (put it in quotes)"),
        ("a: 1\nname: 'hapx\nb: 2\n", "2: a quote is not closed"),
        ("name: *other\n", "1: an alias without its anchor: 'other'"),
        ("name: a\n---\nname: b\n", "2: a second document begins here (---): a spec is one"),
        ('name: "\\d"\n', "1: a backslash in double quotes means something else: 'd' (use single quotes)"),
        ('name: "\\U00110000"\n', '1: not YAML: "chr() arg not in range(0x110000)"'),
        ("name: \x01\n", "1: a character that YAML does not allow: U+0001"),
        ("- " * 50, "1: nested deeper than 20 levels (is this a cluster spec?)"),
        ("a: &a [*a]\n", "1: its aliases stand for more than a spec can hold (is this a cluster spec?)"),
    ],
)
def test_text_that_is_no_spec_gets_one_fault(text: str, expected: str) -> None:
    assert said(text) == [expected]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (codecs.BOM_UTF8 + b"name: a\n", "1: begins with a byte order mark (UTF-8) (save it as UTF-8 without one)"),
        ("name: a\n".encode("utf-16"), "1: begins with a byte order mark (UTF-16) (save it as UTF-8 without one)"),
        (codecs.BOM_UTF32_LE + b"a", "1: begins with a byte order mark (UTF-32) (save it as UTF-8 without one)"),
        (b"name: a\ndomain: \xe9t\xe9\n", "2: not UTF-8: byte 0xe9 (save it as UTF-8)"),
        (b"name: a\0b\n", "1: a character that YAML does not allow: U+0000"),
        (b"#" * (tree.MAX_BYTES + 1), "1: larger than 1 MiB (is this a cluster spec?)"),
    ],
)
def test_bytes_that_are_no_plain_utf8_are_refused(data: bytes, expected: str) -> None:
    assert said(data) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "2: name: is there twice (the first is on line 1)"),
        ("name: !!binary aGFweA==\n", '1: name: a tag ("tag:yaml.org,2002:binary") (a spec needs none: leave it out)'),
        (
            "name: !python/object:os.system x\n",
            '1: name: a tag ("!python/object:os.system") (a spec needs none: leave it out)',
        ),
        ("machine:\n  <<: {cpus: 2}\n", "2: machine: a merge key (<<), which YAML 1.2 does not have"),
        ("machine:\n  ? [a]\n  : 1\n", "2: machine: a key has to be text"),
        ('name: "\\ud800"\n', "1: name: a control character: U+D800"),
        ('name: "a\\0b"\n', "1: name: a control character: U+0000"),
    ],
)
def test_yaml_that_a_spec_has_no_use_for_is_named_by_key(text: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in said(text)), said(text)


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        ("yes", "yes"), ("off", "off"), ("true", True), ("False", False), ("~", None), ("", None), ("NULL", None),
        ("0o17", 15), ("017", 17), ("0x1F", 31), ("-7", -7), ("+7", 7), ("1_000", "1_000"), ("1.5", 1.5),
        ("1e3", 1000.0), (".inf", float("inf")), ("-.INF", float("-inf")), ("12:30:45", "12:30:45"),
        ("02:00:10:20:30:40", "02:00:10:20:30:40"),
        ("2001-12-14", "2001-12-14"), ("10.0.0.1", "10.0.0.1"), ("'5'", "5"), ("!!str 5", "5"), ("=", "="),
        ("1" * 5000, "1" * 5000),
    ],
)  # fmt: skip
def test_scalars_are_read_by_yaml_1_2_alone(scalar: str, expected: object) -> None:
    assert tree.parse(f"key: {scalar}\n").value == {"key": expected}


@pytest.mark.parametrize("scalar", ["yes", "off", "12:30:45", "1_000", "0b11"])
def test_what_only_yaml_1_1_gives_a_meaning_stays_text_in_it(scalar: str) -> None:
    assert tree.parse(f"%YAML 1.1\n---\nkey: {scalar}\n").value == {"key": scalar}


def test_every_value_has_its_line() -> None:
    read = tree.parse("# top\nnodes:\n  - name: a\n    macs:\n      x: 1\n  - {name: b,\n     id: 2}\n")
    places = [("nodes",), ("nodes", 0), ("nodes", 0, "macs", "x"), ("nodes", 1), ("nodes", 1, "id")]
    assert [read.line(place) for place in places] == [2, 3, 5, 6, 7]
    assert read.line(("nodes", 0, "disks", 3)) == 3


def test_aliases_are_followed_where_they_are_few() -> None:
    assert tree.parse("a: &x {k: [1]}\nb: *x\n").value == {"a": {"k": [1]}, "b": {"k": [1]}}


def _laughs() -> str:
    return "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    "text",
    [
        "[" * (1 << 20),
        "{a: " * (1 << 18),
        "? " * (1 << 18),
        "a: [" + "1," * (1 << 18),
        "".join(f"k{n}: 1\n" for n in range(60_000)),
        "".join(f"k{n}: &a{n} 1\n" for n in range(40_000)),
        'a: "' + "\\n\n" * (1 << 18) + '"',
        "a: |\n" + " x\n" * (1 << 18),
        "# \n" * (1 << 18),
        "a: " + "x " * (1 << 18),
        _laughs(),
    ],
    ids=["lists", "maps", "keys", "entries", "names", "anchors", "escapes", "lines", "comments", "words", "laughs"],
)
def test_a_megabyte_of_anything_is_refused_within_seconds(text: str) -> None:
    started = time.process_time()
    read = tree.parse(text[: tree.MAX_BYTES])
    assert time.process_time() - started < 5
    assert read.faults or len(str(read.value)) > 0
