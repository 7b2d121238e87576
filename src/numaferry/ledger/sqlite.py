"""A ledger in one SQLite file: write-ahead log, full sync, foreign keys, a busy timeout, mode 0600.

A writing transaction begins with ``BEGIN IMMEDIATE``: what it reads is what it commits against. A reading one sees one
snapshot and blocks nobody.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, create_engine, event

from numaferry.ledger.trouble import NO_FILE, READ_ONLY, unusable

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from numaferry.ledger.location import Location

BUSY_TIMEOUT_MS: Final = 15_000
PRAGMAS = ("PRAGMA foreign_keys = ON", "PRAGMA synchronous = FULL", f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
_READ: Final = "numaferry_read"


def engines(where: Location) -> tuple[Engine, Engine]:
    """Create the file where it is missing and return the engine for writing and the one for reading."""
    path = where.path
    if path is None:
        raise ValueError(f"{where} is no file")
    _create_file(where, path)
    engine = create_engine(where.url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine, engine.execution_options(**{_READ: True})


def _create_file(where: Location, path: Path) -> None:
    """Make the file with mode 0600 before SQLite does; its -wal and -shm files take the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        trouble = READ_ONLY if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS} else NO_FILE
        raise unusable(where, trouble, error.strerror) from error


def _prepare(connection: Any, _record: object) -> None:
    """Set up a new DB-API connection: transactions are begun by `_begin` alone."""
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(pragma).close()


def _begin(connection: Connection) -> None:
    """Begin as a writer unless the transaction only reads."""
    reading = connection.get_execution_options().get(_READ)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def prepare_empty(engine: Engine) -> None:
    """Switch an empty file to write-ahead logging, which can't be done within a transaction."""
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        if cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            cursor.execute("PRAGMA journal_mode = WAL").fetchall()
        cursor.close()
    finally:
        raw.close()
