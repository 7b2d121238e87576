"""Seeing the frames that lab guests broadcast each tick, at the ports of the lab's data bridge: who sent, and where.

A frame of the tiny guest has an Ethernet type for local experiments and, after a word of ours, its counter. Linux
guests send the same in a UDP datagram. Which port a frame came in by tells which host the guest is on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from attrs import frozen

from numaferry.errors import EnvironmentLacking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ETHERTYPE_TINY = 0x88B5
ETHERTYPE_IPV4 = 0x0800
WORD = b"numaferry"
ETH_P_ALL = 3
PACKET_OUTGOING = 4
CLONE_NEWNET = 0x40000000

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


def _in_netns(name: str, make: Callable[[], None]) -> None:
    """Call `make` in a thread of the network namespace `name`: the namespace is a thread's own (setns(2))."""
    failed: list[OSError] = []

    def entered() -> None:
        try:
            descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                make()
            finally:
                os.close(descriptor)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=entered)
    thread.start()
    thread.join()
    if failed:
        raise EnvironmentLacking(f"network namespace {name}: {failed[0]}", hint="numaferry lab status") from failed[0]


@contextlib.contextmanager
def listening(netns: str, links: Iterable[str]) -> Iterator[Callable[[float], tuple[Frame, ...]]]:
    """Listen at `links` inside `netns`; what is yielded returns the frames that come in during a number of seconds.

    Raises EnvironmentLacking when the namespace or a link is not there, or without root.
    """
    taps: dict[socket.socket, str] = {}

    def make() -> None:
        for link in links:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
            taps[tap] = link
            tap.bind((link, ETH_P_ALL))

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
        _in_netns(netns, make)
        yield collect
    finally:
        for tap in taps:
            tap.close()
