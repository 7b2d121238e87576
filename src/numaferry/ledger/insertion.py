"""Inserting several rows of one table within a transaction."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Text, bindparam, column, func, insert, select

from numaferry.ledger.location import POSTGRESQL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Insert, Table


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all name the same columns.

    In PostgreSQL it is one statement with an array for each column, whatever the number of rows. In SQLite, which has
    no way to go, a statement per row is as quick.
    """
    if connection.dialect.name != POSTGRESQL:
        connection.execute(insert(table), [*rows])
        return
    names = tuple(rows[0])
    connection.execute(_from_arrays(table, names), {name: [row[name] for row in rows] for name in names})


@lru_cache
def _from_arrays(table: Table, names: tuple[str, ...]) -> Insert:
    """Return the statement that inserts a row for each position of the arrays."""
    types = (table.c[name].type for name in names)
    plain = (Text() if isinstance(kind, Text) else kind for kind in types)
    arrays = (bindparam(name, type_=ARRAY(kind)) for name, kind in zip(names, plain, strict=True))
    rows = func.unnest(*arrays).table_valued(*map(column, names)).render_derived()
    return insert(table).from_select(names, select(*rows.c))
