"""Following a migration that a controller drives: what is told is the ledger's row, and the job's figures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from numaferry.errors import HostError, NeedsPerson, NumaferryError
from numaferry.migration.lease import LeasePolicy
from numaferry.model import MigrationStatus
from numaferry.service.driving import Watch, handed_over, takeable

if TYPE_CHECKING:
    from numaferry.ledger import Ledger
    from numaferry.migration.engine import MigrationEngine
    from numaferry.model import JobInfo, Migration
    from numaferry.service.discovery import Reach

#: Between two looks at the ledger.
POLL_S: Final = 0.5


def follow(
    ledger: Ledger, reach: Reach, engine: MigrationEngine, number: int, watch: Watch | None, *, poll_s: float = POLL_S
) -> Migration:
    """Return the migration as it ended; where its controller ends meanwhile, `engine` drives it on.

    Raises NeedsPerson, and what `engine` raises.
    """
    said: tuple[str, str] = ("", "")
    while True:
        now = ledger.migration(number)
        if not now.in_progress:
            return now
        if now.status is MigrationStatus.ERROR:
            raise NeedsPerson(
                f"migration {now.id}: {now.reason}",
                hint=f"look at both hosts; when only one has it: numaferry migration recover {now.id}",
            )
        if not _controlled(ledger, now):
            return engine.drive(number) if handed_over(now) else engine.recover(number)
        if watch is not None:
            job = _job(ledger, reach, now)
            if job is not None or (now.status, now.step) != said:
                watch.progress(now, job)
            said = (now.status, now.step)
        time.sleep(poll_s)


def _controlled(ledger: Ledger, move: Migration) -> bool:
    """Tell whether somebody drives it, or a controller that runs will."""
    return any(one.alive for one in ledger.controllers()) or not takeable(ledger, move, LeasePolicy())


def _job(ledger: Ledger, reach: Reach, move: Migration) -> JobInfo | None:
    """Return the job's figures where the source can be asked from here."""
    if move.status is not MigrationStatus.RUNNING:
        return None
    try:
        return reach(ledger.host(move.source).uri).job(move.instance_uuid)
    except (HostError, NumaferryError):
        return None
