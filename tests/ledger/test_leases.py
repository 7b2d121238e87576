"""Leases: one controller drives a migration at a time, and one that was taken over can write nothing more."""

from __future__ import annotations

import time

import pytest

from numaferry.errors import Conflict, LeaseHeld, NotFound, TakenOver
from numaferry.model import MigrationStatus

COMPLETED, FAILED = MigrationStatus.COMPLETED, MigrationStatus.FAILED
ONE, TWO, THREE = "one:1:1.0", "two:1:1.0", "three:1:1.0"


@pytest.fixture
def guest(fleet, make):
    return fleet.claim_instance(make.guest("db1", "A", "4-5")).instance


@pytest.fixture
def move(fleet, guest):
    """A migration that controller ONE drives, under a lease of a minute."""
    return fleet.live_migration_claim(guest.uuid, ["B"], controller=ONE, lease_s=60).migration


@pytest.fixture
def undriven(fleet, guest):
    """A migration that nobody drives."""
    return fleet.live_migration_claim(guest.uuid, ["B"]).migration


@pytest.fixture
def take(fleet):
    """Return a function that takes a lease, each time as a call of its own unless it is given a key."""
    calls = iter(range(1000))

    def taken(move, controller, ttl_s=60.0, *, grace_s=0.0, gone=None, key=None):
        return fleet.take_lease(
            move.id, controller, ttl_s, grace_s=grace_s, gone=gone, key=key or f"call {next(calls)}"
        )

    return taken


def test_a_claim_begins_with_a_lease(fleet, move):
    assert (move.controller, move.token) == (ONE, 1)
    assert 55 < move.lease_until - fleet.now() <= 60


def test_a_claim_that_nobody_drives_has_none(undriven):
    assert (undriven.controller, undriven.token, undriven.lease_until) == ("", 0, 0.0)


def test_who_takes_it_gets_a_higher_token(fleet, undriven, take):
    first = take(undriven, ONE)
    assert (first.controller, first.token) == (ONE, 1)
    with pytest.raises(LeaseHeld):
        take(undriven, ONE)  # another thread of the same controller, perhaps: a call of its own may be under way
    fleet.drop_lease(undriven.id, first.token, "done for now")
    again = take(undriven, TWO)
    assert (again.controller, again.token) == (TWO, 3), "letting go raises it too"
    assert again == fleet.migration(undriven.id)
    assert fleet.events(migration=undriven.id)[-1].sentence == f"{TWO} takes over (token 3)"


def test_a_lease_that_holds_is_not_taken(fleet, move, take):
    with pytest.raises(LeaseHeld, match=rf"driven by {ONE}: its lease and its longest call end in (59|60) s") as caught:
        take(move, TWO)
    assert caught.value.retryable
    with pytest.raises(LeaseHeld, match=r"end in (89|90) s"):
        take(move, TWO, grace_s=30.0)
    assert fleet.migration(move.id) == move


def test_one_that_ran_out_is_taken_after_the_longest_call(fleet, move, take):
    fleet.renew_lease(move.id, move.token, -10.0)
    with pytest.raises(LeaseHeld, match=r"end in (19|20) s"):
        take(move, TWO, grace_s=30.0)
    new = take(move, TWO, grace_s=5.0)
    assert (new.controller, new.token) == (TWO, 2)
    assert fleet.events(migration=move.id)[-1].sentence == f"{TWO} takes over from {ONE} (token 2)"


def test_one_of_a_controller_that_is_known_to_be_dead_is_taken_at_once(move, take):
    assert take(move, TWO, grace_s=60.0, gone=ONE).token == 2
    with pytest.raises(TakenOver, match=f"driven by {TWO} now"):
        take(move, THREE, grace_s=60.0, gone=ONE)


def test_one_that_nobody_holds_is_taken_as_such(fleet, undriven, take):
    assert take(undriven, ONE, gone="").token == 1
    with pytest.raises(TakenOver):
        take(undriven, TWO, gone="")


def test_an_ended_migration_has_nothing_to_drive(fleet, move, take):
    fleet.confirm_migration(move.id, status=COMPLETED, token=move.token)
    with pytest.raises(Conflict, match="nothing to drive"):
        take(move, TWO)
    with pytest.raises(NotFound):
        fleet.take_lease(99, TWO, 1.0, grace_s=0.0, key="x")


def test_a_call_that_is_repeated_takes_it_once(fleet, undriven, take):
    first = take(undriven, ONE, key="the call")
    assert take(undriven, ONE, key="the call") == first
    assert sum(event.kind == "lease" for event in fleet.events(migration=undriven.id)) == 1


def test_a_repeated_call_does_not_get_the_token_of_who_took_over_since(undriven, take):
    take(undriven, ONE, key="the call")
    take(undriven, TWO, gone=ONE)
    with pytest.raises(LeaseHeld, match=TWO):
        take(undriven, ONE, key="the call")


# -- renewing and letting go -------------------------------------------------------------------------------------------


def test_a_renewed_lease_lasts_from_now(fleet, move):
    fleet.renew_lease(move.id, move.token, 300.0)
    renewed = fleet.migration(move.id)
    assert 295 < renewed.lease_until - fleet.now() <= 300
    assert (renewed.token, renewed.controller) == (move.token, ONE)


def test_a_commit_renews_it_too(fleet, move):
    now = fleet.set_migration(move.id, sentence="on its way", token=move.token, ttl_s=120.0)
    assert 115 < now.lease_until - fleet.now() <= 120


def test_one_that_ran_out_and_was_not_taken_is_renewed(fleet, move):
    fleet.renew_lease(move.id, move.token, -100.0)
    fleet.renew_lease(move.id, move.token, 60.0)
    assert fleet.migration(move.id).lease_until > fleet.now()


def test_a_lease_that_is_let_go_is_free(fleet, move, take):
    fleet.drop_lease(move.id, move.token, "the controller stops")
    let_go = fleet.migration(move.id)
    assert (let_go.controller, let_go.lease_until) == ("", 0.0)
    assert let_go.token >= move.token
    told = fleet.events(migration=move.id)
    assert told[-1].sentence == "the controller stops"
    fleet.drop_lease(move.id, move.token, "the controller stops")
    assert fleet.events(migration=move.id) == told
    assert take(move, TWO, grace_s=60.0).controller == TWO


def test_the_end_of_a_migration_ends_its_lease(fleet, move):
    assert fleet.drop_move_claim(move.id, FAILED, "x", token=move.token).lease_until == 0.0


# -- who was taken over ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda ledger, move: ledger.set_migration(move.id, sentence="late", step="x", token=move.token),
        lambda ledger, move: ledger.set_migration(move.id, sentence="late", status=FAILED, token=move.token),
        lambda ledger, move: ledger.confirm_migration(move.id, status=COMPLETED, token=move.token),
        lambda ledger, move: ledger.drop_move_claim(move.id, FAILED, "late", token=move.token),
        lambda ledger, move: ledger.renew_lease(move.id, move.token, 60.0),
    ],
    ids=["set", "end", "confirm", "drop", "renew"],
)
def test_a_controller_that_was_taken_over_writes_nothing_more(fleet, move, take, write):
    new = take(move, TWO, gone=ONE)
    told = fleet.events(migration=move.id)
    with pytest.raises(TakenOver, match=rf"driven by {TWO} now \(token 2, not 1\)"):
        write(fleet, move)
    assert fleet.migration(move.id) == new
    assert fleet.events(migration=move.id) == told
    assert len(fleet.view("A").holdings) == len(fleet.view("B").holdings) == 1


def test_letting_go_of_what_was_taken_over_lets_go_of_nothing(fleet, move, take):
    new = take(move, TWO, gone=ONE)
    fleet.drop_lease(move.id, move.token, "the controller stops")
    assert fleet.migration(move.id) == new


def test_whoever_names_no_token_is_a_person_and_is_believed(fleet, move, take):
    take(move, TWO, gone=ONE)
    assert fleet.drop_move_claim(move.id, FAILED, "a person says so").status == FAILED


# -- whose clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew_s", [-86_400.0, 86_400.0])
def test_a_controllers_own_clock_changes_nothing(fleet, undriven, take, monkeypatch, skew_s):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew_s)
    held = take(undriven, ONE, 60.0)
    assert abs(fleet.now() - real()) < 30
    assert 0 < held.lease_until - real() < 90
    with pytest.raises(LeaseHeld):
        take(undriven, TWO)
    fleet.renew_lease(held.id, held.token, -1.0)
    assert take(undriven, TWO).controller == TWO
