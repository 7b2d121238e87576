"""A ledger in PostgreSQL: what is said when it can't be used, and what happens when server or process go away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import attrs
import psycopg
import pytest

from numaferry.errors import Conflict, EnvironmentLacking, LedgerUnusable
from numaferry.fit import numa_fit_instance_to_host
from numaferry.ledger import open_ledger, postgresql
from numaferry.ledger.insertion import _array_text
from numaferry.ledger.location import ledger_location
from numaferry.model import MigrationStatus
from numaferry.model.codec import dumps


@pytest.fixture
def dialect():
    return "postgresql"


@pytest.fixture
def server(postgresql):
    """The run's server."""
    return postgresql


@pytest.fixture
def told(server):
    """Return a function that opens a ledger in vain and returns what is said then, in which no password is."""

    def fails(url, match, call=open_ledger):
        began = time.monotonic()
        with pytest.raises(LedgerUnusable, match=match) as caught:
            call(url)
        said = f"{caught.value} {caught.value.hint}"
        assert server.password not in said
        assert "secret" not in said
        assert caught.value.hint
        assert caught.value.exit_code == 9
        assert time.monotonic() - began < 10
        return caught.value

    return fails


@pytest.fixture
def hurried(monkeypatch):
    """Return a function that sets how long a session of a ledger opened from now on waits, in ms."""

    def set_timeout(name, limit_ms):
        monkeypatch.setitem(postgresql._OPTIONS, name, limit_ms)

    return set_timeout


@pytest.fixture
def guest(fleet, make):
    return fleet.claim_instance(make.guest("db1", "A", "4-5")).instance


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_may_be_tried_again(told):
    assert told("postgresql://numaferry:secret@127.0.0.1:1/ledger", "can't be reached").retryable
    assert (
        "numaferry:***@127.0.0.1:1/ledger" in told("postgres://numaferry:secret@127.0.0.1:1/ledger", "refused").message
    )


@pytest.mark.parametrize("options", [{"password": "secret"}, {"user": "nobody"}])
def test_who_is_not_let_in_is_told(server, told, options):
    error = told(server.url(**options), "lets this user in no further.*password authentication failed")
    assert not error.retryable


def test_a_missing_password_is_told(server, told):
    told(server.url().replace(f":{server.password}", ""), "no further.*no password supplied")


def test_a_database_that_is_missing_is_told_how_to_be_made(server, told):
    assert "createdb" in told(server.url("nowhere"), "does not exist").hint


def test_a_server_without_a_connection_left_is_told(server, told, new_database):
    url = new_database("CONNECTION LIMIT 0")
    assert told(url, "has no connection left to give").retryable


def test_a_user_without_rights_is_told(server, told, new_database):
    url = new_database()
    with server.admin(url.rpartition("/")[2]) as admin:
        admin.execute("ALTER SCHEMA public OWNER TO postgres")
    told(url, "lets this user in no further")


def test_another_programs_database_is_refused_and_left_alone(told, new_database):
    url = new_database()
    with psycopg.connect(url, autocommit=True) as theirs:
        theirs.execute("CREATE TABLE songs (name text)")
        told(url, "is not a database of numaferry")
        tables = theirs.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == [("songs",)]


def test_a_newer_ledger_is_refused(ledger, sql, where, told):
    sql.execute("UPDATE ledger SET schema_version = 99")
    assert "newer" in told(where, "schema 99").hint


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit"])
def test_a_server_that_forgets_is_refused(ledger, server, where, told, setting):
    """A promise that a power cut takes back is none."""
    with server.admin() as admin:
        admin.execute(f"ALTER SYSTEM SET {setting} = off")
        try:
            admin.execute("SELECT pg_reload_conf()")
            until(lambda: admin.execute(f"SHOW {setting}").fetchone() == ("off",))
            told(where, f"has {setting} = off")
        finally:
            admin.execute(f"ALTER SYSTEM RESET {setting}")
            admin.execute("SELECT pg_reload_conf()")
            until(lambda: admin.execute(f"SHOW {setting}").fetchone() == ("on",))


def until(condition, seconds=10):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_driver_the_package_to_install_is_named(where, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(EnvironmentLacking) as caught:
        open_ledger(where)
    assert "numaferry[postgresql]" in caught.value.hint


def test_a_password_in_the_query_is_hidden_too():
    location = ledger_location("postgresql://numaferry@db.example/ledger?password=secret&sslmode=require")
    assert str(location) == "postgresql+psycopg://numaferry@db.example/ledger?sslmode=require"


def test_any_words_may_stand_in_the_arrays_that_a_claim_is_inserted_by(sql):
    words = ["", "vcpu", 'a "b"', "c\\d", "{e,f}", "NULL", "g\nh", "ü"]
    given = sql.one("SELECT array_to_json(CAST(? AS TEXT[]))", _array_text(words))
    assert given == words
    assert sql.one("SELECT array_to_json(CAST(? AS BOOLEAN[]))", _array_text([True, False])) == [True, False]
    assert sql.one("SELECT array_to_json(CAST(? AS INTEGER[]))", _array_text([3, -1])) == [3, -1]


def test_sessions_are_named_and_limited(fleet):
    def settings(connection):
        names = ("transaction_isolation", "application_name", "client_encoding")
        return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in (*names, *postgresql._OPTIONS)]

    with fleet._write() as connection:
        writer = settings(connection)
        tcp = connection.connection.driver_connection.info.get_parameters()
    with fleet._read() as connection:
        reader = settings(connection)
    assert writer == ["read committed", "numaferry", "UTF8", "15s", "30s", "10s"]
    assert reader == ["repeatable read", "numaferry", "UTF8", "15s", "30s", "10s"]
    assert (tcp["keepalives_idle"], tcp["tcp_user_timeout"], tcp["connect_timeout"]) == ("5", "20000", "5")


def test_rows_are_found_by_their_keys_in_tables_that_are_empty_yet(fleet):
    """A plan is kept; one that reads the whole table would be slower with each row, until autovacuum has looked."""
    with fleet._write() as connection:
        connection.exec_driver_sql("ANALYZE migration")
        plan = connection.exec_driver_sql("EXPLAIN SELECT id FROM migration WHERE uuid = 'x'").scalars().all()
    assert any("migration_uuid_key" in line for line in plan), plan


# -- the schema --------------------------------------------------------------------------------------------------------


def test_text_is_compared_by_code_points_whatever_the_database_has(ledger, sql):
    """`set_observed` compares what is ordered by the database with what Python has ordered."""
    rows = sql.execute(
        "SELECT table_name, column_name, collation_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type = 'text'"
    ).fetchall()
    assert len(rows) > 30
    assert {collation for _, _, collation in rows} == {"C"}


def test_a_database_without_an_encoding_keeps_names_as_they_are(new_database, make):
    ledger = open_ledger(new_database("ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"))
    make.host(ledger, "Zürich")
    ledger.claim_instance(make.guest("café", "Zürich", "4-5"))
    assert ledger.instance("café").host == "Zürich"
    ledger.close()


def test_ledgers_that_open_a_new_database_at_once_agree_on_it(new_database):
    url = new_database()

    def opened(_number):
        ledger = open_ledger(url)
        ledger.close()
        return ledger.ledger_id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(opened, range(4)))) == 1


# -- reading and writing -----------------------------------------------------------------------------------------------


def test_a_read_only_database_is_read_and_not_written(new_database, server, told, make):
    url = new_database()
    open_ledger(url).close()
    with server.admin() as admin:
        admin.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    ledger = open_ledger(url)
    assert ledger.hosts() == ()
    error = told(url, "is read-only", lambda _url: make.host(ledger, "A"))
    assert "primary" in error.hint
    assert not error.retryable
    ledger.close()


def test_a_standby_is_read_and_not_written(fleet, make, server, told):
    server.stop()
    signal_file = server.data / "standby.signal"
    signal_file.touch()
    try:
        server.start()
        assert len(fleet.hosts()) == 2
        assert "primary" in told("", "is read-only", lambda _url: make.host(fleet, "C")).hint
    finally:
        server.stop()
        signal_file.unlink()
        server.start()
    assert make.host(fleet, "C").name == "C"


def test_an_empty_read_only_database_is_told(new_database, server, told):
    url = new_database()
    with server.admin() as admin:
        admin.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    told(url, "is read-only")


@pytest.mark.parametrize("limit", ["lock_timeout", "statement_timeout"])
def test_a_lock_that_is_held_too_long_is_told(  # noqa: PLR0917  (fixtures and a row of the table)
    fleet, where, sql, make, told, hurried, limit
):
    hurried(limit, 100)
    impatient = open_ledger(where)
    sql.execute("BEGIN")
    sql.execute("SELECT 1 FROM host WHERE name = 'A' FOR UPDATE")
    error = told(where, "is locked", lambda _url: impatient.set_observed("A", [make.seen("stray", "4")]))
    assert error.retryable
    assert "pg_stat_activity" in error.hint
    assert impatient.observed("A") == (), "who reads waits for nobody"
    sql.execute("ROLLBACK")
    impatient.set_observed("A", [make.seen("stray", "4")])
    impatient.close()


def test_what_can_not_be_sent_is_no_matter_of_the_connection(fleet, told):
    error = told("", "can't be used .*NUL", lambda _url: fleet.set_host_state("A", "unreachable", "no \0 route"))
    assert not error.retryable


def test_more_threads_than_connections_take_turns_or_are_told(fleet, told):
    pool = fleet._engine.pool
    pool._timeout = 0.2
    held = [fleet._engine.connect() for _ in range(pool.size() + pool._max_overflow)]
    error = told("", "has every connection of this process in use", lambda _url: fleet.hosts())
    assert error.retryable
    for one in held:
        one.close()
    assert len(fleet.hosts()) == 2


# -- at the same moment ------------------------------------------------------------------------------------------------


def at_once(calls):
    """Make calls in a thread each, at the same moment; return what each returned or raised."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait()
        try:
            return call()
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_a_guest_that_two_adopt_at_once_is_adopted_once(fleet, make):
    """On different hosts they wait for no common row: they meet in the key of the instance."""
    for number in range(5):
        guest = make.guest(f"db{number}", "A", "4-5")
        there = attrs.evolve(guest, host="B")
        ended = at_once([lambda g=guest: fleet.claim_instance(g), lambda t=there: fleet.claim_instance(t)])
        assert sorted(isinstance(one, Conflict) for one in ended) == [False, True], ended
        fleet.forget_instance(guest.uuid)


def test_a_host_that_two_add_at_once_is_added_once(ledger, make):
    for number in range(5):
        ended = at_once([lambda n=number: make.host(ledger, f"H{n}")] * 2)
        assert sorted(isinstance(one, Conflict) for one in ended) == [False, True], ended


class Slow:
    """A solver that is stopped in the middle of its transaction."""

    def __init__(self):
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, host, request):
        self.reached.set()
        assert self.go_on.wait(20)
        return numa_fit_instance_to_host(host, request)


def test_a_look_waits_for_a_move_that_has_begun(fleet, make, sql):
    """A transient guest that was gone for long is about to be released when its move begins: it is not."""
    guest = fleet.claim_instance(attrs.evolve(make.guest("tmp1", "A", "4-5"), persistent=False)).instance
    fleet.note_present("A", set(), 0)
    slow = Slow()
    with ThreadPoolExecutor(2) as pool:
        move = pool.submit(fleet.live_migration_claim, guest.uuid, ["B"], fit=slow)
        assert slow.reached.wait(20)
        look = pool.submit(fleet.note_present, "A", set(), 0)
        until(lambda: sql.one("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 1)
        slow.go_on.set()
        assert look.result() == ()
        assert move.result().migration.dest == "B"
    assert fleet.instance("tmp1").host == "A"


def test_a_host_that_changes_while_the_solver_thinks_is_looked_at_again(fleet, guest, make):
    slow = Slow()
    with ThreadPoolExecutor(1) as pool:
        move = pool.submit(fleet.live_migration_claim, guest.uuid, ["B"], fit=slow)
        assert slow.reached.wait(20)
        fleet.set_observed("B", [make.seen("stray", "2-3,6")])
        slow.go_on.set()
        assert move.result().placement.numa_topology.owned_cpus <= make.config(dedicated="4-5,7").cpu_dedicated_set


@pytest.fixture
def no_deadlock(server):
    """Fail where transactions of the test waited for each other in a circle; they lock in one order."""

    def deadlocks():
        with server.admin() as admin:
            return admin.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = 'shared'").fetchone()[0]

    before = deadlocks()
    yield
    assert deadlocks() == before


def test_a_host_falls_silent_while_its_transient_guests_come_and_go(fleet, make, no_deadlock):
    guests = [attrs.evolve(make.guest(f"tmp{n}", "A", f"{n}"), persistent=False) for n in range(2, 8)]

    def come_and_go(mine):
        for _ in range(8):
            for guest in mine:
                fleet.claim_instance(guest)
            for guest in mine:
                fleet.forget_instance(guest.uuid)

    def looked():
        for _ in range(30):
            fleet.note_present("A", set(), 1e6)

    def silent():
        for _ in range(15):
            fleet.set_host_state("A", "unreachable", "no route")
            fleet.set_host_state("A", "reachable")

    ended = at_once([lambda: come_and_go(guests[:3]), lambda: come_and_go(guests[3:]), looked, silent])
    assert ended == [None] * 4


def test_whatever_is_done_at_once_nobody_waits_in_a_circle(fleet, make, sql, no_deadlock):
    own = [make.guest(f"g{n}", "A", f"{n}", memory_mib=8) for n in range(2, 8)]
    guests = [fleet.claim_instance(guest).instance for guest in own]

    def moves(guest):
        for dest in ("B", "A", "B", "A"):
            move = fleet.live_migration_claim(guest.uuid, [dest]).migration
            fleet.set_migration(move.id, sentence="on its way", status=MigrationStatus.RUNNING)
            fleet.confirm_migration(move.id, status=MigrationStatus.COMPLETED)

    def dropped(guest):
        for dest in ("B", "B", "B"):
            move = fleet.live_migration_claim(guest.uuid, [dest]).migration
            fleet.drop_move_claim(move.id, MigrationStatus.FAILED, "x")
            fleet.reclaim_instance(guest.uuid, guest.numa_topology)

    def looked(host):
        for number in range(8):
            notation = f"2 cells x 2 cores x 2 threads, 1536M, 2M:{128 - number % 2}"
            fleet.update_host(host, make.facts(host, notation))
            fleet.set_observed(host, [make.seen("stray", floating=True)])
            fleet.note_present(host, set(), 1e6)

    calls = [*(lambda g=g: moves(g) for g in guests[:3]), *(lambda g=g: dropped(g) for g in guests[3:5])]
    ended = at_once([*calls, lambda: looked("A"), lambda: looked("B")])
    assert ended == [None] * 7
    assert sql.one("SELECT sum(used) FROM capacity WHERE resource = 'page:2048'") == 6 * 4


# -- the server goes away ----------------------------------------------------------------------------------------------


def kill_sessions(server):
    """End every session of the shared database."""
    with server.admin() as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = 'shared' AND application_name = 'numaferry'"
        )


def test_idle_sessions_that_were_ended_are_opened_anew(fleet, make, server):
    kill_sessions(server)
    assert len(fleet.hosts()) == 2
    kill_sessions(server)
    assert make.host(fleet, "C").name == "C"


def test_a_session_that_is_ended_in_the_middle_begins_again(fleet, guest, server):
    asked = []

    def killing(host, request):
        asked.append(host.name)
        if len(asked) == 1:
            kill_sessions(server)
        return numa_fit_instance_to_host(host, request)

    claim = fleet.live_migration_claim(guest.uuid, ["B"], fit=killing)
    assert asked == ["B", "B"]
    assert [move.id for move in fleet.migrations()] == [claim.migration.id]
    assert len(fleet.view("B").holdings) == 1


def test_a_server_that_is_gone_is_told_and_used_again_when_it_is_back(fleet, make, server, told, monkeypatch):
    monkeypatch.setattr("numaferry.ledger.store.TRIES", 2)
    server.stop("immediate")
    try:
        assert told("", "can't be reached", lambda _url: fleet.hosts()).retryable
        assert told("", "can't be reached", lambda _url: make.host(fleet, "C")).retryable
    finally:
        server.start()
    assert make.host(fleet, "C").name == "C"
    assert [host.name for host in fleet.hosts()] == ["A", "B", "C"]


#: Places guests one after the other in several threads; prints how each ended. No error is caught.
PLACER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from numaferry.ledger import open_ledger
from numaferry.model import Instance
from numaferry.model.codec import loads

ledger = open_ledger(sys.argv[1])
guests = [loads(line, Instance) for line in sys.stdin]
with ThreadPoolExecutor(4) as pool:
    claims = pool.map(lambda guest: ledger.place_instance(guest, ["A"]), guests)
    print(json.dumps([[claim.id, claim.instance.name] for claim in claims]))
ledger.close()
"""


def test_a_server_that_is_restarted_in_the_middle_of_hundreds_of_claims(ledger, make, server, where, connect):
    """Two processes place 120 guests each; a restart and a crash of the server lose none and make none twice."""
    make.host(ledger, "A", cpu_allocation_ratio=200.0)
    guests = [make.floating(f"new{number}", "", memory_mib=4) for number in range(240)]
    placers = [
        subprocess.Popen(
            [sys.executable, "-c", PLACER, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for number, placer in enumerate(placers):
        placer.stdin.write("".join(f"{dumps(guest)}\n" for guest in guests[number::2]))
        placer.stdin.close()
        placer.stdin = None
    both = connect()
    until(lambda: both.one("SELECT count(*) FROM instance WHERE name IN ('new0', 'new1')") == 2, seconds=60)
    for mode, done in (("fast", 30), ("immediate", 120)):
        watch = connect()
        until(lambda watch=watch, done=done: watch.one("SELECT count(*) FROM claim") >= done, seconds=60)
        server.stop(mode)
        server.start()
    sql = connect()
    assert sql.one("SELECT count(*) FROM claim") < 240, "it was in the middle"
    answers = [pair for placer in placers for pair in json.loads(placer.communicate(timeout=120)[0])]
    assert [placer.returncode for placer in placers] == [0, 0]

    assert sorted(name for _, name in answers) == sorted(guest.name for guest in guests)
    stored = sql.execute(
        "SELECT claim.id, name FROM claim JOIN instance ON instance.current_claim = claim.id"
    ).fetchall()
    assert sorted(map(list, stored)) == sorted(answers)
    assert sql.one("SELECT count(*) FROM claim") == sql.one("SELECT count(*) FROM event WHERE kind = 'placed'") == 240
    used = "SELECT used FROM capacity WHERE cell = -1 AND resource = ?"
    assert [sql.one(used, resource) for resource in ("vcpus", "memory_kib")] == [240, 240 * 4 * 1024]
    assert ledger.host("A").generation == 241


# -- a process goes away -----------------------------------------------------------------------------------------------

#: Stops itself in the middle of its claim, with its guest locked; continued, it goes on, and prints how it ended.
STOPPED = """
import os, signal, sys
from numaferry.errors import NumaferryError
from numaferry.ledger import open_ledger, postgresql

postgresql._OPTIONS["idle_in_transaction_session_timeout"] = 500
ledger = open_ledger(sys.argv[1])

def stop(host, request):
    print("stopping", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

try:
    ledger.live_migration_claim(sys.argv[2], ["B"], fit=stop)
except NumaferryError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
ledger.close()
"""


def test_a_transaction_of_a_stopped_process_is_ended(fleet, guest, where):
    """Its guest is locked meanwhile; when it goes on, it begins again and finds what was done in its place."""
    stopped = subprocess.Popen([sys.executable, "-c", STOPPED, where, guest.uuid], stdout=subprocess.PIPE, text=True)
    try:
        assert stopped.stdout.readline() == "stopping\n"
        began = time.monotonic()
        claim = fleet.live_migration_claim(guest.uuid, ["B"])
        assert time.monotonic() - began < 10
        os.kill(stopped.pid, signal.SIGCONT)
        out, _ = stopped.communicate(timeout=60)
    finally:
        stopped.kill()
        stopped.wait()
    assert out == f"Conflict: db1 is being moved to B by migration {claim.migration.id} (accepted)\n"
    assert len(fleet.migrations()) == 1


def test_a_process_that_is_killed_in_the_middle_leaves_nothing(fleet, guest, where):
    killed = subprocess.Popen([sys.executable, "-c", STOPPED, where, guest.uuid], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "stopping\n"
    killed.kill()
    killed.communicate()
    assert fleet.live_migration_claim(guest.uuid, ["B"]).migration.dest == "B"
    assert len(fleet.migrations()) == 1
