"""A ledger in PostgreSQL, shared by controllers on several machines.

Writing transactions are READ COMMITTED: each locks what it is about to change, in this order: the ledger's own row
(places in the queue), the instance, the migration, the host; what it reads after that is what it commits against.
Reading ones are REPEATABLE READ: one snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Engine, create_engine

from numaferry.errors import EnvironmentLacking, LedgerUnusable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.ledger.location import Location

#: A server that does not answer is given up after this long; a controller's deadlines are shorter than its lease.
CONNECT_TIMEOUT_S: Final = 5
#: And so is one whose machine or network is gone in the middle of a statement: 5 s of silence and 3 probes.
_KEEPALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
#: A transaction that waits longer for another, computes longer, or idles (its process was stopped) is ended; the last
#: of the three first, so that who waits for a stopped process outlives it.
LOCK_TIMEOUT_MS: Final = 15_000
STATEMENT_TIMEOUT_MS: Final = 30_000
IDLE_TIMEOUT_MS: Final = 10_000
#: Held while the schema is made or upgraded: "numaferr" in ASCII.
SCHEMA_LOCK: Final = 0x6E756D6166657272

_OPTIONS: Final = {
    "lock_timeout": LOCK_TIMEOUT_MS,
    "statement_timeout": STATEMENT_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": IDLE_TIMEOUT_MS,
}
#: Rows are found by keys, so one plan serves every value; the server itself would plan big statements each time. And
#: what is best while a table is empty, to read all of it, it would do until autovacuum has looked at the table again.
_PLANS: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    # before PostgreSQL 18 a table that has to be read as a whole after all would look dear enough to compile code for
    "jit": "off",
}


def engines(where: Location) -> tuple[Engine, Engine]:
    """Return the engine for writing and the one for reading; raises EnvironmentLacking without psycopg."""
    try:
        import psycopg  # noqa: F401, PLC0415  (an extra: an SQLite ledger needs no driver)
    except ImportError as error:
        raise EnvironmentLacking(
            "psycopg is not installed, so a ledger in PostgreSQL can't be reached",
            hint="pip install 'numaferry[postgresql]'",
        ) from error
    engine = create_engine(
        where.url,
        # a server that was restarted has cut every connection of the pool
        pool_pre_ping=True,
        pool_recycle=1800,
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "numaferry",
            # a database without an encoding (SQL_ASCII) would answer in bytes
            "client_encoding": "utf8",
            **_KEEPALIVE,
            "options": " ".join(f"-c {name}={value}" for name, value in {**_OPTIONS, **_PLANS}.items()),
        },
    )
    return engine, engine.execution_options(isolation_level="REPEATABLE READ")


def lock_schema(connection: Connection) -> None:
    """Wait until nobody else makes or upgrades the schema; released at the transaction's end."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})")


def refuse_forgetful(connection: Connection, where: Location) -> None:
    """Raise LedgerUnusable where a commit may be answered before it is on the disk: a promise must outlive a crash."""
    for setting in ("fsync", "synchronous_commit"):
        if connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == "off":
            raise LedgerUnusable(
                f"ledger {where}: the server has {setting} = off, so a promise may be lost with its power",
                hint=f"set {setting} = on for this database: ALTER DATABASE … SET {setting} = on"
                if setting != "fsync"
                else "set fsync = on in postgresql.conf",
            )
