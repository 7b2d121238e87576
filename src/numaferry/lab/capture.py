"""Counting frames on a lab's data network, from outside: what guests really send, and from which host it comes.

Sockets are opened inside the lab's network namespace (packet(7)), one per port of the data bridge; only frames that
*enter* the bridge by a port are counted, so each is counted once, on the port of the host it left.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from numaferry.errors import EnvironmentLacking
from numaferry.lab.commands import run
from numaferry.lab.network import DATA_BRIDGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numaferry.lab.model import Lab

ETH_P_ALL = 3
CLONE_NEWNET = 0x40000000


def count_frames(lab: Lab, seconds: float) -> Mapping[str, int]:
    """Return how many frames of each source MAC (lower case, colons) the hosts sent within `seconds`."""
    total: Counter[str] = Counter()
    for counts in count_frames_by_link(lab, seconds).values():
        total.update(counts)
    return total


def count_frames_by_link(lab: Lab, seconds: float) -> Mapping[str, Mapping[str, int]]:
    """Return the same by port of the data bridge; in a lab of kind `hosts`, host number n (from 1) is on port `dn`.

    Raises EnvironmentLacking when the lab's namespace can't be entered (root only).
    """
    links = json.loads(run(["ip", "-n", lab.netns, "-j", "link", "show", "master", DATA_BRIDGE]) or "[]")
    names = [link["ifname"] for link in links if link]
    sockets = packet_sockets(lab.netns, names)
    try:
        return _count(dict(zip(names, sockets, strict=True)), seconds)
    finally:
        for opened in sockets:
            opened.close()


def packet_sockets(netns: str, names: Sequence[str]) -> list[socket.socket]:
    """Return a socket per link of a network namespace that receives all its frames, whole and without blocking.

    Raises EnvironmentLacking when the namespace can't be entered or a link isn't there.
    """
    # a namespace belongs to a thread: one of its own enters it, opens the sockets and ends
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_open_inside, netns, names).result()


def _open_inside(netns: str, names: Sequence[str]) -> list[socket.socket]:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)
        opened = []
        for name in names:
            each = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
            each.bind((name, ETH_P_ALL))
            opened.append(each)
    except OSError as error:
        raise EnvironmentLacking(
            f"network namespace {netns} can't be entered: {error.strerror}", hint="as root"
        ) from error
    return opened


def _count(sockets: Mapping[str, socket.socket], seconds: float) -> Mapping[str, Mapping[str, int]]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in sockets}
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for name, opened in sockets.items():
            selector.register(opened, selectors.EVENT_READ, name)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                frame, address = sockets[key.data].recvfrom(64)
                if address[2] != socket.PACKET_OUTGOING:
                    counts[key.data][frame[6:12].hex(":")] += 1
    return counts
