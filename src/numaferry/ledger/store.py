"""The open ledger's transactions: what `Ledger` is built on.

A method with `@writes` is one writing transaction. Where another transaction was in its way, or the connection broke,
it is begun again, a bounded number of times. A connection that breaks at a COMMIT leaves open whether it was done; so
each such method can be run again after it was done, and finds out by what it was given: a migration's UUID, a claim's
id, an event's key.
"""

from __future__ import annotations

import contextlib
import functools
import random
import time
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import select

from numaferry.ledger import schema
from numaferry.ledger.trouble import Interrupted, usable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from numaferry.ledger.location import Location

#: How often a transaction is begun, and the longest pause after the n-th attempt: together about 13 s, in which a
#: server that is restarted is back.
TRIES: Final = 10
PAUSE_S: Final = 0.025

_P = ParamSpec("_P")
_T = TypeVar("_T")
_S = TypeVar("_S", bound="Store")


class Store:
    """The open ledger's engines and transactions."""

    def __init__(self, engine: Engine, reader: Engine, where: Location) -> None:
        self._engine = engine
        self._reader = reader
        self.where = where
        with self._read() as connection:
            self.ledger_id: str = connection.execute(select(schema.ledger.c.ledger_id)).scalar_one()

    @contextlib.contextmanager
    def _write(self) -> Iterator[Connection]:
        """One writing transaction: committed as a whole, or nothing of it."""
        with usable(self.where), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _read(self) -> Iterator[Connection]:
        """One snapshot; a server that is away is waited for, as long as a transaction is begun again."""
        with usable(self.where), self._snapshot() as connection:
            yield connection

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        for attempt in range(1, TRIES + 1):
            try:
                with usable(self.where):
                    connection = self._reader.connect()
                break
            except Interrupted:
                if attempt == TRIES:
                    raise
            _pause(attempt)
        with connection, connection.begin():
            yield connection

    def now(self) -> float:
        """Return the time by the database's clock, in seconds since the epoch: the only clock that leases go by."""
        with self._read() as connection:
            now: float = connection.execute(select(schema.epoch_now())).scalar_one()
            return now

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def writes(method: Callable[Concatenate[_S, Connection, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    """Make a method that is given a connection into one writing transaction, begun again where that may help.

    Raises what it raises; LedgerUnusable after the last attempt.
    """

    @functools.wraps(method)
    def call(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        for attempt in range(1, TRIES + 1):
            try:
                with self._write() as connection:
                    return method(self, connection, *args, **kwargs)
            except Interrupted:
                if attempt == TRIES:
                    raise
            _pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    return call


def _pause(attempt: int) -> None:
    """Wait before the next attempt; full jitter: those who collided do not meet again."""
    time.sleep(random.uniform(0, PAUSE_S * 2**attempt))  # noqa: S311  (no secret)


def lock(connection: Connection, table: Any, condition: Any) -> None:
    """Lock the rows that this transaction is about to change; SQLite has one writer and needs none."""
    if connection.dialect.name == "postgresql":
        rows = select(1).select_from(table).where(condition).order_by(*table.primary_key)
        connection.execute(rows.with_for_update())
