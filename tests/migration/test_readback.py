"""Invariant 9: what was not measured is never "verified"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.migration.pages import dump_pages, flatten, load_pages, pages_claimed
from numaferry.migration.readback import Verdict, disagreements, read_back
from numaferry.model import EMPTY, CpuSet, InstanceCell, InstanceNumaTopology, ThreadMasks

PINS = ((0, 4), (1, 6))


def topology(page_size_kib=2048):
    cell = InstanceCell(
        id=0,
        vcpus=CpuSet.of([0, 1]),
        pinned_vcpus=CpuSet.of([0, 1]),
        memory_kib=65536,
        page_size_kib=page_size_kib,
        host_cell=1,
        cpu_pinning=PINS,
    )
    return InstanceNumaTopology(cells=(cell,))


def masks(*cpus, iothreads=()):
    return ThreadMasks(
        tuple((vcpu, CpuSet.of(mask)) for vcpu, mask in enumerate(cpus)),
        tuple((number, CpuSet.of(mask)) for number, mask in iothreads),
    )


def verdicts(results):
    return {one.item: one.verdict for one in results}


def read(seen_masks, before=None, after=None, *, claim=None, shared=EMPTY):
    return read_back(claim or topology(), shared, seen_masks, before, after or {})


def test_a_guest_that_is_where_it_was_promised():
    found = verdicts(read(masks([4], [6]), {(1, 2048): 128}, {(1, 2048): 96}))
    assert found == {
        "vcpu 0": Verdict.VERIFIED,
        "vcpu 1": Verdict.VERIFIED,
        "2048 KiB pages on cell 1": Verdict.VERIFIED,
        "emulator threads": Verdict.NOT_VERIFIABLE,
    }


def test_a_thread_s_mask_set_behind_libvirt_s_back_is_found():
    wrong = disagreements(read(masks([4], [6, 7])))
    assert [one.sentence for one in wrong] == ["vcpu 1 may run on CPUs 6-7 by the kernel's mask, claimed is 6"]


def test_a_vcpu_without_a_thread_disagrees():
    assert [one.item for one in disagreements(read(masks([4])))] == ["vcpu 1"]


def test_iothreads_stay_on_the_guest_s_own_cpus_or_the_shared_set():
    found = verdicts(read(masks([4], [6], iothreads=[(1, [4, 6]), (2, [0]), (3, [5])]), shared=CpuSet.of([0])))
    assert found["iothread 1"] is found["iothread 2"] is Verdict.VERIFIED
    assert found["iothread 3"] is Verdict.DISAGREES


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ({(1, 2048): 128}, {(1, 2048): 97}, Verdict.DISAGREES),
        ({(1, 2048): 128}, {(1, 2048): 128}, Verdict.DISAGREES),
        ({(1, 2048): 128}, {(1, 2048): 64}, Verdict.NOT_VERIFIABLE),
        (None, {(1, 2048): 96}, Verdict.NOT_VERIFIABLE),
        ({}, {(1, 2048): 96}, Verdict.NOT_VERIFIABLE),
    ],
)
def test_pages_are_held_against_the_change_of_the_free_count(before, after, verdict):
    assert verdicts(read(masks([4], [6]), before, after))["2048 KiB pages on cell 1"] is verdict


@given(st.integers(0, 200), st.integers(0, 200))
def test_law_pages_are_verified_only_by_exactly_the_claimed_change(before, after):
    found = verdicts(read(masks([4], [6]), {(1, 2048): before}, {(1, 2048): after}))
    assert (found["2048 KiB pages on cell 1"] is Verdict.VERIFIED) == (before - after == 32)


def test_base_memory_and_emulator_threads_are_never_verified():
    found = read(masks([4], [6]), claim=topology(page_size_kib=4))
    assert {one.item for one in found if one.verdict is Verdict.NOT_VERIFIABLE} == {
        "4 KiB memory of guest cell 0",
        "emulator threads",
    }


def test_a_floating_guest_may_run_in_the_shared_set_only_where_there_is_one():
    results = read_back(None, CpuSet.of([0, 1]), masks([0, 1], [0, 2]), None, {})
    assert [one.item for one in disagreements(results)] == ["vcpu 1"]
    assert not disagreements(read_back(None, EMPTY, masks([0, 1], [0, 2]), None, {}))


free_pages = st.dictionaries(
    st.integers(0, 7), st.dictionaries(st.sampled_from([4, 2048, 1048576]), st.integers(0, 10**6)), max_size=4
)


@given(free_pages)
def test_law_the_memo_of_free_pages_comes_back_as_it_was(free):
    assert load_pages(dump_pages(free)) == flatten(free)
    assert all(size > 4 for _, size in flatten(free))


def test_guest_cells_on_one_host_cell_add_up():
    two = InstanceNumaTopology(cells=topology().cells * 2)
    assert pages_claimed(two) == {(1, 2048): 64}
    assert pages_claimed(None) == {}
