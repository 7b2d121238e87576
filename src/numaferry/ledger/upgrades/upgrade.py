"""`upgrade_ledger`: nobody else has the ledger open, there is a backup, and then all or nothing is changed."""

from __future__ import annotations

import random
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final

import attrs
from sqlalchemy import event, inspect

from numaferry.errors import Conflict, LedgerUnusable, NotFound, RefusedError
from numaferry.ledger import postgresql, sqlite
from numaferry.ledger.engine import ENGINES, refuse_newer, schema_version
from numaferry.ledger.location import POSTGRESQL, SQLITE, Location, ledger_location
from numaferry.ledger.schema import SCHEMA_VERSION
from numaferry.ledger.trouble import usable
from numaferry.ledger.upgrades.backup import back_up
from numaferry.ledger.upgrades.steps import bring_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

#: How long a command that is about to end is waited for, and the longest pause before the next look.
WAIT_S: Final = 5.0
PAUSE_S: Final = 0.1


@attrs.frozen(slots=True)
class LedgerUpgrade:
    """What was done to a ledger; `before` and `after` are schema numbers, equal where nothing was to be done."""

    #: Its file, or its URL without the password.
    ledger: str
    before: int
    after: int
    #: The file that an SQLite ledger was copied to; None where nothing was done, and for a server.
    backup: str | None = None


def upgrade_ledger(url: str | None = None, *, has_backup: bool = False) -> LedgerUpgrade:
    """Bring a ledger to the schema of this numaferry; `url` as for `open_ledger`. Safe to repeat.

    A file is copied first. For a server the caller says that there is a backup (`has_backup`), else RefusedError is
    raised with what to do. One transaction: whatever goes wrong, the ledger has the schema that it had. Raises NotFound
    where there is no ledger, Conflict while another has it open, LedgerUnusable.
    """
    where = ledger_location(url)
    found = _look(where)
    if found == SCHEMA_VERSION:
        return LedgerUpgrade(str(where), found, found)
    if where.dialect == POSTGRESQL and not has_backup:
        raise RefusedError(
            f"ledger {where} would go from schema {found} to {SCHEMA_VERSION}, and numaferry can't copy a server's",
            hint="make a backup with pg_dump, then: numaferry ledger upgrade --yes",
            code="backup-first",
        )
    return _UPGRADES[where.dialect](where)


def _look(where: Location) -> int:
    """Return a ledger's schema number without being in anybody's way; raises NotFound where there is none."""
    if where.path is not None and not where.path.exists():
        raise _nothing_at(where)
    with usable(where):
        engine, reader = ENGINES[where.dialect](where)
        try:
            with reader.connect() as connection, connection.begin():
                return _number(connection, where)
        finally:
            engine.dispose()


def _number(connection: Connection, where: Location) -> int:
    """Return the schema number that a ledger has; raises NotFound, LedgerUnusable for a newer or another's database."""
    if not inspect(connection).get_table_names():
        raise _nothing_at(where)
    found = schema_version(connection, where)
    refuse_newer(found, where)
    return found


def _nothing_at(where: Location) -> NotFound:
    return NotFound(
        f"there is no ledger at {where}", hint="name it with --db; a new one has the newest schema from the start"
    )


def _in_use(where: Location, who: str) -> Conflict:
    """Return the error for a ledger that others have open: an older numaferry would go on with the old schema."""
    return Conflict(
        f"ledger {where} is in use: {who}",
        hint="stop every controller and command that uses it, then: numaferry ledger upgrade",
        code="ledger-in-use",
    )


def _upgrade_sqlite(where: Location) -> LedgerUpgrade:
    """Upgrade a file. The lock is held from before the backup to after the commit, and no reader is let in between."""
    engine, _reader = sqlite.engines(where)
    event.listen(engine, "connect", _alone)
    try:
        with usable(where), _hold(engine, where) as connection:
            with connection.begin():
                found = _number(connection, where)
            if found == SCHEMA_VERSION:
                return LedgerUpgrade(str(where), found, found)
            raw: Any = connection.connection.driver_connection
            backup = back_up(where, raw, found)
            with connection.begin():
                bring_up(connection, found)
                _check_references(connection, where)
            return LedgerUpgrade(str(where), found, SCHEMA_VERSION, str(backup))
    finally:
        engine.dispose()


def _alone(connection: Any, _record: object) -> None:
    """Set up a connection of an upgrade; none of this can be set within a transaction.

    A lock, once taken, is kept until the connection is closed; so two that wait would wait for each other: `_hold`
    waits. A table that is rebuilt is dropped for a moment, which must delete nothing that refers to it
    (https://www.sqlite.org/lang_altertable.html, section 7).
    """
    for pragma in ("locking_mode = EXCLUSIVE", "busy_timeout = 0", "foreign_keys = OFF"):
        connection.execute(f"PRAGMA {pragma}").close()


def _hold(engine: Engine, where: Location) -> Connection:
    """Return a connection that locks out everybody; raises Conflict where another has the file open for long.

    A connection in write-ahead mode keeps a shared lock on the file as long as it is open, idle or not.
    """
    given_up = time.monotonic() + WAIT_S
    while True:
        connection = engine.connect()
        raw: Any = connection.connection.driver_connection
        try:
            raw.execute("BEGIN EXCLUSIVE").close()
            raw.execute("COMMIT").close()
        except sqlite3.OperationalError as error:
            # whatever it got of the lock is let go
            connection.invalidate()
            connection.close()
            if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            if time.monotonic() > given_up:
                raise _in_use(where, f"lsof {where.path} shows by whom") from error
            time.sleep(random.uniform(0, PAUSE_S))  # noqa: S311  (no secret)
        else:
            return connection


def _check_references(connection: Connection, where: Location) -> None:
    """Raise LedgerUnusable where a row refers to one that is not there; the transaction is rolled back by that."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        tables = ", ".join(sorted({str(row[0]) for row in broken}))
        raise LedgerUnusable(
            f"ledger {where} was not upgraded: {len(broken)} rows of {tables} refer to rows that are not there",
            hint="it is as it was; please report it, with what may have been changed in it by hand",
        )


def _upgrade_postgresql(where: Location) -> LedgerUpgrade:
    """Upgrade a server's ledger; whoever opens it meanwhile waits for the end, and then finds another schema."""
    engine, _reader = postgresql.engines(where)
    try:
        with usable(where), engine.begin() as connection:
            postgresql.lock_schema(connection)
            found = _number(connection, where)
            if found == SCHEMA_VERSION:
                return LedgerUpgrade(str(where), found, found)
            _refuse_others(connection, where)
            # a big table may take longer to change than any transaction of a controller's
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            bring_up(connection, found)
            return LedgerUpgrade(str(where), found, SCHEMA_VERSION)
    finally:
        engine.dispose()


def _refuse_others(connection: Connection, where: Location) -> None:
    """Raise Conflict while another numaferry is connected to the database."""
    others = connection.exec_driver_sql(
        "SELECT coalesce(host(client_addr), 'this machine') FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = current_setting('application_name') AND pid <> pg_backend_pid()"
    ).scalars()
    machines = sorted(others)
    if machines:
        raise _in_use(where, f"{len(machines)} connections of numaferry, from {', '.join(sorted(set(machines)))}")


_UPGRADES: Final[dict[str, Callable[[Location], LedgerUpgrade]]] = {
    SQLITE: _upgrade_sqlite,
    POSTGRESQL: _upgrade_postgresql,
}
