"""Making a move end, as an operator does it: by policy, by a timeout, by force."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.lab


def history(operator, number=1):
    """Return what happened to a migration, in sentences."""
    return [event["sentence"] for event in operator.told("migration", "show", str(number))["events"]]


def copying(operator, *words):
    """Begin a move of a guest that dirties memory faster than it is copied; return its process once it copies."""
    process = operator.begin("migrate", "db1", "--bandwidth", "8", *words)
    for line in process.stderr:
        if "remaining" in line:
            return process
    pytest.fail("the move ended before it copied anything")


@pytest.fixture
def guest(operator):
    """A guest that never converges at 8 MiB/s."""
    started = operator.start(dirty_mib=8)
    operator.run("instance", "adopt", "db1")
    return started


def test_post_copy_by_policy_ends_a_move_that_would_not(operator, guest):
    operator.run("instance", "policy", "db1", "--post-copy", "automatic", "--post-copy-after", "2")
    operator.run("migrate", "db1", "--bandwidth", "8")
    operator.settled(guest, "beta")
    assert any("switch to post-copy: 2 passes over the memory did not end it" in one for one in history(operator))


def test_a_move_that_does_not_end_in_time_is_given_up(operator, guest):
    said = operator.run("migrate", "db1", "--bandwidth", "8", "--timeout", "4", code=6)
    assert "rolled back" in said.err
    operator.settled(guest, "alpha")
    assert any("abort: it has not ended in 4 s" in one for one in history(operator))


def test_a_person_forces_the_end_and_is_told_the_pause_first(operator, guest):
    process = copying(operator)
    refused = operator.run("migration", "force-complete", "1", code=3)
    assert "db1 would stand still for about" in refused.err
    operator.run("migration", "force-complete", "1", "--by", "post-copy", "--yes", code=3)
    operator.run("migration", "force-complete", "1", "--yes")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "db1 moved from alpha to beta" in out
    operator.settled(guest, "beta")
    assert any("pause the guest: a person wants it" in one for one in history(operator))


def test_an_abort_while_it_copies_leaves_the_guest_where_it_was(operator, guest):
    process = copying(operator)
    time.sleep(1)
    operator.run("migration", "abort", "1")
    process.communicate(timeout=120)
    assert process.returncode == 6
    operator.settled(guest, "alpha")


def test_what_this_qemu_can_t_do_is_refused_before_anything_is_claimed(operator, guest):
    said = operator.run("migrate", "db1", "--parallel", "2", "--post-copy", "on-demand", code=5)
    assert "post-copy together with parallel connections, which needs QEMU 10.1.0 or newer" in said.err
    assert operator.told("migration", "list") == []
    assert guest.goes_on()
