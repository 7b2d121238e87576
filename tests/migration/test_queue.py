"""Limits on what is under way at once: who waits keeps its claim, goes when there is room, and can be given up."""

import pytest

from numaferry.errors import TakenOver
from numaferry.model import Limits, MigrationStatus

ONE = Limits(per_source=1)
TWO = ((2, 4, 8, 10), (3, 5, 9, 11))


@pytest.fixture
def pair(site):
    """Two guests on alpha with accepted moves to beta and gamma, each with an engine of its own."""
    guests = [site.guest(f"db{number}", cpus) for number, cpus in enumerate(TWO, start=1)]
    engines = [site.engine(limits=ONE) for _ in guests]
    moves = [
        engine.start(site.ledger.instance(guest), dest)
        for engine, guest, dest in zip(engines, guests, ("beta", "gamma"), strict=True)
    ]
    return engines, moves


def under_way(site, number):
    """Let a migration take its place, as its driver does first."""
    move = site.ledger.migration(number)
    return site.ledger.begin_migration(number, ONE, token=move.token, ttl_s=30, key=f"begin {number}")


def test_the_second_waits_as_queued_with_its_claim_and_goes_when_the_first_has_left(site, pair):
    engines, (first, second) = pair
    assert under_way(site, first.id) is None
    seen = []

    def sleep(seconds):
        now = site.ledger.migration(second.id)
        seen.append((now.status, now.reason))
        if len(seen) == 3:
            engines[0].drive(first.id)
        site.fleet.advance(seconds)

    waiting = site.engine(limits=ONE, controller=engines[1].controller, sleep=sleep)
    assert waiting.drive(second.id).status is MigrationStatus.COMPLETED
    assert seen[0] == (MigrationStatus.QUEUED, "queued, 1 of 1: alpha sends 1 already (limit 1)")
    assert seen[0] == seen[1] == seen[2]
    assert site.ledger.migration(first.id).status is MigrationStatus.COMPLETED
    told = site.sentences(second.id)
    assert sum(sentence.startswith("queued, ") for sentence in told) == 1
    assert "alpha sends and gamma receives one more: its turn has come" in told


def test_one_that_is_given_up_while_it_waits_is_cancelled_and_frees_its_claim(site, pair):
    engines, (first, second) = pair
    assert under_way(site, first.id) is None

    def sleep(_seconds):
        engines[1].abort(second.id)

    waiting = site.engine(limits=ONE, controller=engines[1].controller, sleep=sleep)
    assert waiting.drive(second.id).status is MigrationStatus.CANCELLED
    assert site.ledger.view("gamma").holdings == ()


def test_who_was_taken_over_gets_no_place(site, pair):
    _, (first, _) = pair
    with pytest.raises(TakenOver):
        site.ledger.begin_migration(first.id, ONE, token=first.token + 1, ttl_s=30, key="k")
    assert site.ledger.migration(first.id).status is MigrationStatus.ACCEPTED


def test_a_place_that_was_taken_by_an_answer_that_got_lost_is_not_lost(site, pair):
    _, (first, second) = pair
    assert under_way(site, first.id) is None
    assert under_way(site, first.id) is None
    assert under_way(site, second.id) is not None
    assert site.sentences(first.id).count("alpha sends and beta receives one more: its turn has come") == 1


def test_one_that_was_killed_when_its_turn_had_come_goes_on(site, pair):
    engines, (first, _) = pair
    assert under_way(site, first.id) is None
    again = site.engine(limits=ONE, controller=engines[0].controller)
    assert again.drive(first.id).status is MigrationStatus.COMPLETED


def test_a_re_pin_takes_no_place(site, pair):
    _, (first, _) = pair
    assert under_way(site, first.id) is None
    extra = site.guest("db3", (12, 13, 14, 15))
    engine = site.engine(limits=ONE)
    move = engine.repin(site.ledger.instance(extra))
    assert engine.drive(move.id).status is MigrationStatus.COMPLETED
