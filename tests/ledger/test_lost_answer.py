"""The connection breaks at COMMIT, and nobody knows whether it was done: it is done once, and its answer is given.

Each operation is done twice: here, with its answer lost, and undisturbed on a second ledger. Both then tell one story.
"""

from __future__ import annotations

import re
import types

import attrs
import psycopg
import pytest
from sqlalchemy import event

from numaferry.errors import Conflict, LedgerUnusable, NotFound
from numaferry.ledger import open_ledger, store
from numaferry.ledger.location import ledger_location
from numaferry.ledger.trouble import UNREACHABLE, unusable
from numaferry.model import CpuSet, MigrationStatus, PciAddress, PciDevice

ONE = "one:1:1.0"
CARD = PciDevice(PciAddress.parse("0000:81:00.1"), "8086", "1572", 1)
FINDING = types.SimpleNamespace(kind="stray", severity="warning", subject="vm1", sentence="vm1 floats", remedy="")


def broken(dialect):
    """Return what is raised where a connection breaks; on SQLite, where none does, what it is turned into."""
    if dialect == "postgresql":
        return psycopg.OperationalError("server closed the connection unexpectedly")
    return unusable(ledger_location("ledger.sqlite"), UNREACHABLE)


@pytest.fixture
def lose(ledger, dialect, monkeypatch):
    """Return a function after which the next commits break, "before" they are done or "after" that; not of a reader."""
    monkeypatch.setattr(store, "PAUSE_S", 0.001)
    real, writing = ledger._engine.dialect.do_commit, [False]

    def note(connection):
        options = connection.get_execution_options()
        writing[0] = not (options.get("numaferry_read") or options.get("isolation_level") == "REPEATABLE READ")

    event.listen(ledger._engine, "commit", note)

    def armed(when, times=1):
        left = [times]

        def do_commit(connection):
            if not (left[0] and writing[0]):
                return real(connection)
            left[0] -= 1
            if when == "after":
                real(connection)
            if dialect == "postgresql":
                connection.driver_connection.close()
            raise broken(dialect)

        monkeypatch.setattr(ledger._engine.dialect, "do_commit", do_commit)
        return left

    yield armed
    event.remove(ledger._engine, "commit", note)


def story(ledger):
    """Return all that a ledger tells, but for what is drawn anew each time: numbers, UUIDs, the time."""
    hosts = [host.name for host in ledger.hosts()]
    return {
        "events": [
            (one.kind, re.sub(r"migration \d+", "migration", one.sentence), one.host) for one in ledger.events()
        ],
        "hosts": [attrs.evolve(host, id=0, observed_at=None) for host in ledger.hosts()],
        "instances": ledger.instances(),
        "migrations": [
            attrs.evolve(move, id=0, uuid="", created_at=0.0, updated_at=0.0, lease_until=bool(move.lease_until))
            for move in ledger.migrations()
        ],
        "held": sorted(
            (
                attrs.evolve(one, claim_id="", cause="", migration_id=None)
                for name in hosts
                for one in ledger.view(name).holdings
            ),
            key=str,
        ),
        "over-full": [ledger.view(name).overfull for name in hosts],
        "devices": [ledger.devices(name) for name in hosts],
        "observed": [ledger.observed(name) for name in hosts],
        "findings": [attrs.evolve(one, at=0.0) for one in ledger.findings()],
    }


def answer(value):
    """Return what an operation answered, but for what is drawn anew each time."""
    if not attrs.has(type(value)):
        return value
    drawn = {
        "id",
        "uuid",
        "created_at",
        "updated_at",
        "lease_until",
        "observed_at",
        "generation",
        "score",
        "score_bound",
    }
    kept = {a.name: answer(getattr(value, a.name)) for a in attrs.fields(type(value)) if a.name not in drawn}
    return type(value).__name__, kept


class World:
    """A guest on A, one that moves to B, a transient one that has been gone for long, and one that is new."""

    def __init__(self, make):
        self.guest = make.guest("db1", "A", "4-5")
        self.moving = make.guest("db2", "A", "6-7")
        self.gone = attrs.evolve(make.guest("tmp1", "A", "3"), persistent=False)
        self.running = make.guest("db3", "B", "4-5")
        self.wanted = make.instance("new1", "", make.request(), None)
        self.seen = make.seen("stray", "2")

    def build(self, ledger, make):
        ledger.add_host("A", make.facts("A"), make.config(), confirmed=True)
        ledger.add_host("B", make.facts("B"), make.config(), confirmed=True)
        ledger.add_host("C", make.facts("C"))
        ledger.set_devices("B", [CARD])
        for guest in (self.guest, self.moving, self.gone):
            ledger.claim_instance(guest)
        ledger.live_migration_claim(self.moving.uuid, ["B"], controller=ONE, lease_s=60)
        ledger.note_present("A", {self.guest.uuid, self.moving.uuid}, 0)


#: Name → the operation on a ledger and a world. The migration of `moving` is number 1, under token 1.
OPERATIONS = {
    "live_migration_claim": lambda ledger, w: ledger.live_migration_claim(w.guest.uuid, ["B"], controller=ONE),
    "repin_claim": lambda ledger, w: ledger.repin_claim(w.guest.uuid),
    "claim_instance": lambda ledger, w: ledger.claim_instance(w.running),
    "place_instance": lambda ledger, w: ledger.place_instance(w.wanted, ["B"]),
    "reclaim_instance": lambda ledger, w: ledger.reclaim_instance(w.guest.uuid, w.guest.numa_topology),
    "forget_instance": lambda ledger, w: ledger.forget_instance(w.guest.uuid),
    "set_migration": lambda ledger, w: ledger.set_migration(1, sentence="on its way", step="check", token=1, ttl_s=9),
    "request_abort": lambda ledger, w: ledger.request_abort(1),
    "confirm_migration": lambda ledger, w: ledger.confirm_migration(1, status=MigrationStatus.COMPLETED, token=1),
    "drop_move_claim": lambda ledger, w: ledger.drop_move_claim(1, MigrationStatus.FAILED, "it failed", token=1),
    "take_lease": lambda ledger, w: ledger.take_lease(1, "two:1:1.0", 60, grace_s=60, gone=ONE, key="the call"),
    "renew_lease": lambda ledger, w: ledger.renew_lease(1, 1, 60),
    "drop_lease": lambda ledger, w: ledger.drop_lease(1, 1, "the controller stops"),
    "add_host": lambda ledger, w: ledger.add_host("D", attrs.evolve(ledger.host("A").facts, uuid="of-D")),
    "update_host": lambda ledger, w: ledger.update_host("A", attrs.evolve(ledger.host("A").facts, uuid="another")),
    "confirm_host": lambda ledger, w: ledger.confirm_host(
        "A", attrs.evolve(ledger.host("A").config, cpu_dedicated_set=CpuSet.parse("4-7"))
    ),
    "set_host_state": lambda ledger, w: ledger.set_host_state("A", "unreachable", "no route"),
    "remove_host": lambda ledger, w: ledger.remove_host("C"),
    "set_observed": lambda ledger, w: ledger.set_observed("A", [w.seen]),
    "set_devices": lambda ledger, w: ledger.set_devices("A", [CARD]),
    "note_present": lambda ledger, w: len(ledger.note_present("A", {w.guest.uuid}, 0)) * 0,
    "record_findings": lambda ledger, w: ledger.record_findings("A", [FINDING]),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return a function that does an operation whose answer arrives, and returns that answer and the story then."""
    done = {}

    def do(operation, make):
        if operation not in done:
            ledger, world = open_ledger(str(tmp_path_factory.mktemp("undisturbed") / "ledger.sqlite")), World(make)
            world.build(ledger, make)
            done[operation] = answer(OPERATIONS[operation](ledger, world)), story(ledger)
            ledger.close()
        return done[operation]

    return do


@pytest.mark.parametrize(
    ("operation", "when"),
    [*((operation, "after") for operation in OPERATIONS), ("live_migration_claim", "before"), ("add_host", "before")],
)
def test_it_is_done_once_and_answered(  # noqa: PLR0917  (fixtures and a row of the table)
    ledger, make, lose, undisturbed, operation, when
):
    expected = undisturbed(operation, type(make)())
    world = World(make)
    world.build(ledger, make)
    left = lose(when)
    answered = answer(OPERATIONS[operation](ledger, world))
    assert left == [0], "a commit was lost"
    assert (answered, story(ledger)) == expected


@pytest.mark.parametrize("operation", ["live_migration_claim", "add_host"])
def test_a_ledger_that_stays_away_is_given_up_and_told(ledger, make, lose, operation):
    world = World(make)
    world.build(ledger, make)
    lose("before", times=store.TRIES)
    before = story(ledger)
    with pytest.raises(LedgerUnusable, match="can't be reached") as caught:
        OPERATIONS[operation](ledger, world)
    assert caught.value.retryable
    assert story(ledger) == before


@pytest.fixture
def guest(fleet, make):
    return fleet.claim_instance(make.guest("db1", "A", "4-5")).instance


def test_a_claim_that_was_given_up_before_it_was_looked_up_is_told(fleet, guest, lose, monkeypatch):
    """Between the commit and the second attempt, a person dropped the claim: there is none to return."""
    real = store.random.uniform
    monkeypatch.setattr(store.random, "uniform", lambda *_range: dropped() or real(0, 0))

    def dropped():
        (move,) = fleet.migrations()
        fleet.drop_move_claim(move.id, MigrationStatus.CANCELLED, "a person said so")

    lose("after")
    with pytest.raises(Conflict, match="is cancelled and holds no claim on B any more"):
        fleet.live_migration_claim(guest.uuid, ["B"])


def test_who_was_really_there_before_is_a_conflict_and_no_lost_answer(fleet, guest, make, lose):
    lose("before")
    with pytest.raises(Conflict, match="in the ledger already"):
        fleet.claim_instance(guest)
    lose("before")
    with pytest.raises(Conflict, match="in the ledger already"):
        make.host(fleet, "A")
    lose("before")
    with pytest.raises(NotFound):
        fleet.remove_host("Z")
