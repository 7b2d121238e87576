"""Inserting rows of several tables within a transaction: all that a claim is made of, at once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import ARRAY, Text, bindparam, column, func, insert, select

from numaferry.ledger.location import POSTGRESQL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from sqlalchemy import BindParameter, Connection, Insert, Table

    #: A table with the names of the columns that all rows have in common, and of those in which they differ.
    Shape: TypeAlias = tuple[Table, tuple[str, ...], tuple[str, ...]]


@attrs.frozen(slots=True)
class Batch:
    """Rows of one table; columns that are not named and have a default of ours get it."""

    table: Table
    common: Mapping[str, Any]
    #: What is each row's own, by the same names in all of them.
    rows: Sequence[Mapping[str, Any]] = ({},)

    @property
    def shape(self) -> Shape:
        """What the statement depends on."""
        return self.table, tuple(self.common), tuple(self.rows[0])

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of what all have in common, and a list for each column in which they differ."""
        values = {_parameter(self.table, name): value for name, value in self.common.items()}
        lists = {_parameter(self.table, name): [row[name] for row in self.rows] for name in self.rows[0]}
        return values | lists


def insert_all(connection: Connection, batches: Sequence[Batch]) -> None:
    """Insert the rows of each batch, each table at most once.

    To a server it is one statement, one way there and back, whatever the number of rows: columns are arrays. The order
    of the tables is then open, but for the first; references between them are checked at the end. SQLite, which is in
    this process, inserts row by row, in order.
    """
    full = [batch for batch in batches if batch.rows]
    if connection.dialect.name == POSTGRESQL:
        parameters = {name: value for batch in full for name, value in batch.parameters.items()}
        connection.execute(_statement(tuple(batch.shape for batch in full)), parameters)
        return
    for batch in full:
        connection.execute(_row_by_row(batch.table), [{**batch.common, **row} for row in batch.rows])


@lru_cache
def _row_by_row(table: Table) -> Insert:
    return insert(table)


@lru_cache
def _statement(shapes: tuple[Shape, ...]) -> Insert:
    """Return the statement for these tables and columns."""
    first, *others = (_from_arrays(*shape) for shape in shapes)
    return first.add_cte(*(other.cte(f"into_{other.table.name}") for other in others))


def _from_arrays(table: Table, common: tuple[str, ...], own: tuple[str, ...]) -> Insert:
    """Return the statement that inserts a row for each position of the arrays; one row where there are none."""
    values = {name: bindparam(_parameter(table, name), type_=table.c[name].type) for name in common}
    if not own:
        return insert(table).values(values)
    rows = func.unnest(*(_array(table, name) for name in own)).table_valued(*map(column, own)).render_derived()
    return insert(table).from_select([*common, *own], select(*values.values(), *rows.c))


def _array(table: Table, name: str) -> BindParameter[Any]:
    kind = table.c[name].type
    return bindparam(_parameter(table, name), type_=ARRAY(Text() if isinstance(kind, Text) else kind))


def _parameter(table: Table, name: str) -> str:
    return f"{table.name}__{name}"
