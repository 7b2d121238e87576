"""Bipartite matching on bitmasks: guest cells (rows) to host cells (columns, as bits of each row's mask).

Everything here is classical: augmenting paths decide; where none exists, the rows reached from the one that stays
alone are a Hall violator (they know fewer columns than they are); sets of columns that some matching covers are the
independent sets of a matroid (Edmonds and Fulkerson), and any such set can be part of a matching that covers all rows,
if one exists at all (Mendelsohn and Dulmage). The cheapest matching is found by shortest augmenting paths with
potentials (the Hungarian method).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: More than any sum of costs that means something; a pair of this cost does not fit.
FORBIDDEN = 1 << 300


class Hall(NamedTuple):
    """Rows that together know fewer columns than they are."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]


def match_rows(rows: Sequence[int], owner: dict[int, int] | None = None) -> dict[int, int] | Hall:
    """Match every row to a column of its own; return {column: row}, or the Hall violator.

    `owner` may hold a matching to begin with; the columns that it covers stay covered (augmenting never uncovers one).
    """
    owner = {} if owner is None else dict(owner)
    taken = set(owner.values())
    for row in range(len(rows)):
        if row in taken:
            continue
        seen = _augment_row(rows, owner, row)
        if seen is not None:
            stuck = sorted({row, *(owner[column] for column in seen)})
            return Hall(tuple(stuck), tuple(sorted(seen)))
    return owner


def _augment_row(rows: Sequence[int], owner: dict[int, int], row: int) -> set[int] | None:
    """Find `row` a column, moving others along an alternating path; None, or the columns reached in vain."""
    came_from: dict[int, int] = {}
    reached = 0
    queue = [row]
    for current in queue:
        fresh = rows[current] & ~reached
        while fresh:
            low = fresh & -fresh
            fresh ^= low
            reached |= low
            column = low.bit_length() - 1
            came_from[column] = current
            if column not in owner:
                while True:
                    source = came_from[column]
                    previous = next((c for c, r in owner.items() if r == source), None) if source != row else None
                    owner[column] = source
                    if previous is None:
                        return None
                    column = previous
            queue.append(owner[column])
    return set(came_from)


def cover_column(rows: Sequence[int], holder: list[int], column: int) -> bool:
    """Extend a matching so that `column` is covered too; `holder[row]` is the row's column or -1.

    Columns that are covered stay covered. False, with `holder` unchanged, where no matching covers all of them.
    """
    came_from: dict[int, int] = {}
    queue = [column]
    for current in queue:
        bit = 1 << current
        for row, mask in enumerate(rows):
            if not mask & bit or row in came_from:
                continue
            came_from[row] = current
            if holder[row] >= 0:
                queue.append(holder[row])
                continue
            while True:
                wanted = came_from[row]
                # the row that held `wanted` before gives it up and takes the column it was reached from
                previous = next((r for r, c in enumerate(holder) if c == wanted), None)
                holder[row] = wanted
                if previous is None or wanted == column:
                    return True
                row = previous  # noqa: PLW2901  (the walk back along the path; the loops end with it)
    return False


def cheapest(costs: Sequence[Sequence[int]]) -> tuple[int, list[int]]:
    """Assign each row its own column at the least total cost; returns (cost, column of each row).

    `costs[row][column]` are integers, at least as many columns as rows; FORBIDDEN marks pairs that do not fit, and a
    total of FORBIDDEN or more means that no assignment exists.
    """
    width = len(costs[0])
    row_potential = [0] * len(costs)
    potential = [0] * width
    owner = [-1] * width
    for row in range(len(costs)):
        _shortest_path(costs, row, row_potential, potential, owner)
    columns = [0] * len(costs)
    for column, row in enumerate(owner):
        if row >= 0:
            columns[row] = column
    return sum(costs[row][column] for row, column in enumerate(columns)), columns


def _shortest_path(
    costs: Sequence[Sequence[int]], start: int, row_potential: list[int], potential: list[int], owner: list[int]
) -> None:
    """Add row `start` to the matching by the cheapest augmenting path (Dijkstra on reduced costs)."""
    width = len(potential)
    distance = [FORBIDDEN * 4] * width
    came_from = [-1] * width
    done = [False] * width
    row, column, gone = start, -1, 0
    finished: list[int] = []
    while True:
        line, base = costs[row], gone - row_potential[row]
        best, nearest = FORBIDDEN * 8, -1
        for other in range(width):
            if done[other]:
                continue
            reduced = line[other] - potential[other] + base
            if reduced < distance[other]:
                distance[other] = reduced
                came_from[other] = column
            if distance[other] < best:
                best, nearest = distance[other], other
        column, gone = nearest, best
        if owner[column] < 0:
            break
        done[column] = True
        finished.append(column)
        row = owner[column]
    row_potential[start] += gone
    for other in finished:
        slack = gone - distance[other]
        potential[other] -= slack
        row_potential[owner[other]] += slack
    while column >= 0:
        previous = came_from[column]
        owner[column] = start if previous < 0 else owner[previous]
        column = previous
