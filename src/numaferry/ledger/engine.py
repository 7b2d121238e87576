"""Opening the ledger: whose database it is, whether it can be used; an empty one is given the schema."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, insert, inspect, select

from numaferry.errors import LedgerUnusable
from numaferry.ledger import postgresql, schema, sqlite
from numaferry.ledger.location import POSTGRESQL, SQLITE, Location
from numaferry.ledger.triggers import statements
from numaferry.ledger.trouble import NOT_OURS, unusable, usable

if TYPE_CHECKING:
    from collections.abc import Callable

#: Dialect → how its engines, for writing and for reading, are made.
ENGINES: Final[dict[str, Callable[[Location], tuple[Engine, Engine]]]] = {
    SQLITE: sqlite.engines,
    POSTGRESQL: postgresql.engines,
}


def open_engines(where: Location) -> tuple[Engine, Engine]:
    """Open or create a ledger; return its engines for writing and for reading. Raises LedgerUnusable."""
    with usable(where):
        engine, reader = ENGINES[where.dialect](where)
        try:
            _set_up(engine, where)
        except BaseException:
            engine.dispose()
            raise
    return engine, reader


def _set_up(engine: Engine, where: Location) -> None:
    """Check whose database this is; create the schema in an empty one."""
    if where.dialect == SQLITE:
        sqlite.prepare_empty(engine)
    with engine.begin() as connection:
        if where.dialect == POSTGRESQL:
            postgresql.lock_schema(connection)
            postgresql.refuse_forgetful(connection, where)
        if not inspect(connection).get_table_names():
            create_schema(connection)
            return
        found = schema_version(connection, where)
    if found < schema.SCHEMA_VERSION:
        raise LedgerUnusable(
            f"ledger {where} has schema {found}, this numaferry needs {schema.SCHEMA_VERSION}",
            hint="stop every controller that uses it, then: numaferry ledger upgrade",
            code="ledger-old",
        )
    refuse_newer(found, where)


def refuse_newer(found: int, where: Location) -> None:
    """Raise LedgerUnusable for a schema number that this numaferry does not know yet."""
    if found > schema.SCHEMA_VERSION:
        raise LedgerUnusable(
            f"ledger {where} has schema {found}, this numaferry knows {schema.SCHEMA_VERSION}",
            hint="use the numaferry that wrote it, or a newer one; or name another ledger with --db",
        )


def schema_version(connection: Connection, where: Location) -> int:
    """Return the number of a ledger's schema; raises LedgerUnusable where the database is another's."""
    tables = set(inspect(connection).get_table_names())
    if not {schema.ledger.name, schema.claim.name} <= tables:
        raise unusable(where, NOT_OURS)
    version: Any = connection.execute(select(schema.ledger.c.schema_version)).scalar_one()
    return int(version)


def create_schema(connection: Connection) -> None:
    """Create tables, indexes and triggers, and give the ledger its id; one transaction."""
    schema.create_tables(connection)
    for statement in statements(connection.dialect.name):
        connection.exec_driver_sql(statement)
    connection.execute(
        insert(schema.ledger).values(
            id=1, schema_version=schema.SCHEMA_VERSION, ledger_id=str(uuid.uuid4()), created_at=schema.epoch_now()
        )
    )
