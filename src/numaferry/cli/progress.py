"""How a migration is watched: a bar on a terminal, plain lines elsewhere, objects with `-f json`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from numaferry.cli.jsonform import dumps_line
from numaferry.migration.progress import brief, told
from numaferry.model import MigrationStatus

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from numaferry.migration.progress import Progress
    from numaferry.model import Migration
    from numaferry.service.views import MigrationLine, WatchLine

#: Between two plain lines of one step.
_LINE_EVERY_S = 2.0
#: Statuses of which the job's figures are told: it runs, or how it ended. Between these they are of a moment ago.
_ENDED = frozenset({MigrationStatus.COMPLETED, MigrationStatus.FAILED, MigrationStatus.CANCELLED})
_TOLD = _ENDED | {MigrationStatus.RUNNING}


class PlainWatch:
    """Lines: one per step, and one every other second while memory is copied; none twice.

    On standard error beside a command's answer, on standard output where they are the answer.
    """

    def __init__(self, *, answer: bool = False) -> None:
        self._err = not answer
        self._last = ("", 0.0)
        self._line = ""
        self._begun = False

    def started(self, migration: MigrationLine) -> None:
        """Tell that the claim is taken, or that a migration is taken up."""
        self._begin(migration.id, migration.instance, migration.source, migration.dest, migration.status)

    def warned(self, sentence: str) -> None:
        """Tell what is to be known before."""
        self._say(f"warning: {sentence}")

    def again(self, migration: MigrationLine, sentence: str) -> None:
        """Tell that another host is tried."""
        self._say(f"migration {migration.id}: {sentence}")

    def handed_over(self, migration: MigrationLine, controller: str) -> None:
        """Tell who drives it."""
        self._say(f"migration {migration.id}: controller {controller} drives it")

    def progress(self, migration: Migration, progress: Progress | None) -> None:
        """Tell a new step at once, figures every other second."""
        self._tell(migration.id, migration.status, migration.step, progress)

    def look(self, line: WatchLine) -> None:
        """Tell a change that was seen in the ledger: what happened, then how it is."""
        if not self._begun:
            self._begin(line.migration, line.instance, line.source, line.dest, line.status)
        for words in (*(event.sentence for event in line.events), line.note):
            if words:
                self._say(f"migration {line.migration}: {words}")
        self._tell(line.migration, line.status, line.step, line.progress)

    def _begin(self, number: int, name: str, source: str, dest: str, status: str) -> None:
        self._begun = True
        self._say(f"migration {number}: {name} from {source} to {dest}, {status}")

    def _tell(self, number: int, status: str, step: str, progress: Progress | None) -> None:
        word, now = f"{status} {step}".strip(), time.monotonic()
        said, when = self._last
        if word == said and (progress is None or now - when < _LINE_EVERY_S):
            return
        self._last = (word, now)
        line = f"migration {number}: {word}"
        if progress is not None and status in _TOLD:
            line += f", {told(progress)}"
        if line != self._line:
            self._line = line
            self._say(line)

    def _say(self, line: str) -> None:
        click.echo(line, err=self._err)

    def close(self) -> None:
        """Nothing to close."""


class BarWatch:
    """A bar that is drawn over on a terminal."""

    def __init__(self, *, answer: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415  (rich is imported only by what prints with it)
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415  (the same)

        self._progress: Bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[said]}"),
            console=Console(stderr=not answer, highlight=False, markup=False),
            refresh_per_second=4,
        )
        self._task: TaskID | None = None

    def started(self, migration: MigrationLine) -> None:
        """Begin to draw."""
        self._begin(migration.instance, migration.source, migration.dest, migration.status)

    def warned(self, sentence: str) -> None:
        """Tell what is to be known before, above the bar."""
        self._progress.console.print(f"warning: {sentence}")

    def again(self, migration: MigrationLine, sentence: str) -> None:
        """Tell that another host is tried, above the bar."""
        self._progress.console.print(f"migration {migration.id}: {sentence}")

    def handed_over(self, migration: MigrationLine, controller: str) -> None:
        """Tell who drives it, above the bar."""
        self._progress.console.print(f"migration {migration.id}: controller {controller} drives it")

    def progress(self, migration: Migration, progress: Progress | None) -> None:
        """Draw the job's figures, or the step beside it."""
        self._draw(migration.status, migration.step, progress)

    def look(self, line: WatchLine) -> None:
        """Tell above the bar what happened, and draw how it is."""
        if self._task is None:
            self._begin(line.instance, line.source, line.dest, line.status)
        for words in (*(event.sentence for event in line.events), line.note):
            if words:
                self._progress.console.print(words, soft_wrap=True)
        if line.status in _ENDED and line.progress is not None:
            self._progress.console.print(told(line.progress), soft_wrap=True)
        self._draw(line.status, line.step, line.progress)

    def _begin(self, name: str, source: str, dest: str, status: str) -> None:
        self._task = self._progress.add_task(f"{name} {source} → {dest}", total=100, said=status)
        self._progress.start()

    def _draw(self, status: str, step: str, progress: Progress | None) -> None:
        if self._task is None:
            return
        said = f"{status} {step}".strip()
        if status == MigrationStatus.COMPLETED:
            self._progress.update(self._task, completed=100, said="completed")
        elif progress is not None and not progress.job.completed:
            words = brief(progress) if status == MigrationStatus.RUNNING else said
            self._progress.update(self._task, completed=progress.percent, said=words)
        else:
            self._progress.update(self._task, said=said)

    def close(self) -> None:
        """Stop drawing; safe to repeat."""
        self._progress.stop()


class JsonLines:
    """An object a line on standard output."""

    def look(self, line: WatchLine) -> None:
        """Print a change."""
        click.echo(dumps_line(line))

    def close(self) -> None:
        """Nothing to close."""


def make_watch(*, answer: bool = False) -> PlainWatch | BarWatch:
    """Return a bar where standard error (output, if it is the answer) is a terminal, else lines."""
    out = sys.stdout if answer else sys.stderr
    return BarWatch(answer=answer) if out.isatty() else PlainWatch(answer=answer)
