"""Adoption claims what a guest has; what others hold or are seen on stays out and is said."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numaferry.errors import Ambiguous, Conflict, NotFound, Overcommitted
from numaferry.ledger.amounts import Amount
from numaferry.ledger.claim_rows import ClaimRows, insert_claim
from numaferry.model import CpuSet, Promise


def cell(fleet, host, number):
    return fleet.host_state(host).cells[number]


def test_an_adopted_guest_holds_its_cpus_and_pages(fleet, make):
    claim = fleet.claim_instance(make.guest("db1", "A", "4-5"))
    assert claim.instance.promise is Promise.KEPT
    assert claim.conflicts == ()
    assert cell(fleet, "A", 1).pinned == CpuSet.parse("4-5")
    assert cell(fleet, "A", 1).pool(2048).used == 32
    assert cell(fleet, "A", 1).memory_used_kib == 0
    assert cell(fleet, "B", 1).pinned == CpuSet()


def test_base_pages_are_charged_as_memory_of_their_cell(fleet, make):
    fleet.claim_instance(make.guest("db1", "A", "4-5", page_size=None))
    found = cell(fleet, "A", 1)
    assert found.memory_used_kib == 64 * 1024
    assert found.pool(4).used == 64 * 1024 // 4
    assert found.pool(2048).used == 0


def test_a_floating_guest_is_charged_to_the_host(fleet, make):
    claim = fleet.claim_instance(make.floating("web1", "A", vcpus=3, memory_mib=100))
    state = fleet.host_state("A")
    assert claim.instance.promise is Promise.FLOATING
    assert (state.floating_vcpus, state.floating_memory_kib) == (3, 100 * 1024)
    assert all(not one.pinned and not one.memory_used_kib and not one.shared_vcpus for one in state.cells)


def test_an_instance_is_stored_as_it_was_given(fleet, make):
    guest = make.guest("db1", "A", "4-5")
    assert fleet.claim_instance(guest).instance == guest
    assert fleet.instances() == (guest,)
    assert fleet.instances(host="B") == ()
    assert fleet.instance_by_uuid(guest.uuid) == guest
    assert fleet.instance_by_uuid("no such") is None


def test_a_guest_is_adopted_once(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    with pytest.raises(Conflict, match="in the ledger already, on A"):
        fleet.claim_instance(guest)


def test_a_guest_whose_cpus_are_claimed_is_conflicted_and_claims_the_rest(fleet, make):
    fleet.claim_instance(make.guest("db1", "A", "4-5"))
    claim = fleet.claim_instance(make.guest("db2", "A", "5-6"))
    assert claim.instance.promise is Promise.CONFLICTED
    assert claim.contested_cpus == CpuSet.parse("5")
    assert claim.conflicts == ("CPU 5 is claimed by db1",)
    holdings = {holding.instance_name: holding.cpu_set for holding in fleet.view("A").holdings}
    assert holdings == {"db1": CpuSet.parse("4-5"), "db2": CpuSet.parse("6")}


def test_a_guest_whose_cpus_another_is_seen_on_is_conflicted(fleet, make):
    guest = make.guest("db1", "A", "4-5")
    fleet.set_observed("A", (make.seen("stray", "5"), make.seen("db1", "4-5", uuid=guest.uuid)))
    claim = fleet.claim_instance(guest)
    assert claim.conflicts == ("stray is seen on CPU 5",)
    assert cell(fleet, "A", 1).pinned == CpuSet.parse("4-5")


def test_contested_cpus_stay_closed_after_both_are_adopted(fleet, make):
    """Two running guests on one CPU is a fact: it is storable, and nobody else gets the CPU."""
    guests = [make.guest(name, "A", "4-5") for name in ("db1", "db2")]
    fleet.set_observed("A", [make.seen(guest.name, "4-5", uuid=guest.uuid) for guest in guests])
    claims = [fleet.claim_instance(guest) for guest in guests]
    assert [claim.instance.promise for claim in claims] == [Promise.CONFLICTED] * 2
    assert [holding.cpu_set for holding in fleet.view("A").holdings] == [CpuSet()] * 2
    assert cell(fleet, "A", 1).free_dedicated == CpuSet.parse("6-7")
    seen = [[holder.name for holder in one.holders] for one in fleet.explain_host("A").cpus if one.cpu in {4, 5}]
    assert seen == [["db1", "db2"], ["db1", "db2"]]


def test_a_guest_outside_the_dedicated_set_is_conflicted(fleet, make):
    claim = fleet.claim_instance(make.guest("db1", "A", "1-2"))
    assert claim.conflicts == ("CPU 1 is not in the dedicated set of A",)
    assert cell(fleet, "A", 0).pinned == CpuSet.parse("2")


def test_pages_that_are_not_there_are_not_promised(fleet, make):
    fleet.claim_instance(make.guest("db1", "A", "4-5", memory_mib=200))
    claim = fleet.claim_instance(make.guest("db2", "A", "6-7", memory_mib=100))
    assert claim.instance.promise is Promise.CONFLICTED
    assert claim.conflicts == ("it has 50 2048 KiB pages on cell 1 of A, and 28 may be promised there",)
    assert cell(fleet, "A", 1).pool(2048).free == 0


def test_a_conflict_that_is_gone_is_mended_by_claiming_anew(fleet, make):
    first = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    second = fleet.claim_instance(make.guest("db2", "A", "5-6")).instance
    fleet.forget_instance(first.uuid)
    claim = fleet.reclaim_instance(second.uuid, second.numa_topology)
    assert claim.instance.promise is Promise.KEPT
    assert cell(fleet, "A", 1).pinned == CpuSet.parse("5-6")
    assert len(fleet.view("A").holdings) == 1


def test_forgetting_frees_everything(fleet, make):
    before = fleet.host_state("A").cells
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.forget_instance(guest.uuid)
    assert fleet.host_state("A").cells == before
    with pytest.raises(NotFound):
        fleet.forget_instance(guest.uuid)


def test_a_guest_that_is_being_moved_is_not_forgotten(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.live_migration_claim(guest.uuid, ["B"])
    with pytest.raises(Conflict, match="being moved to B by migration 1"):
        fleet.forget_instance(guest.uuid)
    with pytest.raises(Conflict, match="being moved to B"):
        fleet.reclaim_instance(guest.uuid, guest.numa_topology)


def test_an_instance_is_found_by_uuid_name_and_beginning(fleet, make):
    first = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    second = fleet.claim_instance(make.floating("db1", "B")).instance
    third = fleet.claim_instance(make.floating("cafe", "B")).instance
    assert fleet.instance(second.uuid.upper()) == second
    assert fleet.instance("cafe") == third
    assert fleet.instance(first.uuid[:36]) == first
    with pytest.raises(Ambiguous, match="fits 2 instances") as caught:
        fleet.instance("db1")
    assert first.uuid in str(caught.value)
    with pytest.raises(Ambiguous, match="fits 3 instances"):
        fleet.instance("0000")
    for nothing in ("", "db", "%"):
        with pytest.raises(NotFound):
            fleet.instance(nothing)


def test_what_the_schema_refuses_is_told_as_a_fault_of_ours(fleet, make):
    """A solver that allowed a taken CPU would end here, with nothing promised."""
    fleet.claim_instance(make.guest("db1", "A", "4-5"))
    other = fleet.claim_instance(make.guest("db2", "A", "6-7")).instance
    rows = ClaimRows(other.uuid, 2, 1, None, Promise.KEPT, "by a broken solver", {9: "vcpu"}, ())
    with pytest.raises(Overcommitted) as caught, fleet._write() as connection:
        insert_claim(connection, rows)
    assert caught.value.code == "claim-without-migration"
    assert len(fleet.view("B").holdings) == 0


def test_amounts_of_one_claim_add_up(fleet, make):
    fleet.claim_instance(make.guest("db1", "A", "4-5"))
    (holding,) = fleet.view("A").holdings
    assert holding.amounts == (Amount(1, "page:2048", 32, exact=True),)
    assert holding.cpus == ((4, "vcpu"), (5, "vcpu"))
    assert holding.cause == "adopted on A"


def test_the_cells_of_a_network_reach_the_fit_and_a_move_keeps_to_them(fleet, make):
    make.host(fleet, "C", physical_network_cells=(("physnet0", (1,)),))
    assert fleet.host_state("C").network_cells == (("physnet0", (1,)),)
    guest = make.guest("db1", "A", "2-3")
    near = attrs.evolve(guest, request=attrs.evolve(guest.request, physical_networks=("physnet0",)))
    claim = fleet.claim_instance(near)
    move = fleet.live_migration_claim(claim.instance.uuid, ["C"])
    assert [cell.host_cell for cell in move.placement.numa_topology.cells] == [1]


@given(
    cpus=st.sets(st.integers(4, 7), min_size=1),
    wish=st.fixed_dictionaries(
        {"memory_mib": st.integers(1, 40).map(lambda pages: 2 * pages), "page_size": st.sampled_from([None, 2048])}
    ),
    floating=st.booleans(),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_claim_then_release_is_the_identity(fleet, make, cpus, wish, floating):
    if not fleet.instances():
        fleet.claim_instance(make.guest("neighbour", "A", "4", cell=1))
        fleet.claim_instance(make.floating("floater", "A", vcpus=2))
    before = attrs.evolve(fleet.host_state("A"), generation=0)
    made = make.guest("db1", "A", str(CpuSet.of(cpus)), **wish)
    claimed = fleet.claim_instance(make.floating("web1", "A", memory_mib=8) if floating else made).instance
    assert attrs.evolve(fleet.host_state("A"), generation=0) != before
    fleet.forget_instance(claimed.uuid)
    assert attrs.evolve(fleet.host_state("A"), generation=0) == before
