"""Matching, covering and cheapest assignment against brute force over all maps."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from numaferry.fit.matching import FORBIDDEN, Hall, cheapest, cover_column, match_rows

tables = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.integers(0, (1 << width) - 1), min_size=1, max_size=min(4, width)).map(
        lambda rows: (rows, width)
    )
)


def maps(rows, width):
    """Return every assignment of rows to distinct columns that the rows allow."""
    return [
        columns
        for columns in itertools.permutations(range(width), len(rows))
        if all(row >> column & 1 for row, column in zip(rows, columns, strict=True))
    ]


@settings(max_examples=500, deadline=None)
@given(tables)
def test_a_matching_is_found_or_halls_condition_is_violated(table):
    rows, width = table
    found = match_rows(rows)
    if isinstance(found, Hall):
        assert not maps(rows, width)
        known = set()
        for row in found.rows:
            known |= {column for column in range(width) if rows[row] >> column & 1}
        assert known == set(found.columns)
        assert len(found.rows) > len(found.columns)
    else:
        assert sorted(found.values()) == list(range(len(rows)))
        assert all(rows[row] >> column & 1 for column, row in found.items())


@settings(max_examples=500, deadline=None)
@given(tables, st.data())
def test_columns_are_covered_exactly_when_some_matching_covers_them_all(table, data):
    rows, width = table
    holder, covered = [-1] * len(rows), set()
    for column in data.draw(st.permutations(range(width))):
        wanted = covered | {column}
        possible = any(
            all(rows[row] >> one & 1 for one, row in zip(wanted, chosen, strict=True))
            for chosen in itertools.permutations(range(len(rows)), len(wanted))
        )
        before = list(holder)
        assert cover_column(rows, holder, column) == possible
        if possible:
            covered = wanted
        else:
            assert holder == before
        assert {one for one in holder if one >= 0} == covered
        assert all(one < 0 or rows[row] >> one & 1 for row, one in enumerate(holder))


@settings(max_examples=500, deadline=None)
@given(tables, st.data())
def test_completing_a_matching_keeps_the_columns_that_it_covers(table, data):
    rows, width = table
    holder = [-1] * len(rows)
    for column in data.draw(st.permutations(range(width))):
        cover_column(rows, holder, column)
    begun = {column: row for row, column in enumerate(holder) if column >= 0}
    whole = match_rows(rows, begun)
    assert isinstance(whole, Hall) == (not maps(rows, width))
    if not isinstance(whole, Hall):
        assert set(begun) <= set(whole)


@settings(max_examples=500, deadline=None)
@given(tables, st.data())
def test_the_cheapest_assignment_costs_what_the_cheapest_of_all_costs(table, data):
    rows, width = table
    costs = [
        [data.draw(st.integers(-5, 9)) if row >> column & 1 else FORBIDDEN for column in range(width)] for row in rows
    ]
    total, columns = cheapest(costs)
    assert len(set(columns)) == len(rows)
    possible = maps(rows, width)
    if possible:
        assert total == min(sum(costs[row][one] for row, one in enumerate(chosen)) for chosen in possible)
    else:
        assert total >= FORBIDDEN // 2
