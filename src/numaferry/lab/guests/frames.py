"""Seeing the frames that lab guests broadcast each tick, at the ports of the lab's data bridge: who sent, and where.

A frame of the tiny guest has an Ethernet type for local experiments and, after a word of ours, its counter. Linux
guests send the same in a UDP datagram. Which port a frame came in by tells which host the guest is on.
"""

from __future__ import annotations

import contextlib
import select
import struct
import time
from typing import TYPE_CHECKING

from attrs import frozen

from numaferry.lab.capture import packet_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ETHERTYPE_TINY = 0x88B5
ETHERTYPE_IPV4 = 0x0800
WORD = b"numaferry"
PACKET_OUTGOING = 4

_COUNTER = struct.Struct(">I")


@frozen
class Frame:
    """A guest's frame as it came into the bridge: by port `link`, from `mac`, with the guest's `counter`."""

    link: str
    mac: str
    counter: int


def parse_frame(link: str, data: bytes) -> Frame | None:
    """Return what a frame says, or None for one that no lab guest sent."""
    (ethertype,) = struct.unpack_from(">H", data, 12) if len(data) >= 14 else (0,)
    at = data.find(WORD, 14)
    counter_at = at + len(WORD)
    if ethertype not in (ETHERTYPE_TINY, ETHERTYPE_IPV4) or at < 0 or len(data) < counter_at + _COUNTER.size:
        return None
    (counter,) = _COUNTER.unpack_from(data, counter_at)
    return Frame(link=link, mac=data[6:12].hex(":"), counter=counter)


@contextlib.contextmanager
def listening(netns: str, links: Iterable[str]) -> Iterator[Callable[[float], tuple[Frame, ...]]]:
    """Listen at `links` inside `netns`; what is yielded returns the frames that come in during a number of seconds.

    Raises EnvironmentLacking when the namespace or a link is not there, or without root.
    """
    names = tuple(links)
    taps = dict(zip(packet_sockets(netns, names), names, strict=True))

    def collect(seconds: float) -> tuple[Frame, ...]:
        frames, deadline = [], time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for tap in select.select(list(taps), [], [], left)[0]:
                data, address = tap.recvfrom(2048)
                frame = parse_frame(taps[tap], data)
                # a frame on its way out by this port came in by another
                if frame and address[2] != PACKET_OUTGOING:
                    frames.append(frame)
        return tuple(frames)

    try:
        yield collect
    finally:
        for tap in taps:
            tap.close()
