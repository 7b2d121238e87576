"""A re-pin: a new placement on the guest's own host is claimed beside the old one, and one of the two is let go."""

from __future__ import annotations

import attrs
import pytest

from numaferry.errors import Conflict, NoFit, NotConfirmed, NotFound
from numaferry.ledger.usage import Use, host_usage
from numaferry.model import CpuSet, MigrationStatus, MigrationType, Placement, mutated_migration_context

COMPLETED, FAILED = MigrationStatus.COMPLETED, MigrationStatus.FAILED


@pytest.fixture
def guest(fleet, make):
    """A guest on A with CPUs 4-5 and 32 pages of 2 MiB on cell 1."""
    return fleet.claim_instance(make.guest("db1", "A", "4-5")).instance


@pytest.fixture
def onto(make):
    """Return a function that makes a solver which places the guest on given CPUs of its host."""

    def solver(cpus, cell=1):
        topology = make.guest("wish", "A", cpus, cell=cell).numa_topology
        return lambda host, _request: Placement(host.name, host.generation, topology)

    return solver


def cpus_and_pages(fleet):
    """Return the CPUs of A that are promised, and the pages of 2 MiB of each cell."""
    state = fleet.host_state("A")
    return str(state.cells[0].pinned | state.cells[1].pinned), [cell.pool(2048).used for cell in state.cells]


def test_a_claim_adds_what_is_new(fleet, guest, onto):
    claim = fleet.repin_claim(guest.uuid, fit=onto("5-6"), controller="me:1:2.0", lease_s=30)
    move = claim.migration
    assert (move.migration_type, move.status) == (MigrationType.REPIN, MigrationStatus.ACCEPTED)
    assert (move.source, move.dest, move.controller, move.token) == ("A", "A", "me:1:2.0", 1)
    assert cpus_and_pages(fleet) == ("4-6", [0, 32]), "CPU 5 and the pages are in both claims, and held once"
    assert claim.instance.numa_topology == guest.numa_topology
    assert mutated_migration_context(claim.instance).numa_topology.owned_cpus == CpuSet.parse("5-6")


def test_what_is_on_another_cell_is_charged_there_too(fleet, guest, onto):
    fleet.repin_claim(guest.uuid, fit=onto("2-3", cell=0))
    assert cpus_and_pages(fleet) == ("2-5", [32, 32])


def test_confirming_drops_the_rest_of_the_old_claim(fleet, guest, onto):
    claim = fleet.repin_claim(guest.uuid, fit=onto("5-6"))
    for _ in range(2):
        assert fleet.confirm_migration(claim.migration.id, status=COMPLETED).status == COMPLETED
        assert cpus_and_pages(fleet) == ("5-6", [0, 32])
    moved = fleet.instance("db1")
    assert (moved.host, moved.numa_topology.owned_cpus) == ("A", CpuSet.parse("5-6"))
    assert moved.migration_context is None
    assert fleet.events(migration=claim.migration.id)[-2].sentence == "db1 runs on A: its old claim is released"


def test_dropping_drops_what_was_added(fleet, guest, onto):
    before = fleet.host_state("A").cells
    claim = fleet.repin_claim(guest.uuid, fit=onto("5-6"))
    for _ in range(2):
        assert fleet.drop_move_claim(claim.migration.id, FAILED, "the pins could not be set").status == FAILED
        assert fleet.host_state("A").cells == before
    assert fleet.instance("db1") == guest


def test_a_guest_is_repinned_again_and_again(fleet, guest, onto):
    for cpus in ("5-6", "6-7", "4-5"):
        claim = fleet.repin_claim(guest.uuid, fit=onto(cpus))
        fleet.confirm_migration(claim.migration.id, status=COMPLETED)
        assert cpus_and_pages(fleet) == (cpus, [0, 32])


def test_a_repinned_guest_moves_away_and_leaves_nothing(fleet, guest, onto):
    fleet.confirm_migration(fleet.repin_claim(guest.uuid, fit=onto("5-6")).migration.id, status=COMPLETED)
    fleet.confirm_migration(fleet.live_migration_claim(guest.uuid, ["B"]).migration.id, status=COMPLETED)
    assert cpus_and_pages(fleet) == ("", [0, 0])


def test_usage_is_charged_once_and_shows_what_comes_in(fleet, guest, onto):
    fleet.repin_claim(guest.uuid, fit=onto("5-6"))
    usage = host_usage(fleet, "A").cell(1)
    assert usage.own == Use(CpuSet.parse("4-5"), pages=((2048, 32),))
    assert usage.incoming == Use(CpuSet.parse("6"))
    assert usage.outgoing == Use()


def test_the_explanation_names_each_holder_once(fleet, guest, onto):
    fleet.repin_claim(guest.uuid, fit=onto("5-6"))
    told = fleet.explain_host("A")
    why = {one.cpu: [holder.why for holder in one.holders] for one in told.cpus if one.holders}
    old, new = "adopted on A; gives way to migration 1 (accepted)", "comes in: migration 1 within A (accepted)"
    assert why == {4: [old], 5: [old], 6: [new]}
    assert [pool.used for pool in told.pools if (pool.cell, pool.resource) == (1, "page:2048")] == [32]


def test_a_guest_seen_on_both_its_claims_is_charged_once(fleet, guest, onto, make):
    """While the pins change, it is seen on CPUs of either."""
    fleet.repin_claim(guest.uuid, fit=onto("5-6"))
    before = cpus_and_pages(fleet)
    fleet.set_observed("A", [make.seen("db1", "4-6", uuid=guest.uuid, memory_mib=64, pages=((1, 2048, 32),))])
    assert cpus_and_pages(fleet) == before
    assert not any(holder.role == "seen" for one in fleet.explain_host("A").cpus for holder in one.holders)


def test_the_solver_goes_around_what_is_in_the_way(fleet, guest, make):
    """Somebody else runs on CPU 4; beside it there is room with the guest's own CPUs and pages counted as free."""
    fleet.set_observed("A", [make.seen("stray", "2-4,6", memory_mib=192, pages=((1, 2048, 96),))])
    claim = fleet.repin_claim(guest.uuid)
    assert claim.placement.numa_topology.owned_cpus == CpuSet.parse("5,7")


def test_without_room_it_does_not_fit(fleet, guest, make):
    fleet.set_observed("A", [make.seen("stray", "2-4,6-7")])
    with pytest.raises(NoFit) as caught:
        fleet.repin_claim(guest.uuid)
    assert [misfit.host for misfit in caught.value.misfits] == ["A"]
    assert fleet.migrations() == ()
    assert fleet.instance("db1") == guest


def test_one_migration_at_a_time(fleet, guest, onto):
    first = fleet.live_migration_claim(guest.uuid, ["B"]).migration
    with pytest.raises(Conflict, match="is being moved to B by migration 1"):
        fleet.repin_claim(guest.uuid, fit=onto("5-6"))
    fleet.drop_move_claim(first.id, FAILED, "x")
    fleet.repin_claim(guest.uuid, fit=onto("5-6"))
    with pytest.raises(Conflict, match="is being moved to A"):
        fleet.repin_claim(guest.uuid, fit=onto("6-7"))
    with pytest.raises(Conflict, match="is being moved to A"):
        fleet.live_migration_claim(guest.uuid, ["B"])
    with pytest.raises(Conflict, match="is being moved to A"):
        fleet.forget_instance(guest.uuid)


def test_a_host_that_takes_nobody_repins_nobody(fleet, guest, onto, make):
    fleet.set_host_state("A", "unreachable", "no route")
    with pytest.raises(NoFit, match="A is unreachable: no route"):
        fleet.repin_claim(guest.uuid, fit=onto("5-6"))
    fleet.update_host("A", attrs.evolve(make.facts("A"), uuid="another"))
    with pytest.raises(NotConfirmed, match="quarantined"):
        fleet.repin_claim(guest.uuid, fit=onto("5-6"))


def test_an_unknown_guest_is_not_found(fleet):
    with pytest.raises(NotFound):
        fleet.repin_claim("nobody")
