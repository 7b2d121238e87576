"""The table of statuses, looked at as a graph."""

import pytest

from numaferry.errors import Conflict
from numaferry.migration.states import TRANSITIONS, Event, next_status, reaches
from numaferry.model import IN_PROGRESS, MigrationStatus


def test_every_status_has_a_row():
    assert set(TRANSITIONS) == set(MigrationStatus)


def test_the_statuses_without_a_way_out_are_those_that_hold_no_second_claim():
    assert {status for status, row in TRANSITIONS.items() if not row} == set(MigrationStatus) - IN_PROGRESS


@pytest.mark.parametrize("status", sorted(IN_PROGRESS))
def test_an_end_can_be_reached_from_every_status_in_progress(status):
    reached, todo = set(), [status]
    while todo:
        one = todo.pop()
        if one not in reached:
            reached.add(one)
            todo.extend(TRANSITIONS[one].values())
    assert reached - IN_PROGRESS


def test_a_post_migrating_guest_is_never_declared_failed():
    """LP 1628606 of nova: a failed post step left host=source, and a reboot started the disk twice."""
    assert Event.FAIL not in TRANSITIONS[MigrationStatus.POST_MIGRATING]
    assert Event.CANCEL not in TRANSITIONS[MigrationStatus.POST_MIGRATING]


@pytest.mark.parametrize("status", list(MigrationStatus))
@pytest.mark.parametrize("event", list(Event))
def test_an_illegal_event_names_the_event_and_the_status(status, event):
    if event in TRANSITIONS[status]:
        assert reaches(status, next_status(status, event))
    else:
        with pytest.raises(Conflict, match=f"status {status} can't {event}") as caught:
            next_status(status, event)
        assert caught.value.code == "illegal-transition"
