"""Laws of CpuSet: it is a set, and its text form is libvirt's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.errors import InvalidInput
from numaferry.model import CpuSet

cpus = st.frozensets(st.integers(0, 300))


@given(cpus)
def test_text_form_reads_back_as_the_same_set(ids):
    assert CpuSet.parse(str(CpuSet.of(ids))) == CpuSet.of(ids)


@given(cpus, cpus)
def test_behaves_as_a_set_of_integers(left, right):
    a, b = CpuSet.of(left), CpuSet.of(right)
    assert set(a | b) == left | right
    assert set(a & b) == left & right
    assert set(a - b) == left - right
    assert len(a) == len(left)
    assert (a <= b) == (left <= right)
    assert a.isdisjoint(b) == left.isdisjoint(right)
    assert all((cpu in a) == (cpu in left) for cpu in range(301))


@pytest.mark.parametrize(
    ("text", "ids"), [("0-3,^2", {0, 1, 3}), ("^1,0-1", {0, 1}), ("", set()), (" 4 , 6-7", {4, 6, 7})]
)
def test_exclusion_removes_what_stands_before_it(text, ids):
    assert set(CpuSet.parse(text)) == ids


@pytest.mark.parametrize("text", ["a", "3-1", "1,,2", "-1", "1-", "99999", "0x1"])
def test_bad_text_is_refused_and_quoted(text):
    with pytest.raises(InvalidInput, match="CPU list"):
        CpuSet.parse(text)
