"""What tests and benchmarks measured: a table for people, JSON for programs."""

from __future__ import annotations

import io
import json
import os
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "HAPX_TEST_RESULTS"
DEFAULT = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a scenario: the longest time without service in seconds, its budget, who had the floating IP."""

    scenario: str
    outage: float | None
    budget: float | None
    owners: tuple[str, ...]
    doubled: float
    note: str = ""


@dataclass
class Results:
    """Every run so far."""

    runs: list[Run] = field(default_factory=list)

    def add(
        self,
        scenario: str,
        outage: float | None,
        budget: float | None = None,
        *,
        owners: list[str] | tuple[str, ...] = (),
        doubled: float = 0.0,
        note: str = "",
    ) -> None:
        """Note one run."""
        self.runs.append(Run(scenario, outage, budget, tuple(owners), doubled, note))

    def scenarios(self) -> dict[str, list[Run]]:
        """The runs by scenario, in the order in which these came up."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.scenario, []).append(run)
        return found

    def table(self, *, width: int = 140) -> str:
        """All scenarios as a table: runs, median and worst outage, budget, owners seen."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in ("scenario", "runs", "median s", "worst s", "budget s", "two owners s", "owners seen"):
            table.add_column(heading, justify="right" if heading.endswith((" s", "runs")) else "left")
        for name, runs in self.scenarios().items():
            outages = [run.outage for run in runs if run.outage is not None]
            budget = runs[-1].budget
            table.add_row(
                name,
                str(len(runs)),
                f"{statistics.median(outages):.2f}" if outages else "",
                f"{max(outages):.2f}" if outages else "",
                f"{budget:g}" if budget is not None else "",
                f"{worst:.2f}" if (worst := max(run.doubled for run in runs)) else "",
                runs[-1].note or " > ".join(runs[-1].owners),
            )
        text = io.StringIO()
        Console(file=text, width=width).print(table)
        return text.getvalue().rstrip()

    def as_data(self) -> list[dict[str, Any]]:
        """Every run as plain values."""
        return [asdict(run) for run in self.runs]

    def keep(self) -> Path:
        """Write them as JSON where HAPX_TEST_RESULTS says, by default beside this file; returns where."""
        path = Path(os.environ.get(VARIABLE) or DEFAULT)
        path.write_text(json.dumps(self.as_data(), indent=2) + "\n")
        return path
