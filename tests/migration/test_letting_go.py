"""A controller that stops driving before the end says so: its process may live on for months."""

import pytest

from numaferry.errors import HostUnreachable, LedgerError, MigrationFailed, NeedsPerson, TakenOver
from numaferry.model import MigrationStatus


def test_a_migration_left_for_a_silent_host_named_its_live_process_for_ever(site):
    """`recover` said "is being driven by" the very process that had given up waiting."""
    uuid = site.guest()

    def lost(migration, _job):
        if migration.step == "live_migration":
            site.fleet.cut("controller", "alpha")

    engine = site.engine(on_progress=lost)
    number = engine.start(site.ledger.instance("db1"), "beta").id
    with pytest.raises(HostUnreachable):
        engine.drive(number)
    left = site.ledger.migration(number)
    assert left.in_progress
    assert left.controller == "", "a process that lives on was named as its driver"
    assert any("lets go of it: migration 1 of db1 stays" in sentence for sentence in site.sentences())
    site.fleet.heal()
    site.recover(number, left_by=left.controller)
    site.settled(uuid)


def test_a_ledger_that_fails_once_leaves_a_migration_that_can_be_recovered_at_once(site, monkeypatch):
    uuid = site.guest()
    engine = site.engine()
    number = engine.start(site.ledger.instance("db1"), "beta").id
    write, failed = site.ledger.set_migration, []

    def locked_once(*args, **more):
        if more.get("step") and not failed:
            failed.append(more["step"])
            raise LedgerError("the ledger is locked")
        return write(*args, **more)

    monkeypatch.setattr(site.ledger, "set_migration", locked_once)
    with pytest.raises(LedgerError):
        engine.drive(number)
    assert site.ledger.migration(number).controller == ""
    site.recover(number, left_by="")
    site.settled(uuid, moved=False)


def test_one_that_another_took_over_keeps_the_other_s_name(site):
    site.guest()

    def taken(migration, _job):
        if migration.step == "live_migration":
            site.taken_over(migration.id)

    engine = site.engine(on_progress=taken)
    number = engine.start(site.ledger.instance("db1"), "beta").id

    with pytest.raises(TakenOver):
        engine.drive(number)
    assert site.ledger.migration(number).controller == "another"


def test_one_that_needs_a_person_is_nobody_s(site):
    uuid = site.guest(persistent=False)
    number = site.engine().start(site.ledger.instance("db1"), "beta").id
    intent = {"status": MigrationStatus.RUNNING, "step": "live_migration"}
    site.ledger.set_migration(number, sentence="live_migration", **intent)
    site.fleet.end_guest("alpha", uuid)
    with pytest.raises(NeedsPerson):
        site.recover(number)
    assert site.ledger.migration(number).controller == ""


def test_one_that_was_rolled_back_lost_the_name_of_who_had_driven_it(site):
    """It had ended when its controller let go of it: nobody was left to say what it had been told."""
    uuid = site.guest()
    site.fleet.inject_named("dest-start-fails")
    engine = site.engine()
    number = engine.start(site.ledger.instance("db1"), "beta").id
    with pytest.raises(MigrationFailed):
        engine.drive(number)
    assert site.ledger.migration(number).controller == engine.controller
    assert not any("lets go of it" in sentence for sentence in site.sentences())
    site.settled(uuid, moved=False)
