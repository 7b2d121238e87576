"""Conversions between what a host has, what a claim takes and what is seen, as laws."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.ledger import move_request
from numaferry.ledger.amounts import amounts, capacities, huge_kib, owned_cpus, reserved_kib, with_ratio
from numaferry.model import (
    EMPTY,
    CellRequest,
    CpuSet,
    HostCell,
    HostConfig,
    HostTopology,
    InstanceCell,
    InstanceNumaTopology,
    NumaRequest,
    PagePool,
    ReservedPages,
)

GIB = 1024 * 1024


def cell(number, base_kib, huge=0, cpus="0-3"):
    pools = (PagePool(4, base_kib // 4, 0), *([PagePool(2048, huge, 0)] if huge else []))
    return HostCell(number, CpuSet.parse(cpus), (), base_kib + huge * 2048, pools)


cells = st.lists(st.tuples(st.integers(0, 64 * GIB).map(lambda kib: kib // 4 * 4), st.integers(0, 1000)), max_size=4)
configs = st.builds(HostConfig, reserved_host_memory_mb=st.integers(0, 100_000), ram_allocation_ratio=st.floats(0.5, 4))


def topology_of(sizes):
    return HostTopology(tuple(cell(number, base, huge) for number, (base, huge) in enumerate(sizes)))


@given(cells, configs)
def test_law_the_reserved_memory_is_at_least_what_was_asked_or_all_there_is(sizes, config):
    topology = topology_of(sizes)
    base = sum(base for base, _ in sizes)
    reserved = sum(reserved_kib(topology, config).values())
    assert min(base, config.reserved_host_memory_mb * 1024) <= reserved <= base
    assert reserved <= config.reserved_host_memory_mb * 1024 + 4 * len(sizes) or reserved == base


@given(cells, configs)
def test_law_the_host_has_what_its_cells_have(sizes, config):
    found = capacities(topology_of(sizes), config)
    whole = sum(has.total for (number, resource), has in found.items() if number >= 0 and resource == "memory_kib")
    assert found[-1, "memory_kib"].total == whole


@given(cells, configs)
def test_law_huge_pages_are_never_lent_out_and_never_counted_as_base_pages(sizes, config):
    topology = topology_of(sizes)
    found = capacities(topology, config)
    for one in topology.cells:
        assert found[one.id, "memory_kib"].total <= one.memory_kib - huge_kib(one)
        if huge := one.pool(2048):
            assert found[one.id, "page:2048"].total == found[one.id, "page:2048"].allowed == huge.total


@given(st.integers(0, 10**9), st.floats(0.1, 16, allow_nan=False))
def test_law_a_ratio_rounds_down(total, ratio):
    assert total * ratio - 1 <= with_ratio(total, ratio) <= total * ratio + 1e-6


@pytest.mark.parametrize(("total", "ratio", "allowed"), [(10, 1.1, 11), (3, 1.5, 4), (100, 1.15, 115), (7, 1.0, 7)])
def test_a_ratio_in_decimals_gives_what_a_person_expects(total, ratio, allowed):
    assert with_ratio(total, ratio) == allowed


def test_reserved_pages_are_kept_by_cell_and_size():
    topology = HostTopology((cell(0, GIB, 100), cell(1, GIB, 100, "4-7")))
    reserved = (ReservedPages(0, 2048, 30), ReservedPages(1, 4, 1000))
    found = capacities(topology, HostConfig(reserved_host_memory_mb=0, reserved_huge_pages=reserved))
    assert [found[number, "page:2048"].total for number in (0, 1)] == [70, 100]
    assert [found[number, "memory_kib"].total for number in (0, 1)] == [GIB, GIB - 4000]


def placed(number, host_cell, *, size=4, memory_kib=1024, pins=(), siblings=EMPTY, vcpus="0-1"):
    return InstanceCell(
        number, CpuSet.parse(vcpus), CpuSet.of(v for v, _ in pins), memory_kib, size, host_cell, pins, siblings
    )


def test_guest_cells_on_one_host_cell_are_added():
    request = NumaRequest(4, 2048, (), "shared")
    taken = amounts(request, InstanceNumaTopology((placed(0, 1), placed(1, 1))))
    assert {(one.cell, one.resource): (one.amount, one.exact) for one in taken} == {
        (1, "memory_kib"): (2048, False),
        (1, "vcpus"): (4, False),
    }


def test_pages_are_counted_whole_and_mixed_guests_share_only_the_rest():
    request = NumaRequest(2, 3000, (CellRequest(0, CpuSet.parse("0-1"), CpuSet.parse("0"), 3000, 2048),), "mixed")
    taken = amounts(request, InstanceNumaTopology((placed(0, 0, size=2048, memory_kib=3000, pins=((0, 5),)),)))
    assert {(one.cell, one.resource): (one.amount, one.exact) for one in taken} == {
        (0, "page:2048"): (2, True),
        (0, "vcpus"): (1, False),
    }


def test_every_owned_cpu_has_its_role():
    topology = InstanceNumaTopology(
        (placed(0, 0, pins=((0, 2), (1, 4)), siblings=CpuSet.parse("3,5")),), "isolate", CpuSet.parse("6")
    )
    assert owned_cpus(topology) == {2: "vcpu", 4: "vcpu", 3: "sibling", 5: "sibling", 6: "emulator"}
    assert CpuSet.of(owned_cpus(topology)) == topology.owned_cpus
    assert owned_cpus(None) == {}


@pytest.mark.parametrize(
    ("wish", "size", "asked"),
    [(None, 4, None), (None, 2048, 2048), ("small", 4, 4), ("large", 2048, 2048), ("any", 4, 4), (2048, 2048, 2048)],
)
def test_a_move_asks_for_the_page_size_that_is_used_now(make, wish, size, asked):
    guest = make.guest("db1", "A", "4-5")
    request = attrs.evolve(guest.request, cells=(attrs.evolve(guest.request.cells[0], page_size=wish),))
    topology = attrs.evolve(
        guest.numa_topology, cells=(attrs.evolve(guest.numa_topology.cells[0], page_size_kib=size),)
    )
    moving = move_request(attrs.evolve(guest, request=request, numa_topology=topology))
    assert [one.page_size for one in moving.cells] == [asked]
    assert attrs.evolve(moving, cells=request.cells) == request


def test_a_floating_guest_moves_as_it_is(make):
    guest = make.floating("web1", "A")
    assert move_request(guest) == guest.request
