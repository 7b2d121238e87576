"""What went wrong in nova's claims and audits, by Launchpad number, and can't go wrong here."""

from __future__ import annotations

import attrs
import pytest

from numaferry.errors import Conflict, NoFit, NotFound, Overcommitted
from numaferry.fit import numa_fit_instance_to_host
from numaferry.ledger.usage import Use, host_usage
from numaferry.model import EMPTY, CpuSet, HostState, MigrationStatus, NumaRequest, Placement

FAILED = MigrationStatus.FAILED


@pytest.fixture
def guest(fleet, make):
    """A guest on A with CPUs 4-5."""
    return fleet.claim_instance(make.guest("db1", "A", "4-5")).instance


def free(fleet, host):
    return [str(cell.free_dedicated) for cell in fleet.host_state(host).cells]


def test_lp_1289064_the_destination_gets_pins_of_its_own(fleet, guest, make):
    """Live migration copied the source's pins onto CPUs that another guest had."""
    fleet.claim_instance(make.guest("noisy1", "B", "4-5"))
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    assert claim.placement.numa_topology.owned_cpus.isdisjoint(CpuSet.parse("4-5"))


@pytest.mark.parametrize("status", [MigrationStatus.ACCEPTED, MigrationStatus.QUEUED, MigrationStatus.ERROR])
def test_lp_1845146_an_accepted_migration_is_counted(fleet, guest, status):
    """The audit left migrations in status `accepted` out, and freed their claim."""
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    fleet.set_migration(claim.migration.id, status=status, sentence="set by the test")
    held = claim.placement.numa_topology.owned_cpus
    assert all(cell.free_dedicated.isdisjoint(held) for cell in fleet.host_state("B").cells)
    assert sum(len(cell.incoming.cpus) for cell in host_usage(fleet, "B").cells) == 2


def test_lp_1953359_an_observation_during_the_move_does_not_disturb_the_claim(fleet, guest, make):
    """The audit ran before the migration context was applied to an incoming guest: CPUPinningInvalid."""
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    held = claim.placement.numa_topology.owned_cpus
    before = fleet.host_state("B").cells
    fleet.set_observed("B", (make.seen("db1", str(held), uuid=guest.uuid),))
    assert fleet.host_state("B").cells == before
    fleet.confirm_migration(claim.migration.id)
    assert fleet.host_state("B").cells == before


def test_lp_1894095_an_audit_after_the_drop_does_not_bring_the_claim_back(fleet, guest, make):
    """Between the failure and the drop an audit ran: the source showed the destination's CPUs, the claim came back."""
    source, dest = free(fleet, "A"), free(fleet, "B")
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    fleet.set_observed("A", (make.seen("db1", "4-5", uuid=guest.uuid),))
    fleet.drop_move_claim(claim.migration.id, FAILED, "the job failed")
    fleet.set_observed("A", (make.seen("db1", "4-5", uuid=guest.uuid),))
    fleet.set_observed("B", ())
    assert (free(fleet, "A"), free(fleet, "B")) == (source, dest)
    assert fleet.instance("db1") == guest


def test_lp_1896463_host_and_topology_change_together(fleet, guest):
    """instance.host was set and the context dropped outside of the lock: an audit between saw neither side right."""
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    before = fleet.instance("db1")
    fleet.confirm_migration(claim.migration.id)
    after = fleet.instance("db1")
    assert (before.host, before.numa_topology) == ("A", guest.numa_topology)
    assert (after.host, after.numa_topology) == ("B", claim.placement.numa_topology)


def test_lp_1818914_a_drop_gives_back_exactly_what_was_claimed(fleet, guest, make):
    """drop_move_claim did not update the usage, or with the wrong flavor."""
    fleet.claim_instance(make.guest("db2", "B", "6-7"))
    before = host_usage(fleet, "B")
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    assert host_usage(fleet, "B") != before
    fleet.drop_move_claim(claim.migration.id, FAILED, "x")
    assert host_usage(fleet, "B") == before


def test_lp_2153425_ratios_apply_at_the_claim(fleet, make):
    """The scheduler's limits were not passed to the claim of a live migration: overcommit without end."""
    fleet.confirm_host("B", make.config(cpu_allocation_ratio=1.5))
    guests = [fleet.claim_instance(make.floating(name, "A", vcpus=2)).instance for name in ("w1", "w2")]
    fleet.live_migration_claim(guests[0].uuid, ["B"])
    with pytest.raises(NoFit):
        fleet.live_migration_claim(guests[1].uuid, ["B"])

    def without_limits(host: HostState, _request: NumaRequest) -> Placement:
        return Placement(host.name, host.generation, None)

    with pytest.raises(Overcommitted):
        fleet.live_migration_claim(guests[1].uuid, ["B"], fit=without_limits)


def test_lp_1454451_the_state_a_claim_was_made_on_is_the_state_it_commits_against(fleet, guest, make):
    """Audit and persisted claim were not under one lock: double pinning."""
    seen = []

    def looking(host, request):
        seen.append(host)
        return numa_fit_instance_to_host(host, request)

    fleet.live_migration_claim(guest.uuid, ["B"], fit=looking)
    assert seen[0].generation == fleet.host("B").generation - 1


def test_lp_1405359_a_failed_candidate_leaves_no_trace_in_the_request(fleet, guest, make):
    """The fit changed the request it was given; the next host saw a fitted one."""
    make.host(fleet, "C", notation="2 cells x 2 cores x 2 threads, 1536M, 2M:16")
    requests = []

    def looking(host, request):

        requests.append(request)
        return numa_fit_instance_to_host(host, request)

    fleet.live_migration_claim(guest.uuid, ["C", "B"], fit=looking)
    assert requests[0] == requests[1] == guest.request


@pytest.mark.parametrize("cpus", ["0-1", "8-9"])
def test_lp_1483613_unknown_cpus_are_not_pinned(fleet, make, cpus):
    claim = fleet.claim_instance(make.guest("db1", "A", cpus, cell=0))
    assert fleet.view("A").holdings[0].cpu_set == EMPTY
    assert claim.contested_cpus == CpuSet.parse(cpus)


def test_lp_1485631_a_guest_is_not_overcommitted_against_itself(fleet, make):
    """Two vCPUs of one guest on one CPU: it is owned once."""
    guest = make.guest("db1", "A", "4-5")
    cell = attrs.evolve(guest.numa_topology.cells[0], cpu_pinning=((0, 4), (1, 4)))
    fleet.claim_instance(attrs.evolve(guest, numa_topology=attrs.evolve(guest.numa_topology, cells=(cell,))))
    assert fleet.view("A").holdings[0].cpus == ((4, "vcpu"),)


def test_lp_1712045_the_source_is_free_after_success(fleet, guest):
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    fleet.confirm_migration(claim.migration.id, status=MigrationStatus.COMPLETED)
    assert free(fleet, "A") == ["2-3", "4-7"]
    assert all(cell.total == Use() for cell in host_usage(fleet, "A").cells)


def test_lp_1852610_a_host_with_a_migration_in_progress_stays(fleet, guest):
    """A service was deleted with migrations in progress; here neither end goes."""
    fleet.live_migration_claim(guest.uuid, ["B"])
    for name in ("A", "B"):
        with pytest.raises(Conflict):
            fleet.remove_host(name)


def test_lp_1600304_an_ended_migration_counts_for_nothing(fleet, guest):
    for _ in range(3):
        claim = fleet.live_migration_claim(guest.uuid, ["B"])
        fleet.drop_move_claim(claim.migration.id, FAILED, "x")
    assert free(fleet, "B") == ["2-3", "4-7"]
    assert fleet.view("B").moves == ()


def test_lp_1549984_a_claim_that_fails_half_way_leaves_nothing(fleet, guest):
    """A claim made in a constructor leaked what it had taken when the constructor failed."""

    def links(_record):
        raise NotFound("no such network")

    with pytest.raises(NoFit):
        fleet.live_migration_claim(guest.uuid, ["B"], vifs=links)
    assert free(fleet, "B") == ["2-3", "4-7"]
    assert fleet.migrations() == ()
