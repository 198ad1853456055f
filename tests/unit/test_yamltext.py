"""YAML that says what the data say, to readers of YAML 1.1."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.seed import yamltext
from tests.unit.document_samples import (
    read,
)

TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]), st.sampled_from(list(" \t\n\r#:-'\"|>%&*!?[]{},\x85\u2028\ufeff"))
    )
)
PLAIN = st.recursive(
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc yno0:-", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "content", "no", "0644"]), PLAIN, min_size=1))
def test_yaml_says_what_the_data_say_whatever_stands_around_it(data: dict[str, Any]) -> None:
    text = yamltext.dump(data).removesuffix("\n")
    assert read(f"first: 1\n\n{text}\n\nlast: 2\n") == {"first": 1, **data, "last": 2}


@pytest.mark.parametrize(
    "text",
    ["no", "0644", "52:54:00:12:34:56", "12:30:45", "1_000", "~", "2001-01-01", "0x1F", "=", "", " a", "a: b", "# a"],
)
def test_words_that_yaml_1_1_reads_otherwise_are_quoted(text: str) -> None:
    assert read(yamltext.dump({"word": text})) == {"word": text}


@given(st.one_of(TEXTS, st.integers(), st.booleans(), st.none()))
def test_a_single_value_is_one_line_behind_a_key(value: object) -> None:
    text = yamltext.dump(value)
    assert text.count("\n") == 1
    assert read(f"a: {text}b: {text}") == {"a": value, "b": value}


def test_lines_stay_lines_with_their_final_newline() -> None:
    assert yamltext.dump({"content": "one\n\n  two\n"}) == "content: |\n  one\n\n    two\n"


def test_an_error_leaves_nothing_for_the_next_text() -> None:
    with pytest.raises(Exception, match="cannot represent"):
        yamltext.dump({"a": object()})
    assert yamltext.dump({"a": 1}) == "a: 1\n"
