"""The states of a migration: everything that affects them lives in this file.

A migration has one status, in nova's words. An event takes it to the next one; an event that the table does not list
for a status is illegal, and the error names both. Statuses without a row entry have ended. The engine moves a migration
only through `next_status()`, and the ledger swaps it only where the old status is still the expected one, so two
controllers can't both take the same transition.

``error`` has not ended: two claims are still held, and a person (or evidence that has become clear) leads out of it.
"""

from __future__ import annotations

import enum
from typing import Final

from numaferry.errors import Conflict
from numaferry.model import MigrationStatus


class Event(enum.StrEnum):
    """What can happen to a migration."""

    #: It has to wait for its turn; the claim stays.
    QUEUE = "queue"
    #: A controller starts with checks and preparations.
    PREPARE = "prepare"
    #: The libvirt job is about to be asked for.
    START = "start"
    #: The guest runs on the destination and nowhere else: there is no way back.
    SWITCH = "switch"
    #: Claim flipped, read back, audited.
    COMPLETE = "complete"
    #: Undone; the guest runs on the source.
    FAIL = "fail"
    #: Given up on request, or the guest ended by itself.
    CANCEL = "cancel"
    #: The evidence allows no safe automatic answer.
    PUZZLE = "puzzle"


_S = MigrationStatus

# SWITCH is allowed before the job was asked for: another client may have moved the guest to the claimed host behind the
# ledger's back, and the ledger follows what is true.
TRANSITIONS: Final[dict[MigrationStatus, dict[Event, MigrationStatus]]] = {
    _S.ACCEPTED: {
        Event.QUEUE: _S.QUEUED,
        Event.PREPARE: _S.PREPARING,
        Event.SWITCH: _S.POST_MIGRATING,
        Event.FAIL: _S.FAILED,
        Event.CANCEL: _S.CANCELLED,
        Event.PUZZLE: _S.ERROR,
    },
    _S.QUEUED: {
        Event.PREPARE: _S.PREPARING,
        Event.SWITCH: _S.POST_MIGRATING,
        Event.FAIL: _S.FAILED,
        Event.CANCEL: _S.CANCELLED,
        Event.PUZZLE: _S.ERROR,
    },
    _S.PREPARING: {
        Event.START: _S.RUNNING,
        Event.SWITCH: _S.POST_MIGRATING,
        Event.FAIL: _S.FAILED,
        Event.CANCEL: _S.CANCELLED,
        Event.PUZZLE: _S.ERROR,
    },
    _S.RUNNING: {
        Event.SWITCH: _S.POST_MIGRATING,
        Event.FAIL: _S.FAILED,
        Event.CANCEL: _S.CANCELLED,
        Event.PUZZLE: _S.ERROR,
    },
    _S.POST_MIGRATING: {
        Event.COMPLETE: _S.COMPLETED,
        Event.PUZZLE: _S.ERROR,
    },
    _S.ERROR: {
        Event.SWITCH: _S.POST_MIGRATING,
        Event.FAIL: _S.FAILED,
        Event.CANCEL: _S.CANCELLED,
    },
    _S.COMPLETED: {},
    _S.FAILED: {},
    _S.CANCELLED: {},
}


def next_status(status: MigrationStatus, event: Event) -> MigrationStatus:
    """Return the status that `event` leads to; raises Conflict naming both where the table has no such way."""
    following = TRANSITIONS[status].get(event)
    if following is None:
        legal = ", ".join(TRANSITIONS[status]) or "none: it has ended"
        raise Conflict(
            f"a migration in status {status} can't {event} (possible: {legal})",
            hint="look at it with: numaferry migration show",
            code="illegal-transition",
        )
    return following


def reaches(status: MigrationStatus, wanted: MigrationStatus) -> bool:
    """Tell whether one event leads from `status` to `wanted`: what the ledger's compare-and-swap is given."""
    return wanted in TRANSITIONS[status].values()
