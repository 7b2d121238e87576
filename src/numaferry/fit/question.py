"""One host and one request: is there a valid assignment of guest cells to host cells, and which?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.fit.devices import Devices
from numaferry.fit.floating import base_memory_free_kib, totals_for_bound
from numaferry.fit.matching import FORBIDDEN, Hall, cover_column, match_rows
from numaferry.fit.pairs import Guest, Pairs
from numaferry.fit.search import Search
from numaferry.model import EMPTY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numaferry.model import HostState, NumaRequest

NO_CPUS = EMPTY

#: Room for a whole pair cost below the base pages of a thrifty assignment.
_COST_BITS = 180


class Question:
    """A host, a request with cells, and everything worked out about them on the way."""

    def __init__(self, host: HostState, request: NumaRequest) -> None:
        self.host = host
        self.request = request
        self.pairs = Pairs(host, request)
        self.devices = Devices(host, request)
        self.totals = [total for total in totals_for_bound(host, request) if total.needed > total.free]
        #: For each guest cell the host cells it fits on, as a mask of their numbers.
        self.rows: list[int] = []
        #: Why there is no matching, where there is none.
        self.hall: Hall | None = None
        #: KiB of base pages that even the thriftiest assignment lacks beside what floats.
        self.base_missing_kib = 0

    def assignment(self) -> list[int] | None:
        """Return the host cell number of each guest cell for some valid placement, or None."""
        self.rows = _rows(self.pairs)
        matched = match_rows(self.rows)
        if isinstance(matched, Hall):
            self.hall = matched
            return None
        if self.totals:
            return None
        columns = by_row(matched)
        if self.devices.far(mask_of(columns)) is None:
            holder = self._covering(self._candidates(), [-1] * len(self.rows), 0)
            if holder is None:
                return None
            whole = match_rows(self.rows, {column: row for row, column in enumerate(holder) if column >= 0})
            if isinstance(whole, Hall):
                return None
            columns = by_row(whole)
        if not self.within_base_pages(columns):
            columns = self.thriftiest(columns)
            if not self.within_base_pages(columns):
                self.base_missing_kib = self.base_kib(columns) - base_memory_free_kib(self.host)
                return None
        return columns

    def _candidates(self) -> list[int]:
        """Return the host cells whose choice matters to devices or networks and that a guest cell fits on."""
        usable = 0
        for row in self.rows:
            usable |= row
        usable &= self.devices.relevant
        return [index for index in range(usable.bit_length()) if usable >> index & 1]

    def _covering(self, candidates: Sequence[int], holder: list[int], cells: int) -> list[int] | None:
        """Find a set of host cells that has the devices and that a matching covers; returns that matching.

        By Mendelsohn and Dulmage it can be completed to all guest cells. A larger set allows no less, so a branch
        that fails with all its candidates at once is left.
        """
        if self.devices.far(cells) is not None:
            return holder
        for number, index in enumerate(candidates):
            if self.devices.far(cells | mask_of(candidates[number:])) is None:
                return None
            extended = list(holder)
            if not cover_column(self.rows, extended, index):
                continue
            found = self._covering(candidates[number + 1 :], extended, cells | 1 << index)
            if found is not None:
                return found
        return None

    # -- floating guests leave only so many base pages, and a wish for `any` page size may take huge ones instead ----

    def within_base_pages(self, columns: list[int]) -> bool:
        """Tell whether an assignment takes no more base pages than floating guests leave on the host."""
        if not self.host.floating_memory_kib or self.host.limits is None:
            return True
        return self.base_kib(columns) <= max(0, base_memory_free_kib(self.host))

    def base_kib(self, columns: list[int]) -> int:
        """Return how much memory in base pages an assignment takes (KiB)."""
        return sum(self._base_kib(guest, index) for guest, index in zip(self.pairs.guests, columns, strict=True))

    def _base_kib(self, guest: Guest, index: int) -> int:
        """Return how much memory in base pages a pair that fits takes (KiB)."""
        base = self.pairs.rooms[index].base_page_size_kib()
        return guest.memory_kib if self.pairs.page_size(guest, index) == base else 0

    def thriftiest(self, columns: list[int], costs: list[list[int]] | None = None) -> list[int]:
        """Return the assignment that takes the fewest base pages, among those the cheapest by `costs`."""
        table = self.table(self._base_kib)
        for row, line in enumerate(table):
            for column, kib in enumerate(line):
                if kib < FORBIDDEN:
                    line[column] = (kib << _COST_BITS) + (costs[row][column] if costs else 0)
        nowhere_far = [[0] * len(self.pairs.rooms) for _ in self.pairs.rooms]
        search = self.search(table, nowhere_far)
        search.limit, search.count_far = None, False
        return search.run(columns).columns

    def table(self, cost: Callable[[Guest, int], int]) -> list[list[int]]:
        """Return `cost` of every pair; FORBIDDEN where it doesn't fit."""
        width = range(len(self.pairs.rooms))
        return [
            [cost(guest, index) if row >> index & 1 else FORBIDDEN for index in width]
            for guest, row in zip(self.pairs.guests, self.rows, strict=True)
        ]

    def search(self, table: list[list[int]], spread: list[list[int]]) -> Search:
        """Return a search for the best assignment by these costs and distances."""
        return Search(self.rows, table, spread, self.devices)


def _rows(pairs: Pairs) -> list[int]:
    """Return, for each guest cell, the host cells that it fits on; equal guest cells are asked once."""
    known: dict[object, int] = {}
    rows = []
    for guest in pairs.guests:
        row = known.get(guest.key)
        if row is None:
            row = known[guest.key] = pairs.row(guest)
        rows.append(row)
    return rows


def by_row(owner: dict[int, int]) -> list[int]:
    """Turn {column: row} into the column of each row."""
    columns = [0] * len(owner)
    for column, row in owner.items():
        columns[row] = column
    return columns


def mask_of(indexes: Sequence[int]) -> int:
    """Return the numbers as a mask."""
    mask = 0
    for index in indexes:
        mask |= 1 << index
    return mask
