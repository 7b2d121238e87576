"""The ledger's memory: append-only rows, one sentence for every transition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import bindparam, insert, select

from numaferry.ledger import schema
from numaferry.ledger.store import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.model import Migration


_WRITE = insert(schema.event)
_WRITTEN = select(schema.event.c.id).where(schema.event.c.key == bindparam("key"))


@attrs.frozen(slots=True)
class Event:
    """One thing that happened; `id` grows, `at` is the database's clock."""

    id: int
    at: float
    #: Stable word: "host-added", "claimed", "migration", ...
    kind: str
    sentence: str
    host: str | None = None
    instance_uuid: str | None = None
    migration_id: int | None = None


def write_event(
    connection: Connection,
    kind: str,
    sentence: str,
    *,
    host: str | None = None,
    instance_uuid: str | None = None,
    migration_id: int | None = None,
    key: str | None = None,
) -> None:
    """Add one event to the running transaction; `key` is what `written` is asked for after a lost answer."""
    row = {
        "kind": kind,
        "sentence": sentence,
        "host": host,
        "instance_uuid": instance_uuid,
        "migration_id": migration_id,
        "key": key,
    }
    connection.execute(_WRITE, row)


def written(connection: Connection, key: str) -> bool:
    """Tell whether the event of this key is there: then the transaction that wrote it was committed."""
    return connection.execute(_WRITTEN, {"key": key}).first() is not None


def write_migration_event(
    connection: Connection, migration: Migration, kind: str, sentence: str, *, key: str | None = None
) -> None:
    """Add an event that is found by migration, by instance, and by destination."""
    connection.execute(_WRITE, migration_event(migration, kind, sentence, key=key))


def migration_event(migration: Migration, kind: str, sentence: str, *, key: str | None = None) -> dict[str, Any]:
    """Return the row of an event that is found by migration, by instance, and by destination."""
    return {
        "kind": kind,
        "sentence": sentence,
        "host": migration.dest,
        "instance_uuid": migration.instance_uuid,
        "migration_id": migration.id,
        "key": key,
    }


class EventStore(Store):
    """Reading what happened."""

    def events(
        self, migration: int | None = None, host: str | None = None, instance: str | None = None, *, after: int = 0
    ) -> tuple[Event, ...]:
        """Return events, oldest first: of a migration (id), a host (name) or an instance (UUID), with id > `after`."""
        table = schema.event.c
        query = select(schema.event).where(table.id > after).order_by(table.id)
        for column, value in ((table.migration_id, migration), (table.host, host), (table.instance_uuid, instance)):
            if value is not None:
                query = query.where(column == value)
        with self._read() as connection:
            return tuple(
                Event(row.id, row.at, row.kind, row.sentence, row.host, row.instance_uuid, row.migration_id)
                for row in connection.execute(query)
            )
