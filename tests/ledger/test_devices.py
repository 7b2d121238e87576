"""Devices: a host's inventory, and exact claims on it; a device is promised to one guest at a time."""

from __future__ import annotations

import attrs
import pytest

from numaferry.errors import Conflict, NoFit, NotFound, Overcommitted
from numaferry.model import MigrationStatus, PciAddress, PciDevice, PciRequest, Placement, Promise
from numaferry.model.cpuset import CpuSet

NIC, DISK = ("8086", "1572"), ("144d", "a808")
FIRST, SECOND = "0000:81:00.1", "0000:81:00.2"


def device(address=FIRST, product=NIC, numa_node=1):
    return PciDevice(PciAddress.parse(address), *product, numa_node)


def used(fleet, host="B"):
    """Return address → whether it is promised."""
    return {str(one.address): one.used for one in fleet.devices(host)}


@pytest.fixture
def nics(fleet):
    """Two functions of one card on cell 1 of B; A has none."""
    fleet.set_devices("B", [device(SECOND), device(FIRST)])
    return fleet


@pytest.fixture
def guests(nics, make):
    """Three guests on A that want a function each; where they run now they have none."""
    wish = (PciRequest("nic", 1, (NIC,)),)
    made = [make.guest(name, "A", cpus) for name, cpus in {"db1": "2-3", "db2": "4-5", "db3": "6-7"}.items()]
    wishing = [attrs.evolve(one, request=attrs.evolve(one.request, pci_requests=wish)) for one in made]
    return [nics.claim_instance(one).instance for one in wishing]


def test_an_inventory_is_replaced_as_a_whole(fleet):
    before = fleet.host("A").generation
    fleet.set_devices("A", [device(SECOND), device(FIRST)])
    assert fleet.devices("A") == (device(FIRST), device(SECOND)), "ordered by address"
    assert fleet.host("A").generation == before + 1
    fleet.set_devices("A", [device(FIRST), attrs.evolve(device(SECOND), used=True)])
    assert fleet.host("A").generation == before + 1, "the same, whatever it says of who uses it"
    fleet.set_devices("A", [device(SECOND, DISK)])
    assert fleet.devices("A") == (device(SECOND, DISK),)
    fleet.set_devices("A", [])
    assert fleet.devices("A") == ()
    assert fleet.devices("B") == ()
    with pytest.raises(NotFound):
        fleet.set_devices("Z", [])


def test_the_fit_sees_devices_and_whether_they_are_promised(nics, guests):
    assert nics.host_state("B").pci == (device(FIRST), device(SECOND))
    claim = nics.live_migration_claim(guests[0].uuid, ["B"])
    taken = claim.instance.migration_context.new_pci_devices[0]
    assert nics.host_state("B").pci == tuple(
        attrs.evolve(one, used=one.address == taken.address) for one in (device(FIRST), device(SECOND))
    )
    assert not any(one.used for one in nics.host_state("B", ignore_instance=guests[0].uuid).pci)


def test_a_host_that_was_never_confirmed_gives_no_device(fleet, make):
    make.host(fleet, "C", confirmed=False)
    fleet.set_devices("C", [device()])
    assert fleet.host_state("C").pci == ()


def test_a_move_takes_a_device_and_a_drop_gives_it_back(nics, guests):
    claim = nics.live_migration_claim(guests[0].uuid, ["B"])
    (address,) = claim.placement.pci
    assert [one.address for one in claim.instance.migration_context.new_pci_devices] == [address]
    assert used(nics) == {FIRST: str(address) == FIRST, SECOND: str(address) == SECOND}
    nics.drop_move_claim(claim.migration.id, MigrationStatus.FAILED, "x")
    assert used(nics) == {FIRST: False, SECOND: False}


def test_the_source_lets_its_device_go_when_the_move_is_confirmed(nics, guests):
    nics.set_devices("A", [device(numa_node=None)])
    there = nics.live_migration_claim(guests[0].uuid, ["B"])
    nics.confirm_migration(there.migration.id, status=MigrationStatus.COMPLETED)
    moved = nics.instance("db1")
    assert [str(one.address) for one in moved.pci_devices] == [str(address) for address in there.placement.pci]
    back = nics.live_migration_claim(moved.uuid, ["A"])
    assert used(nics, "A") == {FIRST: True}
    assert sum(used(nics).values()) == 1, "both are held while it moves"
    nics.confirm_migration(back.migration.id, status=MigrationStatus.COMPLETED)
    assert sum(used(nics).values()) == 0
    nics.forget_instance(moved.uuid)
    assert used(nics, "A") == {FIRST: False}


def test_two_guests_never_get_one_device(nics, guests):
    claims = [nics.live_migration_claim(guest.uuid, ["B"]) for guest in guests[:2]]
    assert len({claim.placement.pci for claim in claims}) == 2
    with pytest.raises(NoFit):
        nics.live_migration_claim(guests[2].uuid, ["B"])


def test_a_solver_that_gives_a_device_away_twice_promises_nothing(nics, guests, make):
    taken = nics.live_migration_claim(guests[0].uuid, ["B"]).placement.pci
    free_cpus = make.guest("wish", "B", "6-7").numa_topology

    def lying(host, _request):
        return Placement(host.name, host.generation, free_cpus, taken)

    with pytest.raises(Overcommitted):
        nics.live_migration_claim(guests[1].uuid, ["B"], fit=lying)
    assert len(nics.migrations()) == 1


def test_a_device_that_vanishes_while_it_is_promised_stays_promised(nics, guests):
    claim = nics.live_migration_claim(guests[0].uuid, ["B"])
    gone = str(claim.placement.pci[0])
    (left,) = {FIRST, SECOND} - {gone}
    nics.set_devices("B", [device(left)])
    assert used(nics) == {left: False}
    nics.set_devices("B", [device(FIRST), device(SECOND)])
    assert used(nics) == {gone: True, left: False}
    nics.confirm_migration(claim.migration.id, status=MigrationStatus.COMPLETED)
    assert used(nics)[gone]


def test_a_device_stays_with_a_guest_that_is_repinned(nics, guests, make):
    claim = nics.live_migration_claim(guests[0].uuid, ["B"])
    nics.confirm_migration(claim.migration.id, status=MigrationStatus.COMPLETED)
    elsewhere = make.guest("wish", "B", "6-7").numa_topology
    repin = nics.repin_claim(
        guests[0].uuid, fit=lambda host, _request: Placement(host.name, host.generation, elsewhere)
    )
    assert repin.instance.migration_context.new_pci_devices == nics.instance("db1").pci_devices
    nics.set_devices("B", [])
    nics.set_devices("B", [device(FIRST), device(SECOND)])
    for end in (nics.confirm_migration, None):
        assert sum(used(nics).values()) == 1
        if end:
            end(repin.migration.id, status=MigrationStatus.COMPLETED)


def test_a_device_that_another_has_makes_an_adopted_guest_conflicted(nics, make):
    first, second = (
        attrs.evolve(make.guest(name, "B", cpus), pci_devices=(device(),))
        for name, cpus in (("a", "2-3"), ("b", "4-5"))
    )
    assert nics.claim_instance(first).instance.promise is Promise.KEPT
    claim = nics.claim_instance(second)
    assert claim.instance.promise is Promise.CONFLICTED
    assert claim.conflicts == (f"pci:{FIRST} of B can't be promised to it",)
    assert claim.instance.pci_devices == (device(),), "what it has is a fact"
    nics.forget_instance(first.uuid)
    assert not nics.reclaim_instance(second.uuid, second.numa_topology).conflicts
    assert used(nics) == {FIRST: True, SECOND: False}


def test_a_guest_whose_device_vanished_can_be_claimed_anew(nics, make):
    guest = nics.claim_instance(attrs.evolve(make.guest("a", "B", "2-3"), pci_devices=(device(),))).instance
    nics.set_devices("B", [])
    claim = nics.reclaim_instance(guest.uuid, guest.numa_topology)
    assert claim.conflicts == (f"pci:{FIRST} of B can't be promised to it",)
    assert nics.view("B").holdings[0].cpu_set == CpuSet.parse("2-3")


def test_a_host_with_a_promised_device_is_not_removed(nics, guests):
    nics.live_migration_claim(guests[0].uuid, ["B"])
    with pytest.raises(Conflict):
        nics.remove_host("B")
