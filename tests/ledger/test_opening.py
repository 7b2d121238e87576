"""Opening a ledger in SQLite: where it is, whose it is, and what is said when it can't be used."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from sqlalchemy import event

from numaferry.errors import LedgerUnusable
from numaferry.ledger import open_ledger, sqlite
from numaferry.ledger.location import ledger_location


@pytest.fixture
def dialect():
    return "sqlite"


def test_the_file_and_its_log_are_the_owners_alone(ledger, path):
    assert path.exists()
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_ledger_keeps_its_id(ledger, path):
    again = open_ledger(str(path))
    assert again.ledger_id == ledger.ledger_id
    again.close()


def test_writes_are_durable_and_keys_are_kept(ledger):
    with ledger._write() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]


@pytest.mark.parametrize("form", ["{path}", "sqlite:///{path}", "sqlite+pysqlite:///{path}"])
def test_a_path_and_a_url_name_the_same_ledger(ledger, path, form):
    again = open_ledger(form.format(path=path))
    assert again.ledger_id == ledger.ledger_id
    again.close()


def test_the_environment_names_the_ledger_and_xdg_its_default(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMAFERRY_DB", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ledger_location().path == tmp_path / "numaferry" / "ledger.sqlite"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert ledger_location().path.is_absolute()
    monkeypatch.setenv("NUMAFERRY_DB", str(tmp_path / "mine"))
    assert ledger_location().path == tmp_path / "mine"
    assert ledger_location("sqlite:////else/where").path == Path("/else/where")


@pytest.mark.parametrize("url", ["postgresql://root:secret@db", "sqlite://", "mysql+pymysql://root:secret@db/x"])
def test_another_database_is_refused_without_its_password(url):
    with pytest.raises(LedgerUnusable) as caught:
        open_ledger(url)
    assert "secret" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 9


def test_a_newer_ledger_is_refused(ledger, path, sql):
    sql.execute("UPDATE ledger SET schema_version = 99")
    with pytest.raises(LedgerUnusable, match="schema 99") as caught:
        open_ledger(str(path))
    assert "newer" in caught.value.hint


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "theirs.sqlite"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE songs (name TEXT)")
    theirs.close()
    with pytest.raises(LedgerUnusable, match="not a database of numaferry"):
        open_ledger(str(path))
    with sqlite3.connect(path) as theirs:
        assert [row[0] for row in theirs.execute("SELECT name FROM sqlite_master")] == ["songs"]
    theirs.close()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear ledger, " * 100)
    with pytest.raises(LedgerUnusable, match="not a database of numaferry"):
        open_ledger(str(path))


def test_a_directory_is_no_ledger(tmp_path):
    with pytest.raises(LedgerUnusable, match="can't be opened"):
        open_ledger(str(tmp_path))


def test_a_locked_ledger_says_so_and_may_be_tried_again(ledger, make, sql, monkeypatch, path):
    monkeypatch.setattr(sqlite, "PRAGMAS", ("PRAGMA foreign_keys = ON", "PRAGMA busy_timeout = 50"))
    impatient = open_ledger(str(path))
    sql.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnusable, match="is locked") as caught:
        make.host(impatient, "A")
    assert caught.value.retryable
    assert impatient.hosts() == ()  # readers are not in the way, nor is the writer in theirs
    sql.execute("ROLLBACK")
    make.host(impatient, "A")
    impatient.close()


def test_a_read_only_ledger_says_so(ledger, make):
    event.listen(ledger._engine, "connect", lambda raw, _record: raw.execute("PRAGMA query_only = ON").close())
    ledger._engine.dispose()
    with pytest.raises(LedgerUnusable, match="is read-only") as caught:
        make.host(ledger, "A")
    assert not caught.value.retryable


def test_a_full_disk_says_so_and_leaves_nothing_half_done(fleet, make):
    """SQLite's own error for a full disk, raised by a limit on its pages."""

    def no_room(raw, _record):
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count = {pages}").close()

    event.listen(fleet._engine, "connect", no_room)
    fleet._engine.dispose()
    added = []

    def fill():
        while len(added) < 200:
            host = make.host(fleet, f"H{len(added)}", notation="16 cells x 8 cores x 2 threads, 64G, 2M:1024")
            added.append(host.name)

    with pytest.raises(LedgerUnusable, match="disk is full"):
        fill()
    assert {host.name for host in fleet.hosts()} == {"A", "B", *added}
    assert len(fleet.events()) == 2 + len(added)


def test_ledgers_that_open_a_new_file_at_once_agree_on_it(tmp_path):
    """Several commands started together on a fresh machine: one makes the schema, the others find it."""
    path = tmp_path / "new" / "ledger.sqlite"
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                open_ledger(str(path)).close()
                os._exit(0)
            except BaseException:  # noqa: BLE001  (the parent asserts on the exit status alone)
                os._exit(1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0, 0]
