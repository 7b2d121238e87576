"""Why it does not fit: every pair's numbers, near misses first, and the one sentence that says it best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.fit.floating import base_memory_free_kib
from numaferry.fit.suggest import floating_suggestions, suggestions
from numaferry.fit.words import and_list, counted, kib, page
from numaferry.model import Misfit, Shortage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.fit.devices import Devices
    from numaferry.fit.floating import Total
    from numaferry.fit.matching import Hall
    from numaferry.fit.pairs import Guest, Pairs, Room
    from numaferry.fit.question import Question
    from numaferry.model import HostState, NumaRequest

#: What the numbers of a check count, one and several of it; `threads` depends on the policy.
_UNITS = {
    "dedicated-cpus": ("dedicated CPU", "dedicated CPUs"),
    "shared-cpus": ("shared vCPU", "shared vCPUs"),
    "emulator-cpu": ("CPU of its own for the emulator threads while it starts",) * 2,
}
_THREADS = {
    "require": ("free thread on cores with a free sibling", "free threads on cores with a free sibling"),
    "isolate": ("wholly free dedicated core", "wholly free dedicated cores"),
}


def misfit(question: Question, *, explain: bool) -> Misfit:
    """Return why the question has no assignment; without `explain` only the sentence."""
    host = question.host
    if not explain:
        return Misfit(host.name, _reason(question, {}))
    by_pair = pair_shortages(question.pairs)
    shortages = _whole_host(question)
    for pair in sorted(by_pair, key=lambda pair: _nearness(by_pair[pair])):
        shortages += by_pair[pair]
    return Misfit(host.name, _reason(question, by_pair), tuple(shortages), suggestions(question))


def floating_misfit(
    host: HostState, request: NumaRequest, devices: Devices, short: Sequence[Total], *, explain: bool
) -> Misfit:
    """Return why a guest without cells does not fit on the host as a whole."""
    shortages = [_total(total) for total in short]
    if devices.met(None) < devices.wanted():
        shortages.append(_too_few_devices(devices.met(None), devices.wanted()))
    reason = shortages[0].sentence
    if not explain:
        return Misfit(host.name, reason)
    return Misfit(host.name, reason, tuple(shortages), floating_suggestions(host, request))


# -- numbers ---------------------------------------------------------------------------------------------------------


def pair_shortages(pairs: Pairs) -> dict[tuple[int, int], list[Shortage]]:
    """Return what each pair (guest cell's place in the request, host cell number) that doesn't fit is short of."""
    found = {}
    for place, guest in enumerate(pairs.guests):
        for index, room in enumerate(pairs.rooms):
            if not pairs.page_size(guest, index):
                found[place, index] = [*_cpu_shortages(pairs, guest, room), *_memory_shortages(pairs, guest, room)]
    return found


def _cpu_shortages(pairs: Pairs, guest: Guest, room: Room) -> list[Shortage]:
    found = []
    for resource, check in pairs.checks:
        needed, free = check(guest, room)
        if needed > free:
            units = _UNITS.get(resource) or _THREADS[pairs.thread_policy or ""]
            words = f"needs {needed} {units[needed > 1]}, {max(0, free)} free, {needed - max(0, free)} missing"
            found.append(_shortage(resource, (needed, max(0, free)), guest, room, words))
    return found


def _memory_shortages(pairs: Pairs, guest: Guest, room: Room) -> list[Shortage]:
    if pairs.page_choice(guest, room):
        return []
    if guest.wish is None:
        needed, free = pairs.plain_memory_kib(guest, room)
        free = max(0, free)
        words = f"needs {kib(needed)} of memory, {kib(free)} free"
        return [Shortage("memory", needed, free, room.id, guest.id, None, _sentence(guest, room, words))]
    best: tuple[int, int, int] | None = None
    sizes = pairs.page_sizes(guest, room)
    for size in sizes:
        pool = room.state.pool(size)
        if pool is not None and pool.total and guest.memory_kib % size == 0:
            needed, free = guest.memory_kib // size, pool.free
            if best is None or (needed - free) * size < (best[1] - best[2]) * best[0]:
                best = (size, needed, free)
    if best is None:
        asked = page(guest.wish) if isinstance(guest.wish, int) else f"page size {guest.wish!r}"
        reason = "no such pages there" if not sizes or not any(map(room.state.pool, sizes)) else "no size divides it"
        words = f"{kib(guest.memory_kib)} in {asked}: {reason}"
        wished = guest.wish if isinstance(guest.wish, int) else None
        return [Shortage("page-size", 1, 0, room.id, guest.id, wished, _sentence(guest, room, words))]
    size, needed, free = best
    words = f"needs {counted(needed, 'page')} of {page(size)}, {free} free, {needed - free} missing"
    return [Shortage("pages", needed, free, room.id, guest.id, size, _sentence(guest, room, words))]


def _shortage(resource: str, numbers: tuple[int, int], guest: Guest, room: Room, words: str) -> Shortage:
    needed, free = numbers
    return Shortage(resource, needed, free, room.id, guest.id, None, _sentence(guest, room, words))


def _sentence(guest: Guest, room: Room, words: str) -> str:
    return f"guest cell {guest.id} on host cell {room.id}: {words}"


def _nearness(shortages: list[Shortage]) -> tuple[int, float]:
    """Order pairs by how near they are to fitting: fewest resources short, then the smallest part missing."""
    return len(shortages), sum((short.needed - short.free) / max(1, short.needed) for short in shortages)


def nearness(misfit: Misfit) -> tuple[int, int, float]:
    """Order hosts for one request by how near they are: (short as a whole, resources short, part missing).

    The first counts what no single pair of cells can mend; the others are those of the nearest pair. A misfit without
    numbers is last.
    """
    pairs: dict[tuple[int | None, int | None], list[Shortage]] = {}
    for short in misfit.shortages:
        pairs.setdefault((short.guest_cell, short.host_cell), []).append(short)
    whole = pairs.pop((None, None), [])
    if not whole and not pairs:
        return 1 << 30, 0, 0.0
    return len(whole), *min(map(_nearness, pairs.values()), default=_nearness(whole))


def _whole_host(question: Question) -> list[Shortage]:
    """Return what is short for the guest as a whole: cells, totals, distinct cells, devices."""
    pairs, hall = question.pairs, question.hall
    found = [_total(total) for total in question.totals]
    guests, rooms = len(pairs.guests), len(pairs.rooms)
    if guests > rooms:
        found.append(Shortage("cells", guests, rooms, sentence=_too_few_cells(guests, rooms)))
    elif hall is not None and len(hall.rows) > 1:
        sentence = _hall_sentence(pairs, hall)
        found.append(Shortage("distinct-cells", len(hall.rows), len(hall.columns), sentence=sentence))
    elif hall is None and not question.totals:
        found.append(_coupling_short(question))
    return found


def _total(total: Total) -> Shortage:
    free = max(0, total.free)
    return Shortage(total.resource, total.needed, free, sentence=f"needs {total.needed} {total.words}, {free} free")


def _coupling_short(question: Question) -> Shortage:
    """Return what is short where every guest cell has a host cell, but not the devices, networks or base pages."""
    if question.base_missing_kib:
        free = max(0, base_memory_free_kib(question.host))
        needed = free + question.base_missing_kib
        sentence = f"needs {kib(needed)} in base pages, floating guests leave {kib(free)}"
        return Shortage("memory", needed, free, sentence=sentence)
    pairs, devices = question.pairs, question.devices
    everywhere = (1 << len(pairs.rooms)) - 1
    met, wanted = devices.met(everywhere), devices.wanted()
    if met < wanted:
        return _too_few_devices(met, wanted)
    usable = 0
    for row in question.rows:
        usable |= row
    met = min(devices.met(usable), max(0, wanted - 1))
    near = [room.id for index, room in enumerate(pairs.rooms) if devices.relevant >> index & 1]
    what = "devices" if wanted else "networks"
    cells = f"host cell{'s' if len(near) > 1 else ''} {and_list(near)}" if near else "no host cell"
    sentence = f"the {what} asked for are near {cells}; no placement of the guest's cells uses enough of them"
    return Shortage("pci", max(wanted, 1), met, sentence=sentence)


def _too_few_devices(met: int, wanted: int) -> Shortage:
    sentence = f"needs {wanted} device{'s' if wanted > 1 else ''}, {met} free that match{'es' if met == 1 else ''}"
    return Shortage("pci", wanted, met, sentence=f"{sentence} alias and affinity")


# -- the one sentence ------------------------------------------------------------------------------------------------


def _reason(question: Question, by_pair: dict[tuple[int, int], list[Shortage]]) -> str:
    pairs, hall = question.pairs, question.hall
    guests, rooms = len(pairs.guests), len(pairs.rooms)
    if guests > rooms:
        return _too_few_cells(guests, rooms)
    if hall is None:
        return _total(question.totals[0]).sentence if question.totals else _coupling_short(question).sentence
    if len(hall.rows) > 1 or hall.columns:
        return _hall_sentence(pairs, hall)
    place = hall.rows[0]
    nearest = min((by_pair[pair] for pair in by_pair if pair[0] == place), key=_nearness, default=None)
    guest = pairs.guests[place].id
    if nearest is None:
        return f"guest cell {guest} fits on no host cell"
    words = "; ".join(short.sentence.partition(": ")[2] for short in nearest)
    return f"guest cell {guest} fits on no host cell; nearest is host cell {nearest[0].host_cell}: {words}"


def _too_few_cells(guests: int, rooms: int) -> str:
    return f"the guest has {guests} cells, the host {rooms}: guest cells take distinct host cells"


def _hall_sentence(pairs: Pairs, hall: Hall) -> str:
    guests = and_list([pairs.guests[row].id for row in hall.rows])
    rooms = and_list([pairs.rooms[column].id for column in hall.columns])
    both = "both " if len(hall.rows) == 2 else ""
    return f"guest cells {guests} {both}fit only host cell{'s' if len(hall.columns) > 1 else ''} {rooms}"
