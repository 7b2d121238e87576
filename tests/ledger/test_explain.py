"""Who holds what, by which claim and why."""

from __future__ import annotations

from numaferry.model import MigrationStatus, ReservedPages


def holders(told, cpu):
    return [(one.name, one.role, one.why) for one in next(c for c in told.cpus if c.cpu == cpu).holders]


def test_every_cpu_says_what_it_is_for(fleet):
    told = fleet.explain_host("A")
    assert "".join(one.use[0] for one in told.cpus) == "ssdddddd"
    assert [one.cell for one in told.cpus] == [0] * 4 + [1] * 4
    assert not any(one.holders for one in told.cpus)


def test_claims_and_strays_are_named_with_the_reason(fleet, make):
    fleet.claim_instance(make.guest("db1", "A", "4-5"))
    fleet.set_observed("A", (make.seen("noisy1", "3", memory_mib=2, pages=((0, 2048, 1),)),))
    told = fleet.explain_host("A")
    assert holders(told, 4) == [("db1", "vcpu", "adopted on A")]
    assert holders(told, 3) == [("noisy1", "seen", "seen here, it is not adopted")]
    pools = {(pool.cell, pool.resource): pool for pool in told.pools}
    assert [(one.name, one.amount) for one in pools[1, "page:2048"].holders] == [("db1", 32)]
    assert [(one.name, one.role, one.amount) for one in pools[0, "page:2048"].holders] == [("noisy1", "seen", 1)]
    assert (pools[1, "page:2048"].total, pools[1, "page:2048"].free) == (128, 96)


def test_a_move_is_told_on_both_sides(fleet, make):
    guest = fleet.claim_instance(make.guest("db1", "A", "4-5")).instance
    claim = fleet.live_migration_claim(guest.uuid, ["B"])
    cpu = claim.placement.numa_topology.owned_cpus.first()
    fleet.set_migration(claim.migration.id, status=MigrationStatus.RUNNING, sentence="it runs")
    assert holders(fleet.explain_host("A"), 4) == [("db1", "vcpu", "adopted on A; leaves for B: migration 1 (running)")]
    assert holders(fleet.explain_host("B"), cpu) == [("db1", "vcpu", "comes in: migration 1 from A (running)")]
    fleet.confirm_migration(claim.migration.id, status=MigrationStatus.COMPLETED)
    assert holders(fleet.explain_host("B"), cpu) == [("db1", "vcpu", "migration 1 from A")]


def test_reserved_pages_are_not_for_guests(fleet, make):
    fleet.confirm_host("A", make.config(reserved_huge_pages=(ReservedPages(0, 2048, 28),)))
    pools = {(pool.cell, pool.resource): pool.total for pool in fleet.explain_host("A").pools}
    assert pools[0, "page:2048"] == 100
    assert pools[None, "vcpus"] == 2


def test_a_host_that_was_never_confirmed_has_nothing_to_give(fleet, make):
    make.host(fleet, "C", confirmed=False)
    told = fleet.explain_host("C")
    assert not told.confirmed
    assert all(pool.total == pool.free == 0 for pool in told.pools)
