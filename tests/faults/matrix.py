"""What came of each fault, as the tests found it: build/faults/LAB.json, and the same to read, LAB.md.

A run of a few tests renews their rows and keeps the others.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import attrs

FOLDER = Path(__file__).parents[2] / "build" / "faults"

NOT_AS_EXPECTED = "not as expected"


@attrs.define
class Cell:
    """One fault at one place. `hit` is where it struck, by the ledger's word; `outcome` how it ended, and by whom."""

    test: str = ""
    lab: str = "namespaces"
    #: steps, commits of a move, commits of a roll back, job, weather
    group: str = ""
    #: The step or the place that the fault was meant for.
    place: str = ""
    fault: str = ""
    hit: str = ""
    outcome: str = NOT_AS_EXPECTED
    seconds: float = 0.0
    _began: float = attrs.field(factory=time.monotonic)

    def is_about(self, group: str, place: str, fault: str) -> None:
        """Say which fault it is."""
        self.group, self.place, self.fault = group, place, fault

    def came_of_it(self, outcome: str) -> None:
        """Say how it ended, once everything that must hold was found to hold."""
        self.outcome = outcome

    def row(self) -> dict[str, object]:
        """Return what is written."""
        return {key: value for key, value in attrs.asdict(self).items() if not key.startswith("_")}


class Matrix:
    """Collects cells and writes them."""

    def __init__(self) -> None:
        self._cells: list[Cell] = []

    def add(self, cell: Cell) -> None:
        """Take a cell whose test has ended."""
        if cell.group:
            cell.seconds = round(time.monotonic() - cell._began, 1)
            self._cells.append(cell)

    def write(self) -> None:
        """Write what was collected, a file for each lab."""
        for lab in sorted({cell.lab for cell in self._cells}):
            path = FOLDER / f"{lab}.json"
            old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            rows = {(row["group"], row["place"], row["fault"]): row for row in old}
            rows |= {(cell.group, cell.place, cell.fault): cell.row() for cell in self._cells if cell.lab == lab}
            ordered = [rows[key] for key in sorted(rows)]
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(table(ordered), encoding="utf-8")


def table(rows: list[dict[str, object]]) -> str:
    """Return rows as a Markdown table."""
    names = ("group", "place", "fault", "hit", "outcome", "seconds")
    lines = [names, ("---",) * len(names), *(tuple(str(row[name]) for name in names) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
