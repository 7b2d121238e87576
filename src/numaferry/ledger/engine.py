"""Opening the ledger: where it is, whose it is, whether it can be used; and the two kinds of transactions.

SQLite is opened with write-ahead logging, full sync, foreign keys and a busy timeout. A writing transaction begins with
``BEGIN IMMEDIATE``: what it reads is what it commits against. A reading one sees one snapshot and blocks nobody.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Engine, create_engine, event, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from numaferry.errors import LedgerUnusable, Overcommitted
from numaferry.ledger import schema
from numaferry.ledger.triggers_sqlite import REFUSALS, TRIGGERS
from numaferry.xdg import state_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

BUSY_TIMEOUT_MS = 15_000
_PRAGMAS = ("PRAGMA foreign_keys = ON", "PRAGMA synchronous = FULL", f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
_READ = "numaferry_read"


class _Trouble(NamedTuple):
    """What a database error means to an operator."""

    message: str
    hint: str
    retryable: bool = False


_LOCKED = _Trouble(
    "is locked", "another numaferry works on it for long: try again, or look for it with lsof", retryable=True
)
_NO_FILE = _Trouble("can't be opened", "check that the directory exists and may be written, or name another with --db")
_NOT_OURS = _Trouble("is not a database of numaferry", "name another file with --db, or move this one away")
#: SQLite's error names, by their first words; the first that fits counts.
_TROUBLES = {
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_READONLY": _Trouble("is read-only", "give the user that runs numaferry the right to write it"),
    "SQLITE_FULL": _Trouble("can't grow: the disk is full", "free some space; nothing was half-done"),
    "SQLITE_CANTOPEN": _NO_FILE,
    "SQLITE_NOTADB": _NOT_OURS,
    "SQLITE_CORRUPT": _Trouble("is damaged", "stop every numaferry, then restore it from a backup"),
    "SQLITE_IOERR": _Trouble("can't be read or written", "look into the kernel's log for errors of the disk"),
}
_UNKNOWN = _Trouble("can't be used", "the message is the database's own")


def ledger_path(url: str | None) -> Path:
    """Return the file that `url` names: ``sqlite:///PATH``, a bare path, or None for NUMAFERRY_DB.

    Without either it is ``ledger.sqlite`` in our XDG state directory. Raises LedgerUnusable for a database that
    this version can't use.
    """
    url = url or os.environ.get("NUMAFERRY_DB") or ""
    if not url:
        return state_directory() / "ledger.sqlite"
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Path(url)
    if scheme not in {"sqlite", "sqlite+pysqlite"} or not rest.removeprefix("/"):
        raise LedgerUnusable(
            f"ledger {scheme}://…: this version keeps its ledger in an SQLite file",
            hint="write it as sqlite:////absolute/path/ledger.sqlite, or as a path",
        )
    return Path(rest.removeprefix("/"))


def open_engine(path: Path) -> Engine:
    """Open or create the ledger's file (mode 0600) and return its engine; raises LedgerUnusable."""
    _create_file(path)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    try:
        with usable(path):
            _set_up(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _create_file(path: Path) -> None:
    """Make the file with mode 0600 before SQLite does; its -wal and -shm files take the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        trouble = _TROUBLES["SQLITE_READONLY"] if path.exists() and not path.is_dir() else _NO_FILE
        raise LedgerUnusable(f"ledger {path} {trouble.message}: {error.strerror}", hint=trouble.hint) from error


def _prepare(connection: Any, _record: object) -> None:
    """Set up a new DB-API connection: transactions are begun by `_begin` alone."""
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma).close()


def _begin(connection: Connection) -> None:
    """Begin as a writer unless the transaction only reads."""
    reading = connection.get_execution_options().get(_READ)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _set_up(engine: Engine, path: Path) -> None:
    """Check whose database this is; create the schema in an empty one."""
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        if cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            cursor.execute("PRAGMA journal_mode = WAL").fetchall()
        cursor.close()
    finally:
        raw.close()
    with engine.begin() as connection:
        tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
        if not tables:
            _create_schema(connection)
            return
        if schema.ledger.name not in tables or "claim" not in tables:
            raise LedgerUnusable(f"ledger {path} {_NOT_OURS.message}", hint=_NOT_OURS.hint)
        version = connection.execute(select(schema.ledger.c.schema_version)).scalar_one()
        if version != schema.SCHEMA_VERSION:
            raise LedgerUnusable(
                f"ledger {path} has schema {version}, this numaferry knows {schema.SCHEMA_VERSION}",
                hint="use the numaferry that wrote it, or a newer one; or name another ledger with --db",
            )


def _create_schema(connection: Connection) -> None:
    """Create tables, indexes and triggers, and give the ledger its id; one transaction."""
    schema.metadata.create_all(connection)
    for statement in TRIGGERS:
        connection.exec_driver_sql(statement)
    connection.execute(
        insert(schema.ledger).values(
            id=1, schema_version=schema.SCHEMA_VERSION, ledger_id=str(uuid.uuid4()), created_at=schema.epoch_now()
        )
    )


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn the database's errors into ours: LedgerUnusable with what to do, Overcommitted for a refused row."""
    try:
        yield
    except IntegrityError as error:
        code = str(error.orig)
        raise Overcommitted(
            f"the ledger refused what the solver allowed: {REFUSALS.get(code, code)}",
            hint="nothing was changed; please report it with `numaferry ledger explain` of the hosts concerned",
            code=code if code in REFUSALS else None,
        ) from error
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        name = getattr(cause, "sqlite_errorname", "")
        trouble = next((known for start, known in _TROUBLES.items() if name.startswith(start)), _UNKNOWN)
        unusable = LedgerUnusable(f"ledger {path} {trouble.message} ({cause})", hint=trouble.hint)
        unusable.retryable = trouble.retryable
        raise unusable from error


class Store:
    """The open ledger's engine and transactions; the parts of `Ledger` are built on it."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**{_READ: True})
        self.path = path
        with self._read() as connection:
            self.ledger_id: str = connection.execute(select(schema.ledger.c.ledger_id)).scalar_one()

    @contextlib.contextmanager
    def _write(self) -> Iterator[Connection]:
        """One writing transaction: committed as a whole, or nothing of it."""
        with usable(self.path), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _read(self) -> Iterator[Connection]:
        """One snapshot."""
        with usable(self.path), self._reader.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
