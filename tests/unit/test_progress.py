from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from builder.progress import JsonReporter, QuietReporter, Reporter, TerminalReporter


def job(reporter: Reporter) -> None:
    """A job with everything in it."""
    reporter.begin("one", title="The first [a] :cat:")
    reporter.advance(1, 2, unit="B")
    reporter.note("note [b] :dog:", path=Path("/x"))
    with reporter.stage("two"):
        reporter.advance(0, 0)
    reporter.result("result [c] :cow:", size=3)
    reporter.close()


def test_json_is_one_event_a_line() -> None:
    stream = io.StringIO()
    job(JsonReporter(stream=stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == [
        "stage",
        "progress",
        "note",
        "done",
        "stage",
        "progress",
        "done",
        "result",
    ]
    assert all(event["time"] > 1.6e9 for event in events)
    assert events[0] == {"event": "stage", "time": events[0]["time"], "stage": "one", "title": "The first [a] :cat:"}
    assert events[2]["path"] == "/x"
    assert events[4]["title"] == "two"


def test_quiet_says_only_what_came_out() -> None:
    stream = io.StringIO()
    job(QuietReporter(stream=stream))
    assert stream.getvalue() == "result [c] :cow:\n"


def test_seconds_are_kept_in_order_and_added_up() -> None:
    reporter = Reporter()
    for name in ("b", "a", "b"):
        reporter.begin(name)
    reporter.end()
    assert list(reporter.seconds) == ["b", "a"]
    assert all(seconds >= 0 for seconds in reporter.seconds.values())


def test_a_stage_that_raises_has_failed() -> None:
    stream = io.StringIO()
    reporter = JsonReporter(stream=stream)
    with pytest.raises(KeyboardInterrupt), reporter.stage("one"):
        raise KeyboardInterrupt
    reporter.close()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["stage", "failed"]
    assert not reporter.seconds


def test_what_is_still_open_at_the_end_has_failed() -> None:
    stream = io.StringIO()
    reporter = JsonReporter(stream=stream)
    reporter.begin("one")
    reporter.close()
    reporter.close()
    assert json.loads(stream.getvalue().splitlines()[-1])["event"] == "failed"
    assert len(stream.getvalue().splitlines()) == 2


def draw(reporter: TerminalReporter, file: object) -> None:
    """Have it draw on this file as on a terminal."""
    console = Console(file=file, force_terminal=True, width=100, color_system=None)  # type: ignore[arg-type]
    bar = reporter._bar()
    bar.stop()
    bar.live.console = console
    bar.live.start()


def test_a_terminal_shows_names_as_they_are() -> None:
    file = io.StringIO()
    reporter = TerminalReporter()
    draw(reporter, file)
    job(reporter)
    shown = file.getvalue()
    for text in ("✓ The first [a] :cat:", "note [b] :dog:", "✓ two", "result [c] :cow:"):
        assert text in shown
    assert " 0.0 s" in shown


class Closed(io.StringIO):
    """A terminal that is gone."""

    closed_now = False

    def write(self, text: str) -> int:
        if self.closed_now:
            raise OSError(5, "Input/output error")
        return super().write(text)


def test_a_terminal_that_is_gone_stops_nothing() -> None:
    file = Closed()
    reporter = TerminalReporter()
    draw(reporter, file)
    reporter.begin("one")
    file.closed_now = True
    job(reporter)
    assert "two" in reporter.seconds
