"""Placing a guest that does not run yet: choosing a host and claiming there are one transaction."""

from __future__ import annotations

import attrs
import pytest

from numaferry.errors import Conflict, NoFit, NotConfirmed, NotFound, Overcommitted
from numaferry.model import CpuSet, Misfit, PciAddress, PciDevice, PciRequest, Placement, Promise


@pytest.fixture
def wanted(make):
    """A guest that wants two dedicated CPUs and 32 pages, wherever that may be."""
    return make.instance("new1", "", make.request(), None)


def test_the_first_candidate_that_fits_is_claimed(fleet, wanted, make):
    fleet.set_observed("A", [make.seen("stray", "2-7")])
    claim = fleet.place_instance(wanted, ["A", "B"])
    placed = claim.instance
    assert (placed.host, placed.promise) == ("B", Promise.KEPT)
    (holding,) = fleet.view("B").holdings
    assert (holding.claim_id, holding.current, holding.cause) == (claim.id, True, "placed on B")
    assert holding.cpu_set == placed.numa_topology.owned_cpus
    assert len(holding.cpu_set) == 2
    assert [(one.resource, one.amount) for one in holding.amounts] == [("page:2048", 32)]
    assert fleet.instance("new1") == placed
    assert fleet.events(instance=wanted.uuid)[0].sentence == f"new1 placed on B with CPUs {holding.cpu_set}"


def test_a_placed_guest_is_like_any_other(fleet, wanted):
    placed = fleet.place_instance(wanted, ["A"]).instance
    move = fleet.live_migration_claim(placed.uuid, ["B"]).migration
    fleet.confirm_migration(move.id)
    assert fleet.instance("new1").host == "B"
    assert fleet.view("A").holdings == ()


def test_a_floating_guest_is_placed_too(fleet, make):
    claim = fleet.place_instance(make.floating("web1", "", vcpus=2, memory_mib=100), ["A"])
    assert (claim.instance.host, claim.instance.promise) == ("A", Promise.FLOATING)
    assert fleet.host_state("A").floating_vcpus == 2


def test_devices_are_placed_with_it(fleet, wanted):
    card = PciDevice(PciAddress.parse("0000:81:00.1"), "8086", "1572", 1)
    fleet.set_devices("B", [card])
    wish = (PciRequest("nic", 1, (("8086", "1572"),)),)
    wishing = attrs.evolve(wanted, request=attrs.evolve(wanted.request, pci_requests=wish))
    claim = fleet.place_instance(wishing, ["A", "B"])
    assert (claim.instance.host, claim.instance.pci_devices) == ("B", (card,))
    assert [one.used for one in fleet.devices("B")] == [True]


def test_what_fits_nowhere_is_told_for_each_candidate(fleet, wanted, make):
    make.host(fleet, "C", confirmed=False)
    fleet.set_host_state("A", "unreachable", "no route")
    fleet.set_observed("B", [make.seen("stray", "2-7")])
    with pytest.raises(NoFit) as caught:
        fleet.place_instance(wanted, ["A", "B", "C"])
    assert [misfit.host for misfit in caught.value.misfits] == ["A", "B", "C"]
    assert "no route" in caught.value.misfits[0].reason
    assert fleet.instances() == ()
    with pytest.raises(NoFit):
        fleet.place_instance(wanted, [])


def test_hosts_that_nobody_confirmed_are_refused(fleet, wanted, make):
    make.host(fleet, "C", confirmed=False)
    with pytest.raises(NotConfirmed):
        fleet.place_instance(wanted, ["C"])


def test_a_guest_is_placed_once(fleet, wanted):
    fleet.place_instance(wanted, ["A"])
    with pytest.raises(Conflict, match="in the ledger already, on A"):
        fleet.place_instance(wanted, ["B"])
    assert fleet.view("B").holdings == ()


def test_unknown_hosts_are_not_found(fleet, wanted):
    with pytest.raises(NotFound):
        fleet.place_instance(wanted, ["Z"])


def test_a_solver_that_lies_promises_nothing(fleet, wanted, make):
    taken = fleet.claim_instance(make.guest("db2", "B", "4-5")).instance
    with pytest.raises(Overcommitted):
        fleet.place_instance(
            wanted, ["B"], fit=lambda host, _request: Placement(host.name, host.generation, taken.numa_topology)
        )
    assert [instance.name for instance in fleet.instances()] == ["db2"]


def test_the_solver_is_asked_once_per_candidate(fleet, wanted, make):
    """Nobody else changed the host, so the answer that was found without the lock is the one that is claimed."""
    asked = []

    def asking(host, _request):
        asked.append(host.name)
        if host.name == "A":
            return Misfit("A", "not here")
        return Placement(host.name, host.generation, make.guest("wish", "B", "4-5").numa_topology)

    claim = fleet.place_instance(wanted, ["A", "B"], fit=asking)
    assert asked == ["A", "B"]
    assert claim.instance.numa_topology.owned_cpus == CpuSet.parse("4-5")
