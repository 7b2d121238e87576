"""Recovery executed: a new controller after a dead one, and what only a person can answer."""

import contextlib

import pytest

from numaferry.errors import HostUnreachable, NeedsPerson, NumaferryError
from numaferry.model import MigrationPolicy, MigrationStatus, Ownership
from numaferry.virt.simulated import ClientDied


def begun(site, scenario=None, *, bandwidth_mib_s=64, **fault):
    """Start and drive a migration into a fault; returns its id."""
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta", MigrationPolicy(bandwidth_mib_s=bandwidth_mib_s))
    if scenario:
        site.fleet.inject_named(scenario)
    else:
        site.fleet.inject(**fault)
    with contextlib.suppress(NumaferryError, ClientDied):
        engine.drive(migration.id)
    return migration.id


def test_a_job_whose_controller_was_killed_is_adopted_and_finished(site):
    uuid = site.guest()
    number = begun(site, point="perform", action="client-dies", after_bytes=40 << 20)
    assert site.ledger.migration(number).status is MigrationStatus.RUNNING
    job = site.hypervisor("alpha").job(uuid)
    assert 0 < job.memory_processed_bytes < job.memory_total_bytes
    site.progress.clear()
    ended = site.recover(number, controller="the second one")
    assert ended.status is MigrationStatus.COMPLETED
    assert ended.controller == "the second one"
    site.settled(uuid, moved=True)
    said = site.sentences(number)
    [adopted] = [sentence for sentence in said if sentence.startswith("adopted")]
    assert "adopted; source alpha: running (booted), reports a running job, " in adopted
    assert "of 128 MiB left" in adopted
    assert [job for _, job in site.progress if job is not None], "the adopted job's progress was not told"
    assert any(sentence.startswith("read back") for sentence in said)


def test_pages_are_verified_after_a_take_over_too_since_the_count_before_was_noted(site):
    site.guest()
    number = begun(site, "client-dies-in-perform")
    site.recover(number)
    [read] = [sentence for sentence in site.sentences(number) if sentence.startswith("read back")]
    assert "as claimed; 2048 KiB pages on cell 1" in read
    assert "6 verified" in read


def test_a_guest_left_paused_on_the_source_with_nothing_on_the_destination_is_resumed(site):
    uuid = site.guest()
    number = begun(site, "paused-on-source")
    assert site.fleet.running_on(uuid) == ()
    assert site.recover(number).status is MigrationStatus.FAILED
    site.settled(uuid, moved=False)
    assert any(sentence.startswith("resuming on the source") for sentence in site.sentences(number))


@pytest.mark.parametrize("reason", ["shutdown", "crashed", "destroyed"])
def test_a_guest_that_ends_by_itself_ends_the_migration_as_cancelled(site, reason):
    uuid = site.guest()
    number = begun(site, point="perform", action="client-dies", after_bytes=10 << 20)
    site.fleet.end_guest("alpha", uuid, reason)
    site.fleet.advance(3)
    ended = site.recover(number)
    assert ended.status is MigrationStatus.CANCELLED
    assert f"shutoff ({reason})" in ended.reason
    assert list(site.holders(uuid)) == ["alpha"], "destination freed, source kept"


@pytest.mark.parametrize("copy", ["paused", "running"])
def test_a_guest_that_is_on_both_hosts_is_not_touched_and_a_person_is_called(site, copy):
    uuid = site.guest()
    number = begun(site, "source-libvirtd-restarts-in-confirm")
    site.fleet.advance(10)
    if copy == "running":
        site.fleet.force_running("alpha", uuid)
    story = len(site.fleet.story)
    with pytest.raises(NeedsPerson) as caught:
        site.recover(number)
    assert f"source alpha: {copy}" in caught.value.message
    assert "dest beta: running" in caught.value.message
    assert "nothing was touched" in caught.value.message
    assert site.ledger.migration(number).status is MigrationStatus.ERROR
    assert set(site.holders(uuid)) == {"alpha", "beta"}, "both claims are held"
    assert site.fleet.story[story:] == [], "something was touched"
    # a person looks, and lets the copy on the source go
    site.fleet.end_guest("alpha", uuid, "destroyed")
    assert site.recover(number).status is MigrationStatus.COMPLETED
    assert list(site.holders(uuid)) == ["beta"]
    assert site.fleet.running_on(uuid) == ("beta",)


@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_a_host_that_can_t_be_asked_is_waited_for_with_both_claims_held(site, host):
    uuid = site.guest()
    number = begun(site, point="perform", action="client-dies", after_bytes=10 << 20)
    site.fleet.cut("controller", host)
    if host == "beta":
        site.fleet.cut("alpha", "beta")
        site.fleet.advance(5)
    with pytest.raises(HostUnreachable) as caught:
        site.recover(number)
    assert "can't be asked" in caught.value.message
    assert "migration recover" in caught.value.hint
    assert set(site.holders(uuid)) == {"alpha", "beta"}
    assert site.ledger.migration(number).in_progress
    site.fleet.heal()
    site.recover(number)
    site.settled(uuid)


def test_a_migration_that_nobody_began_to_drive_is_rolled_back_by_recover(site):
    uuid = site.guest()
    migration = site.engine().start(site.ledger.instance("db1"), "beta")
    assert site.recover(migration.id).status is MigrationStatus.FAILED
    site.settled(uuid, moved=False)


def test_the_mark_on_the_source_is_what_it_was_before(site):
    uuid = site.guest()
    mark = Ownership(site.ledger.ledger_id, site.holders(uuid)["alpha"])
    site.hypervisor("alpha").set_ownership(uuid, mark)
    begun(site, "dest-start-fails")
    assert site.hypervisor("alpha").domain(uuid).ownership == mark


def test_while_it_moves_the_source_s_mark_names_the_migration(site):
    uuid = site.guest()
    number = begun(site, "client-dies-in-perform")
    mark = site.hypervisor("alpha").domain(uuid).ownership
    assert mark.migration_uuid == site.ledger.migration(number).uuid
    assert mark.claim_id == site.holders(uuid)["alpha"]


def test_a_controller_that_was_taken_over_touches_nothing_more(site):
    uuid = site.guest()
    seen = []

    def taken_over(migration, _job):
        if migration.step == "live_migration" and not seen:
            seen.append(migration)
            site.taken_over(migration.id)

    engine = site.engine(on_progress=taken_over)
    migration = engine.start(site.ledger.instance("db1"), "beta")
    with pytest.raises(NumaferryError) as caught:
        engine.drive(migration.id)
    assert caught.value.code == "taken-over"
    assert site.fleet.running_on(uuid) == ("alpha",)
    assert set(site.holders(uuid)) == {"alpha", "beta"}
    site.recover(migration.id, controller="another")
    site.settled(uuid, moved=False)


def test_of_two_that_found_a_controller_gone_the_second_leaves_the_first_alone(site):
    """`migration recover` of everything judged all migrations at once, and took the last ones from who drove them."""
    uuid = site.guest()
    number = begun(site, point="perform", action="client-dies", after_bytes=10 << 20)
    gone = site.ledger.migration(number).controller
    site.taken_over(number, "the first")
    with pytest.raises(NumaferryError) as caught:
        site.recover(number, left_by=gone)
    assert caught.value.code == "taken-over"
    assert site.ledger.migration(number).controller == "the first"
    site.recover(number, left_by="the first", controller="the first")
    site.settled(uuid, moved=True)


def test_a_source_that_is_lost_during_the_roll_back_is_waited_for_with_the_claim_held(site):
    """Its mark could not be restored, so the migration may not be called ended."""
    uuid = site.guest()
    site.fleet.inject_named("dest-start-fails")

    def lose(migration, _job):
        if migration.step == "rollback_live_migration":
            site.fleet.cut("controller", "alpha")

    engine = site.engine(on_progress=lose)
    migration = engine.start(site.ledger.instance("db1"), "beta")
    with pytest.raises(HostUnreachable):
        engine.drive(migration.id)
    assert set(site.holders(uuid)) == {"alpha", "beta"}
    assert any("rollback_live_migration has to wait" in sentence for sentence in site.sentences())
    site.fleet.heal()
    site.recover(migration.id)
    site.settled(uuid, moved=False)


def test_a_destination_that_receives_for_ever_with_no_job_is_a_person_s_matter(site):
    uuid = site.guest()
    number = begun(site, point="call.live_migration", action="client-dies")
    xml = site.xml(cpus=(3, 5, 9, 11), link="enp7s0").replace("<name>", f"<uuid>{uuid}</uuid><name>", 1)
    site.fleet.hosts["beta"].begin(xml, reason="migration")
    with pytest.raises(NeedsPerson) as caught:
        site.recover(number)
    assert "dest beta: paused (migration)" in caught.value.message
    assert site.ledger.migration(number).status is MigrationStatus.ERROR
    assert set(site.holders(uuid)) == {"alpha", "beta"}
    site.fleet.end_guest("beta", uuid, "destroyed")
    assert site.recover(number).status is MigrationStatus.FAILED
    site.settled(uuid, moved=False)
