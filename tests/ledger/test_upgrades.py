# ruff: noqa: S608  (no word of these statements comes from outside this module)
"""Upgrading a ledger from every released schema: nothing is lost, nothing differs from a new one, all or nothing.

Schema 1 was released in SQLite alone, and most tests are about its file. The last part runs the same steps in
PostgreSQL, on the tables of schema 1 as they would have been there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sqlite3
import stat
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, Integer, create_engine, event, insert, inspect, select
from sqlalchemy.engine import make_url

from numaferry.errors import Conflict, LedgerUnusable, NotFound, RefusedError
from numaferry.ledger import open_ledger, sqlite
from numaferry.ledger.schema import SCHEMA_VERSION
from numaferry.ledger.upgrades import backup, schema_1, steps, upgrade, upgrade_ledger
from numaferry.ledger.usage import host_usage
from numaferry.model import CpuSet, MigrationStatus, MigrationType

#: A ledger as schema 1 left it: hosts A, B and C (not confirmed); db1 moved from A to B; db2's move was refused; db3 is
#: on its way from A to B; web floats on B, where a stranger is seen on CPU 4.
DUMP = (Path(__file__).parent / "data" / "schema-1.sql").read_text(encoding="utf-8")
DB1, DB2, DB3, WEB = (f"00000000-0000-4000-8000-{number:012d}" for number in (1, 2, 3, 4))
#: Tables and indexes of alembic's own, which a ledger must not be left with.
FOREIGN = re.compile("alembic")


def restore(path, dump=DUMP):
    """Write a ledger from a dump, as the numaferry of its time had it on disk."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(dump)
    path.chmod(0o600)
    return path


@pytest.fixture
def old(path):
    """A ledger of schema 1."""
    return restore(path)


def content(path):
    """All that a database says of itself: every definition and every row, as text."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(connection.iterdump())


def rows(path):
    """Every row of every table by column, in the order in which they were written."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: list(map(dict, connection.execute(f"SELECT * FROM {name} ORDER BY rowid"))) for name in names}


@pytest.fixture
def upgraded(old):
    """The same ledger after the upgrade, open."""
    upgrade_ledger(str(old))
    opened = open_ledger(str(old))
    yield opened
    opened.close()


# -- the schema is the one of a new ledger ---------------------------------------------------------------------------


def described(engine):
    """What the database says of its tables, sorted where order means nothing; columns stay in their order."""
    inspector = inspect(engine)
    lists = {
        "foreign keys": inspector.get_foreign_keys,
        "unique": inspector.get_unique_constraints,
        "check": inspector.get_check_constraints,
        "indexes": inspector.get_indexes,
    }
    found = {}
    for name in inspector.get_table_names():
        found[name, "columns"] = [{**column, "type": str(column["type"])} for column in inspector.get_columns(name)]
        found[name, "primary key"] = inspector.get_pk_constraint(name)
        for kind, ask in lists.items():
            found[name, kind] = sorted(map(repr, map(plain, ask(name))))
    return found


def plain(value):
    """Return a value without identity: the filter of an index is compared by its text."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in sorted(value.items())}
    return value if isinstance(value, (str, int, list, tuple, type(None))) else str(value)


def described_file(path):
    """The same of a file, with what SQLAlchemy does not reflect: triggers, and whose ids are never used again."""
    engine = create_engine(f"sqlite:///{path}")
    found = described(engine)
    engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
            assert not FOREIGN.search(name), "alembic leaves nothing behind"
            if kind == "trigger":
                found[name, kind] = sql
            found[name, "counts on"] = "AUTOINCREMENT" in (sql or "")
    return found


def test_an_upgraded_ledger_has_the_schema_of_a_new_one(upgraded, old, tmp_path):
    """No difference is allowed: the order of constraints and the layout of the text are not compared."""
    open_ledger(str(tmp_path / "new.sqlite")).close()
    new = described_file(tmp_path / "new.sqlite")
    assert described_file(old) == new
    assert new["claim_added", "trigger"]
    assert new["event", "counts on"]
    assert len(new["migration", "check"]) == 2, "constraints are found"


def test_what_a_step_knows_of_schema_1_is_what_was_released(old, tmp_path):
    """The frozen tables against the dump, which the released numaferry wrote."""
    engine = create_engine(f"sqlite:///{tmp_path / 'frozen.sqlite'}")
    with engine.begin() as connection:
        steps.run_steps(connection, 0, 1)
    frozen = described(engine)
    engine.dispose()
    released = described_file(old)
    assert frozen == {what: found for what, found in released.items() if what in frozen}
    assert {name for name, kind in released if kind == "columns"} == set(schema_1.metadata.tables)


def test_every_schema_number_has_a_step():
    files = sorted((steps.FOLDER / "versions").glob("[0-9]*.py"))
    assert [int(file.name[:4]) for file in files] == list(range(1, SCHEMA_VERSION + 1))
    assert len(steps.steps_between(0, SCHEMA_VERSION)) == SCHEMA_VERSION
    assert steps.steps_between(SCHEMA_VERSION, SCHEMA_VERSION) == ()


def test_steps_import_nothing_that_changes():
    """A released step must do the same for ever: it may name frozen tables, and nothing else of ours."""
    for file in (*(steps.FOLDER / "versions").glob("*.py"), steps.FOLDER / "schema_1.py"):
        imports = re.findall(r"(?m)^(?:from|import) (numaferry\S*)(?: import (.*))?$", file.read_text(encoding="utf-8"))
        assert set(imports) <= {("numaferry.ledger.upgrades", "schema_1")}, file.name


# -- every row survives ----------------------------------------------------------------------------------------------


def test_every_row_survives_and_says_the_same(old, path):
    before = rows(old)
    assert all(before[table] for table in schema_1.metadata.tables), "the dump has rows in every table"
    upgrade_ledger(str(old))
    after = rows(old)
    for host in before["host"]:
        assert '"boot_id":"",' in host["facts_json"]
        host["facts_json"] = host["facts_json"].replace('"boot_id":"",', "")
    for move, now in zip(before["migration"], after["migration"], strict=True):
        # the limit of the bandwidth is a part of the policy now
        limit = move.pop("bandwidth_mib_s")
        assert json.loads(now["policy_json"]) == ({"bandwidth_mib_s": limit} if limit else {})
    before["ledger"][0]["schema_version"] = 2
    told = after["event"].pop()
    for sequence in before["sqlite_sequence"]:
        sequence["seq"] += sequence["name"] == "event"
    assert (told["id"], told["kind"]) == (16, "ledger-upgraded")
    assert "schema 1 upgraded to 2" in told["sentence"]
    for table, were in before.items():
        are = [{column: row[column] for column in were[0]} for row in after[table]]
        assert are == were, table


def test_what_is_new_has_a_value_that_means_nothing_happened(old):
    upgrade_ledger(str(old))
    now = rows(old)
    assert {(row["migration_type"], row["token"], row["lease_until"]) for row in now["migration"]} == {
        ("live-migration", 0, 0.0)
    }
    assert {row["gone_since"] for row in now["instance"]} == {None}
    assert {row["key"] for row in now["event"]} == {None}
    assert not any(now[table] for table in ("device", "claim_device", "claim_device_link", "controller"))


def test_an_upgraded_ledger_says_what_it_said(upgraded):
    """By the API, which reads every stored value."""
    assert [(host.name, host.confirmed, host.facts.uptime_s) for host in upgraded.hosts()] == [
        ("A", True, 0),
        ("B", True, 0),
        ("C", False, 0),
    ]
    assert {one.name: one.host for one in upgraded.instances()} == {"db1": "B", "db2": "A", "db3": "A", "web": "B"}
    assert upgraded.instance("db1").numa_topology.owned_cpus == CpuSet.parse("2-3")
    assert [(move.id, move.status) for move in upgraded.migrations()] == [
        (1, MigrationStatus.COMPLETED),
        (2, MigrationStatus.FAILED),
        (3, MigrationStatus.PREPARING),
    ]
    assert upgraded.migration(3).migration_type is MigrationType.LIVE_MIGRATION
    assert upgraded.instance("db3").migration_context == upgraded.migration(3).context
    assert upgraded.host_state("B").cells[1].pinned == CpuSet.parse("4,6-7"), "claims, and the stranger"
    assert host_usage(upgraded, "A").cell(1).outgoing.pages == ((2048, 32),)
    assert [seen.kind for seen in upgraded.findings("B")] == ["overfull"]
    assert len(upgraded.events()) == 16
    assert upgraded.explain_host("B").pools


def test_ids_go_on_where_they_were(upgraded):
    upgraded.drop_move_claim(3, MigrationStatus.FAILED, "by hand")
    assert upgraded.live_migration_claim(DB2, ["B"]).migration.id == 4
    assert min(one.id for one in upgraded.events(after=16)) == 17


# -- what was in progress goes on ------------------------------------------------------------------------------------


def used(ledger):
    """What capacity says is used, and what the claims add up to; they must be the same."""
    with ledger._read() as connection:
        counted = connection.exec_driver_sql(
            "SELECT c.host_id, c.cell, c.resource, c.used, coalesce((SELECT sum(amount) FROM claim_amount AS a"
            " WHERE a.host_id = c.host_id AND a.resource = c.resource AND (a.cell = c.cell OR c.cell = -1)), 0)"
            " FROM capacity AS c"
        ).all()
    assert all(row[3] == row[4] for row in counted)
    return {row[:3]: row[3] for row in counted if row[3]}


def test_a_move_that_was_under_way_is_taken_by_a_controller_and_confirmed(upgraded):
    before = used(upgraded)
    taken = upgraded.take_lease(3, "new:1:1.1", 60, grace_s=30, key="a key")
    assert (taken.token, taken.controller) == (1, "new:1:1.1")
    upgraded.confirm_migration(3, status=MigrationStatus.COMPLETED, token=1)
    moved = upgraded.instance("db3")
    assert (moved.host, moved.numa_topology.owned_cpus) == ("B", CpuSet.parse("6-7"))
    assert used(upgraded) == {**before, (1, 1, "page:2048"): 32}


def test_a_move_that_was_under_way_can_be_given_up(upgraded):
    upgraded.take_lease(3, "new:1:1.1", 60, grace_s=30, key="a key")
    upgraded.drop_move_claim(3, MigrationStatus.CANCELLED, "not wanted any more", token=1)
    assert upgraded.instance("db3").host == "A"
    assert (2, 1, "page:2048") not in used(upgraded)
    assert upgraded.live_migration_claim(DB3, ["B"]).instance.name == "db3"


def test_a_move_that_an_old_controller_drives_is_free_by_time(upgraded, old):
    """The lease of a controller that knew of none ran out in 1970; its name has no engine's number."""
    with upgraded._write() as connection:
        connection.exec_driver_sql("UPDATE migration SET controller = 'elsewhere:77:12345' WHERE id = 3")
    assert upgraded.take_lease(3, "new:1:1.1", 60, grace_s=30, key="a key").token == 1


# -- the invariants hold, by raw SQL ---------------------------------------------------------------------------------

CLAIM = (
    "INSERT INTO claim (id, instance_uuid, host_id, slot, migration_id, numa_topology_json, pci_devices_json,"
    " vifs_json, promise, cause, created_at) VALUES ('x', '{}', {}, 1, {}, 'null', '[]', '[]', 'kept', 'by hand', 0)"
)
DB3_MOVE = "(SELECT id FROM claim WHERE migration_id = 3)"
DB2_ROW = f"(SELECT current_claim FROM instance WHERE uuid = '{DB2}')"


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        (f"INSERT INTO claim_cpu VALUES (1, 4, '{WEB}', 'vcpu')", "UNIQUE constraint failed: claim_cpu"),
        (f"INSERT INTO claim_cpu VALUES (1, 0, '{WEB}', 'vcpu')", "cpu-not-dedicated"),
        (f"INSERT INTO claim_cpu VALUES (2, 4, '{WEB}', 'vcpu')", "cpu-observed"),
        (f"INSERT INTO claim_cpu_link VALUES ({DB2_ROW}, 1, 6, '{DB2}')", "FOREIGN KEY"),
        (f"INSERT INTO claim_amount VALUES ({DB2_ROW}, 0, 'page:2048', 129, 1, 1, '{DB2}')", "capacity-exceeded"),
        (f"INSERT INTO claim_amount VALUES ({DB2_ROW}, 9, 'page:2048', 1, 1, 1, '{DB2}')", "capacity-unknown"),
        (f"INSERT INTO claim_device VALUES (1, 'pci:0000:81:00.1', '{DB2}')", "device-unknown"),
        ("UPDATE claim SET host_id = 2", "claim-edited"),
        ("UPDATE claim_cpu_link SET cpu = 2", "claim-edited"),
        ("UPDATE claim SET slot = 2", "claim-edited"),
        (CLAIM.format(DB2, 2, "NULL"), "claim-without-migration"),
        (CLAIM.format(DB2, 2, 2), "claim-without-migration"),
        (CLAIM.format(DB3, 2, 3), "claim-without-migration"),
        (CLAIM.format("nobody", 1, 3), "UNIQUE constraint failed: claim.migration_id"),
        (f"UPDATE instance SET current_claim = {DB3_MOVE} WHERE uuid = '{DB3}'", "claim-left-behind"),
        ("UPDATE migration SET status = 'failed' WHERE id = 3", "claim-leaked"),
        ("UPDATE migration SET token = -1 WHERE id = 3", "token-lowered"),
        ("UPDATE migration SET migration_type = 'cold' WHERE id = 3", "CHECK"),
        (f"UPDATE migration SET status = 'running', instance_uuid = '{DB3}' WHERE id = 2", r"migration\.instance_uuid"),
        ("DELETE FROM migration", "migration-deleted"),
        ("UPDATE event SET sentence = 'nothing happened'", "history-edited"),
        ("DELETE FROM event", "history-edited"),
        ("DELETE FROM host WHERE name = 'A'", "FOREIGN KEY"),
    ],
)  # fmt: skip
def test_the_promises_are_kept_by_the_upgraded_schema(old, statement, refusal):
    upgrade_ledger(str(old))
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as sql:
        sql.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError, match=refusal):
            sql.execute(statement)


def test_a_guest_may_be_pinned_anew_on_its_host(upgraded):
    """What schema 1 had no room for: a second claim of one guest on one host."""
    claim = upgraded.repin_claim(DB2)
    assert claim.migration.source == claim.migration.dest == "A"
    upgraded.drop_move_claim(claim.migration.id, MigrationStatus.CANCELLED, "only tried")


# -- the backup ------------------------------------------------------------------------------------------------------


def test_the_backup_is_the_ledger_as_it_was_and_its_owners_alone(old):
    before = content(old)
    done = upgrade_ledger(str(old))
    assert (done.before, done.after, done.ledger) == (1, 2, str(old))
    assert done.backup == f"{old}.schema-1"
    assert content(done.backup) == before
    assert stat.S_IMODE(Path(done.backup).stat().st_mode) == 0o600
    assert {file.name for file in old.parent.iterdir()} == {"ledger.sqlite", "ledger.sqlite.schema-1"}


def test_a_backup_is_never_overwritten(old):
    """The way back and forth: a restored ledger is upgraded again, and both copies are kept."""
    first = Path(upgrade_ledger(str(old)).backup)
    before = first.read_bytes()
    old.write_bytes(before)
    second = upgrade_ledger(str(old)).backup
    old.write_bytes(before)
    third = upgrade_ledger(str(old)).backup
    assert (second, third) == (f"{old}.schema-1.2", f"{old}.schema-1.3")
    assert first.read_bytes() == before
    open_ledger(str(old)).close()


def test_a_restored_backup_is_written_ahead_as_before(old):
    with contextlib.closing(sqlite3.connect(upgrade_ledger(str(old)).backup)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_stands_in_the_log_is_in_the_backup(old):
    """A numaferry that was killed leaves its last commits beside the file."""
    child = os.fork()
    if child == 0:
        connection = sqlite3.connect(old)
        connection.execute("INSERT INTO event (at, kind, sentence) VALUES (1, 'late', 'just before the end')")
        connection.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert Path(f"{old}-wal").stat().st_size
    done = upgrade_ledger(str(old))
    assert [row["kind"] for row in rows(done.backup)["event"]][-1] == "late"
    assert [row["kind"] for row in rows(old)["event"]][-2:] == ["late", "ledger-upgraded"]


# -- what is not upgraded --------------------------------------------------------------------------------------------


def refused(path, error, match):
    """The upgrade refuses with a hint, and neither the ledger nor its folder is changed."""
    before, files = content(path), sorted(path.parent.iterdir())
    with pytest.raises(error, match=match) as caught:
        upgrade_ledger(str(path))
    assert caught.value.hint
    assert content(path) == before
    assert sorted(path.parent.iterdir()) == files
    return caught.value


def test_a_ledger_of_this_schema_is_left_as_it_is_even_while_it_is_used(path):
    used_by_another = open_ledger(str(path))
    before = content(path)
    assert upgrade_ledger(str(path)) == upgrade.LedgerUpgrade(str(path), SCHEMA_VERSION, SCHEMA_VERSION)
    assert content(path) == before
    used_by_another.close()
    assert not list(path.parent.glob("*.schema-*"))


def test_an_upgraded_ledger_is_not_upgraded_again(old):
    upgrade_ledger(str(old))
    before = content(old)
    assert upgrade_ledger(str(old)).backup is None
    assert content(old) == before


def test_a_ledger_that_is_not_upgraded_is_not_opened_and_the_command_is_named(old):
    before = content(old)
    with pytest.raises(LedgerUnusable, match="has schema 1, this numaferry needs 2") as caught:
        open_ledger(str(old))
    assert caught.value.code == "ledger-old"
    assert "numaferry ledger upgrade" in caught.value.hint
    assert content(old) == before


def test_a_newer_ledger_is_refused(path):
    newer = restore(path, DUMP.replace('INSERT INTO "ledger" VALUES(1,1,', 'INSERT INTO "ledger" VALUES(1,99,'))
    assert "newer" in refused(newer, LedgerUnusable, "schema 99").hint


def test_another_programs_database_is_refused(path):
    theirs = restore(path, "CREATE TABLE songs (name TEXT); INSERT INTO songs VALUES ('x')")
    refused(theirs, LedgerUnusable, "not a database of numaferry")


def test_where_no_ledger_is_none_is_made(tmp_path):
    with pytest.raises(NotFound, match="no ledger at") as caught:
        upgrade_ledger(str(tmp_path / "absent.sqlite"))
    assert "--db" in caught.value.hint
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(NotFound, match="no ledger at"):
        upgrade_ledger(str(tmp_path / "empty.sqlite"))
    assert [file.name for file in tmp_path.iterdir()] == ["empty.sqlite"]


@pytest.mark.parametrize("busy", [False, True])
def test_a_ledger_that_another_has_open_is_refused(old, monkeypatch, busy):
    """An older numaferry that has it open would go on by the old schema, idle as it may be at this moment."""
    monkeypatch.setattr(upgrade, "WAIT_S", 0.2)
    before = content(old)
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("SELECT count(*) FROM host").fetchall()
        if busy:
            other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Conflict, match="is in use") as caught:
            upgrade_ledger(str(old))
    assert (caught.value.code, caught.value.exit_code) == ("ledger-in-use", 3)
    assert "stop every controller" in caught.value.hint
    assert content(old) == before
    assert upgrade_ledger(str(old)).after == 2


def test_a_command_that_is_about_to_end_is_waited_for(old, monkeypatch):
    other = sqlite3.connect(old, isolation_level=None)
    other.execute("SELECT count(*) FROM host").fetchall()
    monkeypatch.setattr(upgrade.time, "sleep", lambda _pause: other.close())
    assert upgrade_ledger(str(old)).after == 2


def test_nobody_opens_the_ledger_while_it_is_upgraded(old, monkeypatch):
    met = []

    def look(connection, found):
        with contextlib.closing(sqlite3.connect(old, timeout=0)) as other, pytest.raises(sqlite3.OperationalError) as e:
            other.execute("SELECT count(*) FROM host").fetchall()
        met.append(e.value.sqlite_errorname)
        steps.bring_up(connection, found)

    monkeypatch.setattr(upgrade, "bring_up", look)
    assert upgrade_ledger(str(old)).after == 2
    assert met == ["SQLITE_BUSY"]


def test_upgrades_at_once_make_one_backup_and_agree(old):
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if upgrade_ledger(str(old)).after == 2 else 2)
            except BaseException:  # noqa: BLE001  (the parent asserts on the exit status alone)
                os._exit(1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0, 0]
    assert [file.name for file in old.parent.glob("*.schema-*")] == ["ledger.sqlite.schema-1"]
    open_ledger(str(old)).close()


def test_a_ledger_whose_rows_refer_to_nothing_is_told_and_left(old):
    with contextlib.closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("DELETE FROM host WHERE name = 'C'")
        connection.execute("UPDATE finding SET host_id = 3")
    before = content(old)
    with pytest.raises(LedgerUnusable, match="1 rows of finding refer to rows that are not there"):
        upgrade_ledger(str(old))
    assert content(old) == before


def test_a_damaged_ledger_is_not_upgraded(old):
    """A page of a table that no reader of the schema looks at is overwritten."""
    with contextlib.closing(sqlite3.connect(old)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'finding'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    raw = bytearray(old.read_bytes())
    raw[(page - 1) * size : page * size] = b"\xff" * size
    old.write_bytes(raw)
    with pytest.raises(LedgerUnusable, match="is damaged"):
        upgrade_ledger(str(old))
    assert old.read_bytes() == raw
    assert not list(old.parent.glob("*.schema-*"))


# -- all or nothing --------------------------------------------------------------------------------------------------


class Cut(Exception):
    """What the tests raise in the middle."""


@contextlib.contextmanager
def at_statement(number, act):
    """Call `act` before the statement of this number that any engine runs; counts them all."""
    seen = Counter()

    def hook(*_given):
        seen["statements"] += 1
        if seen["statements"] == number:
            act()

    event.listen(Engine, "before_cursor_execute", hook)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", hook)


def cut():
    raise Cut


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def statements_of_an_upgrade(path):
    with at_statement(0, cut) as seen:
        upgrade_ledger(str(path))
    return seen["statements"]


def test_an_upgrade_that_fails_at_any_statement_changes_nothing(old, tmp_path):
    before = content(old)
    count = statements_of_an_upgrade(restore(tmp_path / "counted.sqlite"))
    assert count > 60
    for number in range(1, count + 1):
        with at_statement(number, cut), pytest.raises(Cut):
            upgrade_ledger(str(old))
        assert content(old) == before, number
        for copy in old.parent.glob("*.schema-1*"):
            assert not copy.name.endswith(".part")
            copy.unlink()
    assert upgrade_ledger(str(old)).after == 2
    open_ledger(str(old)).close()


def in_child(act):
    """Run `act` in a child process; return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001  (the parent asserts on the exit status alone)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(path, number):
    with at_statement(number, kill):
        upgrade_ledger(str(path), has_backup=True)


def test_an_upgrade_that_is_killed_changes_nothing_and_can_be_run_again(old, tmp_path):
    before = content(old)
    count = statements_of_an_upgrade(restore(tmp_path / "counted.sqlite"))
    # from the first statement of the steps to the last before the commit
    for number in range(count, count // 3, -9):
        assert in_child(lambda number=number: killed_at(old, number)) == -signal.SIGKILL
        assert content(old) == before, number
    backups = list(old.parent.glob("*.schema-1*"))
    assert len(backups) > 1
    assert all(content(copy) == before for copy in backups)
    done = upgrade_ledger(str(old))
    assert (done.before, done.after) == (1, 2)
    assert content(done.backup) == before
    open_ledger(str(old)).close()


def test_a_backup_that_is_killed_is_thrown_away_by_the_next(old, monkeypatch):
    before = content(old)
    monkeypatch.setattr(backup, "_sync", lambda _path: kill())
    assert in_child(lambda: upgrade_ledger(str(old))) == -signal.SIGKILL
    assert Path(f"{old}.schema-1.part").exists()
    assert content(old) == before
    monkeypatch.undo()
    done = upgrade_ledger(str(old))
    assert content(done.backup) == before
    assert {file.name for file in old.parent.iterdir()} == {"ledger.sqlite", "ledger.sqlite.schema-1"}


def test_a_full_disk_leaves_the_ledger_as_it_was(old, monkeypatch):
    """SQLite's own error for a full disk, raised by a limit on the ledger's pages."""
    before = content(old)
    with contextlib.closing(sqlite3.connect(old)) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    monkeypatch.setattr(sqlite, "PRAGMAS", (*sqlite.PRAGMAS, f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(LedgerUnusable, match="disk is full"):
        upgrade_ledger(str(old))
    assert content(old) == before
    monkeypatch.undo()
    assert upgrade_ledger(str(old)).after == 2


def test_a_disk_that_is_full_before_the_backup_is_whole_leaves_no_backup(old):
    before = content(old)

    def squeezed():
        resource.setrlimit(resource.RLIMIT_FSIZE, (old.stat().st_size // 2,) * 2)
        with pytest.raises(LedgerUnusable) as caught:
            upgrade_ledger(str(old))
        assert caught.value.hint

    assert in_child(squeezed) == 0
    assert content(old) == before
    assert not list(old.parent.glob("*.schema-*"))


def test_a_folder_that_may_not_be_written_is_told(old, monkeypatch):
    def not_here(*_given):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(backup.os, "open", not_here)
    monkeypatch.setattr(sqlite, "_create_file", lambda *_given: None)
    error = refused(old, LedgerUnusable, r"can't be copied, so it was not upgraded \(Permission denied\)")
    assert "room" in error.hint


# -- PostgreSQL ------------------------------------------------------------------------------------------------------

#: Rules that stood on schema 1's tables under names that no later schema knows.
FORMER_TRIGGER = (
    "CREATE FUNCTION claim_amount_limit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    "CREATE TRIGGER claim_amount_limit BEFORE INSERT ON claim_amount EXECUTE FUNCTION claim_amount_limit()",
)
#: What PostgreSQL says of constraints, indexes, triggers, functions and sequences, each as text.
CATALOGUE = {
    "constraint": "SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace AND contype <> 'n'",
    "index": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "trigger": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "function": "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "sequence": "SELECT sequencename, data_type FROM pg_sequences WHERE schemaname = 'public'",
}


@contextlib.contextmanager
def server(url):
    """An engine of SQLAlchemy for a database, without the settings of a ledger."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        yield engine
    finally:
        engine.dispose()


def described_database(url):
    with server(url) as engine:
        found = described(engine)
        with engine.begin() as connection:
            for kind, query in CATALOGUE.items():
                found |= {(name, kind): text for name, text in connection.exec_driver_sql(query)}
    return found


def rows_of_database(url):
    """Every row of every table, ordered by its text."""
    with server(url) as engine, engine.begin() as connection:
        names = inspect(connection).get_table_names()
        return {
            name: sorted(connection.exec_driver_sql(f"SELECT to_json(t)::text FROM {name} AS t").scalars())
            for name in names
        }


@pytest.fixture
def old_database(new_database, old):
    """A database with the tables and rows of the dump, and a trigger of its time."""
    url = new_database()
    file = create_engine(f"sqlite:///{old}")
    with server(url) as engine, engine.begin() as to, file.begin() as source:
        steps.run_steps(to, 0, 1)
        for table in schema_1.metadata.sorted_tables:
            to.execute(insert(table), [dict(row._mapping) for row in source.execute(select(table))])
            if table.c.keys()[0] == "id" and isinstance(table.c.id.type, Integer) and table.name != "ledger":
                to.exec_driver_sql(f"SELECT setval('{table.name}_id_seq', (SELECT max(id) FROM {table.name}))")
        for statement in FORMER_TRIGGER:
            to.exec_driver_sql(statement)
    file.dispose()
    return url


def test_an_upgraded_database_has_the_schema_of_a_new_one(old_database, new_database):
    """No difference is allowed here either; names of constraints and sequences are compared too."""
    done = upgrade_ledger(old_database, has_backup=True)
    assert (done.before, done.after, done.backup) == (1, 2, None)
    fresh = new_database()
    open_ledger(fresh).close()
    new = described_database(fresh)
    assert described_database(old_database) == new
    assert {kind for _, kind in new} >= set(CATALOGUE)
    assert ("claim_amount_limit", "trigger") not in new


def test_a_database_keeps_its_rows_and_its_move_goes_on(old_database):
    before = rows_of_database(old_database)
    upgrade_ledger(old_database, has_backup=True)
    after = rows_of_database(old_database)
    assert {name: len(found) + (name == "event") for name, found in before.items()} == {
        name: len(found) for name, found in after.items() if name in before
    }
    for name in set(before) - {"ledger", "host", "event", "instance", "migration"}:
        assert after[name] == before[name], name
    opened = open_ledger(old_database)
    assert [one.id for one in opened.events()] == list(range(1, 17))
    assert opened.take_lease(3, "new:1:1.1", 60, grace_s=30, key="a key").token == 1
    opened.confirm_migration(3, status=MigrationStatus.COMPLETED, token=1)
    assert opened.instance("db3").host == "B"
    used(opened)
    assert opened.live_migration_claim(WEB, ["A"]).migration.id == 4
    opened.close()


def test_a_database_without_a_backup_is_left_and_pg_dump_is_named(old_database):
    before = rows_of_database(old_database)
    with pytest.raises(RefusedError, match="would go from schema 1 to 2") as caught:
        upgrade_ledger(old_database)
    assert (caught.value.code, caught.value.exit_code) == ("backup-first", 3)
    assert "pg_dump" in caught.value.hint
    assert "--yes" in caught.value.hint
    assert make_url(old_database).password not in str(caught.value)
    assert rows_of_database(old_database) == before


def test_an_old_database_is_not_opened(old_database):
    with pytest.raises(LedgerUnusable, match="has schema 1") as caught:
        open_ledger(old_database)
    assert caught.value.code == "ledger-old"


@pytest.mark.parametrize("has_backup", [False, True])
def test_a_database_of_this_schema_is_left_as_it_is(ledger_database, has_backup):
    used_by_another = open_ledger(ledger_database)
    before = rows_of_database(ledger_database)
    done = upgrade_ledger(ledger_database, has_backup=has_backup)
    assert (done.before, done.after) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert make_url(ledger_database).password not in done.ledger
    assert rows_of_database(ledger_database) == before
    used_by_another.close()


def test_a_database_that_another_numaferry_has_open_is_refused(old_database):
    before = rows_of_database(old_database)
    with psycopg.connect(old_database, application_name="numaferry"):
        with pytest.raises(Conflict, match=r"1 connections of numaferry, from 127\.0\.0\.1") as caught:
            upgrade_ledger(old_database, has_backup=True)
        assert caught.value.code == "ledger-in-use"
    assert rows_of_database(old_database) == before
    with psycopg.connect(old_database, application_name="psql"):
        assert upgrade_ledger(old_database, has_backup=True).after == 2


def test_a_database_upgrade_that_is_cut_off_changes_nothing(old_database):
    """Here and there on the way; the server rolls all of it back, whether it is told to or loses the connection."""
    before = rows_of_database(old_database), described_database(old_database)
    number, left = 20, False
    while not left:
        with at_statement(number, cut):
            try:
                left = upgrade_ledger(old_database, has_backup=True).after == 2
            except Cut:
                assert in_child(lambda number=number: killed_at(old_database, number)) == -signal.SIGKILL
                assert (rows_of_database(old_database), described_database(old_database)) == before, number
                number += 20
    assert number >= 80
    open_ledger(old_database).close()


def test_another_programs_database_and_an_empty_one_are_left(new_database):
    url = new_database()
    with pytest.raises(NotFound, match="no ledger at"):
        upgrade_ledger(url, has_backup=True)
    with psycopg.connect(url) as theirs:
        theirs.execute("CREATE TABLE songs (name text)")
    with pytest.raises(LedgerUnusable, match="not a database of numaferry"):
        upgrade_ledger(url, has_backup=True)
    assert rows_of_database(url) == {"songs": []}


def test_triggers_of_another_program_beside_the_ledger_are_left(old_database):
    """Its tables may stand in the same schema of the database."""
    theirs = [statement.replace("claim_amount", "songs") for statement in FORMER_TRIGGER]
    with psycopg.connect(old_database) as connection:
        connection.execute("CREATE TABLE songs (name text)")
        for statement in theirs:
            connection.execute(statement)
    upgrade_ledger(old_database, has_backup=True)
    assert ("songs_limit", "trigger") in described_database(old_database)
