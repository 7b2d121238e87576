"""Each rule by example: what fits, what does not, and which of several fits is chosen."""

import attrs
import pytest
from hosts import LIMITS, MIB, cell, guest, homes, host, pins

from numaferry.fit import numa_fit_instance_to_host
from numaferry.model import CpuSet, HostLimits, NumaRequest, PciAddress, PciDevice, PciRequest

NIC = ("8086", "1572")


def nic(number, node, *, used=False):
    return PciDevice(PciAddress(0, 1, number, 0), *NIC, node, used)


def wanting(policy, count=1):
    return guest(2, pci_requests=(PciRequest("nic", count, (NIC,), policy),))


@pytest.mark.parametrize(
    ("policy", "node", "fits"),
    [
        ("required", 0, True),
        ("required", 1, False),
        ("required", 2, False),
        ("required", None, False),
        ("legacy", 0, True),
        ("legacy", 1, False),
        ("legacy", None, True),
        ("socket", 0, True),
        ("socket", 1, True),
        ("socket", 2, False),
        ("socket", None, False),
        ("preferred", 2, True),
        ("preferred", None, True),
    ],
)
def test_device_policies_by_where_the_device_is(policy, node, fits):
    # only cell 0 has room; 0 and 1 share a socket
    machine = host(cell(0, 2), cell(1, 1), cell(2, 1, socket=1), pci=(nic(0, node),))
    assert bool(numa_fit_instance_to_host(machine, wanting(policy))) == fits


def test_a_device_pulls_the_guest_to_its_cell_although_the_other_packs_better():
    machine = host(cell(0, 2), cell(1, 8), pci=(nic(0, 1),))
    for policy in ("required", "legacy", "preferred"):
        assert homes(numa_fit_instance_to_host(machine, wanting(policy))) == [1]


def test_without_device_requests_cells_with_devices_are_left_to_others():
    machine = host(cell(0, 2), cell(1, 8), pci=(nic(0, 0),))
    assert homes(numa_fit_instance_to_host(machine, guest(2))) == [1]


def test_two_devices_on_two_cells_need_a_guest_on_both():
    machine = host(cell(0, 2), cell(1, 2), cell(2, 2), pci=(nic(0, 1), nic(1, 2)))
    wish = guest(2, 2, pci_requests=(PciRequest("nic", 2, (NIC,), "required"),))
    assert sorted(homes(numa_fit_instance_to_host(machine, wish))) == [1, 2]
    assert not numa_fit_instance_to_host(machine, wanting("required", count=2))


def test_a_network_binds_only_where_the_host_declares_its_cells():
    machine = host(cell(0, 2), cell(1, 4), network_cells=(("storage", (1,)),))
    assert homes(numa_fit_instance_to_host(machine, guest(2, physical_networks=("storage",)))) == [1]
    assert homes(numa_fit_instance_to_host(machine, guest(2, physical_networks=("other",)))) == [0]


@pytest.mark.parametrize(
    ("policy", "vcpus", "fits"),
    [
        ("prefer", 4, True),
        ("prefer", 5, False),
        ("require", 2, True),
        ("require", 3, False),
        ("isolate", 1, True),
        ("isolate", 2, False),
    ],
)
def test_thread_policies_on_one_whole_and_two_half_free_cores(policy, vcpus, fits):
    machine = host(cell(0, 3, threads=2, free=[0, 3, 1, 2]))
    assert bool(numa_fit_instance_to_host(machine, guest(vcpus, thread_policy=policy))) == fits


def test_require_is_refused_without_smt_and_an_odd_vcpu_may_be_alone():
    assert not numa_fit_instance_to_host(host(cell(0, 8)), guest(2, thread_policy="require"))
    assert numa_fit_instance_to_host(host(cell(0, 2, threads=2)), guest(3, thread_policy="require"))
    assert numa_fit_instance_to_host(host(cell(0, 2, threads=2)), guest(1, thread_policy="require"))


def test_isolate_does_not_take_a_core_with_a_sibling_outside_the_dedicated_set():
    split = attrs.evolve(cell(0, 2, threads=2), dedicated=CpuSet.of([0, 1, 2]), shared=CpuSet.of([3]))
    assert numa_fit_instance_to_host(host(split), guest(1, thread_policy="isolate"))
    assert not numa_fit_instance_to_host(host(split), guest(2, thread_policy="isolate"))


def test_siblings_are_preferred_and_whole_cores_are_spared():
    # free: a single thread of core 0, all of cores 1 and 2
    machine = host(cell(0, 3, threads=2, free=[0, 1, 4, 2, 5]))
    assert pins(numa_fit_instance_to_host(machine, guest(2))) == {1, 4}
    assert pins(numa_fit_instance_to_host(machine, guest(3))) == {0, 1, 4}
    assert pins(numa_fit_instance_to_host(machine, guest(1))) == {0}


def test_an_isolated_emulator_needs_one_more_cpu_on_the_cell_of_guest_cell_0_only():
    machine = host(cell(0, 2), cell(1, 3))
    placement = numa_fit_instance_to_host(machine, guest(2, 2, emulator_threads_policy="isolate"))
    assert homes(placement) == [1, 0]
    assert not numa_fit_instance_to_host(host(cell(0, 2), cell(1, 2)), guest(2, 2, emulator_threads_policy="isolate"))
    assert numa_fit_instance_to_host(host(cell(0, 2), cell(1, 2)), guest(2, 2, emulator_threads_policy="share"))


def test_shared_vcpus_go_by_the_ratio_but_never_beyond_the_cells_own_cpus():
    machine = host(attrs.evolve(cell(0, 0, shared=2), shared_vcpus=5))
    assert numa_fit_instance_to_host(machine, guest(2, policy="shared"))
    assert not numa_fit_instance_to_host(machine, guest(3, policy="shared"))
    fuller = attrs.evolve(machine, cells=(attrs.evolve(machine.cells[0], shared_vcpus=7),))
    assert not numa_fit_instance_to_host(fuller, guest(2, policy="shared"))
    assert numa_fit_instance_to_host(attrs.evolve(fuller, limits=None), guest(2, policy="shared"))


@pytest.mark.parametrize(
    ("page", "memory_mib", "size_kib"),
    [
        (None, 64, 4),
        ("small", 64, 4),
        (4, 64, 4),
        (2048, 64, 2048),
        ("large", 64, 2048),
        ("any", 64, 2048),
        ("any", 63, 4),
        ("large", 63, None),
        (2048, 63, None),
        (2048, 66, None),
        (1048576, 1024, None),
    ],
)
def test_page_sizes(page, memory_mib, size_kib):
    machine = host(cell(0, 2, base_mib=1024, huge=40, huge_used=8))
    answer = numa_fit_instance_to_host(machine, guest(1, page=page, memory_mib=memory_mib))
    assert (answer.numa_topology.cells[0].page_size_kib if answer else None) == size_kib


def test_reserved_pages_are_not_given_away():
    reserved = cell(0, 2, huge=40)
    pools = (reserved.pages[0], attrs.evolve(reserved.pages[1], reserved=9))
    machine = host(attrs.evolve(reserved, pages=pools))
    assert not numa_fit_instance_to_host(machine, guest(1, page=2048))


def test_memory_is_overcommitted_for_shared_guests_only_and_never_within_one_guest():
    used = attrs.evolve(cell(0, 2, shared=2, base_mib=100), memory_used_kib=80 * MIB)
    used = attrs.evolve(used, pages=(attrs.evolve(used.pages[0], used=80 * 256),))
    machine = host(used, limits=attrs.evolve(LIMITS, ram_allocation_ratio=1.5))
    assert numa_fit_instance_to_host(machine, guest(1, policy="shared", memory_mib=70))
    assert not numa_fit_instance_to_host(machine, guest(1, policy="shared", memory_mib=71))
    assert not numa_fit_instance_to_host(machine, guest(1, memory_mib=21))
    empty = host(cell(0, 2, shared=2, base_mib=100), limits=HostLimits(1.0, 4.0))
    assert not numa_fit_instance_to_host(empty, guest(1, policy="shared", memory_mib=101))


def test_cells_without_cpus_or_memory_and_sparse_ids_are_no_obstacle():
    machine = host(cell(3, 0, base_mib=4096), cell(7, 4, base_mib=0), cell(24, 4))
    assert homes(numa_fit_instance_to_host(machine, guest(2))) == [24]
    assert not numa_fit_instance_to_host(machine, guest(2, 2))


def test_near_host_cells_are_taken_together():
    distance = {0: 0, 1: 32, 2: 12, 3: 32}
    cells = [
        attrs.evolve(
            cell(n, 2), distances=tuple((m, 10 if n == m else abs(distance[n] - distance[m]) + 12) for m in range(4))
        )
        for n in range(4)
    ]
    assert sorted(homes(numa_fit_instance_to_host(host(*cells), guest(2, 2)))) == [1, 3]


def test_pack_fills_the_fuller_cell_and_spread_the_emptier():
    machine = host(cell(0, 8), cell(1, 8, free=[100, 101, 102]))
    assert homes(numa_fit_instance_to_host(machine, guest(2))) == [1]
    assert homes(numa_fit_instance_to_host(machine, guest(2), strategy="spread")) == [0]


def test_guests_of_many_cells_are_bettered_within_a_bound_that_is_told():
    cells = [
        attrs.evolve(cell(n, 2 + n % 3, free=None), distances=tuple((m, 10 + (n * m) % 7) for m in range(16) if m != n))
        for n in range(16)
    ]
    placement = numa_fit_instance_to_host(host(*cells), guest(*[2] * 8))
    assert placement.score_bound <= placement.score
    first = numa_fit_instance_to_host(host(*cells), guest(*[2] * 8), score="first")
    assert first
    assert first.score == ()


def test_floating_guests_leave_what_the_host_has_beyond_them():
    machine = host(cell(0, 0, shared=4), floating_vcpus=14, floating_memory_kib=900 * MIB)
    assert numa_fit_instance_to_host(machine, NumaRequest(2, 100 * MIB)).numa_topology is None
    assert not numa_fit_instance_to_host(machine, NumaRequest(3, 100 * MIB))
    assert not numa_fit_instance_to_host(machine, NumaRequest(2, 200 * MIB))
    assert numa_fit_instance_to_host(machine, guest(2, policy="shared", memory_mib=100))
    assert not numa_fit_instance_to_host(machine, guest(3, policy="shared", memory_mib=100))
    assert not numa_fit_instance_to_host(machine, guest(2, policy="shared", memory_mib=200))


def test_a_guest_in_huge_pages_takes_nothing_from_floating_ones():
    machine = host(cell(0, 2, base_mib=512, huge=64), floating_memory_kib=512 * MIB)
    assert numa_fit_instance_to_host(machine, guest(2, page=2048, memory_mib=128))
    assert not numa_fit_instance_to_host(machine, guest(2, memory_mib=128))


def test_a_wish_for_any_page_size_takes_huge_pages_where_floating_guests_need_the_base_pages():
    plain, with_huge = cell(0, 2, base_mib=512), cell(1, 2, base_mib=512, huge=64)
    machine = host(plain, with_huge, floating_memory_kib=1000 * MIB)
    assert homes(numa_fit_instance_to_host(machine, guest(2, page="any", memory_mib=64))) == [1]
    assert not numa_fit_instance_to_host(machine, guest(2, 2, page="any", memory_mib=64))


def test_huge_pages_need_a_cpu_for_the_emulator_on_each_cell_where_the_hosts_libvirt_does():
    machine = host(cell(0, 4, huge=64), cell(1, 4, huge=64), emulator_cpu_on_page_cells=True)
    realtime = guest(2, 2, page=2048, realtime_vcpus=CpuSet.of([1, 2, 3]))
    misfit = numa_fit_instance_to_host(machine, realtime)
    assert "emulator threads while it starts" in misfit.reason
    assert numa_fit_instance_to_host(machine, attrs.evolve(realtime, realtime_vcpus=CpuSet.of([1, 3])))
    assert numa_fit_instance_to_host(attrs.evolve(machine, emulator_cpu_on_page_cells=False), realtime)
