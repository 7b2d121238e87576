"""What one host cell would have to give back so that one guest cell fits on it.

Only what is in use can be given back: where a cell is too small even when empty there is no relief. Sizes in KiB.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from numaferry.fit.pairs import Room
from numaferry.fit.words import counted, kib, page
from numaferry.model import CpuSet

if TYPE_CHECKING:
    from numaferry.fit.pairs import Guest, Pairs
    from numaferry.model import CellState, HostState

#: Words for one thing, or for an amount.
_ONE = re.compile(r"1 |CPU |.* of memory$")


@attrs.frozen(slots=True)
class Relief:
    """The host as it would be, and the words for the difference ("2 more pages of 1 GiB are freed on host cell 1")."""

    words: str
    host: HostState
    #: Orders reliefs: kinds of resources, CPUs, memory.
    cost: tuple[int, int, int]


def relief(pairs: Pairs, host: HostState, guest: Guest, index: int) -> Relief | None:
    """Return what makes this guest cell fit on host cell number `index`, or None where giving back can't."""
    state = pairs.rooms[index].state
    parts: list[str] = []
    after = state
    for step in (_free_cpus, _free_shared, _free_memory):
        done = step(pairs, guest, after)
        if done is None:
            return None
        after, words = done
        parts += words
    if not parts or not pairs.fits_room(guest, Room(after)):
        return None
    cells = (*host.cells[:index], after, *host.cells[index + 1 :])
    verb = "is" if len(parts) == 1 and _ONE.match(parts[0]) else "are"
    cost = (len(parts), len(state.pinned - after.pinned), _freed_kib(state, after))
    words_all = f"{' and '.join(parts)} {verb} freed on host cell {state.id}"
    return Relief(words_all, attrs.evolve(host, cells=cells), cost)


def _free_cpus(pairs: Pairs, guest: Guest, state: CellState) -> tuple[CellState, list[str]] | None:
    """Free dedicated CPUs: any of them without a thread policy, whole cores of them with one."""
    if not guest.pinned and not guest.emulator:
        return state, []
    pinned = state.pinned & state.dedicated
    if pairs.thread_policy not in {"require", "isolate"}:
        missing = guest.pinned + guest.emulator - len(state.free_dedicated)
        if missing <= 0:
            return state, []
        if missing > len(pinned):
            return None
        freed = CpuSet.of(list(pinned)[:missing])
        words = counted(missing, "more dedicated CPU")
        return attrs.evolve(state, pinned=state.pinned - freed), [words]
    after = state
    while not pairs.cpus_suffice(guest, Room(after)):
        core = _core_to_free(pairs, after)
        if core is None:
            return None
        after = attrs.evolve(after, pinned=after.pinned - core)
    freed = state.pinned - after.pinned
    return after, [f"{'CPUs' if len(freed) > 1 else 'CPU'} {freed}"] if freed else []


def _core_to_free(pairs: Pairs, state: CellState) -> CpuSet | None:
    """Return the dedicated CPUs in use of the core that needs the fewest of them back, or None."""
    isolate = pairs.thread_policy == "isolate"
    choices = [
        core & state.pinned & state.dedicated
        for core in state.siblings
        if not core.isdisjoint(state.pinned & state.dedicated) and (not isolate or core <= state.dedicated)
    ]
    return min(choices, key=lambda core: (len(core), core.first()), default=None)


def _free_shared(pairs: Pairs, guest: Guest, state: CellState) -> tuple[CellState, list[str]] | None:
    """Let shared vCPUs leave the cell, as far as the ratio is what is short."""
    if not guest.shared or pairs.limits is None:
        return state, []
    missing = guest.shared + state.shared_vcpus - int(len(state.shared) * pairs.limits.cpu_allocation_ratio)
    if missing <= 0:
        return state, []
    if missing > state.shared_vcpus:
        return None
    words = counted(missing, "shared vCPU")
    return attrs.evolve(state, shared_vcpus=state.shared_vcpus - missing), [words]


def _free_memory(pairs: Pairs, guest: Guest, state: CellState) -> tuple[CellState, list[str]] | None:
    """Free pages of a size that the guest cell may use, or plain memory where it wishes for none."""
    room = Room(state)
    if pairs.page_choice(guest, room):
        return state, []
    if guest.wish is None:
        needed, free = pairs.plain_memory_kib(guest, room)
        size = room.base_page_size_kib() if room.pages else 1
        missing = -(-(needed - free) // size) * size
        after = _without(state, size, missing)
        return None if after is None else (after, [f"{kib(missing)} of memory"])
    choices = []
    for size in pairs.page_sizes(guest, room):
        pool = state.pool(size)
        if pool is None or guest.memory_kib % size:
            continue
        missing = guest.memory_kib // size - (pool.total - pool.used - pool.reserved)
        after = _without(state, size, missing * size)
        if after is not None:
            choices.append((missing * size, missing, size, after))
    if not choices:
        return None
    _, missing, size, after = min(choices, key=lambda choice: choice[:3])
    return after, [f"{counted(missing, 'more page')} of {page(size)}"]


def _without(state: CellState, size: int, amount_kib: int) -> CellState | None:
    """Return the cell with this much memory in pages of `size` given back; None where less is in use.

    Whether a cell's `memory_used_kib` counts huge pages is the caller's matter, so only base pages change it.
    """
    base = state.pages[0].size_kib if state.pages else size
    if amount_kib <= 0 or (size == base and amount_kib > state.memory_used_kib):
        return None
    pages = []
    for pool in state.pages:
        if pool.size_kib == size:
            if pool.used * size < amount_kib:
                return None
            pages.append(attrs.evolve(pool, used=pool.used - amount_kib // size))
        else:
            pages.append(pool)
    used_kib = state.memory_used_kib - (amount_kib if size == base else 0)
    return attrs.evolve(state, pages=tuple(pages), memory_used_kib=used_kib)


def _freed_kib(before: CellState, after: CellState) -> int:
    if not before.pages:
        return before.memory_used_kib - after.memory_used_kib
    return sum((old.used - new.used) * old.size_kib for old, new in zip(before.pages, after.pages, strict=True))
