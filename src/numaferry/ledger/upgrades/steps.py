"""Running the steps that a ledger lacks, within one transaction of its caller's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import update

from numaferry import __version__
from numaferry.ledger import schema
from numaferry.ledger.events import write_event
from numaferry.ledger.triggers import statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

FOLDER: Final = Path(__file__).parent


def revision(number: int) -> str:
    """Return alembic's name of a schema number."""
    return f"{number:04}"


def steps_between(found: int, wanted: int) -> tuple[Callable[[], None], ...]:
    """Return what brings schema `found` to schema `wanted`, in order; 0 is a database without tables."""
    scripts = ScriptDirectory(FOLDER)
    lower = revision(found) if found else "base"
    due = list(scripts.iterate_revisions(revision(wanted), lower))
    return tuple(script.module.upgrade for script in reversed(due))


def run_steps(connection: Connection, found: int, wanted: int) -> None:
    """Change the tables from schema `found` to schema `wanted`; no trigger may be there."""
    with Operations.context(MigrationContext.configure(connection)):
        for step in steps_between(found, wanted):
            step()


def bring_up(connection: Connection, found: int) -> None:
    """Bring a ledger of schema `found` to the schema of this numaferry, and note it in its history."""
    _drop_triggers(connection)
    run_steps(connection, found, schema.SCHEMA_VERSION)
    for statement in statements(connection.dialect.name):
        connection.exec_driver_sql(statement)
    connection.execute(update(schema.ledger).values(schema_version=schema.SCHEMA_VERSION))
    sentence = f"schema {found} upgraded to {schema.SCHEMA_VERSION} by numaferry {__version__}"
    write_event(connection, "ledger-upgraded", sentence)


def _drop_triggers(connection: Connection) -> None:
    """Drop every trigger, and in PostgreSQL its function: each is an older numaferry's, whose names are not known here.

    Of a PostgreSQL schema that is shared with another program, only the tables that are ours are looked at.
    """
    if connection.dialect.name == "sqlite":
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
        for name in names:
            connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
        return
    ours = ", ".join(f"'{table}'" for table in sorted(schema.metadata.tables))
    rows = connection.exec_driver_sql(
        "SELECT tgname, relname, tgfoid::regprocedure::text FROM pg_trigger"  # noqa: S608  (our own tables' names)
        " JOIN pg_class ON pg_class.oid = tgrelid"
        f" WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace AND relname IN ({ours})"
    ).all()
    for name, table, function in rows:
        connection.exec_driver_sql(f'DROP TRIGGER "{name}" ON "{table}"')
        connection.exec_driver_sql(f"DROP FUNCTION {function}")
