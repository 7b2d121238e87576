"""A controller that is stopped exactly between its last look at the lease and the call that changes something.

libvirt can't check a fencing token. What keeps such a call from being made after another controller has taken over is
its connection: libvirtd closes that of a client which is silent for 30 s, and no other is opened for the call.
"""

from __future__ import annotations

import pytest

from faults.stage import SHORT, kill_libvirtd, read_kernel, until
from numaferry.audit import update_available_resource
from numaferry.migration.lease import LeasePolicy
from numaferry.model import MigrationStatus

pytestmark = pytest.mark.lab

#: libvirtd.conf: keepalive_interval 5 s, keepalive_count 5.
KEEP_ALIVE_S = 30.0
#: Its process lives on after it has ended, as `numaferry serve` does, so that no thread of it is ended before its call.
LINGERS_S = 2.0
#: Either its event loop hears first that the connection is closed, or the thread that makes the call goes on first.
FIRST = pytest.mark.parametrize("dawdles_s", [0.0, 0.5], ids=["the call first", "the event loop first"])
CALLS = pytest.mark.parametrize("call", ["set_ownership", "live_migration"])


def stopped_at(stage, call, policy, **order):
    """Begin a move whose controller is stopped when the lease was read for this call; returns the controller."""
    # its other thread looks at the job so seldom that it is not stopped in a transaction
    order |= {"lingers_s": LINGERS_S, "poll_s": 2.0, "ttl_s": policy.ttl_s, "longest_call_s": policy.longest_call_s}
    first = stage.begin(stops_at_call=call, **order)
    assert first.hit() == call
    first.is_stopped()
    return first


@FIRST
@CALLS
def test_a_call_whose_connection_was_closed_meanwhile_is_made_over_no_other(stage, cell, call, dawdles_s):
    """It was opened again, and the job began although another controller had rolled the move back."""
    cell.is_about("window", f"before {call}", f"connection closed, taken over ({dawdles_s:g} s)")
    source = stage.source
    first = stopped_at(stage, call, SHORT, dawdles_s=dawdles_s)
    cell.hit = stage.last().step
    kill_libvirtd(stage.lab.host(source))
    assert stage.taken_over(SHORT).status is MigrationStatus.FAILED
    stage.is_refused_and_changes_nothing(first)
    stage.settled(source)
    cell.came_of_it("rolled back; the call was not made")


@pytest.mark.soak
@FIRST
@CALLS
def test_a_controller_that_is_silent_for_longer_than_the_keep_alive_makes_no_call(stage, cell, call, dawdles_s):
    cell.is_about("window", f"before {call}", f"SIGSTOP for 36 s, taken over ({dawdles_s:g} s)")
    source, policy = stage.source, LeasePolicy(ttl_s=2.0, longest_call_s=34.0)
    first = stopped_at(stage, call, policy, dawdles_s=dawdles_s)
    cell.hit = stage.last().step
    assert stage.taken_over(policy).status is MigrationStatus.FAILED
    stage.is_refused_and_changes_nothing(first)
    stage.settled(source)
    cell.came_of_it("rolled back; the call was not made")


def test_a_policy_that_is_shorter_than_the_keep_alive_lets_a_guest_move_without_a_claim_and_the_audit_tells(stage):
    """Why lease and longest call have to be longer than that together, as they are by default."""
    assert LeasePolicy().ttl_s + LeasePolicy().longest_call_s > 2 * KEEP_ALIVE_S
    dest, started = stage.dest, read_kernel(stage.lab.host(stage.dest)).starts
    first = stopped_at(stage, "live_migration", SHORT)
    assert stage.taken_over(SHORT).status is MigrationStatus.FAILED
    first.go_on()
    assert first.ends()["error"] == "taken-over"
    until("a guest that has moved", lambda: moved_to(stage, dest))
    assert read_kernel(stage.lab.host(dest)).starts == started + 1
    assert stage.watch.until_more().intact
    for name in stage.names:
        update_available_resource(stage.ledger, name, stage.hosts[name])
    findings = [one for name in stage.names for one in stage.ledger.findings(name)]
    assert any("db1" in one.sentence for one in findings), findings


def moved_to(stage, host):
    seen = stage.hosts[host].domain(stage.uuid)
    return seen is not None and seen.state == "running"
