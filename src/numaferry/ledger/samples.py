"""What a job's progress was, now and then: enough to watch a migration from anywhere, and to see later how it went.

A job changes with every look, and a row for each look would keep the database busy with nothing else (nova: Launchpad
2091138). `due` says which looks are kept; of many the oldest are dropped.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

import attrs
from sqlalchemy import delete, insert, select, true

from numaferry.ledger import schema
from numaferry.ledger.migrations import load_migration, refuse_stale
from numaferry.ledger.rows import policy_of_row
from numaferry.ledger.store import Store
from numaferry.model import JobInfo, Passes
from numaferry.model.codec import dumps, loads

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.ledger.rows import AnyRow
    from numaferry.model import MigrationPolicy

#: A look is kept when the last one that was is so old, even within one pass over the memory.
EVERY_S: Final = 10.0
#: How many are kept of a migration in progress, the newest; a trigger leaves fewer once it has ended.
KEPT: Final = 500
#: Of its policy's limit a copy that is held back by it reaches at least this much.
_HELD_BACK: Final = 0.8
#: So many migrations, the newest, say how fast memory goes from one host to another.
_LATELY: Final = 10
#: And they are looked for among so many.
_LOOKED_AT: Final = 50

_TABLE = schema.migration_sample.c


@attrs.frozen(slots=True)
class Sample:
    """A job as it was seen once; `number` grows, `at` is the database's clock."""

    number: int
    at: float
    job: JobInfo
    #: All passes up to this look, also those whose samples are gone.
    passes: Passes


def due(job: JobInfo, last: JobInfo | None, age_s: float) -> bool:
    """Tell whether a look is worth keeping when `last` was kept `age_s` ago: one for each pass, or 10 s.

    One more is where the last had no bandwidth yet, as at a job's beginning: nothing can be told from it. None is
    before the first byte or after a job that has completed, whose figures are kept once.
    """
    if not (job.memory_total_bytes or job.disk_total_bytes):
        return False
    if last is None:
        return True
    if last.completed or job.completed:
        return job.completed and not last.completed
    if job.memory_iteration != last.memory_iteration or age_s >= EVERY_S:
        return True
    return not _bps(last) and _bps(job) > 0


def _way(policy: MigrationPolicy) -> tuple[object, ...]:
    """Return what of a policy decides how memory is sent."""
    return policy.tls, policy.parallel_connections, policy.compression


def _sent_bps(job: JobInfo) -> int:
    """Return how fast memory is sent, or was: of a job that has completed on average."""
    if job.completed and job.time_elapsed_ms:
        return 1000 * job.memory_processed_bytes // job.time_elapsed_ms
    return job.memory_bps


def _bps(job: JobInfo) -> int:
    return job.memory_bps + job.disk_bps


class SampleStore(Store):
    """Keeping and reading samples."""

    def add_sample(self, migration_id: int, job: JobInfo, *, token: int | None = None) -> bool:
        """Keep a look at a migration's job if it is due, and return whether it was.

        Tried once: a look that is lost is followed by another one. Raises NotFound, TakenOver where `token` is no
        longer the migration's.
        """
        with self._write() as connection:
            move = load_migration(connection, migration_id)
            refuse_stale(move, token)
            last = _last(connection, migration_id)
            age_s = connection.execute(select(schema.epoch_now())).scalar_one() - last.at if last else 0.0
            if not move.in_progress or not due(job, last.job if last else None, age_s):
                return False
            passes = (last.passes if last else Passes()).observe(job)
            connection.execute(
                insert(schema.migration_sample).values(
                    migration_id=migration_id,
                    at=schema.epoch_now(),
                    iteration=job.memory_iteration,
                    job_json=dumps(job),
                    passes_json=dumps(passes),
                )
            )
            _prune(connection, migration_id, KEPT)
            return True

    def samples(self, migration_id: int) -> tuple[Sample, ...]:
        """Return what is kept of a migration's job, the oldest first."""
        query = select(schema.migration_sample).where(_TABLE.migration_id == migration_id).order_by(_TABLE.id)
        with self._read() as connection:
            return tuple(_sample(row) for row in connection.execute(query))

    def observed_bps(self, source: str, dest: str, policy: MigrationPolicy) -> int:
        """Return how fast memory went from a host to another ("": to any) lately, in bytes/s; 0: nothing tells.

        The median of what the last migrations reached at best that sent it in the same way as `policy` would: encrypted
        or not, over as many connections, compressed alike. One that its limit held back tells nothing.
        """
        move = schema.migration.c
        moves = select(move.id, move.policy_json).where(
            move.source == source, true() if not dest else move.dest == dest
        )
        best: list[int] = []
        with self._read() as connection:
            for number, policy_text in connection.execute(moves.order_by(move.id.desc()).limit(_LOOKED_AT)):
                then = policy_of_row(policy_text)
                if _way(then) != _way(policy) or len(best) == _LATELY:
                    continue
                limit = then.bandwidth_mib_s << 20
                rows = connection.execute(select(_TABLE.job_json).where(_TABLE.migration_id == number)).scalars()
                reached = max((_sent_bps(loads(text, JobInfo)) for text in rows), default=0)
                if reached and (not limit or reached < limit * _HELD_BACK):
                    best.append(reached)
        return int(median(best)) if best else 0

    def last_sample(self, migration_id: int) -> Sample | None:
        """Return the newest one, or None."""
        with self._read() as connection:
            return _last(connection, migration_id)


def _prune(connection: Connection, migration_id: int, kept: int) -> None:
    """Drop the oldest samples of a migration, so that `kept` are left."""
    this = _TABLE.migration_id == migration_id
    newest = select(_TABLE.id).where(this).order_by(_TABLE.id.desc()).offset(kept).limit(1).scalar_subquery()
    connection.execute(delete(schema.migration_sample).where(this, _TABLE.id <= newest))


def _last(connection: Connection, migration_id: int) -> Sample | None:
    query = select(schema.migration_sample).where(_TABLE.migration_id == migration_id).order_by(_TABLE.id.desc())
    row = connection.execute(query.limit(1)).one_or_none()
    return _sample(row) if row is not None else None


def _sample(row: AnyRow) -> Sample:
    return Sample(row.id, row.at, loads(row.job_json, JobInfo), loads(row.passes_json, Passes))
