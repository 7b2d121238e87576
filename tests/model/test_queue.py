"""Whose turn it is, as laws over any queue."""

from hypothesis import given
from hypothesis import strategies as st

from numaferry.model import Limits, Migration, MigrationStatus
from numaferry.model.queue import UNDER_WAY, order, wait_of

NOW = 1000.0
HOSTS = st.sampled_from(["a", "b", "c"])


def move(number, source="a", dest="b", status=MigrationStatus.ACCEPTED, *, priority=0, alive=True):
    return Migration(
        number, f"uuid-{number}", f"guest-{number}", source, dest, status, priority=priority,
        lease_until=NOW + 30 if alive else NOW - 1,
    )  # fmt: skip


@st.composite
def queues(draw):
    """Migrations in progress, each between two different hosts."""
    statuses = st.sampled_from([*sorted(UNDER_WAY), MigrationStatus.ACCEPTED, MigrationStatus.QUEUED])
    rows = draw(st.lists(st.tuples(HOSTS, HOSTS, statuses, st.integers(-1, 1), st.booleans()), max_size=12))
    return [
        move(number, source, dest, status, priority=priority, alive=alive)
        for number, (source, dest, status, priority, alive) in enumerate(rows, start=1)
        if source != dest
    ]


LIMITS = st.builds(Limits, st.integers(0, 3), st.integers(0, 3), st.integers(0, 4))


def waits(limits, one, queue):
    return wait_of(limits, one, queue, NOW)


def waiting(queue):
    return [one for one in queue if one.status not in UNDER_WAY]


@given(LIMITS, queues())
def test_whatever_begins_no_limit_is_passed(limits, queue):
    for one in waiting(queue):
        if waits(limits, one, queue) is None:
            busy = [*(other for other in queue if other.status in UNDER_WAY), one]
            assert not limits.per_source or sum(other.source == one.source for other in busy) <= limits.per_source
            assert not limits.per_dest or sum(other.dest == one.dest for other in busy) <= limits.per_dest
            assert not limits.fleet or len(busy) <= limits.fleet


@given(LIMITS, queues())
def test_the_queue_always_goes_on(limits, queue):
    """Where nothing is under way the first that waits may begin, whatever the limits."""
    idle = waiting(queue)
    if idle:
        assert waits(limits, min(idle, key=order), idle) is None


@given(LIMITS, queues())
def test_who_is_overtaken_could_not_have_begun_or_is_driven_by_nobody(limits, queue):
    for one in waiting(queue):
        for before in waiting(queue):
            if order(before) >= order(one) or before.lease_until <= NOW or waits(limits, one, queue) is not None:
                continue
            if (before.source, before.dest) == (one.source, one.dest) and waits(limits, before, queue) is None:
                both = [*(other for other in queue if other.status in UNDER_WAY), before]
                assert not limits.per_source or sum(x.source == one.source for x in both) < limits.per_source


@given(queues())
def test_without_limits_nobody_waits(queue):
    assert all(waits(Limits(), one, queue) is None for one in waiting(queue))


@given(LIMITS, queues())
def test_positions_count_from_one_without_gaps(limits, queue):
    idle = sorted(waiting(queue), key=order)
    for place, one in enumerate(idle, start=1):
        wait = waits(limits, one, queue)
        assert wait is None or (wait.position, wait.waiting) == (place, len(idle))


def test_a_higher_priority_goes_before_an_older_one():
    old, new = move(1), move(2, priority=5)
    one = Limits(per_source=1)
    assert waits(one, new, [old, new]) is None
    assert waits(one, old, [old, new]).sentence == "queued, 2 of 2: a sends 1 already (limit 1)"


def test_one_whose_driver_died_while_it_waited_is_in_nobodys_way():
    dead, next_one = move(1, alive=False), move(2)
    assert waits(Limits(per_source=1), next_one, [dead, next_one]) is None


def test_a_full_host_keeps_only_those_waiting_that_concern_it():
    queue = [move(1, status=MigrationStatus.RUNNING), move(2), move(3, source="c", dest="d")]
    limits = Limits(per_dest=1)
    assert waits(limits, queue[1], queue).reason == "b receives 1 already (limit 1)"
    assert waits(limits, queue[2], queue) is None


def test_one_that_is_about_to_be_taken_is_not_overtaken():
    first, second = move(1, alive=False), move(2, alive=False)
    one = Limits(per_source=1)
    assert wait_of(one, second, [first, second], NOW) is None
    assert wait_of(one, second, [first, second], NOW, driven=[1]) is not None
