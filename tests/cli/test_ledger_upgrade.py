"""`numaferry ledger upgrade`: what it prints, what it ends with, and that what an older numaferry left goes on."""

import contextlib
import sqlite3
import stat
from pathlib import Path

import pytest
from cli_world import guest_xml
from sqlalchemy import create_engine, insert
from sqlalchemy.engine import make_url

from numaferry.ledger import upgrades
from numaferry.ledger.upgrades import schema_1, steps

DUMP = (Path(__file__).parents[1] / "ledger" / "data" / "schema-1.sql").read_text(encoding="utf-8")
DB3 = "00000000-0000-4000-8000-000000000003"


def restore(world, dump=DUMP):
    with contextlib.closing(sqlite3.connect(world.db)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(dump)


@pytest.fixture
def old(world):
    """A world whose ledger is one of schema 1."""
    restore(world)
    return world


def told(ran):
    """The two lines of an error."""
    error, hint = ran.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return error, hint


def test_every_other_command_names_this_one(old):
    for words in (("host", "list"), ("instance", "list"), ("migration", "recover"), ("audit",)):
        ran = old.run(*words)
        assert ran.code == 9
        error, hint = told(ran)
        assert "has schema 1, this numaferry needs 2" in error
        assert "numaferry ledger upgrade" in hint


def test_it_says_what_it_did_and_where_the_backup_is(old):
    assert old.ok("ledger", "upgrade") == f"ledger {old.db}: schema 1 → 2, backup at {old.db}.schema-1\n"
    assert stat.S_IMODE(Path(f"{old.db}.schema-1").stat().st_mode) == 0o600
    assert [host["name"] for host in old.told("host", "list")] == ["A", "B", "C"]
    assert old.ok("ledger", "upgrade") == f"ledger {old.db} has schema 2 already\n"
    assert old.ok("ledger", "upgrade", "--yes") == f"ledger {old.db} has schema 2 already\n"


def test_it_says_the_same_in_json(old):
    done = {"ledger": old.db, "before": 1, "after": 2, "backup": f"{old.db}.schema-1"}
    assert old.told("ledger", "upgrade") == done
    assert old.told("ledger", "upgrade") == {**done, "before": 2, "backup": None}


def test_a_ledger_that_is_in_use_is_left(old, monkeypatch):
    monkeypatch.setattr(upgrades.upgrade, "WAIT_S", 0)
    rows = old.rows()
    with contextlib.closing(sqlite3.connect(old.db)) as other:
        other.execute("SELECT count(*) FROM host").fetchall()
        ran = old.run("ledger", "upgrade")
    assert ran.code == 3
    error, hint = told(ran)
    assert "is in use" in error
    assert "stop every controller" in hint
    assert old.rows() == rows


def test_no_ledger_is_made(world):
    ran = world.run("ledger", "upgrade")
    assert ran.code == 2
    assert "there is no ledger at" in told(ran)[0]
    assert not Path(world.db).exists()


def test_a_server_s_ledger_is_upgraded_once_there_is_a_backup(world, new_database, monkeypatch):
    url = new_database()
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        steps.run_steps(connection, 0, 1)
        row = {"id": 1, "schema_version": 1, "ledger_id": "of a server", "created_at": 0.0}
        connection.execute(insert(schema_1.metadata.tables["ledger"]), row)
    engine.dispose()
    monkeypatch.setattr(type(world), "db", url)
    ran = world.run("ledger", "upgrade")
    assert ran.code == 3
    assert "pg_dump" in told(ran)[1]
    said = world.ok("ledger", "upgrade", "--yes")
    assert said.endswith(": schema 1 → 2\n")
    assert make_url(url).password not in ran.err + said
    assert world.ok("ledger", "upgrade").endswith(" has schema 2 already\n")
    assert world.told("host", "list") == []


def test_a_move_that_an_older_numaferry_left_is_recovered(world):
    """db3 was prepared and its controller died: it runs on the source, and its move is rolled back."""
    dump = DUMP
    for name, sim in (("A", "alpha"), ("B", "beta")):
        uuid = world.fleet.hypervisor(sim).facts().uuid
        dump = dump.replace(f"uuid-of-{name}", uuid).replace(f"test:///{name}", f"sim://cli/{sim}")
    xml = guest_xml("db3", [6, 7], [1, 1], memory_mib=32).replace("<metadata>", f"<uuid>{DB3}</uuid><metadata>")
    world.fleet.start_guest("alpha", xml)
    restore(world, dump)
    world.ok("ledger", "upgrade")
    (recovered,) = world.told("migration", "recover", "3")
    assert (recovered["outcome"], recovered["migration"]["status"]) == ("recovered", "failed")
    assert world.told("migration", "list", "--in-progress") == []
    assert {one["name"]: one["host"] for one in world.told("instance", "list")}["db3"] == "A"
