"""Words in extra specs and XML, read as nova and libvirt read them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numaferry.errors import InvalidInput, InvalidRequest
from numaferry.model import CpuSet
from numaferry.request.words import parse_bool, parse_cpu_spec, parse_page_size, parse_vcpu_mask
from numaferry.request.xml import parse_xml, size_kib

#: Time limits say nothing of a law where the machine is shared.
on_a_busy_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3,^2,8", "0-1,3,8"), ("^2,0-3", "0-1,3"), ("0-7,^2-4", "0-1,5-7"), ("1,,2, ", "1-2"), (" 3 - 5 ", "3-5")],
)
def test_an_exclusion_holds_wherever_it_stands(text, expected):
    assert str(parse_cpu_spec(text, spec="hw:numa_cpus.0")) == expected


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "0-2,^x", "1-2-3", "99999"])
def test_a_bad_cpu_list_is_quoted_with_its_extra_spec(text):
    with pytest.raises(InvalidRequest, match=r"hw:numa_cpus\.0=") as caught:
        parse_cpu_spec(text, spec="hw:numa_cpus.0")
    assert caught.value.code == "Invalid"


def test_a_mask_that_begins_with_an_exclusion_takes_away_from_all():
    assert str(parse_vcpu_mask("^1", 4, spec="x")) == "0,2-3"
    assert str(parse_vcpu_mask("1", 4, spec="x")) == "1"


@on_a_busy_machine
@given(st.sets(st.integers(0, 300)))
def test_law_what_a_cpu_set_writes_is_read_back(cpus):
    assert parse_cpu_spec(str(CpuSet.of(cpus)), spec="x") == CpuSet.of(cpus)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2MB", 2048),
        ("2MiB", 2048),
        ("2048KB", 2048),
        ("1GB", 1048576),
        ("4", 4),
        ("2097152B", 2048),
        ("large", "large"),
    ],
)
def test_page_sizes(text, expected):
    assert parse_page_size(text, spec="hw:mem_page_size") == expected


@pytest.mark.parametrize("text", ["2mb", "2M", "0.0001KB", "-2MB", "1 GB", "huge"])
def test_what_is_no_page_size(text):
    with pytest.raises(InvalidRequest) as caught:
        parse_page_size(text, spec="hw:mem_page_size")
    assert caught.value.code == "MemoryPageSizeInvalid"
    assert repr(text) in caught.value.message


def test_booleans_as_oslo_reads_them():
    assert [parse_bool(word) for word in ("Yes", " on ", "1", "T")] == [True] * 4
    assert [parse_bool(word) for word in ("no", "", None, "ja")] == [False] * 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domain>",
        "no xml",
        "<network/>",
        '<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]><domain>&a;</domain>',
        "<domain>\x00</domain>",
    ],
)
def test_what_is_no_domain_xml_is_an_input_error_that_does_not_quote_it(text):
    with pytest.raises(InvalidInput) as caught:
        parse_xml(text)
    assert "passwd" not in caught.value.message


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [("KiB", "65536", 65536), ("MiB", "64", 65536), ("GiB", "1", 1048576), ("b", "2048", 2), ("KB", "1000", 977)],
)
def test_memory_units_are_libvirts(unit, text, expected):
    assert size_kib(parse_xml(f"<domain><memory unit='{unit}'>{text}</memory></domain>")[0]) == expected
