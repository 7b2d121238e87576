"""A transient guest that ended by itself gives back what it held, once that is certain; nobody else ever does."""

from __future__ import annotations

import attrs
import pytest

GRACE_S = 600.0


@pytest.fixture
def guest(fleet, make):
    """A transient guest on A with CPUs 4-5."""
    return fleet.claim_instance(attrs.evolve(make.guest("tmp1", "A", "4-5"), persistent=False)).instance


@pytest.fixture
def waited(sql):
    """Return a function that lets seconds go by for the guests that are gone."""

    def wait(seconds):
        sql.execute("UPDATE instance SET gone_since = gone_since - ?", (seconds,))

    return wait


def told(fleet, guest):
    return [event.kind for event in fleet.events(instance=guest.uuid)]


def test_one_that_is_there_stays(fleet, guest):
    assert fleet.note_present("A", {guest.uuid}, GRACE_S) == ()
    assert told(fleet, guest) == ["adopted"]


def test_one_that_is_gone_is_released_after_the_grace_time(fleet, guest, waited):
    free = fleet.host_state("A", ignore_instance=guest.uuid).cells
    assert fleet.note_present("A", set(), GRACE_S) == ()
    waited(GRACE_S - 60)
    assert fleet.note_present("A", set(), GRACE_S) == ()
    assert told(fleet, guest) == ["adopted", "guest-gone"], "told once"
    assert "released in 600 s if it stays so" in fleet.events(instance=guest.uuid)[-1].sentence
    waited(61)
    assert fleet.note_present("A", set(), GRACE_S) == ("tmp1",)
    assert fleet.instances() == ()
    assert fleet.host_state("A").cells == free
    assert told(fleet, guest) == ["adopted", "guest-gone", "forgotten"]
    assert fleet.note_present("A", set(), GRACE_S) == ()


def test_one_that_is_back_begins_anew(fleet, guest, waited):
    fleet.note_present("A", set(), GRACE_S)
    waited(GRACE_S + 1)
    assert fleet.note_present("A", {guest.uuid}, GRACE_S) == ()
    assert fleet.note_present("A", set(), GRACE_S) == ()
    assert told(fleet, guest) == ["adopted", "guest-gone", "guest-gone"]


def test_a_persistent_guest_keeps_its_claim(fleet, make, waited):
    kept = fleet.claim_instance(make.guest("db1", "A", "6-7")).instance
    for _ in range(3):
        assert fleet.note_present("A", set(), 0.0) == ()
        waited(10_000)
    assert fleet.instance("db1") == kept
    assert told(fleet, kept) == ["adopted"]


def test_one_that_is_being_moved_is_not_released(fleet, guest, waited):
    move = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    for host in ("A", "B", "A"):
        assert fleet.note_present(host, set(), 0.0) == ()
        waited(10_000)
    fleet.confirm_migration(move.id)
    assert fleet.note_present("A", set(), 0.0) == (), "it left for B"
    assert fleet.note_present("B", {guest.uuid}, 0.0) == ()
    assert fleet.instance("tmp1").host == "B"


def test_one_that_was_noted_as_gone_and_moves_since_is_not_released(fleet, guest, waited):
    fleet.note_present("A", set(), GRACE_S)
    waited(GRACE_S + 1)
    fleet.live_migration_claim(guest.uuid, ["B"])
    assert fleet.note_present("A", set(), GRACE_S) == ()
    assert len(fleet.view("B").holdings) == 1


def test_one_that_is_seen_on_another_host_is_not_released(fleet, guest, make, waited):
    """Somebody moved it behind the ledger: a finding, and no promise is dropped."""
    fleet.set_observed("B", [make.seen("tmp1", "4-5", uuid=guest.uuid)])
    for _ in range(2):
        assert fleet.note_present("A", set(), 0.0) == ()
        waited(10_000)
    assert fleet.instance("tmp1").host == "A"
    fleet.set_observed("B", [])
    fleet.note_present("A", set(), 0.0)
    assert fleet.note_present("A", set(), 0.0) == ("tmp1",)


def test_a_look_at_one_host_says_nothing_of_another(fleet, guest, make, waited):
    other = fleet.claim_instance(attrs.evolve(make.guest("tmp2", "B", "4-5"), persistent=False)).instance
    fleet.note_present("A", {guest.uuid}, 0.0)
    waited(10_000)
    assert fleet.note_present("A", {guest.uuid}, 0.0) == ()
    assert told(fleet, other) == ["adopted"]


def test_several_are_told_together(fleet, guest, make, waited):
    for name, cpus in (("tmp2", "2"), ("tmp3", "3")):
        fleet.claim_instance(attrs.evolve(make.guest(name, "A", cpus), persistent=False))
    fleet.note_present("A", set(), GRACE_S)
    waited(GRACE_S + 1)
    assert sorted(fleet.note_present("A", {guest.uuid}, GRACE_S)) == ["tmp2", "tmp3"]
