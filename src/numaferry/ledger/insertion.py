"""Inserting rows of several tables within a transaction: all that a claim is made of, at once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import ARRAY, Text, bindparam, cast, column, func, insert, select, true

from numaferry.ledger.location import POSTGRESQL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import CTE, ColumnElement, Connection, Dialect, Insert, Table
    from sqlalchemy.sql.dml import ReturningInsert

    from numaferry.ledger.rows import AnyRow


@attrs.frozen(slots=True)
class Numbered:
    """A value with the head row's id in it, which nobody knows before it is inserted; without words the id itself."""

    before: str = ""
    after: str = ""

    def of(self, number: int) -> int | str:
        """Return the value for this id."""
        return f"{self.before}{number}{self.after}" if self.before or self.after else number


#: The head row's id itself.
NUMBER = Numbered()


@attrs.frozen(slots=True)
class Head:
    """A row that the others go with: a statement that inserts it, or does not, and returns its `id` among others."""

    statement: ReturningInsert[Any]
    values: Mapping[str, Any]


@attrs.frozen(slots=True)
class _Shape:
    """What the statement for a batch depends on: names of columns by what is in them."""

    table: Table
    common: tuple[str, ...]
    numbers: tuple[str, ...]
    sentences: tuple[str, ...]
    own: tuple[str, ...]


@attrs.frozen(slots=True)
class Batch:
    """Rows of one table; columns that are not named and have a default of ours get it."""

    table: Table
    #: What all rows have in common; the same name has the same value in all batches that go together.
    common: Mapping[str, Any]
    #: What is each row's own, by the same names in all of them.
    rows: Sequence[Mapping[str, Any]] = ({},)

    @property
    def shape(self) -> _Shape:
        """What the statement depends on."""
        numbered = {name: value for name, value in self.common.items() if isinstance(value, Numbered)}
        return _Shape(
            self.table,
            tuple(name for name in self.common if name not in numbered),
            tuple(name for name, value in numbered.items() if value == NUMBER),
            tuple(name for name, value in numbered.items() if value != NUMBER),
            tuple(self.rows[0]),
        )

    @property
    def parameters(self) -> Iterator[tuple[str, Any]]:
        """The values of what all have in common, and an array for each column in which they differ."""
        for name, value in self.common.items():
            if not isinstance(value, Numbered):
                yield _shared(name), value
            elif value != NUMBER:
                yield _shared(name, "before"), value.before
                yield _shared(name, "after"), value.after
        for name in self.rows[0]:
            yield _lists(self.table, name), _array_text(row[name] for row in self.rows)

    def of(self, number: int) -> Batch:
        """Return the batch with this id of the head row."""
        known = {
            name: value.of(number) if isinstance(value, Numbered) else value for name, value in self.common.items()
        }
        return attrs.evolve(self, common=known)


def insert_all(connection: Connection, batches: Sequence[Batch]) -> None:
    """Insert the rows of each batch, each table at most once.

    To a server it is one statement, one way there and back, whatever the number of rows: columns are arrays. The order
    of the tables is then open, but for the first; references between them are checked at the end. SQLite, which is in
    this process, inserts row by row, in order.
    """
    full = [batch for batch in batches if batch.rows]
    if connection.dialect.name == POSTGRESQL:
        connection.execute(_statement(tuple(batch.shape for batch in full)), _parameters(full))
        return
    for batch in full:
        connection.execute(_row_by_row(batch.table), [{**batch.common, **row} for row in batch.rows])


def insert_with(connection: Connection, head: Head, batches: Sequence[Batch]) -> AnyRow | None:
    """Insert the head row and with it the rows of each batch, as `insert_all` does; return what the head returns.

    Nothing at all is inserted, and None returned, where the head's statement inserts nothing. To a server this too is
    one statement: each row of a batch is there for the head's row.
    """
    if connection.dialect.name != POSTGRESQL:
        made = connection.execute(head.statement, head.values).one_or_none()
        if made is not None:
            insert_all(connection, [batch.of(made.id) for batch in batches])
        return made
    full = [batch for batch in batches if batch.rows]
    statement, constants = _statement_with(head.statement, tuple(batch.shape for batch in full), connection.dialect)
    return connection.exec_driver_sql(statement, {**constants, **head.values, **_parameters(full)}).one_or_none()


def _parameters(batches: Sequence[Batch]) -> dict[str, Any]:
    """Return the parameters of all batches, those that they share once: each costs as much as a row."""
    found: dict[str, Any] = {}
    for name, value in (one for batch in batches for one in batch.parameters):
        if found.setdefault(name, value) != value:
            raise ValueError(f"{name} is {found[name]!r} in one batch and {value!r} in another")
    return found


@lru_cache
def _row_by_row(table: Table) -> Insert:
    return insert(table)


@lru_cache
def _statement(shapes: tuple[_Shape, ...]) -> Insert:
    """Return the statement for these tables and columns."""
    first, *others = map(_from_arrays, shapes)
    return first.add_cte(*(other.cte(f"into_{other.table.name}") for other in others))


@lru_cache
def _statement_with(
    statement: ReturningInsert[Any], shapes: tuple[_Shape, ...], dialect: Dialect
) -> tuple[str, dict[str, Any]]:
    """Return the statement for a head row and these tables and columns, and what of its parameters is always the same.

    As text: SQLAlchemy takes a tenth of a millisecond to find a statement with 40 parameters among those it compiled.
    """
    head = statement.cte("head")
    others = (_from_arrays(shape, head) for shape in shapes)
    compiled = (
        select(*head.c).add_cte(*(other.cte(f"into_{other.table.name}") for other in others)).compile(dialect=dialect)
    )
    return str(compiled), {name: value for name, value in compiled.params.items() if value is not None}


def _from_arrays(shape: _Shape, head: CTE | None = None) -> Insert:
    """Return the statement that inserts a row for each position of the arrays; one row where there are none.

    With a head: for each of its rows.
    """
    table, own = shape.table, shape.own
    values: dict[str, ColumnElement[Any]] = {
        name: bindparam(_shared(name), type_=table.c[name].type) for name in shape.common
    }
    if head is None and not own:
        return insert(table).values(values)
    if head is not None:
        values |= dict.fromkeys(shape.numbers, head.c.id)
        values |= {name: _sentence(name, head.c.id) for name in shape.sentences}
    query = select(*values.values())
    if own:
        rows = func.unnest(*(_array(table, name) for name in own)).table_valued(*map(column, own)).render_derived()
        query = query.add_columns(*rows.c).select_from(rows if head is None else head.join(rows, true()))
    elif head is not None:
        query = query.select_from(head)
    return insert(table).from_select([*values, *own], query)


def _sentence(name: str, number: ColumnElement[int]) -> ColumnElement[str]:
    before, after = (bindparam(_shared(name, word), type_=Text()) for word in ("before", "after"))
    return func.concat(before, number, after)


def _array(table: Table, name: str) -> ColumnElement[Any]:
    kind = table.c[name].type
    return cast(bindparam(_lists(table, name), type_=Text()), ARRAY(Text() if isinstance(kind, Text) else kind))


def _array_text(values: Iterable[int | str]) -> str:
    """Return an array as PostgreSQL reads it; the driver writes a list in a multiple of the time."""
    return "{" + ",".join(_quoted(value) if isinstance(value, str) else str(value) for value in values) + "}"


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _shared(*names: str) -> str:
    return "__".join(("all", *names))


def _lists(table: Table, name: str) -> str:
    return f"{table.name}__{name}"
