"""Find the best placement: branch and bound over *sets* of host cells, an assignment within each.

Devices and distances depend only on the set of host cells; everything else is a sum over pairs. So the search walks
sets (not permutations), and the cheapest matching finishes each. Where the guest has as many cells as the host, or one,
or all distances are equal, there is nothing to walk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from numaferry.fit.matching import FORBIDDEN, cheapest, cover_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.fit.devices import Devices

#: Up to this many guest cells the best is proven, whatever it takes.
PROVEN_GUEST_CELLS = 4

#: Sets (and parts of sets) looked at for guests of more cells, before the best so far is taken.
NODE_LIMIT = 600


class Found(NamedTuple):
    """An assignment: host cell number of each guest cell, with its three-part rank (far devices, distance, cost)."""

    columns: list[int]
    rank: tuple[int, int, int]
    #: No assignment ranks below this; equal to `rank` where it is proven best.
    bound: tuple[int, int, int]


class Search:
    """One search for the best assignment; guest cells are rows, host cells columns."""

    def __init__(self, rows: Sequence[int], costs: list[list[int]], spread: list[list[int]], devices: Devices) -> None:
        self.rows = rows
        self.costs = costs
        self.spread = spread
        self.devices = devices
        self.count = len(rows)
        usable = 0
        for row in rows:
            usable |= row
        self.usable = usable
        self.best: tuple[tuple[int, int, int], list[int]] | None = None
        self.nodes = 0
        self.limit = NODE_LIMIT if self.count > PROVEN_GUEST_CELLS else None
        self.cut = False
        self._all = [index for index in range(len(spread)) if usable >> index & 1]
        apart = [spread[i][j] for i in self._all for j in self._all if i < j]
        self._least = min(apart, default=0)
        #: Whether the distance of devices ranks first; where not, they only have to be there.
        self.count_far = True
        self._least_far = 0
        #: Cheapest pair of each host cell: what its choice costs at least.
        self._cheapest_column = {index: min(line[index] for line in costs) for index in self._all}
        self._same_rows = all(line == costs[0] for line in costs)
        self._floor = (0, 0, 0)

    def run(self, start: list[int]) -> Found:
        """Return the best assignment; `start` is a valid one to begin with."""
        self._least_far = self._far(self.usable) or 0
        self._offer(sum(1 << column for column in start), start)
        pairs = self.count * (self.count - 1) // 2
        total, columns = cheapest(self.costs)
        floor = self._floor = (self._least_far, pairs * self._least, total)
        chosen = sum(1 << column for column in columns)
        self._offer(chosen, columns)
        rank, best = self._best()
        if rank != floor:
            self._walk(self._all, 0, [-1] * self.count, 0, [])
            rank, best = self._best()
        return Found(best, rank, floor if self.cut else rank)

    def _far(self, cells: int) -> int | None:
        far = self.devices.far(cells)
        return far if self.count_far or far is None else 0

    def _best(self) -> tuple[tuple[int, int, int], list[int]]:
        if self.best is None:
            raise ValueError("the search was started without a valid assignment")
        return self.best

    def _offer(self, cells: int, columns: list[int]) -> None:
        far = self._far(cells)
        if far is None:
            return
        cost = sum(self.costs[row][column] for row, column in enumerate(columns))
        apart = sum(self.spread[i][j] for i in columns for j in columns if i < j)
        rank = (far, apart, cost)
        if self.best is None or rank < self.best[0]:
            self.best = (rank, list(columns))

    def _walk(self, candidates: list[int], cells: int, holder: list[int], apart: int, taken: list[int]) -> None:
        """Extend the set `taken` by each candidate in turn; `holder` is a matching that covers it."""
        missing = self.count - len(taken)
        if not missing:
            self._finish(cells, taken, apart)
            return
        for number, index in enumerate(candidates):
            if len(candidates) - number < missing or self._spent():
                return
            added = apart + sum(self.spread[index][other] for other in taken)
            rest = candidates[number + 1 :]
            if self._hopeless([*taken, index], cells | 1 << index, rest, added):
                continue
            extended = list(holder)
            if not cover_column(self.rows, extended, index):
                continue
            if not taken:
                rest = sorted(rest, key=lambda other, first=index: (self.spread[first][other], other))  # type: ignore[misc]
            self._walk(rest, cells | 1 << index, extended, added, [*taken, index])

    def _spent(self) -> bool:
        """Tell whether to stop: nothing can be better than the best so far, or the limit is reached."""
        if self._best()[0] == self._floor:
            return True
        self.nodes += 1
        if self.limit is not None and self.nodes > self.limit:
            self.cut = True
        return self.cut

    def _hopeless(self, taken: list[int], cells: int, rest: list[int], apart: int) -> bool:
        """Tell whether no set of `taken` and else only `rest` can be better than the best so far."""
        rank, _ = self._best()
        have, missing = len(taken), self.count - len(taken)
        at_least = apart + self._least * (missing * have + missing * (missing - 1) // 2)
        far = self._least_far
        if (far, at_least) > rank[:2]:
            return True
        if not self.devices.trivial:
            reachable = self._far(cells | sum(1 << other for other in rest))
            if reachable is None or (reachable, at_least) > rank[:2]:
                return True
            far = reachable
        if (far, at_least) < rank[:2]:
            return False
        cheapest_rest = sorted(self._cheapest_column[index] for index in rest)[:missing]
        return sum(self._cheapest_column[index] for index in taken) + sum(cheapest_rest) >= rank[2]

    def _finish(self, cells: int, taken: list[int], apart: int) -> None:
        far = self._far(cells)
        if far is None:
            return
        rank, _ = self._best()
        if (far, apart) > rank[:2]:
            return
        if (far, apart) == rank[:2] and sum(self._cheapest_column[index] for index in taken) >= rank[2]:
            return
        if self._same_rows:
            self._offer(cells, taken)
            return
        total, columns = cheapest([[line[index] for index in taken] for line in self.costs])
        if total < FORBIDDEN:
            self._offer(cells, [taken[column] for column in columns])
