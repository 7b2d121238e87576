"""Does one guest cell fit on one host cell? Integers and bitmasks; a table of checks, each with its numbers.

Host cells share nothing, so this pairwise answer and a matching decide everything but devices (`devices`). Each
check says how much is needed and how much is free, so that the verdict and its explanation are the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.fit.threads import Chosen, choose, threads_with_siblings, whole_cores
from numaferry.model import BASE_PAGE_SIZE_KIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.model import CellRequest, CellState, HostLimits, HostState, NumaRequest

    Numbers = tuple[int, int]
    Check = Callable[["Guest", "Room"], Numbers]


class Guest:
    """A guest cell as numbers: what the checks need of it."""

    __slots__ = ("emulator", "id", "key", "memory_kib", "own_emulator_cpu", "pinned", "request", "shared", "wish")

    def __init__(self, cell: CellRequest, request: NumaRequest, *, emulator: bool) -> None:
        self.request = cell
        self.id = cell.id
        pinned = cell.pinned_vcpus.mask & cell.vcpus.mask
        self.pinned = pinned.bit_count()
        self.shared = (cell.vcpus.mask & ~pinned).bit_count()
        self.memory_kib = cell.memory_kib
        self.wish = cell.page_size
        #: 1 where the emulator's extra CPU is taken from this cell's host cell.
        self.emulator = int(emulator)
        #: A CPU of the guest's own on this cell can carry the emulator threads while it starts.
        self.own_emulator_cpu = bool(cell.vcpus.mask & ~request.realtime_vcpus.mask) or emulator
        #: Guest cells with equal keys are interchangeable.
        self.key = (self.pinned, self.shared, self.memory_kib, self.wish, self.emulator, self.own_emulator_cpu)


class Room:
    """A host cell as numbers: what is free of it."""

    __slots__ = ("_siblings", "_whole", "chosen", "cores", "free", "free_count", "id", "pages", "shared", "state")

    def __init__(self, state: CellState) -> None:
        self.state = state
        self.id = state.id
        self.free = state.dedicated.mask & ~state.pinned.mask
        self.free_count = self.free.bit_count()
        self.shared = state.shared.mask.bit_count()
        self.pages = state.pages
        self.cores: tuple[int, ...] = ()
        self._whole = -1
        self._siblings = -1
        #: Choices of CPUs already made on this cell, by (dedicated vCPUs, emulator).
        self.chosen: dict[tuple[int, int], Chosen] = {}

    def core_masks(self) -> tuple[int, ...]:
        """Return the cores as masks; a CPU that no core names is a core of its own."""
        if not self.cores:
            masks = tuple([core.mask for core in self.state.siblings])
            known = 0
            for mask in masks:
                known |= mask
            alone = self.free & ~known
            while alone:
                low = alone & -alone
                masks += (low,)
                alone ^= low
            self.cores = masks
        return self.cores

    @property
    def whole(self) -> int:
        """How many cores are wholly free."""
        if self._whole < 0:
            self._whole = len(whole_cores(self.core_masks(), self.free))
        return self._whole

    @property
    def with_siblings(self) -> int:
        """How many free threads have a free sibling."""
        if self._siblings < 0:
            self._siblings = threads_with_siblings(self.core_masks(), self.free)
        return self._siblings

    def base_page_size_kib(self) -> int:
        """Return the base page size of this cell (4 KiB where the cell tells no pools)."""
        return self.pages[0].size_kib if self.pages else BASE_PAGE_SIZE_KIB


class Pairs:
    """All pairs of guest and host cells of one question, answered when asked and remembered."""

    __slots__ = ("_known", "checks", "guests", "limits", "quirk", "request", "rooms", "thread_policy")

    def __init__(self, host: HostState, request: NumaRequest) -> None:
        self.request = request
        self.limits: HostLimits | None = host.limits
        self.thread_policy = request.thread_policy
        self.quirk = host.emulator_cpu_on_page_cells
        isolated = request.emulator_threads_policy == "isolate"
        first = min(cell.id for cell in request.cells)
        self.guests = [Guest(cell, request, emulator=isolated and cell.id == first) for cell in request.cells]
        self.rooms = [Room(cell) for cell in host.cells]
        self.checks: tuple[tuple[str, Check], ...] = self._wanted_checks()
        self._known: dict[tuple[object, int], int] = {}

    def _wanted_checks(self) -> tuple[tuple[str, Check], ...]:
        """Return (resource, check) for what this request can fail at all, cheapest first."""
        pinning = any(guest.pinned or guest.emulator for guest in self.guests)
        sharing = any(guest.shared for guest in self.guests)
        threads = {"require": self._siblings, "isolate": self._cores}.get(self.thread_policy or "")
        rows = (
            ("dedicated-cpus", self._dedicated if pinning else None),
            ("shared-cpus", self._shared if sharing else None),
            ("threads", threads if pinning else None),
            ("emulator-cpu", self._start_cpu if self.quirk else None),
        )
        return tuple((name, check) for name, check in rows if check)

    def page_size(self, guest: Guest, index: int) -> int:
        """Return the page size that this guest cell would use on host cell number `index`, 0 where it doesn't fit."""
        key = (guest.key, index)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._answer(guest, self.rooms[index])
        return known

    def _answer(self, guest: Guest, room: Room) -> int:
        for _, check in self.checks:
            needed, free = check(guest, room)
            if needed > free:
                return 0
        return self.page_choice(guest, room)

    def fits_room(self, guest: Guest, room: Room) -> bool:
        """Tell whether the guest cell fits on a host cell that need not be one of this host (nothing is remembered)."""
        return bool(self._answer(guest, room))

    def cpus_suffice(self, guest: Guest, room: Room) -> bool:
        """Tell the same of dedicated CPUs and the thread policy alone."""
        checks = [check for name, check in self.checks if name in {"dedicated-cpus", "threads"}]
        return all(needed <= free for needed, free in (check(guest, room) for check in checks))

    def row(self, guest: Guest) -> int:
        """Return the host cells that this guest cell fits on, as a mask of their numbers."""
        mask = 0
        for index in range(len(self.rooms)):
            if self.page_size(guest, index):
                mask |= 1 << index
        return mask

    def choose(self, guest: Guest, index: int) -> Chosen:
        """Choose the CPUs for a pair that fits; equal guest cells share the answer."""
        room = self.rooms[index]
        key = (guest.pinned, guest.emulator)
        chosen = room.chosen.get(key)
        if chosen is None:
            chosen = choose(
                self.thread_policy, room.core_masks(), room.free, guest.pinned, emulator=bool(guest.emulator)
            )
            room.chosen[key] = chosen
        return chosen

    # -- the checks: (needed, free) ----------------------------------------------------------------------------------

    @staticmethod
    def _dedicated(guest: Guest, room: Room) -> Numbers:
        """Dedicated CPUs are never overcommitted; the emulator's extra CPU is one of them."""
        return guest.pinned + guest.emulator, room.free_count

    def _shared(self, guest: Guest, room: Room) -> Numbers:
        """Shared vCPUs: by the CPU allocation ratio, and never more in a guest cell than the host cell has CPUs."""
        if not guest.shared:
            return 0, 0
        free = room.shared
        if self.limits is not None:
            free = min(free, int(room.shared * self.limits.cpu_allocation_ratio) - room.state.shared_vcpus)
        return guest.shared, free

    @staticmethod
    def _siblings(guest: Guest, room: Room) -> Numbers:
        """`require`: as many free threads as vCPUs on cores with at least two free; a cell without SMT has none."""
        return guest.pinned, room.with_siblings

    @staticmethod
    def _cores(guest: Guest, room: Room) -> Numbers:
        """`isolate`: a wholly free core each; the emulator's CPU on another core, a whole one if no other is there."""
        needed = guest.pinned
        if guest.emulator:
            on_whole = sum(core.bit_count() for core in whole_cores(room.core_masks(), room.free))
            needed += room.free_count == on_whole
        return needed, room.whole

    @staticmethod
    def _start_cpu(guest: Guest, room: Room) -> Numbers:
        """A CPU of the guest's own, not a realtime one, for the emulator threads while huge pages are taken there."""
        huge = guest.wish == "large" or (isinstance(guest.wish, int) and guest.wish > room.base_page_size_kib())
        return int(huge), int(guest.own_emulator_cpu)

    # -- memory ------------------------------------------------------------------------------------------------------

    def page_choice(self, guest: Guest, room: Room) -> int:
        """Return the page size to use on this host cell, 0 where no size has room."""
        if guest.wish is None:
            needed, free = self.plain_memory_kib(guest, room)
            return room.base_page_size_kib() if needed <= free else 0
        for size in self.page_sizes(guest, room):
            pool = room.state.pool(size)
            if pool is not None and guest.memory_kib % size == 0 and guest.memory_kib <= pool.free * size:
                return size
        return 0

    def page_sizes(self, guest: Guest, room: Room) -> list[int]:
        """Return the sizes (KiB) that the wish allows on this cell, in the order of trial: largest first."""
        if isinstance(guest.wish, int):
            return [guest.wish]
        sizes = sorted((pool.size_kib for pool in room.pages), reverse=True)
        if guest.wish == "any":
            return sizes[-1:] if self.quirk and not guest.own_emulator_cpu else sizes
        return sizes[-1:] if guest.wish == "small" else sizes[:-1]

    def plain_memory_kib(self, guest: Guest, room: Room) -> Numbers:
        """Memory without a page size: free base pages for dedicated and mixed, within the RAM ratio for shared.

        Even with a ratio a guest cell is never larger than the host cell's base pages together.
        """
        state = room.state
        base = room.pages[0] if room.pages else None
        if self.request.cpu_policy != "shared":
            free = base.free * base.size_kib if base else state.memory_kib - state.memory_used_kib
            return guest.memory_kib, free
        free = base.total * base.size_kib if base else state.memory_kib
        if self.limits is not None:
            free = min(free, int(state.memory_kib * self.limits.ram_allocation_ratio) - state.memory_used_kib)
        return guest.memory_kib, free
