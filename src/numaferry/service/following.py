"""Following a migration that somebody drives: the one loop over what the ledger says of it.

`follow` is what `migrate` does while a controller drives; `numaferry.service.watching` is for everybody else.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

from numaferry.errors import HostError, HostUnreachable, LedgerError, MigrationFailed, NeedsPerson, NumaferryError
from numaferry.migration.lease import LeasePolicy
from numaferry.model import MigrationStatus
from numaferry.service.driving import Watch, handed_over, takeable, teller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numaferry.ledger import Event, Ledger, Sample
    from numaferry.migration.engine import MigrationEngine
    from numaferry.model import JobInfo, Migration
    from numaferry.service.discovery import Reach

T = TypeVar("T")

#: A migration that its controller let go of, and did not take again for so long, waits for something.
LEFT_S: Final = 2.0
#: Between two looks at the ledger.
POLL_S: Final = 0.5
#: For so long a ledger that may be back in a moment is asked again; its server was restarted, or it is locked.
PATIENCE_S: Final = 60.0


@attrs.frozen(slots=True)
class Seen:
    """What the ledger says of a migration at one look; `events` are those since the look before."""

    migration: Migration
    sample: Sample | None
    events: tuple[Event, ...]

    @property
    def over(self) -> bool:
        """Tell whether there is nothing more to wait for: it has ended, or needs a person."""
        return not self.migration.in_progress or self.migration.status is MigrationStatus.ERROR


def looks(ledger: Ledger, number: int) -> Iterator[Seen]:
    """Yield a look now and one every `POLL_S` seconds, until one is `over`; raises LedgerError, NotFound."""
    known = ledger.events(migration=number)
    after = known[-1].id if known else 0
    while True:
        seen = patiently(partial(_look, ledger, number, after))
        after = seen.events[-1].id if seen.events else after
        yield seen
        if seen.over:
            return
        time.sleep(POLL_S)


def patiently(ask: Callable[[], T], *, patience_s: float = PATIENCE_S, pause_s: float = POLL_S) -> T:
    """Return what `ask` reads; a ledger that can't be used for a moment is waited for. Raises LedgerError."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except LedgerError as error:
            if not error.retryable or time.monotonic() >= until:
                raise
        time.sleep(pause_s)


def _look(ledger: Ledger, number: int, after: int) -> Seen:
    # the row first: what is told of a migration's end is read after it
    migration = ledger.migration(number)
    return Seen(migration, ledger.last_sample(number), ledger.events(migration=number, after=after))


def follow(ledger: Ledger, reach: Reach, engine: MigrationEngine, number: int, watch: Watch | None) -> Migration:
    """Return the migration as it ended; where its controller ends meanwhile, `engine` drives it on.

    Raises NeedsPerson, HostUnreachable where its controller waits for something, and what `engine` raises.
    """
    tell = teller(ledger, watch)
    said: tuple[str, str] = ("", "")
    left_since = 0.0
    now = ledger.migration(number)
    for seen in looks(ledger, number):
        now = seen.migration
        if seen.over:
            break
        if not patiently(partial(_controlled, ledger, now)):
            return engine.drive(number) if handed_over(now) else engine.recover(number)
        left_since = (left_since or time.monotonic()) if _left(now) else 0.0
        if left_since and time.monotonic() - left_since > LEFT_S:
            raise _why_left(ledger, now)
        job = _job(ledger, reach, seen)
        if job is not None or (now.status, now.step) != said:
            tell(now, job)
        said = (now.status, now.step)
    refuse_puzzled(now)
    return now


def refuse_puzzled(move: Migration) -> None:
    """Raise NeedsPerson where a migration waits for one."""
    if move.status is MigrationStatus.ERROR:
        raise NeedsPerson(
            f"migration {move.id}: {move.reason}",
            hint=f"look at both hosts; when only one has it: numaferry migration recover {move.id}",
        )


def refuse_unfinished(move: Migration, name: str) -> None:
    """Raise MigrationFailed where a migration has ended and its guest, `name`, is not on the destination."""
    if move.status is not MigrationStatus.COMPLETED:
        raise MigrationFailed(
            f"migration {move.id} of {name} is {move.status}: {move.reason or 'no reason was noted'}",
            hint=f"what happened step by step: numaferry migration show {move.id}",
        )


def _left(move: Migration) -> bool:
    """Tell whether a controller has begun with a migration and let go of it: it waits for something."""
    return not move.controller and bool(move.step)


def _why_left(ledger: Ledger, move: Migration) -> NumaferryError:
    """Return the error for a migration that its controller can't go on with, in its own words."""
    words = [event.sentence for event in ledger.events(migration=move.id) if " lets go of it: " in event.sentence]
    why = words[-1].partition(" lets go of it: ")[2] if words else "its controller let go of it"
    return HostUnreachable(
        f"migration {move.id} waits, with its claims held: {why}",
        hint=f"the controller tries again by itself; what it does: numaferry migration show {move.id}",
    )


def _controlled(ledger: Ledger, move: Migration) -> bool:
    """Tell whether somebody drives it, or a controller that runs will."""
    return any(one.alive for one in ledger.controllers()) or not takeable(ledger, move, LeasePolicy())


def _job(ledger: Ledger, reach: Reach, seen: Seen) -> JobInfo | None:
    """Return the job's figures: of this moment where the source can be asked from here, else those kept last."""
    move = seen.migration
    if move.status is not MigrationStatus.RUNNING:
        return None
    try:
        return reach(ledger.host(move.source).uri).job(move.instance_uuid)
    except (HostError, NumaferryError):
        return seen.sample.job if seen.sample is not None else None
