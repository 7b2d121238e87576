"""The one-line notation of a host topology."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.errors import InvalidInput
from numaferry.model.cpuset import CpuSet
from numaferry.model.notation import EXAMPLE, parse_topology


def test_the_example_of_the_documentation():
    topology = parse_topology(EXAMPLE)
    assert [str(cell.cpus) for cell in topology.cells] == ["0-3", "4-7"]
    assert topology.cells[1].siblings == (CpuSet.of([4, 5]), CpuSet.of([6, 7]))
    assert topology.cells[0].memory_kib == 1536 * 1024
    assert topology.cells[0].pool(2048).free == 128
    assert topology.cells[0].pool(4).total == (1536 - 256) * 1024 // 4
    assert topology.cells[0].distances == ((0, 10), (1, 21))


@given(
    st.integers(1, 16),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(1, 512),
    st.dictionaries(st.sampled_from(["64K", "2M", "1G"]), st.integers(0, 10), max_size=3),
)
def test_law_every_cpu_is_in_one_core_of_one_cell_and_every_kib_in_one_pool(cells, cores, threads, memory_g, pools):
    text = ", ".join(
        [f"{cells} cells x {cores} cores x {threads} threads", f"{memory_g + 11}G"]
        + [f"{s}:{n}" for s, n in pools.items()]
    )
    topology = parse_topology(text)
    cpus = [cpu for cell in topology.cells for core in cell.siblings for cpu in core]
    assert cpus == list(range(cells * cores * threads)) == list(topology.cpus)
    for cell in topology.cells:
        assert sum(pool.size_kib * pool.total for pool in cell.pages) == cell.memory_kib


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("two cells, 1G", "'two cells'"),
        ("2 cells x 2 cores", "does not say"),
        ("2 cells, lots", "'lots'"),
        ("2 cells, 1G, 2M", "'2M'"),
        ("2 cells, 1G, 2M:x", "'2M:x'"),
        ("1 cell, 64M, 2M:33", "2048 KiB more"),
        ("0 cells, 1G", "0 CPUs"),
        ("1 cell, 1G, 4K:5", "no huge page size"),
    ],
)
def test_what_cannot_be_read_is_quoted(text, part):
    with pytest.raises(InvalidInput, match=part):
        parse_topology(text)
