"""Raw SQL, past every API, tries to break what the schema promises: invariants 1, 2 and 4, and the history."""

from __future__ import annotations

import sqlite3

import pytest

from numaferry.model import MigrationStatus

CLAIM = (
    "INSERT INTO claim (id, instance_uuid, host_id, slot, migration_id, numa_topology_json, pci_devices_json,"
    " vifs_json, promise, cause, created_at) VALUES (?, ?, ?, ?, ?, 'null', '[]', '[]', 'kept', 'by hand', 0)"
)


def refused(sql, statement, values, message):
    with pytest.raises(sqlite3.IntegrityError, match=message):
        sql.execute(statement, values)


def one(sql, query, *values):
    return sql.execute(query, values).fetchone()[0]


@pytest.fixture
def guest(fleet, make):
    """A guest on A with CPUs 4-5."""
    return fleet.claim_instance(make.guest("db1", "A", "4-5")).instance


@pytest.fixture
def other(fleet, make):
    """A guest on A with CPUs 6-7."""
    return fleet.claim_instance(make.guest("web1", "A", "6-7")).instance


# -- 1: a dedicated CPU is promised to at most one instance ----------------------------------------------------------


def test_a_cpu_is_not_promised_to_a_second_instance(sql, guest, other):
    values = (1, 4, other.uuid)
    refused(sql, "INSERT INTO claim_cpu VALUES (?, ?, ?, 'vcpu')", values, "UNIQUE constraint failed: claim_cpu")


def test_a_claim_can_not_hold_another_instances_cpu(sql, guest, other):
    claim = one(sql, "SELECT current_claim FROM instance WHERE uuid = ?", other.uuid)
    refused(sql, "INSERT INTO claim_cpu_link VALUES (?, 1, 4, ?)", (claim, other.uuid), "FOREIGN KEY")
    refused(sql, "INSERT INTO claim_cpu_link VALUES (?, 1, 4, ?)", (claim, guest.uuid), "FOREIGN KEY")


def test_a_cpu_outside_the_dedicated_set_is_not_promised(sql, guest):
    refused(sql, "INSERT INTO claim_cpu VALUES (1, 0, ?, 'vcpu')", (guest.uuid,), "cpu-not-dedicated")
    refused(sql, "INSERT INTO claim_cpu VALUES (1, 99, ?, 'vcpu')", (guest.uuid,), "cpu-not-dedicated")


def test_a_cpu_that_another_domain_is_seen_on_is_not_promised(sql, fleet, guest, make):
    fleet.set_observed("A", (make.seen("stray", "3"),))
    refused(sql, "INSERT INTO claim_cpu VALUES (1, 3, ?, 'vcpu')", (guest.uuid,), "cpu-observed")


def test_a_cpu_has_a_role_that_is_known(sql, guest):
    refused(sql, "INSERT INTO claim_cpu VALUES (1, 3, ?, 'toy')", (guest.uuid,), "CHECK")


def test_a_cpu_is_free_once_no_claim_of_its_instance_holds_it(sql, guest):
    assert one(sql, "SELECT count(*) FROM claim_cpu") == 2
    sql.execute("DELETE FROM claim_cpu_link WHERE cpu = 5")
    assert [row[0] for row in sql.execute("SELECT cpu FROM claim_cpu")] == [4]


def test_two_claims_of_one_instance_may_hold_one_cpu(sql, fleet, guest):
    """What a re-pin within one host needs: the CPU stays promised until the last of both lets it go."""
    sql.execute("BEGIN")
    move = fleet_migration(sql, guest)
    sql.execute(CLAIM, ("second", guest.uuid, 2, 1, move))
    sql.execute("INSERT INTO claim_cpu VALUES (2, 3, ?, 'vcpu')", (guest.uuid,))
    sql.execute("INSERT INTO claim_cpu_link VALUES ('second', 2, 3, ?)", (guest.uuid,))
    sql.execute("COMMIT")
    assert one(sql, "SELECT count(*) FROM claim_cpu WHERE instance_uuid = ?", guest.uuid) == 3


# -- 2: capacity is never over-promised ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "resource", "exact", "room"),
    [
        (0, "page:2048", True, 128),
        (0, "memory_kib", True, 1280 * 1024 - 256 * 1024),
        (0, "memory_kib", False, 1280 * 1024 - 256 * 1024),
        (0, "vcpus", False, 32),
        (0, "vcpus", True, 2),
        (-1, "vcpus", False, 32),
        (-1, "memory_kib", False, 2048 * 1024),
    ],
)
def test_a_claim_takes_what_is_there_and_not_one_more(sql, guest, cell, resource, exact, room):  # noqa: PLR0917  (fixtures and a row of the table)
    claim = one(sql, "SELECT current_claim FROM instance WHERE uuid = ?", guest.uuid)
    row = "INSERT INTO claim_amount VALUES (?, ?, ?, ?, ?, 1, ?)"
    refused(sql, row, (claim, cell, resource, room + 1, exact, guest.uuid), "capacity-exceeded")
    sql.execute(row, (claim, cell, resource, room, exact, guest.uuid))
    used = "SELECT used FROM capacity WHERE host_id = 1 AND cell = ? AND resource = ?"
    assert one(sql, used, cell, resource) == room


def test_what_is_bound_to_cells_counts_for_the_host(sql, guest):
    claim = one(sql, "SELECT current_claim FROM instance WHERE uuid = ?", guest.uuid)
    row = "INSERT INTO claim_amount VALUES (?, ?, 'memory_kib', ?, 0, 1, ?)"
    sql.execute(row, (claim, 0, 1024 * 1024, guest.uuid))
    refused(sql, row, (claim, -1, 1024 * 1024 + 1, guest.uuid), "capacity-exceeded")
    sql.execute(row, (claim, -1, 1024 * 1024, guest.uuid))
    refused(sql, row, (claim, 1, 1, guest.uuid), "capacity-exceeded")


def test_a_resource_that_the_host_has_not_is_not_promised(sql, guest):
    claim = one(sql, "SELECT current_claim FROM instance WHERE uuid = ?", guest.uuid)
    row = "INSERT INTO claim_amount VALUES (?, ?, ?, 1, 1, 1, ?)"
    refused(sql, row, (claim, 0, "page:1048576", guest.uuid), "capacity-unknown")
    refused(sql, row, (claim, 7, "page:2048", guest.uuid), "capacity-unknown")


@pytest.mark.parametrize("amount", [0, -1])
def test_a_claim_takes_something(sql, guest, amount):
    claim = one(sql, "SELECT current_claim FROM instance WHERE uuid = ?", guest.uuid)
    row = "INSERT INTO claim_amount VALUES (?, 0, 'page:2048', ?, 1, 1, ?)"
    refused(sql, row, (claim, amount, guest.uuid), "CHECK")


def test_an_unconfirmed_host_has_nothing_to_give(sql, fleet, guest, make):
    make.host(fleet, "C", confirmed=False)
    assert one(sql, "SELECT count(*) FROM capacity WHERE host_id = 3") == 0
    refused(sql, "INSERT INTO claim_cpu VALUES (3, 4, ?, 'vcpu')", (guest.uuid,), "cpu-not-dedicated")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE claim SET host_id = 2",
        "UPDATE claim SET numa_topology_json = '{}'",
        "UPDATE claim_cpu SET cpu = 3 WHERE cpu = 4",
        "UPDATE claim_cpu SET instance_uuid = 'x'",
        "UPDATE claim_cpu_link SET cpu = 3 WHERE cpu = 4",
        "UPDATE claim_amount SET amount = 1",
    ],
)
def test_rows_of_a_claim_are_never_edited(sql, guest, statement):
    refused(sql, statement, (), "claim-edited")


# -- 4: one current claim, at most one more --------------------------------------------------------------------------


def fleet_migration(sql, guest, status="accepted"):
    """Insert a migration of a guest by hand and return its id."""
    return sql.execute(
        "INSERT INTO migration (uuid, instance_uuid, source, dest, status, step, reason, context_json, created_at,"
        " updated_at, controller, abort_requested, bandwidth_mib_s, source_memo_json)"
        " VALUES (hex(randomblob(8)), ?, 'A', 'B', ?, '', '', 'null', 0, 0, '', 0, 0, '[]')",
        (guest.uuid, status),
    ).lastrowid


def test_a_second_claim_on_the_same_host_is_refused(sql, guest):
    move = fleet_migration(sql, guest)
    refused(sql, CLAIM, ("second", guest.uuid, 1, 1, move), "claim.instance_uuid, claim.host_id")


def test_a_second_claim_needs_a_migration_in_progress(sql, guest, other):
    refused(sql, CLAIM, ("second", guest.uuid, 2, 1, None), "claim-without-migration")
    ended = fleet_migration(sql, guest, "failed")
    refused(sql, CLAIM, ("second", guest.uuid, 2, 1, ended), "claim-without-migration")
    of_another = fleet_migration(sql, other)
    refused(sql, CLAIM, ("second", guest.uuid, 2, 1, of_another), "claim-without-migration")


def test_a_third_claim_is_refused(sql, fleet, guest, make):
    make.host(fleet, "C")
    move = fleet_migration(sql, guest)
    sql.execute(CLAIM, ("second", guest.uuid, 2, 1, move))
    for slot in (0, 1):
        refused(sql, CLAIM, ("third", guest.uuid, 3, slot, move), "UNIQUE constraint failed: claim")
    refused(sql, CLAIM, ("third", guest.uuid, 3, 2, move), "CHECK")


def test_a_second_migration_in_progress_is_refused(sql, guest):
    fleet_migration(sql, guest)
    with pytest.raises(sqlite3.IntegrityError, match=r"migration\.instance_uuid"):
        fleet_migration(sql, guest, "error")
    fleet_migration(sql, guest, "failed")


def test_an_instance_without_a_current_claim_does_not_commit(sql, guest):
    refused(sql, "UPDATE instance SET current_claim = NULL", (), "NOT NULL")
    sql.execute("BEGIN")
    sql.execute("DELETE FROM claim WHERE instance_uuid = ?", (guest.uuid,))
    refused(sql, "COMMIT", (), "FOREIGN KEY")
    sql.execute("ROLLBACK")


def test_the_current_claim_is_the_instances_own(sql, guest, other):
    theirs = one(sql, "SELECT current_claim FROM instance WHERE uuid = ?", other.uuid)
    sql.execute("BEGIN")
    sql.execute("UPDATE instance SET current_claim = ? WHERE uuid = ?", (theirs, guest.uuid))
    refused(sql, "COMMIT", (), "FOREIGN KEY")
    sql.execute("ROLLBACK")


def test_a_flip_that_keeps_the_old_claim_is_refused(sql, fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"])
    refused(sql, "UPDATE instance SET current_claim = ? WHERE uuid = ?", (move.id, guest.uuid), "claim-left-behind")


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_migration_does_not_end_while_its_move_claim_is_held(sql, fleet, guest, status):
    fleet.live_migration_claim(guest.uuid, ["B"])
    refused(sql, "UPDATE migration SET status = ?", (status,), "claim-leaked")


def test_a_host_with_claims_is_not_deleted(sql, guest):
    refused(sql, "DELETE FROM host WHERE name = 'A'", (), "FOREIGN KEY")


# -- what is kept with it --------------------------------------------------------------------------------------------


def test_events_are_only_ever_added(sql, guest):
    refused(sql, "UPDATE event SET sentence = 'nothing happened'", (), "history-edited")
    refused(sql, "DELETE FROM event", (), "history-edited")


def test_migrations_are_kept(sql, fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    fleet.drop_move_claim(move.id, MigrationStatus.FAILED, "by hand")
    refused(sql, "DELETE FROM migration", (), "migration-deleted")


def test_every_claim_and_release_raises_the_generation_of_its_host(sql, guest):
    before = one(sql, "SELECT generation FROM host WHERE name = 'A'")
    sql.execute("DELETE FROM instance WHERE uuid = ?", (guest.uuid,))
    assert one(sql, "SELECT generation FROM host WHERE name = 'A'") == before + 1


def test_deleting_an_instance_frees_all_that_it_held(sql, guest):
    sql.execute("DELETE FROM instance WHERE uuid = ?", (guest.uuid,))
    for table in ("claim", "claim_cpu", "claim_cpu_link", "claim_amount"):
        assert one(sql, f"SELECT count(*) FROM {table}") == 0, table  # noqa: S608  (names of this list)
    assert one(sql, "SELECT sum(used) FROM capacity") == 0
