"""Places in the queue, given by one transaction at a time."""

import threading

import pytest

from numaferry.errors import TakenOver
from numaferry.ledger import open_ledger
from numaferry.model import IN_PROGRESS, Limits, MigrationStatus
from numaferry.model.queue import wait_of

ONE = Limits(per_dest=1)


@pytest.fixture
def moves(fleet, make):
    """Three accepted moves from A to B."""
    accepted = []
    for name, cpus in (("g1", "2"), ("g2", "3"), ("g3", "4")):
        guest = make.guest(name, "A", cpus)
        fleet.claim_instance(guest)
        accepted.append(fleet.live_migration_claim(guest.uuid, ["B"], controller=f"c {name}", lease_s=60).migration)
    return accepted


def begin(ledger, move, limits=ONE):
    return ledger.begin_migration(move.id, limits, token=move.token, ttl_s=60, key=f"begin {move.id}")


def test_a_place_is_given_once_however_many_ask_at_once(fleet, moves, where):
    answers, barrier = [], threading.Barrier(len(moves))

    def ask(move):
        ledger = open_ledger(str(where))
        barrier.wait(10)
        answers.append(begin(ledger, move))
        ledger.close()

    threads = [threading.Thread(target=ask, args=(move,)) for move in moves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answer is None for answer in answers) == [False, False, True]
    assert [move.status for move in fleet.migrations()].count(MigrationStatus.PREPARING) == 1


def test_a_place_is_free_again_when_the_copy_is_over(fleet, moves):
    first, second, _ = moves
    assert begin(fleet, first) is None
    assert begin(fleet, second).reason == "B receives 1 already (limit 1)"
    fleet.set_migration(first.id, sentence="it is there", status=MigrationStatus.POST_MIGRATING)
    assert wait_of(ONE, fleet.migration(second.id), fleet.migrations(status=IN_PROGRESS), fleet.now()) is None
    assert begin(fleet, second) is None


def test_a_priority_is_kept_and_goes_first(fleet, make, moves):
    guest = make.guest("g4", "A", "5")
    fleet.claim_instance(guest)
    urgent = fleet.live_migration_claim(guest.uuid, ["B"], controller="c", lease_s=60, priority=7).migration
    assert fleet.migration(urgent.id).priority == 7
    assert begin(fleet, moves[0]).sentence == "queued, 2 of 4: B receives 1 already (limit 1)"
    assert begin(fleet, urgent) is None


def test_a_controller_that_was_taken_over_gets_no_place(fleet, moves):
    with pytest.raises(TakenOver):
        fleet.begin_migration(moves[0].id, ONE, token=moves[0].token + 1, ttl_s=60, key="k")
    assert fleet.migration(moves[0].id).status is MigrationStatus.ACCEPTED
