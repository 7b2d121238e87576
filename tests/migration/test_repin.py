"""A re-pin on one host: old and new CPUs are held while the pins change; whatever fails, one set is left."""

import pytest

from numaferry.errors import Conflict, MigrationFailed, NeedsPerson, NoFit
from numaferry.migration import repin
from numaferry.model import EMPTY, CpuSet, MigrationStatus, MigrationType
from numaferry.virt.simulated import ClientDied

OLD = CpuSet.parse("2,4,8,10")


def owned(site):
    return site.ledger.instance("db1").numa_topology.owned_cpus


def test_a_running_guest_gets_other_cpus_and_keeps_its_cells(site):
    uuid = site.guest()
    held = []

    def look(_migration, _job):
        held.append(CpuSet.of(cpu for one in site.ledger.view("alpha").holdings for cpu, _ in one.cpus))

    engine = site.engine(on_progress=look)
    migration = engine.repin(site.ledger.instance("db1"), OLD)
    assert (migration.migration_type, migration.source, migration.dest) == (MigrationType.REPIN, "alpha", "alpha")
    assert engine.drive(migration.id).status is MigrationStatus.COMPLETED
    new = owned(site)
    assert not new & OLD
    assert held[0] == new | OLD, "old and new are held while it is pinned"
    site.settled(uuid, moved=False)
    assert {cell.host_cell for cell in site.ledger.instance("db1").numa_topology.cells} == {0, 1}
    assert "vcpupin" in site.hypervisor("alpha").domain(uuid).xml
    assert site.audit("alpha").findings == ()


def test_it_may_keep_some_of_its_cpus(site):
    uuid = site.guest()
    engine = site.engine()
    engine.drive(engine.repin(site.ledger.instance("db1"), CpuSet.parse("2")).id)
    assert 2 not in owned(site)
    site.settled(uuid, moved=False)


def test_without_room_nothing_is_claimed(site):
    site.guest()
    with pytest.raises(NoFit):
        site.engine().repin(site.ledger.instance("db1"), CpuSet.parse("2-7"))
    assert owned(site) == OLD
    assert site.ledger.migrations() == ()


def test_a_guest_that_is_being_moved_is_not_re_pinned(site):
    site.guest()
    site.engine().start(site.ledger.instance("db1"), "beta")
    with pytest.raises(Conflict, match="is being moved"):
        site.engine().repin(site.ledger.instance("db1"), OLD)


@pytest.mark.parametrize("call", ["set_pins", "thread_masks", "domain"])
def test_a_call_that_fails_leaves_the_old_pins(site, call):
    uuid = site.guest()
    engine = site.engine()
    migration = engine.repin(site.ledger.instance("db1"), OLD)
    site.fleet.inject(f"call.{call}", "refuse")
    with pytest.raises(MigrationFailed, match="rolled back"):
        engine.drive(migration.id)
    assert owned(site) == OLD
    site.settled(uuid, moved=False)


def test_pins_that_do_not_reach_the_kernel_are_not_called_done(site):
    site.guest()
    engine = site.engine()
    migration = engine.repin(site.ledger.instance("db1"), OLD)
    site.fleet.hosts["alpha"].ignores_pins = True
    with pytest.raises(MigrationFailed, match="by the kernel's mask"):
        engine.drive(migration.id)
    assert owned(site) == OLD


@pytest.mark.parametrize("edge", ["call", "return"])
@pytest.mark.parametrize("call", ["set_pins", "thread_masks", "set_ownership", "domains"])
def test_a_controller_that_dies_in_a_call_is_followed_by_another(site, call, edge):
    uuid = site.guest()
    engine = site.engine()
    migration = engine.repin(site.ledger.instance("db1"), OLD)
    site.fleet.inject(f"{edge}.{call}", "client-dies")
    with pytest.raises(ClientDied):
        engine.drive(migration.id)
    assert site.ledger.migration(migration.id).in_progress
    site.recover(migration.id)
    site.settled(uuid, moved=False)
    flipped = call in {"set_ownership", "domains"}
    assert (owned(site) != OLD) == flipped


def test_old_pins_that_can_t_be_set_again_are_a_person_s_matter_with_both_sets_held(site):
    site.guest()
    engine = site.engine()
    migration = engine.repin(site.ledger.instance("db1"), OLD)
    site.fleet.inject("call.set_pins", "refuse", times=2)
    with pytest.raises(NeedsPerson, match="both sets"):
        engine.drive(migration.id)
    assert site.ledger.migration(migration.id).status is MigrationStatus.ERROR
    assert len(site.ledger.view("alpha").holdings) == 2
    site.recover(migration.id)
    assert site.ledger.migration(migration.id).status is MigrationStatus.FAILED
    assert owned(site) == OLD


def test_an_abort_in_time_gives_the_new_cpus_back(site):
    uuid = site.guest()
    engine = site.engine()
    migration = engine.repin(site.ledger.instance("db1"), OLD)
    engine.abort(migration.id)
    assert engine.drive(migration.id).status is MigrationStatus.CANCELLED
    assert owned(site) == OLD
    site.settled(uuid, moved=False)


def test_the_fit_of_a_re_pin_moves_no_cell(site):
    site.guest()
    instance = site.ledger.instance("db1")
    state = site.ledger.host_state("alpha", ignore_instance=instance.uuid)
    answer = repin.staying(instance, EMPTY)(state, instance.request)
    assert [cell.host_cell for cell in answer.numa_topology.cells] == [0, 1]
