"""Raw SQL, past every API, tries to break what the schema promises: invariants 1 to 4, and the history."""

from __future__ import annotations

import threading
import uuid

import attrs
import pytest

from numaferry.model import MigrationStatus, PciAddress, PciDevice

CLAIM = (
    "INSERT INTO claim (id, instance_uuid, host_id, slot, migration_id, numa_topology_json, pci_devices_json,"
    " vifs_json, promise, cause, created_at) VALUES (?, ?, ?, ?, ?, 'null', '[]', '[]', 'kept', 'by hand', 0)"
)
MIGRATION = (
    "INSERT INTO migration (uuid, instance_uuid, source, dest, status, step, reason, context_json, created_at,"
    " updated_at, controller, abort_requested, policy_json, source_memo_json, migration_type)"
    " VALUES (?, ?, 'A', ?, ?, '', '', 'null', 0, 0, '', false, '{}', '[]', ?) RETURNING id"
)
AMOUNT = "INSERT INTO claim_amount VALUES (?, ?, ?, ?, ?, ?, ?)"
USED = "SELECT used FROM capacity WHERE host_id = 1 AND cell = ? AND resource = ?"


def move_of(guest, dest="B", status="accepted", kind="live-migration"):
    """Return the values of a migration's row."""
    return (str(uuid.uuid4()), guest.uuid, dest, status, kind)


def current_claim(sql, guest):
    return sql.one("SELECT current_claim FROM instance WHERE uuid = ?", guest.uuid)


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
    sql.refused("INSERT INTO claim_cpu VALUES (?, ?, ?, 'vcpu')", values, "unique claim_cpu")


def test_a_claim_can_not_hold_another_instances_cpu(sql, guest, other):
    claim = current_claim(sql, other)
    sql.refused("INSERT INTO claim_cpu_link VALUES (?, 1, 4, ?)", (claim, other.uuid), "foreign key")
    sql.refused("INSERT INTO claim_cpu_link VALUES (?, 1, 4, ?)", (claim, guest.uuid), "foreign key")


def test_a_cpu_outside_the_dedicated_set_is_not_promised(sql, guest):
    sql.refused("INSERT INTO claim_cpu VALUES (1, 0, ?, 'vcpu')", (guest.uuid,), "cpu-not-dedicated")
    sql.refused("INSERT INTO claim_cpu VALUES (1, 99, ?, 'vcpu')", (guest.uuid,), "cpu-not-dedicated")


def test_a_cpu_that_another_domain_is_seen_on_is_not_promised(sql, fleet, guest, make):
    fleet.set_observed("A", (make.seen("stray", "3"),))
    sql.refused("INSERT INTO claim_cpu VALUES (1, 3, ?, 'vcpu')", (guest.uuid,), "cpu-observed")


def test_a_cpu_has_a_role_that_is_known(sql, guest):
    sql.refused("INSERT INTO claim_cpu VALUES (1, 3, ?, 'toy')", (guest.uuid,), "check")


def test_a_cpu_is_free_once_no_claim_of_its_instance_holds_it(sql, guest):
    assert sql.one("SELECT count(*) FROM claim_cpu") == 2
    sql.execute("DELETE FROM claim_cpu_link WHERE cpu = 5")
    assert [row[0] for row in sql.execute("SELECT cpu FROM claim_cpu")] == [4]


def test_two_claims_of_one_instance_may_hold_one_cpu(sql, fleet, guest):
    """What a re-pin within one host needs: the CPU stays promised until the last of both lets it go."""
    sql.execute("BEGIN")
    move = sql.one(MIGRATION, *move_of(guest))
    sql.execute(CLAIM, ("second", guest.uuid, 2, 1, move))
    sql.execute("INSERT INTO claim_cpu VALUES (2, 3, ?, 'vcpu')", (guest.uuid,))
    sql.execute("INSERT INTO claim_cpu_link VALUES ('second', 2, 3, ?)", (guest.uuid,))
    sql.execute("COMMIT")
    assert sql.one("SELECT count(*) FROM claim_cpu WHERE instance_uuid = ?", guest.uuid) == 3


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
    claim = current_claim(sql, guest)
    row = "INSERT INTO claim_amount VALUES (?, ?, ?, ?, ?, 1, ?)"
    sql.refused(row, (claim, cell, resource, room + 1, exact, guest.uuid), "capacity-exceeded")
    sql.execute(row, (claim, cell, resource, room, exact, guest.uuid))
    used = "SELECT used FROM capacity WHERE host_id = 1 AND cell = ? AND resource = ?"
    assert sql.one(used, cell, resource) == room


def test_what_is_bound_to_cells_counts_for_the_host(sql, guest):
    claim = current_claim(sql, guest)
    row = "INSERT INTO claim_amount VALUES (?, ?, 'memory_kib', ?, false, 1, ?)"
    sql.execute(row, (claim, 0, 1024 * 1024, guest.uuid))
    sql.refused(row, (claim, -1, 1024 * 1024 + 1, guest.uuid), "capacity-exceeded")
    sql.execute(row, (claim, -1, 1024 * 1024, guest.uuid))
    sql.refused(row, (claim, 1, 1, guest.uuid), "capacity-exceeded")


def test_a_host_with_more_memory_than_32_bits_of_kib_can_be_promised(sql, fleet, make):
    make.host(fleet, "BIG", notation="2 cells x 2 cores x 2 threads, 6144G", ram_allocation_ratio=1.5)
    big = fleet.claim_instance(make.floating("big1", "BIG", memory_mib=8 * 1024 * 1024)).instance
    used = "SELECT used FROM capacity JOIN host ON host.id = host_id WHERE name = 'BIG' AND resource = 'memory_kib'"
    assert sql.one(f"{used} AND cell = -1") == 8 * 1024**3
    assert big.promise == "floating"


def test_a_resource_that_the_host_has_not_is_not_promised(sql, guest):
    claim = current_claim(sql, guest)
    row = "INSERT INTO claim_amount VALUES (?, ?, ?, 1, true, 1, ?)"
    sql.refused(row, (claim, 0, "page:1048576", guest.uuid), "capacity-unknown")
    sql.refused(row, (claim, 7, "page:2048", guest.uuid), "capacity-unknown")


@pytest.mark.parametrize("amount", [0, -1])
def test_a_claim_takes_something(sql, guest, amount):
    claim = current_claim(sql, guest)
    row = "INSERT INTO claim_amount VALUES (?, 0, 'page:2048', ?, true, 1, ?)"
    sql.refused(row, (claim, amount, guest.uuid), "check")


def test_an_unconfirmed_host_has_nothing_to_give(sql, fleet, guest, make):
    make.host(fleet, "C", confirmed=False)
    assert sql.one("SELECT count(*) FROM capacity WHERE host_id = 3") == 0
    sql.refused("INSERT INTO claim_cpu VALUES (3, 4, ?, 'vcpu')", (guest.uuid,), "cpu-not-dedicated")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE claim SET host_id = 2",
        "UPDATE claim SET numa_topology_json = '{}'",
        "UPDATE claim_cpu SET cpu = 3 WHERE cpu = 4",
        "UPDATE claim_cpu SET instance_uuid = 'x'",
        "UPDATE claim_cpu_link SET cpu = 3 WHERE cpu = 4",
        "UPDATE claim_amount SET amount = 1",
        "UPDATE claim_device SET instance_uuid = 'x'",
        "UPDATE claim_device_link SET device = 'pci:0000:81:00.2'",
    ],
)
def test_rows_of_a_claim_are_never_edited(sql, function, statement):
    sql.refused(statement, (), "claim-edited")


# -- 3: a device is promised to at most one instance ------------------------------------------------------------------

DEVICE = "INSERT INTO claim_device VALUES (1, ?, ?)"
DEVICE_LINK = "INSERT INTO claim_device_link VALUES (?, 1, ?, ?)"


@pytest.fixture
def function(sql, fleet, guest):
    """A PCI function of A that is promised to the guest, beside one that is free."""
    addresses = ("0000:81:00.1", "0000:81:00.2")
    fleet.set_devices("A", [PciDevice(PciAddress.parse(address), "8086", "1572") for address in addresses])
    sql.execute(DEVICE, ("pci:0000:81:00.1", guest.uuid))
    sql.execute(DEVICE_LINK, (current_claim(sql, guest), "pci:0000:81:00.1", guest.uuid))
    return "pci:0000:81:00.1"


def test_a_device_is_not_promised_to_a_second_instance(sql, function, other):
    sql.refused(DEVICE, (function, other.uuid), "unique claim_device")


def test_a_claim_can_not_hold_another_instances_device(sql, function, guest, other):
    claim = current_claim(sql, other)
    sql.refused(DEVICE_LINK, (claim, function, other.uuid), "foreign key")
    sql.refused(DEVICE_LINK, (claim, function, guest.uuid), "foreign key")


def test_a_device_that_the_host_has_not_is_not_promised(sql, function, guest):
    sql.refused(DEVICE, ("pci:0000:99:00.0", guest.uuid), "device-unknown")
    sql.refused("INSERT INTO claim_device VALUES (2, ?, ?)", (function, guest.uuid), "device-unknown")


def test_a_device_that_is_gone_stays_promised(sql, function, other):
    sql.execute("DELETE FROM device WHERE device = ?", (function,))
    assert sql.one("SELECT count(*) FROM claim_device WHERE device = ?", function) == 1
    sql.execute("INSERT INTO device VALUES (1, ?, '{}')", (function,))
    sql.refused(DEVICE, (function, other.uuid), "unique claim_device")


def test_a_device_is_free_once_no_claim_of_its_instance_holds_it(sql, function, guest, other):
    sql.execute("DELETE FROM claim_device_link")
    assert sql.one("SELECT count(*) FROM claim_device") == 0
    sql.execute(DEVICE, (function, other.uuid))


# -- 4: one current claim, at most one more --------------------------------------------------------------------------


def test_a_second_claim_needs_a_migration_in_progress(sql, guest, other):
    sql.refused(CLAIM, ("second", guest.uuid, 2, 1, None), "claim-without-migration")
    ended = sql.one(MIGRATION, *move_of(guest, status="failed"))
    sql.refused(CLAIM, ("second", guest.uuid, 2, 1, ended), "claim-without-migration")
    of_another = sql.one(MIGRATION, *move_of(other))
    sql.refused(CLAIM, ("second", guest.uuid, 2, 1, of_another), "claim-without-migration")


def test_a_second_claim_of_a_move_is_on_another_host(sql, guest):
    move = sql.one(MIGRATION, *move_of(guest))
    sql.refused(CLAIM, ("second", guest.uuid, 1, 1, move), "claim-without-migration")
    sql.execute(CLAIM, ("second", guest.uuid, 2, 1, move))


def test_a_third_claim_is_refused(sql, fleet, guest, make):
    make.host(fleet, "C")
    move = sql.one(MIGRATION, *move_of(guest))
    sql.execute(CLAIM, ("second", guest.uuid, 2, 1, move))
    sql.refused(CLAIM, ("third", guest.uuid, 2, 0, move), "claim-without-migration")
    # past that trigger too: neither slot is free, and there is no third
    sql.refused(CLAIM, ("third", guest.uuid, 3, 0, move), "unique claim")
    sql.refused(CLAIM, ("third", guest.uuid, 3, 1, move), "unique claim")
    sql.refused(CLAIM, ("third", guest.uuid, 3, 2, move), "check")


def test_a_second_migration_in_progress_is_refused(sql, guest):
    sql.one(MIGRATION, *move_of(guest))
    sql.refused(MIGRATION, move_of(guest, status="error"), "unique migration")
    sql.one(MIGRATION, *move_of(guest, status="failed"))


def test_an_instance_without_a_current_claim_does_not_commit(sql, guest):
    sql.refused("UPDATE instance SET current_claim = NULL", (), "not null")
    sql.execute("BEGIN")
    sql.execute("DELETE FROM claim WHERE instance_uuid = ?", (guest.uuid,))
    sql.refused("COMMIT", (), "foreign key")
    sql.execute("ROLLBACK")


def test_the_current_claim_is_the_instances_own(sql, guest, other):
    theirs = current_claim(sql, other)
    sql.execute("BEGIN")
    sql.execute("UPDATE instance SET current_claim = ? WHERE uuid = ?", (theirs, guest.uuid))
    sql.refused("COMMIT", (), "foreign key")
    sql.execute("ROLLBACK")


def test_a_flip_that_keeps_the_old_claim_is_refused(sql, fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"])
    sql.refused("UPDATE instance SET current_claim = ? WHERE uuid = ?", (move.id, guest.uuid), "claim-left-behind")


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_migration_does_not_end_while_its_move_claim_is_held(sql, fleet, guest, status):
    fleet.live_migration_claim(guest.uuid, ["B"])
    sql.refused("UPDATE migration SET status = ?", (status,), "claim-leaked")


def test_a_host_with_claims_is_not_deleted(sql, guest):
    sql.refused("DELETE FROM host WHERE name = 'A'", (), "foreign key")


# -- what is kept with it --------------------------------------------------------------------------------------------


def test_events_are_only_ever_added(sql, guest):
    sql.refused("UPDATE event SET sentence = 'nothing happened'", (), "history-edited")
    sql.refused("DELETE FROM event", (), "history-edited")


def test_an_event_key_is_written_once(sql, guest):
    event = "INSERT INTO event (at, kind, sentence, key) VALUES (0, 'x', 'it happened', ?)"
    sql.execute(event, ("the-key",))
    sql.refused(event, ("the-key",), "unique event")
    for _ in range(2):
        sql.execute(event, (None,))


def test_a_fencing_token_is_never_lowered(sql, guest):
    sql.one(MIGRATION, *move_of(guest))
    sql.execute("UPDATE migration SET token = 5")
    sql.refused("UPDATE migration SET token = 4", (), "token-lowered")
    sql.execute("UPDATE migration SET token = 5, step = 'x'")


def test_migrations_are_kept(sql, fleet, guest):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    fleet.drop_move_claim(move.id, MigrationStatus.FAILED, "by hand")
    sql.refused("DELETE FROM migration", (), "migration-deleted")


def test_every_claim_and_release_raises_the_generation_of_its_host(sql, guest):
    def generations():
        return [row[0] for row in sql.execute("SELECT generation FROM host ORDER BY name")]

    here, there = generations()
    sql.execute(CLAIM, ("second", guest.uuid, 2, 1, sql.one(MIGRATION, *move_of(guest))))
    assert generations() == [here, there + 1]
    sql.execute("DELETE FROM instance WHERE uuid = ?", (guest.uuid,))
    assert generations() == [here + 1, there + 2]


def test_deleting_an_instance_frees_all_that_it_held(sql, guest):
    sql.execute("DELETE FROM instance WHERE uuid = ?", (guest.uuid,))
    for table in ("claim", "claim_cpu", "claim_cpu_link", "claim_amount"):
        assert sql.one(f"SELECT count(*) FROM {table}") == 0, table  # noqa: S608  (names of this list)
    assert sql.one("SELECT sum(used) FROM capacity") == 0


# -- a re-pin: two claims of one instance on one host ------------------------------------------------------------------


@pytest.fixture
def repin(sql, guest):
    """A second claim of the guest on A, under a migration of type `repin`; it holds nothing yet."""
    move = sql.one(MIGRATION, *move_of(guest, dest="A", kind="repin"))
    sql.execute(CLAIM, ("second", guest.uuid, 1, 1, move))
    return "second"


def test_a_second_claim_on_the_same_host_needs_a_repin(sql, guest):
    sql.refused(CLAIM, ("second", guest.uuid, 1, 1, None), "claim-without-migration")
    move = sql.one(MIGRATION, *move_of(guest, dest="A", kind="repin"))
    sql.refused(CLAIM, ("second", guest.uuid, 2, 1, move), "claim-without-migration")
    sql.execute(CLAIM, ("second", guest.uuid, 1, 1, move))
    sql.refused(CLAIM, ("third", guest.uuid, 1, 0, move), "unique claim")


def test_a_cpu_of_two_claims_is_free_once_neither_holds_it(sql, repin, guest):
    sql.execute("INSERT INTO claim_cpu_link VALUES (?, 1, 4, ?)", (repin, guest.uuid))
    first = current_claim(sql, guest)
    sql.execute("DELETE FROM claim_cpu_link WHERE claim_id = ? AND cpu = 4", (first,))
    assert sql.one("SELECT count(*) FROM claim_cpu WHERE cpu = 4") == 1
    sql.execute("DELETE FROM claim_cpu_link WHERE claim_id = ? AND cpu = 4", (repin,))
    assert sql.one("SELECT count(*) FROM claim_cpu WHERE cpu = 4") == 0


@pytest.mark.parametrize(("more", "charged"), [(10, 32), (32, 32), (50, 50)])
def test_what_two_claims_of_one_instance_hold_of_a_pool_is_charged_once(sql, repin, guest, more, charged):
    """The guest's current claim holds 32 pages on cell 1; whichever of the two goes first, the other is charged."""
    sql.execute(AMOUNT, (repin, 1, "page:2048", more, True, 1, guest.uuid))
    assert sql.one(USED, 1, "page:2048") == charged
    sql.execute("DELETE FROM claim_amount WHERE claim_id = ?", (repin,))
    assert sql.one(USED, 1, "page:2048") == 32
    sql.execute(AMOUNT, (repin, 1, "page:2048", more, True, 1, guest.uuid))
    sql.execute("DELETE FROM claim_amount WHERE claim_id = ?", (current_claim(sql, guest),))
    assert sql.one(USED, 1, "page:2048") == more


def test_two_claims_are_charged_once_whether_their_rows_come_and_go_one_by_one_or_together(sql, repin, guest):
    first = current_claim(sql, guest)
    values = (first, 0, "page:2048", 20, True, 1, guest.uuid, repin, 0, "page:2048", 30, True, 1, guest.uuid)
    sql.execute(f"{AMOUNT}, (?, ?, ?, ?, ?, ?, ?)", values)
    assert sql.one(USED, 0, "page:2048") == 30
    sql.execute("DELETE FROM claim_amount WHERE cell = 0")
    assert sql.one(USED, 0, "page:2048") == 0


def test_a_repin_is_held_against_the_limit(sql, repin, guest, other):
    """Of 128 pages on cell 1 the guest has 32 and another guest 32."""
    sql.refused(AMOUNT, (repin, 1, "page:2048", 97, True, 1, guest.uuid), "capacity-exceeded")
    sql.execute(AMOUNT, (repin, 1, "page:2048", 96, True, 1, guest.uuid))


def test_a_repin_of_what_the_guest_has_already_is_not_held_against_a_limit_that_was_lowered(sql, repin, guest):
    sql.execute("UPDATE capacity SET total = 10, allowed = 10 WHERE host_id = 1 AND resource = 'page:2048'")
    sql.refused(AMOUNT, (repin, 1, "page:2048", 33, True, 1, guest.uuid), "capacity-exceeded")
    sql.execute(AMOUNT, (repin, 1, "page:2048", 32, True, 1, guest.uuid))


def test_a_repin_that_wants_its_memory_for_itself_is_held_against_what_is_there(sql, repin, guest, other):
    """Beside an overcommitted guest, what was lent to this one may not become its own."""
    sql.execute("UPDATE capacity SET allowed = 2 * total WHERE host_id = 1 AND resource = 'memory_kib'")
    room = sql.one("SELECT total FROM capacity WHERE host_id = 1 AND cell = 1 AND resource = 'memory_kib'")
    sql.execute(AMOUNT, (current_claim(sql, guest), 1, "memory_kib", 1024, False, 1, guest.uuid))
    sql.execute(AMOUNT, (current_claim(sql, other), 1, "memory_kib", room, False, 1, other.uuid))
    sql.refused(AMOUNT, (repin, 1, "memory_kib", 1024, True, 1, guest.uuid), "capacity-exceeded")
    sql.execute(AMOUNT, (repin, 1, "memory_kib", 1024, False, 1, guest.uuid))


def test_deleting_an_instance_with_two_claims_on_one_host_frees_all_that_they_held(sql, repin, guest):
    sql.execute(AMOUNT, (repin, 1, "page:2048", 40, True, 1, guest.uuid))
    sql.execute("INSERT INTO claim_cpu_link VALUES (?, 1, 4, ?)", (repin, guest.uuid))
    sql.execute("DELETE FROM instance WHERE uuid = ?", (guest.uuid,))
    assert sql.one("SELECT sum(used) FROM capacity") == 0
    assert sql.one("SELECT count(*) FROM claim_cpu") == 0


# -- at the same moment ------------------------------------------------------------------------------------------------


@attrs.define
class Waiting:
    """A statement on a connection of its own that waits for another transaction; `end()` returns how it ended."""

    thread: threading.Thread
    outcome: list[str]

    def end(self):
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.outcome[0]


@pytest.fixture
def waiting(connect):
    """Return a function that runs a statement in a thread, once it is seen to wait."""

    def start(statement, values):
        later, outcome = connect(), []

        def run():
            try:
                later.execute(statement, values)
                outcome.append("done")
            except Exception as error:  # noqa: BLE001  (whatever it is, the test compares it)
                outcome.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive(), outcome
        return Waiting(thread, outcome)

    return start


@pytest.mark.parametrize(
    ("statement", "first", "second", "reason"),
    [
        (
            AMOUNT,
            "{claim} 0 page:2048 80 true 1 {guest}",
            "{theirs} 0 page:2048 80 true 1 {other}",
            "capacity-exceeded",
        ),
        (AMOUNT, "{claim} -1 vcpus 20 false 1 {guest}", "{theirs} 0 vcpus 20 false 1 {other}", "capacity-exceeded"),
        ("INSERT INTO claim_cpu VALUES (?, ?, ?, ?)", "1 3 {guest} vcpu", "1 3 {other} vcpu", "unique claim_cpu"),
        ("INSERT INTO claim_device VALUES (?, ?, ?)", "1 pci:1 {guest}", "1 pci:1 {other}", "unique claim_device"),
    ],
)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_of_two_that_want_the_same_at_once_the_second_waits_and_is_refused(  # noqa: PLR0917  (fixtures and a row of the table)
    sql, guest, other, waiting, statement, first, second, reason, end
):
    """It gets what it wants if the first one gives up. SQLite has one writer; PostgreSQL waits for the row."""
    sql.execute("INSERT INTO device VALUES (1, 'pci:1', '{}')")
    names = {"claim": current_claim(sql, guest), "theirs": current_claim(sql, other)}
    names |= {"guest": guest.uuid, "other": other.uuid}

    def values(words):
        known = {"true": True, "false": False}
        made = [word.format(**names) for word in words.split()]
        return tuple(known.get(word, int(word) if word.lstrip("-").isdecimal() else word) for word in made)

    sql.execute("BEGIN")
    sql.execute(statement, values(first))
    late = waiting(statement, values(second))
    sql.execute(end)
    assert late.end() == (reason if end == "COMMIT" else "done")
