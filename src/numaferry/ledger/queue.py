"""The queue: a migration begins when there is a place for it, which is counted and taken in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, update

from numaferry.ledger import schema
from numaferry.ledger.events import write_migration_event, written
from numaferry.ledger.leases import lease_values
from numaferry.ledger.migrations import load_locked, load_migration, refuse_stale
from numaferry.ledger.rows import migration_of
from numaferry.ledger.store import Store, lock, writes
from numaferry.model import MigrationStatus, MigrationType
from numaferry.model.queue import WAITING, wait_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from numaferry.model import Limits, Migration, Wait

_TABLE = schema.migration.c
#: A re-pin copies nothing and takes no place.
_MOVING = select(schema.migration).where(
    schema.moving(), _TABLE.migration_type == str(MigrationType.LIVE_MIGRATION)
).order_by(_TABLE.id)  # fmt: skip


class QueueStore(Store):
    """The queue in the ledger."""

    @writes
    def begin_migration(
        self, connection: Connection, migration_id: int, limits: Limits, *, token: int, ttl_s: float, key: str
    ) -> Wait | None:
        """Make a waiting migration `preparing` where there is a place for it, and return None; or why it has to wait.

        The lease is renewed either way. Those who ask at once are answered one after another: the ledger's own row is
        locked first, so that no place is given twice. Once per `key`. Raises TakenOver, NotFound.
        """
        lock(connection, schema.ledger, schema.ledger.c.id == 1)
        old = load_locked(connection, migration_id)
        refuse_stale(old, token)
        if old.status not in WAITING or written(connection, key):
            return None
        values = lease_values(ttl_s)
        wait = _wait(connection, limits, old)
        if wait is None:
            values |= {"status": str(MigrationStatus.PREPARING), "reason": "", "updated_at": schema.epoch_now()}
        connection.execute(update(schema.migration).where(_TABLE.id == old.id).values(values))
        if wait is None:
            sentence = f"{old.source} sends and {old.dest} receives one more: its turn has come"
            write_migration_event(connection, load_migration(connection, old.id), "migration", sentence, key=key)
        return wait

    def queue_wait(self, migration: Migration, limits: Limits, driven: Collection[int] = ()) -> Wait | None:
        """Return why a migration would have to wait if it were to begin now; None: it would not.

        `driven` are ids of those that are about to begin, whose lease may not have been taken yet.
        """
        moves = migration.migration_type is MigrationType.LIVE_MIGRATION
        if not (moves and limits and migration.status in WAITING):
            return None
        with self._read() as connection:
            return _wait(connection, limits, migration, driven)


def _wait(connection: Connection, limits: Limits, migration: Migration, driven: Collection[int] = ()) -> Wait | None:
    now: float = connection.execute(select(schema.epoch_now())).scalar_one()
    return wait_of(limits, migration, tuple(map(migration_of, connection.execute(_MOVING))), now, driven)
