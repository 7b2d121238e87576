"""Which CPUs of one host cell: thread policies on integer bitmasks.

A *core* is a set of hardware threads (SMT 1, 2 or 4, mixed within a cell where the machine is so); what counts is how
many of its threads are free. Rules: nova's thread policies as `docs/fit.md` states them; the choice among equals
breaks as few wholly free cores as possible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numaferry.model.instance import ThreadPolicy


class Chosen(NamedTuple):
    """CPUs for one guest cell: in the order of its vCPUs, with what is owned beside them."""

    #: One CPU for each dedicated vCPU, siblings next to each other.
    cpus: tuple[int, ...]
    #: CPUs kept free beside the pinned ones (thread policy `isolate`), as a mask.
    siblings: int
    #: The extra CPU of emulator threads policy `isolate`, as a mask; 0 where none was asked for.
    emulator: int
    #: Everything that is given to the guest, as a mask: pinned CPUs, siblings and the emulator's.
    owned: int


def lowest(mask: int, count: int) -> int:
    """Return the `count` lowest bits of `mask`."""
    taken = 0
    for _ in range(count):
        low = mask & -mask
        taken |= low
        mask ^= low
    return taken


def bits(mask: int) -> list[int]:
    """Return the positions of the set bits, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def _lowest_bit(mask: int) -> int:
    return mask & -mask


def whole_cores(cores: Iterable[int], free: int) -> list[int]:
    """Return the cores all of whose threads are in `free`."""
    return [core for core in cores if core and core & ~free == 0]


def threads_with_siblings(cores: Iterable[int], free: int) -> int:
    """Count the free threads on cores that have at least two of them (policy `require`)."""
    return sum(count for core in cores if (count := (core & free).bit_count()) > 1)


def choose(policy: ThreadPolicy | None, cores: tuple[int, ...], free: int, vcpus: int, *, emulator: bool) -> Chosen:
    """Choose CPUs for `vcpus` dedicated vCPUs, and one more for the emulator, out of the mask `free`.

    The caller has checked that they are there (`pairs.CHECKS`); the result is deterministic.
    """
    if policy == "isolate":
        return _isolate(cores, free, vcpus, emulator=emulator)
    usable = [left for core in cores if (left := core & free)]
    if not vcpus:
        usable = []
    elif policy == "require":
        usable = [left for left in usable if left & (left - 1)]
    parts = _pack(usable, vcpus)
    taken = 0
    for part in parts:
        taken |= part
    extra = _spare(cores, free & ~taken) if emulator else 0
    parts.sort(key=_lowest_bit)
    cpus: list[int] = []
    for part in parts:
        cpus += bits(part)
    return Chosen(tuple(cpus), 0, extra, taken | extra)


def _pack(usable: list[int], vcpus: int) -> list[int]:
    """Take `vcpus` threads from the free threads of the cores: whole cores first, the rest from the tightest that does.

    With at least two threads in every core no more than one vCPU ends alone: each core but the last is taken whole.
    """
    by_room: dict[int, list[int]] = {}
    for left in reversed(usable):
        size = left.bit_count()
        if size in by_room:
            by_room[size].append(left)
        else:
            by_room[size] = [left]
    sizes = sorted(by_room)
    parts: list[int] = []
    remaining = vcpus
    while remaining:
        # the smallest that holds all that remains, else the largest there is
        size = sizes[-1]
        if size > remaining:
            size = next(enough for enough in sizes if enough >= remaining)
        cores = by_room[size]
        left = cores.pop()
        if not cores:
            sizes.remove(size)
        part = left if size <= remaining else lowest(left, remaining)
        parts.append(part)
        remaining -= part.bit_count()
    return parts


def _isolate(cores: tuple[int, ...], free: int, vcpus: int, *, emulator: bool) -> Chosen:
    """One vCPU per wholly free core, cores with the fewest threads first; their siblings are owned too."""
    used = sorted(whole_cores(cores, free), key=lambda core: (core.bit_count(), core & -core))[:vcpus]
    owned = 0
    for core in used:
        owned |= core
    firsts = sorted((core & -core).bit_length() - 1 for core in used)
    pinned = 0
    for cpu in firsts:
        pinned |= 1 << cpu
    extra = _spare(cores, free & ~owned) if emulator else 0
    return Chosen(tuple(firsts), owned & ~pinned, extra, owned | extra)


def _spare(cores: Iterable[int], free: int) -> int:
    """Return one free CPU, from the core with the fewest free threads: the least loss to who comes next."""
    left = [core & free for core in cores if core & free]
    tightest = min(left, key=lambda threads: (threads.bit_count(), threads & -threads))
    return tightest & -tightest


def broken_cores(cores: Iterable[int], free: int, owned: int) -> int:
    """Count wholly free cores of which some threads are given away and some not."""
    return sum([1 for core in cores if core & owned and core & ~owned and core & ~free == 0])
