"""One test for each fault demonstrated in nova's fit, with the smallest example; letters as in docs/fit.md."""

import attrs
from hosts import cell, guest, homes, host, pins

from numaferry.fit import numa_fit_instance_to_host
from numaferry.model import CpuSet, PciAddress, PciDevice, PciRequest

NIC_A, NIC_B = ("8086", "1572"), ("8086", "154c")


def device(number, product, node):
    return PciDevice(PciAddress(0, 1, number, 0), *product, node)


def test_a_unequal_guest_cells_are_not_accepted_where_no_cell_holds_the_large_one():
    machine = host(*(cell(n, 2, free=[n * 100]) for n in range(3)))
    misfit = numa_fit_instance_to_host(machine, guest(1, 1, 2))
    assert not misfit
    assert misfit.reason.startswith("guest cell 2 fits on no host cell; nearest is host cell 0: needs 2 dedicated CPUs")


def test_a_unequal_guest_cells_are_not_refused_where_a_swap_finds_room():
    machine = host(cell(0, 2, free=[]), cell(1, 2), cell(2, 2, free=[200]))
    placement = numa_fit_instance_to_host(machine, guest(1, 2))
    assert homes(placement) == [2, 1]


def test_b_a_page_size_tried_on_one_cell_does_not_stick_to_the_request():
    small = attrs.evolve(cell(0, 4, huge=64), pages=cell(0, 4, huge=8).pages)
    machine = host(small, cell(1, 1, huge=64), cell(2, 4, huge=64))
    wish = guest(2, 2, memory_mib=16, page="large")
    placement = numa_fit_instance_to_host(machine, wish)
    assert sorted(homes(placement)) == [0, 2]
    assert {one.page_size_kib for one in placement.numa_topology.cells} == {2048}
    assert {one.page_size for one in wish.cells} == {"large"}


def test_c_mixed_with_an_isolated_emulator_fits_without_a_dedicated_vcpu_in_cell_0():
    machine = host(cell(0, 2, shared=2), cell(1, 2, shared=2))
    wish = guest(1, 2, policy="mixed", pinned=[1, 2], emulator_threads_policy="isolate")
    placement = numa_fit_instance_to_host(machine, wish)
    assert placement
    assert len(placement.numa_topology.emulator_pcpus) == 1
    assert placement.numa_topology.emulator_pcpus <= machine.cell(homes(placement)[0]).dedicated


def test_e_an_alias_of_two_products_leaves_the_only_device_to_who_needs_it():
    machine = host(cell(0, 4), pci=(device(0, NIC_B, 0), device(1, NIC_A, 0)))
    either, only_b = PciRequest("nicAny", 1, (NIC_A, NIC_B)), PciRequest("nicB", 1, (NIC_B,))
    for requests in ((either, only_b), (only_b, either)):
        placement = numa_fit_instance_to_host(machine, guest(2, pci_requests=requests))
        given = dict(zip((one.alias for one in requests), placement.pci, strict=True))
        assert str(given["nicB"]) == "0000:01:00.0"
        assert str(given["nicAny"]) == "0000:01:01.0"


def test_g_isolate_takes_a_thread_of_a_half_used_core_for_the_emulator_and_owns_no_sibling_of_it():
    machine = host(cell(0, 3, threads=2, free=[0, 3, 1, 4, 2]))
    wish = guest(2, thread_policy="isolate", emulator_threads_policy="isolate")
    topology = numa_fit_instance_to_host(machine, wish).numa_topology
    assert topology.emulator_pcpus == CpuSet.of([2])
    assert topology.cells[0].pinned_cpus == CpuSet.of([0, 1])
    assert topology.cells[0].siblings == CpuSet.of([3, 4])
    assert topology.owned_cpus == CpuSet.of([0, 1, 2, 3, 4])


def test_h_isolate_fits_on_an_smt_host_with_a_dedicated_set_that_has_whole_free_cores():
    machine = host(cell(0, 4, threads=2, shared=2))
    topology = numa_fit_instance_to_host(machine, guest(2, thread_policy="isolate")).numa_topology
    assert len(topology.cells[0].siblings) == 2


def test_i_require_uses_cores_with_unequal_numbers_of_free_threads():
    siblings = tuple(CpuSet.of(range(core * 4, core * 4 + 4)) for core in range(3))
    smt4 = attrs.evolve(cell(0, 12), siblings=siblings, pinned=CpuSet.of([6, 7, 10, 11]))
    placement = numa_fit_instance_to_host(host(smt4), guest(8, thread_policy="require"))
    assert pins(placement) == {0, 1, 2, 3, 4, 5, 8, 9}


def test_j_a_node_of_memory_only_does_not_forbid_socket_affinity_on_the_whole_host():
    memory_only = attrs.evolve(cell(2, 0), socket=-3)
    machine = host(cell(0, 4), cell(1, 1), memory_only, pci=(device(0, NIC_A, 1),))
    wish = guest(4, pci_requests=(PciRequest("nicA", 1, (NIC_A,), "socket"),))
    placement = numa_fit_instance_to_host(machine, wish)
    assert homes(placement) == [0]
    assert len(placement.pci) == 1


def test_k_the_same_call_twice_gives_the_same_answer_and_changes_nothing():
    machine = host(cell(0, 2, threads=2, huge=64), cell(1, 4, threads=2, huge=64), cell(2, 1, huge=64))
    wish = guest(2, 5, page="any")
    before = repr((machine, wish))
    assert numa_fit_instance_to_host(machine, wish) == numa_fit_instance_to_host(machine, wish)
    assert repr((machine, wish)) == before


def test_l_the_page_size_of_the_source_is_a_constraint_cell_by_cell():
    gib_first = attrs.evolve(cell(0, 4, huge=600), pages=(*cell(0, 4, huge=600).pages, cell_pool_gib()))
    machine = host(gib_first)
    free_choice = guest(2, memory_mib=1024, page="large")
    assert numa_fit_instance_to_host(machine, free_choice).numa_topology.cells[0].page_size_kib == 1048576
    as_on_source = attrs.evolve(
        free_choice, cells=tuple(attrs.evolve(one, page_size=2048) for one in free_choice.cells)
    )
    assert numa_fit_instance_to_host(machine, as_on_source).numa_topology.cells[0].page_size_kib == 2048


def cell_pool_gib():
    return attrs.evolve(cell(0, 1).pages[0], size_kib=1048576, total=4)
