"""Reality closes what it uses, has no uniqueness, and never breaks a promise."""

from __future__ import annotations

import pytest

from numaferry.errors import NoFit
from numaferry.ledger import ObservedUse
from numaferry.model import CellRequest, CpuSet, NumaRequest


def test_a_stray_domain_closes_its_cpus_and_pages(fleet, make):
    fleet.set_observed("A", (make.seen("noisy1", "4-5", memory_mib=64, pages=((1, 2048, 32),)),))
    cell = fleet.host_state("A").cells[1]
    assert cell.free_dedicated == CpuSet.parse("6-7")
    assert cell.pool(2048).free == 96
    assert cell.memory_used_kib == 0


def test_base_pages_of_a_cell_and_memory_without_one_are_told_apart(fleet, make):
    bound = make.seen("bound", "4", memory_mib=10, pages=((1, 4, 10 * 256),))
    loose = make.seen("loose", "5", memory_mib=20)
    fleet.set_observed("A", (bound, loose))
    state = fleet.host_state("A")
    assert [cell.memory_used_kib for cell in state.cells] == [0, 10 * 1024]
    assert state.floating_memory_kib == 20 * 1024
    assert state.floating_vcpus == 0


def test_a_floating_domain_is_charged_vcpus_and_memory(fleet, make):
    fleet.set_observed("A", (make.seen("vm1", floating=True, vcpus=3, memory_mib=100),))
    state = fleet.host_state("A")
    assert (state.floating_vcpus, state.floating_memory_kib) == (3, 100 * 1024)
    assert not any(cell.pinned for cell in state.cells)


def test_a_domain_in_the_shared_set_closes_no_dedicated_cpu(fleet, make):
    fleet.set_observed("A", (make.seen("vm1", "0-1"),))
    assert not any(cell.pinned for cell in fleet.host_state("A").cells)


def test_two_domains_on_one_cpu_are_stored(fleet, make):
    fleet.set_observed("A", (make.seen("vm1", "4"), make.seen("vm2", "4-5")))
    assert [use.name for use in fleet.observed("A")] == ["vm1", "vm2"]
    assert fleet.host_state("A").cells[1].pinned == CpuSet.parse("4-5")


def test_an_adopted_guest_is_charged_once(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    before = fleet.host_state("A").cells
    seen = make.seen("db1", "4-5", uuid=guest.uuid, memory_mib=64, pages=((1, 2048, 32),))
    fleet.set_observed("A", (seen,))
    assert fleet.host_state("A").cells == before
    assert fleet.host_state("A").floating_memory_kib == 0


def test_an_adopted_guest_whose_huge_pages_are_only_preferred_on_a_cell_is_charged_once(fleet, make):
    """Its XML binds them to no single cell strictly: they were charged as the host's base memory, beside the claim."""
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.set_observed("A", (make.seen("db1", "4-5", uuid=guest.uuid, memory_mib=64),))
    assert fleet.host_state("A").floating_memory_kib == 0
    assert fleet.host_state("A").cells[1].pool(2048).used == 32
    holders = [holder for pool in fleet.explain_host("A").pools for holder in pool.holders if holder.role == "seen"]
    assert holders == []


def test_what_an_adopted_guest_has_beyond_its_huge_pages_is_still_charged(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.set_observed("A", (make.seen("db1", "4-5", uuid=guest.uuid, memory_mib=100),))
    assert fleet.host_state("A").floating_memory_kib == 36 * 1024


def test_what_an_adopted_guest_uses_beyond_its_claim_is_closed(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.set_observed("A", (make.seen("db1", "4-6", uuid=guest.uuid, memory_mib=70, pages=((1, 2048, 35),)),))
    cell = fleet.host_state("A").cells[1]
    assert cell.pinned == CpuSet.parse("4-6")
    assert cell.pool(2048).used == 35


def test_observation_over_a_promise_does_not_break_it(fleet, make):
    """Somebody starts a guest on promised CPUs behind the ledger: stored, closed, and the claim stands."""
    fleet.claim_instance(make.guest("db1", "A", "4-5"))
    fleet.set_observed("A", (make.seen("intruder", "4-7"),))
    assert [holding.cpu_set for holding in fleet.view("A").holdings] == [CpuSet.parse("4-5")]
    assert fleet.host_state("A").cells[1].free_dedicated == CpuSet()


def test_observed_cpus_are_not_claimed_by_a_move(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.set_observed("B", (make.seen("vm1", "2-4"), make.seen("vm2", "6-7")))
    with pytest.raises(NoFit):
        fleet.live_migration_claim(guest.uuid, ["B"])
    fleet.set_observed("B", (make.seen("vm1", "2-4"), make.seen("vm2", "7")))
    assert fleet.live_migration_claim(guest.uuid, ["B"]).placement.numa_topology.owned_cpus == CpuSet.parse("5-6")


def test_a_guest_that_left_is_no_longer_seen_on_its_source(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.set_observed("A", (make.seen("db1", "4-5", uuid=guest.uuid),))
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    fleet.confirm_migration(claim.migration.id)
    assert fleet.observed("A") == ()
    assert not fleet.host_state("A").cells[1].pinned


def test_the_generation_grows_only_with_what_is_new(fleet, make):
    seen = (make.seen("vm1", "4"), make.seen("vm2", "5"))
    first = fleet.set_observed("A", seen)
    again = fleet.set_observed("A", tuple(reversed(seen)))
    assert again.generation == first.generation
    assert again.observed_at >= first.observed_at
    assert fleet.set_observed("A", ()).generation == first.generation + 1


def test_an_ignored_instance_is_left_out_of_claims_and_sight(fleet, make):
    empty = fleet.host_state("A").cells
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    fleet.set_observed("A", (ObservedUse(guest.uuid, "db1", CpuSet.parse("4-7"), False, 2, 0),))  # noqa: FBT003
    assert fleet.host_state("A", ignore_instance=guest.uuid).cells == empty


def test_a_guest_in_huge_pages_fits_beside_a_floating_one_on_a_host_with_few_base_pages(fleet, make):
    """Floating guests live in base pages: what they take is no reason to refuse huge pages that are free."""
    make.host(fleet, "H", notation="2 cells x 2 cores x 2 threads, 1536M, 2M:700", reserved_host_memory_mb=16)
    fleet.set_observed("H", (make.seen("vm1", floating=True, memory_mib=100),))
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5", memory_mib=256)).instance
    request = make.request(2, 1024, 2048)
    assert fleet.live_migration_claim(guest.uuid, ["H"], request=request).migration.dest == "H"


def test_base_pages_beside_huge_ones_are_not_lent_out_twice(fleet, make):
    """A shared guest without a page size takes base pages; free huge pages are no room for it."""
    make.host(
        fleet, "H", notation="1 cell x 2 cores x 2 threads, 1024M, 2M:400", dedicated="2-3", reserved_host_memory_mb=0
    )
    every = CpuSet.parse("0")
    cell = CellRequest(0, every, CpuSet(), 200 * 1024)
    request = NumaRequest(1, 200 * 1024, (cell,))
    guests = [fleet.claim_instance(make.floating(name, "A", memory_mib=200)).instance for name in ("w1", "w2")]
    fleet.live_migration_claim(guests[0].uuid, ["H"], request=request)
    with pytest.raises(NoFit):
        fleet.live_migration_claim(guests[1].uuid, ["H"], request=request)
