"""Where the ledger is: a file (SQLite) or a server (PostgreSQL), from a URL, the environment, or by default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import attrs
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from numaferry.errors import LedgerUnusable
from numaferry.xdg import state_directory

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
#: Scheme of a URL → the dialect.
_SCHEMES: Final = {
    "sqlite": SQLITE,
    "sqlite+pysqlite": SQLITE,
    "postgresql": POSTGRESQL,
    "postgres": POSTGRESQL,
    "postgresql+psycopg": POSTGRESQL,
}


@attrs.frozen(slots=True)
class Location:
    """One ledger. `str()` of it names it without its password."""

    dialect: str
    url: URL
    #: The file of an SQLite ledger, else None.
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return self.url.difference_update_query(["password"]).render_as_string(hide_password=True)


def ledger_location(url: str | None = None) -> Location:
    """Return the ledger that `url` names: ``sqlite:///PATH``, a bare path, ``postgresql://...``, or NUMAFERRY_DB.

    Without any it is ``ledger.sqlite`` in our XDG state directory. Raises LedgerUnusable for a URL that names no
    database that can hold a ledger.
    """
    url = url or os.environ.get("NUMAFERRY_DB") or ""
    if not url:
        return _file(state_directory() / "ledger.sqlite")
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _file(Path(url))
    dialect = _SCHEMES.get(scheme)
    if dialect == SQLITE and rest.removeprefix("/"):
        return _file(Path(rest.removeprefix("/")))
    if dialect == POSTGRESQL:
        return _server(scheme, url)
    raise LedgerUnusable(
        f"ledger {scheme}://…: a ledger is kept in an SQLite file or in PostgreSQL",
        hint="write it as a path, as sqlite:////absolute/path/ledger.sqlite, or as postgresql://user@server/database",
    )


def _file(path: Path) -> Location:
    return Location(SQLITE, URL.create(SQLITE, database=str(path)), path)


def _server(scheme: str, url: str) -> Location:
    """Read the URL of a server; what can't be read is told without quoting it, since it may hold a password."""
    try:
        read = make_url(url)
    except (ArgumentError, ValueError):
        read = None
    if read is None or not read.database:
        raise LedgerUnusable(
            f"ledger {scheme}://…: the URL names no database",
            hint="write it as postgresql://user@server/database; a password is best kept in ~/.pgpass",
        )
    return Location(POSTGRESQL, read.set(drivername="postgresql+psycopg"))
