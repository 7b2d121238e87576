"""What a frame at the data bridge says of the guest that sent it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from numaferry.lab.guests import Frame
from numaferry.lab.guests.frames import WORD, parse_frame

TINY = bytes.fromhex("ffffffffffff52540012345688b5") + WORD + bytes.fromhex("00000138") + bytes(33)


def test_a_frame_of_the_tiny_guest_is_read() -> None:
    assert parse_frame("p", TINY) == Frame(link="p", mac="52:54:00:12:34:56", counter=0x138)


@given(st.integers(0, len(TINY) - 1))
def test_a_frame_that_was_cut_short_is_read_right_or_not_at_all(length: int) -> None:
    whole = parse_frame("p", TINY)
    assert parse_frame("p", TINY[:length]) == (whole if length >= TINY.index(WORD) + len(WORD) + 4 else None)


@given(st.binary(max_size=80).filter(lambda data: WORD not in data))
def test_a_frame_without_our_word_is_none_of_ours(data: bytes) -> None:
    assert parse_frame("p", data) is None
    assert parse_frame("p", TINY[:14] + data) is None
