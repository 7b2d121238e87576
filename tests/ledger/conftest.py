"""A small fleet for ledger tests: hosts of 2 cells x 2 cores x 2 threads, CPUs 0-1 shared, 2-7 dedicated.

Every test that asks for a ledger runs on SQLite and on PostgreSQL, but for those of a module or a class that overrides
the fixture `dialect` because they are about one of the two.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sqlite3
import uuid

import psycopg
import pytest

from numaferry.ledger import ObservedUse, open_ledger
from numaferry.model import (
    EMPTY,
    CellRequest,
    CpuSet,
    Flavor,
    HostConfig,
    HostFacts,
    Instance,
    InstanceCell,
    InstanceNumaTopology,
    NumaRequest,
)
from numaferry.model.notation import parse_topology

NOTATION = "2 cells x 2 cores x 2 threads, 1536M, 2M:128"
MIB = 1024


class Make:
    """Builds values and puts hosts into a ledger."""

    def __init__(self):
        self._numbers = itertools.count(1)

    def facts(self, name, notation=NOTATION, uuid=None):
        return HostFacts(
            name, uuid or f"uuid-of-{name}", f"test:///{name}", parse_topology(notation), 9_000_000, 7_002_000
        )

    def config(self, dedicated="2-7", shared="0-1", **more):
        return HostConfig(cpu_dedicated_set=CpuSet.parse(dedicated), cpu_shared_set=CpuSet.parse(shared), **more)

    def host(self, ledger, name, *, notation=NOTATION, confirmed=True, **config):
        return ledger.add_host(name, self.facts(name, notation), self.config(**config), confirmed)

    def request(self, vcpus=2, memory_mib=64, page_size=2048, cpu_policy="dedicated", **more):
        every = CpuSet.of(range(vcpus))
        pinned = every if cpu_policy == "dedicated" else EMPTY
        cell = CellRequest(0, every, pinned, memory_mib * MIB, page_size)
        return NumaRequest(vcpus, memory_mib * MIB, (cell,), cpu_policy, **more)

    def guest(self, name, host, cpus, *, memory_mib=64, page_size=2048, cell=None):
        """Return a dedicated guest of one cell that is pinned to `cpus` of `host`."""
        pins = tuple(enumerate(CpuSet.parse(cpus)))
        request = self.request(len(pins), memory_mib, page_size)
        every = CpuSet.of(range(len(pins)))
        host_cell = cell if cell is not None else pins[0][1] // 4
        placed = InstanceCell(0, every, every, memory_mib * MIB, page_size or 4, host_cell, pins)
        return self.instance(name, host, request, InstanceNumaTopology((placed,)))

    def floating(self, name, host, vcpus=1, memory_mib=64):
        return self.instance(name, host, NumaRequest(vcpus, memory_mib * MIB), None)

    def instance(self, name, host, request, topology):
        uuid = f"00000000-0000-4000-8000-{next(self._numbers):012d}"
        flavor = Flavor(f"of-{name}", request.vcpus, request.memory_kib // MIB)
        return Instance(uuid, name, host, flavor, request, topology)

    def seen(self, name, cpus="", *, uuid=None, floating=False, vcpus=1, memory_mib=0, pages=()):
        uuid = uuid or f"11111111-0000-4000-8000-{next(self._numbers):012d}"
        return ObservedUse(uuid, name, CpuSet.parse(cpus), floating, vcpus, memory_mib * MIB, pages)


@pytest.fixture
def make():
    return Make()


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request):
    """Return the database that the ledger is in."""
    return request.param


@pytest.fixture
def path(tmp_path):
    """Return the file of a ledger in SQLite."""
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory):
    """Return the file of an empty ledger, to copy."""
    path = tmp_path_factory.mktemp("empty") / "ledger.sqlite"
    open_ledger(str(path)).close()
    return path


@pytest.fixture
def where(dialect, request, path):
    """Return the URL of an empty ledger, made for this test; a copy in SQLite, since that is quicker."""
    if dialect == "postgresql":
        return request.getfixturevalue("ledger_database")
    path.parent.mkdir(mode=0o700)
    shutil.copy(request.getfixturevalue("empty_file"), path)
    with contextlib.closing(sqlite3.connect(path)) as copy, copy:
        copy.execute("UPDATE ledger SET ledger_id = ?", (str(uuid.uuid4()),))
    return str(path)


@pytest.fixture
def ledger(where):
    """An empty ledger."""
    opened = open_ledger(where)
    yield opened
    opened.close()


@pytest.fixture
def fleet(ledger, make):
    """A ledger with hosts A and B, both confirmed."""
    make.host(ledger, "A")
    make.host(ledger, "B")
    return ledger


class Refused(Exception):
    """The database refused a statement.

    Its text is a trigger's code, or which kind of rule it was: "unique TABLE", "foreign key", "check", "not null".
    """


class Sql:
    """Raw SQL past every API, written alike for both databases: values are `?`, each statement commits by itself."""

    def __init__(self, connection):
        self.connection = connection

    def execute(self, statement, values=()):
        """Run one statement and return its cursor; raises Refused."""
        try:
            return self.connection.execute(*self._form(statement, values))
        except (sqlite3.IntegrityError, psycopg.errors.IntegrityError) as error:
            raise Refused(self._reason(error)) from error

    def one(self, statement, *values):
        """Return the first value of the first row."""
        return self.execute(statement, values).fetchone()[0]

    def refused(self, statement, values, reason):
        """Run a statement that has to be refused, and for this reason."""
        with pytest.raises(Refused) as caught:
            self.execute(statement, values)
        assert str(caught.value) == reason

    def close(self):
        self.connection.close()


class SqliteSql(Sql):
    """On the ledger's file; foreign keys on, as any client of the ledger has them."""

    def __init__(self, path):
        super().__init__(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
        self.connection.execute("PRAGMA foreign_keys = ON")

    def _form(self, statement, values):
        return statement, values

    def _reason(self, error):
        kind, failed, what = str(error).partition(" constraint failed")
        if not failed:
            return kind
        return f"unique {what[2:].partition('.')[0]}" if kind == "UNIQUE" else kind.lower()


class PostgresqlSql(Sql):
    """On the ledger's server, as the user that numaferry is there."""

    def __init__(self, url):
        super().__init__(psycopg.connect(url, autocommit=True))

    def _form(self, statement, values):
        return statement.replace("?", "%s"), values or None

    def _reason(self, error):
        kinds = {"23505": f"unique {error.diag.table_name}", "23503": "foreign key", "23502": "not null"}
        constraint = "check" if error.diag.constraint_name else error.diag.message_primary
        return kinds.get(error.sqlstate, constraint)


@pytest.fixture
def connect(ledger, where, dialect):
    """Return a function that opens one more connection for raw SQL to the ledger's database."""
    opened = []

    def one_more():
        opened.append({"sqlite": SqliteSql, "postgresql": PostgresqlSql}[dialect](where))
        return opened[-1]

    yield one_more
    for one in opened:
        one.close()


@pytest.fixture
def sql(connect):
    """Raw SQL on the ledger's database."""
    return connect()
