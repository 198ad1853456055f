"""What a long job tells while it runs: named stages, progress, notes. The library reports; the command line shows.

A `Reporter` takes events. `TerminalReporter` draws them for a person, `JsonReporter` writes one JSON line an event,
`Reporter` itself says nothing (tests, libraries, output that is not a terminal).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass
class Reporter:
    """Takes the events of a job and says nothing; keeps the time each stage took (`seconds`, by name, in order)."""

    seconds: dict[str, float] = field(default_factory=dict)
    _current: str = ""
    _started: float = 0.0

    def begin(self, stage: str, *, title: str = "") -> None:
        """A stage starts; the one before it, if still open, is over."""
        self.end()
        self._current, self._started = stage, time.monotonic()
        self._show("stage", stage=stage, title=title or stage)

    def advance(self, done: float, total: float, *, unit: str = "") -> None:
        """How far the current stage is, in `unit` ("B" for bytes)."""
        self._show("progress", stage=self._current, done=done, total=total, unit=unit)

    def end(self) -> None:
        """The current stage, if there is one, is done."""
        if not self._current:
            return
        stage, self._current = self._current, ""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - self._started
        self._show("done", stage=stage, seconds=round(self.seconds[stage], 3))

    def fail(self) -> None:
        """The current stage did not end well."""
        if not self._current:
            return
        stage, self._current = self._current, ""
        self._show("failed", stage=stage, seconds=round(time.monotonic() - self._started, 3))

    def note(self, message: str, **facts: Any) -> None:
        """Something a person should know; `facts` are for machines."""
        self._show("note", message=message, **facts)

    def result(self, message: str, **facts: Any) -> None:
        """What came out in the end."""
        self._show("result", message=message, **facts)

    @contextlib.contextmanager
    def stage(self, name: str, *, title: str = "") -> Iterator[None]:
        """A stage around a block of work."""
        self.begin(name, title=title)
        try:
            yield
        except BaseException:
            self.fail()
            raise
        self.end()

    def close(self) -> None:
        """No more events; whatever was drawn is finished."""
        self.fail()

    def _show(self, event: str, **facts: Any) -> None:
        """Overridden by what shows events."""


@dataclass
class QuietReporter(Reporter):
    """For output that is not a terminal: only what came out, one line."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)

    def _show(self, event: str, **facts: Any) -> None:
        if event == "result":
            print(facts["message"], file=self.stream, flush=True)


@dataclass
class JsonReporter(Reporter):
    """One JSON object a line, an event each: `event`, `time` (seconds since the epoch), and the event's facts."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)

    def _show(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 3), **facts}, default=str)
        print(line, file=self.stream, flush=True)


@dataclass
class TerminalReporter(Reporter):
    """Draws stages with their time, and a bar where a stage has a measure."""

    _progress: Progress | None = None
    _task: TaskID | None = None
    _title: str = ""

    def _show(self, event: str, **facts: Any) -> None:
        # A terminal that was closed takes nothing more: SIGHUP ends what runs, not a line that could not be drawn.
        with contextlib.suppress(OSError):
            self._draw(event, facts)

    def _draw(self, event: str, facts: Mapping[str, Any]) -> None:
        from rich.text import Text

        match event:
            case "stage":
                self._title = str(facts["title"])
                self._task = self._bar().add_task(self._title, total=None, amount="")
            case "progress" if self._task is not None:
                done, total = facts["done"], facts["total"]
                amount = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if facts["unit"] == "B" else ""
                self._bar().update(self._task, completed=done, total=total or None, amount=amount)
            case "done" | "failed" if self._task is not None:
                bar = self._bar()
                bar.remove_task(self._task)
                self._task = None
                mark = ("✓", "green") if event == "done" else ("✗", "red")
                line = Text.assemble(" ", mark, f" {self._title:<44} ", (f"{facts['seconds']:6.1f} s", "dim"))
                bar.console.print(line, highlight=False)
            case "note":
                self._bar().console.print(Text(f"   {facts['message']}"), highlight=False)
            case "result":
                self._bar().console.print(Text(facts["message"]), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away, what was printed stays."""
        super().close()
        if self._progress is not None:
            with contextlib.suppress(OSError):
                self._progress.stop()
            self._progress = None

    def _bar(self) -> Progress:
        if self._progress is None:
            from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn

            class MeasureColumn(BarColumn):
                """A bar where there is a measure; nothing where it would only move."""

                def render(self, task: Task) -> Any:
                    """The bar, or an empty text."""
                    return super().render(task) if task.total else ""

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<44}", markup=False),
                TimeElapsedColumn(),
                MeasureColumn(bar_width=24),
                TextColumn("[dim]{task.fields[amount]}"),
                transient=True,
            )
            self._progress.start()
        return self._progress
