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
from numaferry.model import MigrationStatus
from numaferry.model.queue import WAITING, wait_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.model import Limits, Wait

_TABLE = schema.migration.c
_MOVING = select(schema.migration).where(schema.moving())


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
        now: float = connection.execute(select(schema.epoch_now())).scalar_one()
        wait = wait_of(limits, old, tuple(map(migration_of, connection.execute(_MOVING))), now)
        if wait is None:
            values |= {"status": str(MigrationStatus.PREPARING), "reason": "", "updated_at": schema.epoch_now()}
        connection.execute(update(schema.migration).where(_TABLE.id == old.id).values(values))
        if wait is None:
            sentence = f"{old.source} sends and {old.dest} receives one more: its turn has come"
            write_migration_event(connection, load_migration(connection, old.id), "migration", sentence, key=key)
        return wait
