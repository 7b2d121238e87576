"""The reader of the guests' serial lines: each kind of harm is told, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numaferry.errors import HypervisorError
from numaferry.lab.guests import SerialParser, SerialReport, SerialWatch

if TYPE_CHECKING:
    from pathlib import Path


def life(first: int, last: int) -> str:
    return "START tiny memory_kib=65408 dirty_mib=0\nREADY\n" + "".join(f"C {n}\n" for n in range(first, last + 1))


def told(text: str) -> SerialReport:
    return SerialParser().feed(text)


def test_an_unharmed_life_is_intact() -> None:
    report = told("SeaBIOS (version 1.16)\r\n" + life(1, 30))
    assert (report.starts, report.ready, report.first, report.last) == (1, True, 1, 30)
    assert report.intact


@pytest.mark.parametrize(
    ("harm", "attribute", "value"),
    [
        pytest.param("C 1\nC 2\n", "contiguous", False, id="counter began again"),
        pytest.param("C 33\n", "contiguous", False, id="counter jumped"),
        pytest.param("C 30\n", "contiguous", False, id="a line came twice"),
        pytest.param("START tiny memory_kib=65408 dirty_mib=0\n", "starts", 2, id="started a second time"),
        pytest.param("CORRUPT at=0x00400000 got=0x00000000 want=0xdeaffeed\n", "corrupt", True, id="wrong memory"),
        pytest.param("FAULT\n", "faults", ("FAULT",), id="the guest faulted"),
    ],
)
def test_each_harm_is_told_by_its_own_sign(harm: str, attribute: str, value: object) -> None:
    before, after = told(life(1, 30)), told(life(1, 30) + harm)
    assert getattr(before, attribute) != value
    assert getattr(after, attribute) == value
    assert not after.intact


def test_a_break_says_between_which_values_it_is() -> None:
    (gap,) = told(life(1, 30) + "C 33\nC 34\n").breaks
    assert (gap.before, gap.after) == (30, 33)


@pytest.mark.parametrize("text", ["", "START tiny\n", "START tiny\nREADY\nC 1\n"])
def test_too_little_to_tell_is_not_intact(text: str) -> None:
    assert not told(text).intact


def test_an_unfinished_line_is_not_read_as_a_smaller_number() -> None:
    parser = SerialParser()
    assert parser.feed(life(1, 122) + "C 12").last == 122
    assert parser.feed("3\n").last == 123
    assert parser.report.intact


@given(cuts=st.lists(st.integers(0, 200)), harm=st.sampled_from(["", "C 5\n", "CORRUPT at=0x1\n", "START tiny\n"]))
def test_how_the_text_is_cut_into_pieces_changes_nothing(cuts: list[int], harm: str) -> None:
    text = life(1, 20) + harm + "C 21\nC 22\n"
    parser, ends = SerialParser(), sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    for begin, end in zip([0, *ends], ends, strict=False):
        parser.feed(text[begin:end])
    assert parser.report == told(text)


def test_the_longest_gap_is_between_reads_and_names_the_counter_after_it() -> None:
    parser = SerialParser()
    for at_s, text in [(10.0, life(1, 3)), (10.1, "C 4\n"), (10.9, "C 5\n"), (11.0, "C 6\n")]:
        parser.feed(text, at_s)
    assert parser.report.longest_gap_s == pytest.approx(0.8)
    assert parser.report.gap_before == 5


def test_the_watch_reads_only_what_is_new_and_survives_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "g.serial"
    watch = SerialWatch.of_new(path)
    with path.open("ab") as file:
        file.write(b"\x1bc\xff\xfe\n" + life(1, 3).encode())
        file.flush()
        assert watch.poll().last == 3
        file.write(b"C 4\nDIRTY mib=8\n")
    assert watch.poll().intact
    assert (watch.report.last, watch.report.dirty_mib) == (4, 8)


def test_waiting_for_what_never_comes_quotes_where_the_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "g.serial"
    path.write_text(life(1, 3))
    with pytest.raises(HypervisorError, match=r"no counter 9 within 0\.1 s; it ends with .*C 3"):
        SerialWatch(path).until_count(9, timeout_s=0.1)
