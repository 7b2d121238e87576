"""Migrations that nobody drives: which they are, and what is done about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.errors import Conflict, InvalidInput, LedgerError, NeedsPerson, NumaferryError, TakenOver
from numaferry.migration.recovery import decisions
from numaferry.model import IN_PROGRESS, MigrationStatus
from numaferry.service.driving import Watch, abandoned, left_by, name_of, watched_engine
from numaferry.service.instances import migration_line
from numaferry.service.views import Recovered

if TYPE_CHECKING:
    from numaferry.ledger import Ledger
    from numaferry.model import Migration
    from numaferry.service.discovery import Reach


def stale(ledger: Ledger, instance_uuid: str | None = None) -> tuple[Migration, ...]:
    """Return migrations in progress that nobody drives any more, the oldest first."""
    moves = ledger.migrations(instance=instance_uuid, status=IN_PROGRESS)
    return tuple(move for move in moves if abandoned(ledger, move))


def recover(
    ledger: Ledger, reach: Reach, ref: str | None = None, *, answer: str | None = None, watch: Watch | None = None
) -> tuple[Recovered, ...]:
    """Converge one migration, or all in progress whose controller is gone, by what both hosts say.

    `answer` is what a person says of the one that is named (`migration.answers`). Raises NotFound, and Conflict where
    the one that is named has ended or is being driven, or where the hosts do not bear the answer out.
    """
    if answer and ref is None:
        raise InvalidInput(
            "an answer is given to one migration", hint="name it: numaferry migration list --in-progress"
        )
    if ref is None:
        return tuple(_recover(ledger, reach, move, watch) for move in stale(ledger))
    move = ledger.migration(ref)
    if not move.in_progress:
        raise Conflict(
            f"migration {move.id} is {move.status}: there is nothing to recover",
            hint=f"how it ended: numaferry migration show {move.id}",
        )
    if not abandoned(ledger, move):
        raise Conflict(
            f"migration {move.id} is being driven by {move.controller}",
            hint=f"let it work, or give the migration up: numaferry migration abort {move.id}",
        )
    return (_answer(ledger, reach, move, answer, watch) if answer else _recover(ledger, reach, move, watch),)


def _answer(ledger: Ledger, reach: Reach, move: Migration, answer: str, watch: Watch | None) -> Recovered:
    """End one migration as a person says, and say what it was held against."""
    from numaferry.migration.answers import Answer  # noqa: PLC0415  (only who answers needs it)

    name = name_of(ledger, move)
    if watch is not None:
        watch.started(migration_line(move, name))
    now = watched_engine(ledger, reach, watch).answer(move.id, Answer(answer), left_by=left_by(move))
    return Recovered(migration_line(now, name), "recovered", now.reason)


def _recover(ledger: Ledger, reach: Reach, move: Migration, watch: Watch | None) -> Recovered:
    """Converge one migration and say what was found on both hosts, what was done about it, and how it ended."""
    name = name_of(ledger, move)
    if watch is not None:
        watch.started(migration_line(move, name))
    before = len(ledger.events(migration=move.id))
    outcome = "recovered"
    ending = ""
    try:
        watched_engine(ledger, reach, watch).recover(move.id, left_by=left_by(move))
    except NeedsPerson as error:
        outcome, ending = "needs a person", f"{error.message}. {error.hint}".strip()
    except TakenOver as error:
        outcome, ending = "left alone", error.message
    except LedgerError:
        raise
    except NumaferryError as error:
        ending = error.message
    now = ledger.migration(move.id)
    if now.in_progress and outcome == "recovered":
        outcome = "needs a person" if now.status is MigrationStatus.ERROR else "waiting"
    done = [one.sentence for one in ledger.events(migration=move.id)[before:]]
    if outcome == "needs a person":
        return Recovered(migration_line(now, name), outcome, ending)
    if not ending:
        ending = now.reason or f"{name} is on {now.dest}"
    return Recovered(migration_line(now, name), outcome, ". ".join((*decisions(done), ending)))
