"""What makes one placement better than another, as numbers; lower is better, the first that differs decides.

1. `far_devices`: devices that are not on a cell of the guest (policies `preferred`, `legacy` and `socket` allow that).
2. `distance`: sum of the NUMA distances between the host cells of the guest, each pair once (SLIT units).
3. `devices_beside`: free devices on the cells used, where the guest asked for none.
4. `big_pages_beside`: page sizes above the one used that have free pages on the cells used.
5. `broken_cores`: wholly free cores that are left partly used.
6. `cpus_left`, 7. `memory_left_kib`: what stays free on the cells used. `pack` (the default) wants little of it, so
   that whole cells stay free for who needs them; `spread` wants much, and the two are negative.

The first two depend on the *set* of host cells only, the others are sums over pairs. That is what `search` uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from numaferry.fit.threads import broken_cores

if TYPE_CHECKING:
    from numaferry.fit.pairs import Guest, Pairs, Room
    from numaferry.model import HostState

Strategy = Literal["pack", "spread"]

#: SLIT's own default for a cell on another node, where the firmware tells none.
REMOTE = 20

#: Bits for each component of a pair's cost, with head-room for the sum over all cells of a guest.
_BITS = (24, 12, 24, 28, 60)


class Score(NamedTuple):
    """The score of one placement; compares as a tuple."""

    far_devices: float
    distance: float
    devices_beside: float
    big_pages_beside: float
    broken_cores: float
    cpus_left: float
    memory_left_kib: float


def distances(host: HostState) -> list[list[int]]:
    """Return the distance between each two host cells: the larger of both directions, REMOTE where not told."""
    told = [dict(cell.distances) for cell in host.cells]
    ids = [cell.id for cell in host.cells]
    return [
        [0 if i == j else max(told[i].get(ids[j], REMOTE), told[j].get(ids[i], REMOTE)) for j in range(len(ids))]
        for i in range(len(ids))
    ]


class PairCosts:
    """The components 3 to 7 of every pair that fits, and the same as one integer that can be added and compared."""

    __slots__ = ("_beside", "_known", "_pairs", "_sign")

    def __init__(self, host: HostState, pairs: Pairs, strategy: Strategy) -> None:
        self._pairs = pairs
        self._sign = 1 if strategy == "pack" else -1
        self._beside = {cell.id: 0 for cell in host.cells}
        if not pairs.request.pci_requests:
            for device in host.pci:
                if not device.used and device.numa_node in self._beside:
                    self._beside[device.numa_node] += 1
        self._known: dict[tuple[object, int], int] = {}

    def parts(self, guest: Guest, index: int) -> tuple[int, int, int, int, int]:
        """Return the five components of a pair that fits."""
        pairs = self._pairs
        room = pairs.rooms[index]
        size = pairs.page_size(guest, index)
        broken, cpus = 0, 0
        if guest.pinned or guest.emulator:
            chosen = pairs.choose(guest, index)
            broken = broken_cores(room.core_masks(), room.free, chosen.owned)
            cpus = room.free_count - guest.pinned - guest.emulator - chosen.siblings.bit_count()
        if guest.shared:
            cpus += max(0, room.shared - room.state.shared_vcpus - guest.shared)
        big = sum(1 for pool in room.pages if pool.size_kib > size and pool.free)
        memory = max(0, _free_kib(room, size) - guest.memory_kib)
        return self._beside[room.id], big, broken, self._sign * cpus, self._sign * memory

    def cost(self, guest: Guest, index: int) -> int:
        """Return the components as one integer."""
        key = (guest.key, index)
        known = self._known.get(key)
        if known is None:
            known = 0
            for part, width in zip(self.parts(guest, index), _BITS, strict=True):
                known = (known << width) + part
            self._known[key] = known
        return known


def components(cost: int) -> tuple[int, ...]:
    """Split a (sum of) integer costs again; the inverse of how `PairCosts.cost` joins them."""
    parts: list[int] = []
    for width in reversed(_BITS[1:]):
        # components may be negative: take the remainder nearest to zero
        low = ((cost + (1 << (width - 1))) & ((1 << width) - 1)) - (1 << (width - 1))
        parts.append(low)
        cost = (cost - low) >> width
    return (cost, *reversed(parts))


def _free_kib(room: Room, size: int) -> int:
    pool = room.state.pool(size)
    if pool is None:
        return room.state.memory_kib - room.state.memory_used_kib
    return pool.free * size


def apart(spread: list[list[int]], columns: list[int]) -> int:
    """Return the sum of the distances between these host cells, each pair once."""
    return sum(spread[i][j] for i in columns for j in columns if i < j)


def of(far: int, distance: int, cost: int) -> Score:
    """Return the score of an assignment from its three parts."""
    return Score(far, distance, *components(cost))
