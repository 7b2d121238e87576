"""How a migration is watched: a bar on a terminal, plain lines elsewhere, in the words of `virsh domjobinfo`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from numaferry.cli.words import duration
from numaferry.model import MigrationStatus

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from numaferry.model import JobInfo, Migration
    from numaferry.service.views import MigrationLine

_MIB = 1 << 20
#: Between two plain lines of one step.
_LINE_EVERY_S = 2.0


def percent(job: JobInfo) -> int:
    """Return how much is done, in whole percent: never 100 while bytes remain, never less than 0."""
    if job.memory_total_bytes <= 0:
        return 0
    done = 1 - job.memory_remaining_bytes / job.memory_total_bytes
    whole = max(0, min(100, int(done * 100)))
    return min(whole, 99) if job.memory_remaining_bytes > 0 else whole


def dirty_bps(job: JobInfo) -> int:
    """Return how many bytes the guest dirties per second, by libvirt's figures."""
    return job.memory_dirty_rate * job.memory_page_size_bytes


def eta(job: JobInfo) -> str:
    """Return the honest time left: none where the guest dirties memory as fast as it is sent."""
    if not job.memory_total_bytes:
        return "preparing the destination"
    if not job.memory_remaining_bytes:
        return "switching"
    if job.memory_bps <= 0:
        return "time left unknown"
    net = job.memory_bps - dirty_bps(job)
    if net <= 0:
        return "no end in sight: dirty rate exceeds bandwidth"
    return f"about {duration(1000 * job.memory_remaining_bytes / net)} left"


def figures(job: JobInfo) -> str:
    """Return the figures of a job in one line."""
    parts = [
        f"memory processed {_mib(job.memory_processed_bytes)} MiB",
        f"remaining {_mib(job.memory_remaining_bytes)} of {_mib(job.memory_total_bytes)} MiB",
        f"bandwidth {job.memory_bps / _MIB:.0f} MiB/s",
        f"dirty rate {dirty_bps(job) / _MIB:.0f} MiB/s",
    ]
    if job.memory_iteration:
        parts.append(f"iteration {job.memory_iteration}")
    return ", ".join(parts)


def brief(job: JobInfo) -> str:
    """Return the figures that fit beside a bar on 80 columns."""
    left, total = _mib(job.memory_remaining_bytes), _mib(job.memory_total_bytes)
    words = f"{left}/{total} MiB left, {job.memory_bps / _MIB:.0f} MiB/s"
    return f"{words}, dirty {dirty_bps(job) / _MIB:.0f}" if job.memory_dirty_rate else words


def told(job: JobInfo) -> str:
    """Return percentage, figures and time left; before anything is copied, only that the destination is prepared."""
    if not job.memory_total_bytes:
        return eta(job)
    return f"{percent(job)} %, {figures(job)}, {eta(job)}"


def _mib(size_bytes: int) -> int:
    """Return whole MiB, rounded up so that a remainder never reads as nothing."""
    return -(-size_bytes // _MIB)


class PlainWatch:
    """Lines on standard error: one per step, and one every other second while memory is copied; none twice."""

    def __init__(self) -> None:
        self._last = ("", 0.0)
        self._line = ""

    def started(self, migration: MigrationLine) -> None:
        """Tell that the claim is taken, or that a migration is taken up."""
        click.echo(
            f"migration {migration.id}: {migration.instance} from {migration.source} to {migration.dest},"
            f" {migration.status}",
            err=True,
        )

    def handed_over(self, migration: MigrationLine, controller: str) -> None:
        """Tell who drives it."""
        click.echo(f"migration {migration.id}: controller {controller} drives it", err=True)

    def progress(self, migration: Migration, job: JobInfo | None) -> None:
        """Tell a new step at once, figures every other second."""
        word, now = f"{migration.status} {migration.step}".strip(), time.monotonic()
        said, when = self._last
        if word == said and (job is None or now - when < _LINE_EVERY_S):
            return
        self._last = (word, now)
        line = f"migration {migration.id}: {word}"
        if job is not None and not job.completed:
            line += f", {told(job)}"
        if line != self._line:
            self._line = line
            click.echo(line, err=True)

    def close(self) -> None:
        """Nothing to close."""


class BarWatch:
    """A bar that is drawn over on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415  (rich is imported only by what prints with it)
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415  (the same)

        self._progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[said]}"),
            console=Console(stderr=True, highlight=False, markup=False),
            refresh_per_second=4,
        )
        self._task: TaskID | None = None

    def started(self, migration: MigrationLine) -> None:
        """Begin to draw."""
        what = f"{migration.instance} {migration.source} → {migration.dest}"
        self._task = self._progress.add_task(what, total=100, said=migration.status)
        self._progress.start()

    def handed_over(self, migration: MigrationLine, controller: str) -> None:
        """Tell who drives it, above the bar."""
        self._progress.console.print(f"migration {migration.id}: controller {controller} drives it")

    def progress(self, migration: Migration, job: JobInfo | None) -> None:
        """Draw the job's figures, or the step beside it."""
        if self._task is None:
            return
        said = f"{migration.status} {migration.step}".strip()
        if job is not None and not job.completed:
            said = f"{brief(job)}, {eta(job)}" if job.memory_total_bytes else eta(job)
            self._progress.update(self._task, completed=percent(job), said=said)
        elif migration.status is MigrationStatus.COMPLETED:
            self._progress.update(self._task, completed=100, said="completed")
        else:
            self._progress.update(self._task, said=said)

    def close(self) -> None:
        """Stop drawing; safe to repeat."""
        self._progress.stop()


def make_watch() -> PlainWatch | BarWatch:
    """Return a bar where standard error is a terminal, else lines."""
    return BarWatch() if sys.stderr.isatty() else PlainWatch()
