"""What a misfit says: the one sentence, the near misses first, and what would make it fit."""

import attrs
from hosts import cell, guest, host

from numaferry.fit import numa_fit_instance_to_host
from numaferry.fit.suggest import if_it_leaves
from numaferry.model import NumaRequest, PciAddress, PciDevice, PciRequest


def test_a_hall_violator_is_told_in_words():
    machine = host(cell(0, 1), cell(1, 8), cell(2, 2))
    misfit = numa_fit_instance_to_host(machine, guest(4, 1, 4))
    assert misfit.reason == "guest cells 0 and 2 both fit only host cell 1"
    assert misfit.shortages[0].resource == "distinct-cells"


def test_more_guest_cells_than_host_cells():
    misfit = numa_fit_instance_to_host(host(cell(0, 8)), guest(1, 1))
    assert misfit.reason == "the guest has 2 cells, the host 1: guest cells take distinct host cells"


def test_near_misses_come_first_with_their_numbers():
    machine = host(cell(0, 8, free=[0], huge=40, huge_used=40), cell(1, 8, free=[100, 101, 102], huge=64))
    misfit = numa_fit_instance_to_host(machine, guest(4, page=2048))
    first = misfit.shortages[0]
    assert (first.resource, first.host_cell, first.needed, first.free, first.missing) == ("dedicated-cpus", 1, 4, 3, 1)
    assert first.sentence == "guest cell 0 on host cell 1: needs 4 dedicated CPUs, 3 free, 1 missing"
    expected = "guest cell 0 fits on no host cell; nearest is host cell 1: needs 4 dedicated CPUs, 3 free, 1 missing"
    assert misfit.reason == expected
    assert {one.host_cell for one in misfit.shortages} == {0, 1}


def test_missing_pages_are_counted_in_pages():
    misfit = numa_fit_instance_to_host(host(cell(1, 8, huge=40, huge_used=10)), guest(4, page=2048))
    assert misfit.reason.endswith("nearest is host cell 1: needs 32 pages of 2 MiB, 30 free, 2 missing")
    assert misfit.suggestions == ("fits if 2 more pages of 2 MiB are freed on host cell 1",)


def test_freed_cpus_are_named_where_a_thread_policy_makes_it_matter_which():
    machine = host(cell(0, 2, threads=2, free=[0, 2, 3]))
    misfit = numa_fit_instance_to_host(machine, guest(2, thread_policy="isolate"))
    assert misfit.suggestions == ("fits if CPU 1 is freed on host cell 0",)


def test_a_chain_of_reliefs_is_one_sentence():
    machine = host(cell(0, 2, free=[0]), cell(1, 2, free=[100]))
    misfit = numa_fit_instance_to_host(machine, guest(2, 2))
    said = "fits if 1 more dedicated CPU is freed on host cell 0 and 1 more dedicated CPU is freed on host cell 1"
    assert said in misfit.suggestions


def test_where_nothing_can_be_freed_it_says_what_to_do_without():
    misfit = numa_fit_instance_to_host(host(cell(0, 4)), guest(2, thread_policy="require"))
    assert misfit.suggestions == ("would fit if thread policy require became prefer",)


def test_devices_that_are_used_or_elsewhere():
    nic = PciDevice(PciAddress(0, 1, 0, 0), "8086", "1572", 1, used=True)
    machine = host(cell(0, 4), cell(1, 4), pci=(nic,))
    wish = guest(4, pci_requests=(PciRequest("nic", 1, (("8086", "1572"),), "required"),))
    misfit = numa_fit_instance_to_host(machine, wish)
    assert misfit.reason == "needs 1 device, 0 free that match alias and affinity"
    assert misfit.suggestions == ("fits if device 0000:01:00.0 is freed",)
    elsewhere = attrs.evolve(machine, cells=(cell(0, 4), cell(1, 2)), pci=(attrs.evolve(nic, used=False),))
    misfit = numa_fit_instance_to_host(elsewhere, wish)
    assert (
        misfit.reason
        == "the devices asked for are near host cell 1; no placement of the guest's cells uses enough of them"
    )
    assert misfit.suggestions == ("would fit if its devices might be far from it",)


def test_a_floating_guest_is_told_what_has_to_leave_the_host():
    machine = host(cell(0, 0, shared=2), floating_vcpus=7)
    misfit = numa_fit_instance_to_host(machine, NumaRequest(2, 1024))
    assert misfit.reason == "needs 2 shared vCPUs within the CPU allocation ratio, 1 free"
    assert misfit.suggestions == ("fits if guests with 1 shared vCPU leave the host",)


def test_instances_whose_leaving_makes_room_are_named_by_who_knows_them():
    full, empty = host(cell(0, 2, free=[])), host(cell(0, 2))
    without = {"web": empty, "mail": full}
    assert if_it_leaves(guest(2), without) == ("fits if instance web leaves",)


def test_without_explanation_only_the_sentence_is_worked_out():
    misfit = numa_fit_instance_to_host(host(cell(0, 1)), guest(2), explain=False)
    assert (misfit.shortages, misfit.suggestions) == ((), ())
    assert misfit.reason == "guest cell 0 fits on no host cell"
