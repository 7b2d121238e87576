"""Watching a migration that somebody else drives, from its row, its events and its samples in the ledger alone.

No host is asked and nothing is written, so it may begin, end and begin again at any moment, in any number of terminals,
and it goes on while the driver is restarted.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import NotFound, NumaferryError
from numaferry.migration.progress import progress_of
from numaferry.model import MigrationStatus
from numaferry.service.driving import abandoned, name_of, running_controller
from numaferry.service.following import looks, patiently, refuse_puzzled, refuse_unfinished
from numaferry.service.views import EventLine, WatchLine

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.ledger import Ledger, Sample
    from numaferry.migration.progress import Progress
    from numaferry.model import Migration
    from numaferry.service.following import Seen


class Detached(NumaferryError):
    """Ctrl-C while a migration was watched, which changes nothing about it."""

    code = "interrupted"
    #: As shells have it: 128 + SIGINT.
    exit_code = 130

    def __init__(self, line: WatchLine) -> None:
        driven = line.controller and not line.note
        who = f"{line.controller} drives it" if driven else "nobody drives it at the moment"
        super().__init__(
            f"migration {line.migration} of {line.instance} is left alone, {line.status}: {who}",
            hint=f"numaferry migration watch {line.migration} watches it again;"
            f" numaferry migration abort {line.migration} gives it up",
        )


def watch(ledger: Ledger, ref: str, tell: Callable[[WatchLine], None]) -> WatchLine:
    """Tell a migration as it is now and each change until its end; return the last that was told, of a completed one.

    `ref` is a migration, or an instance, whose newest migration is meant. Raises NotFound, Ambiguous; MigrationFailed
    where it ended in another way, NeedsPerson, and Detached on Ctrl-C.
    """
    move = find(ledger, ref)
    name = name_of(ledger, move)
    last: WatchLine | None = None
    try:
        for seen in looks(ledger, move.id):
            move = seen.migration
            line = _line(seen, name, patiently(partial(_note, ledger, move)))
            if last is None or line.events or line != attrs.evolve(last, events=()):
                last = line
                tell(line)
    except KeyboardInterrupt:
        raise Detached(last or _line_of(move, name)) from None
    refuse_puzzled(move)
    refuse_unfinished(move, name)
    return last or _line_of(move, name)


def find(ledger: Ledger, ref: str) -> Migration:
    """Return a migration by its number or UUID, or the newest one of an instance; raises NotFound, Ambiguous.

    A number is a migration's, if there is one; every other word is first an instance's: its name may well be the
    beginning of some UUID.
    """
    ways: tuple[Callable[[str], Migration], ...] = (ledger.migration, partial(_newest, ledger))
    for way in ways if ref.isdecimal() else reversed(ways):
        with contextlib.suppress(NotFound):
            return way(ref)
    raise NotFound(
        f"{ref!r} is no migration, and no instance that was ever migrated",
        hint="numaferry migration list shows the migrations",
    )


def _newest(ledger: Ledger, ref: str) -> Migration:
    """Return the newest migration of an instance; raises NotFound."""
    instance = ledger.instance(ref)
    moves = ledger.migrations(instance=instance.uuid)
    if not moves:
        raise NotFound(f"{instance.name} was never migrated")
    return moves[-1]


def last_progress(move: Migration, sample: Sample | None) -> Progress | None:
    """Return what the newest sample of a migration means, None where there is none."""
    if sample is None:
        return None
    running = move.status is MigrationStatus.RUNNING
    return progress_of(sample.job, sample.passes, at=sample.at, running=running)


def _note(ledger: Ledger, move: Migration) -> str:
    """Return what a person should know beside the figures."""
    if not move.in_progress or move.status is MigrationStatus.ERROR or not abandoned(ledger, move):
        return ""
    if controller := running_controller(ledger):
        return f"nobody drives it now: controller {controller} takes it up again"
    return f"nobody drives it: numaferry migration recover {move.id}, or numaferry serve, takes it over"


def _line_of(move: Migration, name: str) -> WatchLine:
    return WatchLine(
        migration=move.id,
        instance=name,
        source=move.source,
        dest=move.dest,
        status=str(move.status),
        step=move.step,
        reason=move.reason,
        controller=move.controller,
        progress=None,
        events=(),
        note="",
    )


def _line(seen: Seen, name: str, note: str) -> WatchLine:
    events = tuple(EventLine(one.at, one.kind, one.sentence) for one in seen.events)
    progress = last_progress(seen.migration, seen.sample)
    return attrs.evolve(_line_of(seen.migration, name), progress=progress, events=events, note=note)
