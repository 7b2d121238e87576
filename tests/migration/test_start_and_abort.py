"""What is refused before anything is claimed, and how a move is given up."""

import attrs
import pytest

from numaferry.errors import CheckFailed, Conflict, HostUnreachable, MigrationFailed, NoFit, NotConfirmed, NotManaged
from numaferry.model import DomainState, HostConfig, MigrationPolicy, MigrationStatus, Ownership

NOVA = "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/></metadata>"


def refused(site, error, *words, dest="beta", **options):
    """Assert that `start` raises, says the words, and leaves no claim and no migration."""
    with pytest.raises(error) as caught:
        site.engine().start(site.ledger.instance("db1"), dest, **options)
    text = f"{caught.value.message} {caught.value.hint}"
    assert all(word in text for word in words), text
    assert site.ledger.migrations() == ()
    assert list(site.holders(site.ledger.instance("db1").uuid)) == ["alpha"]


def test_a_paused_guest(site):
    uuid = site.guest()
    domain = site.fleet.hosts["alpha"].domains[uuid]
    domain.state, domain.reason = DomainState.PAUSED, "user"
    refused(site, CheckFailed, "paused (user)")


def test_a_disk_on_the_source(site):
    site.guest(extra="<disk type='file'><source file='/a'/><target dev='vda'/></disk>")
    refused(site, CheckFailed, "vda", "nothing proves that beta sees the same", "--shared-storage", "--copy-storage")


def test_another_ledger_s_guest(site):
    uuid = site.guest()
    site.hypervisor("alpha").set_ownership(uuid, Ownership("another", "claim"))
    refused(site, Conflict, "belongs to ledger another")


def test_a_guest_of_nova_moves_only_by_force(site):
    uuid = site.guest()
    domain = site.fleet.hosts["alpha"].domains[uuid]
    domain.live = domain.live.replace("<memoryBacking>", NOVA + "<memoryBacking>", 1)
    refused(site, NotManaged, "nova")
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta", force=True)
    assert engine.drive(migration.id).status is MigrationStatus.COMPLETED


def test_a_destination_without_the_link(site):
    site.guest()
    site.fleet.hosts["beta"].links.clear()
    refused(site, CheckFailed, "enp7s0")


def test_a_destination_with_no_link_for_the_network(site):
    site.guest()
    config = attrs.evolve(site.ledger.host("beta").config, physical_networks=())
    site.ledger.confirm_host("beta", config)
    refused(site, CheckFailed, "physnet0", "beta")


def test_an_older_destination(site):
    site.guest()
    site.fleet.hosts["beta"].libvirt_version = 8_000_000
    refused(site, CheckFailed, "libvirt 9.0.0 on the source, 8.0.0 on beta")


def test_a_destination_that_can_t_be_reached(site):
    site.guest()
    site.fleet.cut("controller", "beta")
    refused(site, HostUnreachable, "beta")


def test_without_a_named_destination_the_next_best_is_taken(site):
    uuid = site.guest()
    site.fleet.hosts["beta"].links.clear()
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"))
    assert migration.dest == "gamma"
    engine.drive(migration.id)
    assert site.fleet.running_on(uuid) == ("gamma",)


def test_a_destination_that_is_full_says_what_is_missing(site):
    site.guest()
    site.ledger.confirm_host("beta", HostConfig(physical_networks=(("physnet0", "enp7s0"),)))
    refused(site, NoFit, "beta")


def test_a_destination_that_nobody_confirmed(site):
    site.guest()
    site.fleet.add_host("delta", "2 cells x 4 cores x 2 threads, 4G, 2M:256")
    site.ledger.add_host("delta", site.hypervisor("delta").facts())
    refused(site, NotConfirmed, "delta", dest="delta")


def test_the_source_as_destination(site):
    site.guest()
    refused(site, Conflict, "runs on alpha already", dest="alpha")


def test_a_guest_that_is_being_moved_already(site):
    site.guest()
    engine = site.engine()
    engine.start(site.ledger.instance("db1"), "beta")
    with pytest.raises(Conflict, match="is being moved to beta"):
        engine.start(site.ledger.instance("db1"), "gamma")


def test_pages_that_vanished_after_the_claim_are_found_by_the_second_check(site):
    uuid = site.guest()
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    site.fleet.hosts["beta"].taken[0, 2048] = 250
    with pytest.raises(CheckFailed, match="cell 0 of beta has 6 free pages of 2048 KiB, the claim needs 32"):
        engine.drive(migration.id)
    site.fleet.hosts["beta"].taken.clear()
    site.settled(uuid, moved=False)
    assert site.fleet.jobs == {}, "no job was asked for"


def test_an_abort_before_the_job_touches_no_host(site):
    uuid = site.guest()
    engine = site.engine()
    migration = engine.start(site.ledger.instance("db1"), "beta")
    engine.abort(migration.id)
    assert engine.drive(migration.id).status is MigrationStatus.CANCELLED
    site.settled(uuid, moved=False)
    assert site.fleet.jobs == {}


def test_an_abort_of_a_running_job(site):
    uuid = site.guest()
    site.fleet.dirty_mib_s[uuid] = 10_000
    site.fleet.pace_s = 0.001

    def impatient(migration, job):
        if job is not None and not migration.abort_requested and not asked:
            asked.append(job)
            engine.abort(migration.id)

    asked = []
    engine = site.engine(on_progress=impatient)
    migration = engine.start(site.ledger.instance("db1"), "beta", MigrationPolicy(bandwidth_mib_s=32))
    ended = engine.drive(migration.id)
    assert (ended.status, ended.reason) == (MigrationStatus.CANCELLED, "aborted on request")
    assert asked
    site.settled(uuid, moved=False)


def test_a_migration_that_has_ended_can_t_be_aborted(site):
    site.guest()
    engine = site.engine()
    ended = engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    with pytest.raises(Conflict):
        engine.abort(ended.id)


def test_a_failed_move_says_where_the_guest_is_and_why(site):
    uuid = site.guest()
    site.fleet.inject_named("dest-start-fails")
    engine = site.engine()
    with pytest.raises(MigrationFailed) as caught:
        engine.drive(engine.start(site.ledger.instance("db1"), "beta").id)
    assert "the guest is on alpha" in caught.value.message
    assert "cannot start the guest here" in caught.value.message
    site.settled(uuid, moved=False)
    assert "cannot start the guest here" in site.ledger.migration(1).reason
