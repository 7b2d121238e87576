"""Waiting for a place: a migration holds its claims while it is queued, and touches no host."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from numaferry.migration.converge import Aborted
from numaferry.migration.states import Event
from numaferry.model import MigrationStatus

if TYPE_CHECKING:
    from numaferry.migration.move import Move
    from numaferry.model import Wait


def await_turn(move: Move) -> None:
    """Return once there is a place for this migration, which it has then; at once where nothing is limited.

    Each change of its position is told. Raises Aborted where a person gave it up meanwhile, TakenOver.
    """
    tools = move.tools
    if not tools.limits:
        return
    told = ""
    while (wait := _ask(move)) is not None:
        if wait.sentence != told:
            told = wait.sentence
            event = Event.QUEUE if move.migration.status is MigrationStatus.ACCEPTED else None
            move.commit(told, event=event, reason=told)
        tools.sleep(tools.turn_s)
        move.guard()
        if move.migration.abort_requested:
            raise Aborted("the abort was asked for while it was queued")
    move.guard()


def _ask(move: Move) -> Wait | None:
    """Ask the ledger for a place; the lease is renewed with it."""
    tools, began = move.tools, move.tools.clock()
    wait = tools.ledger.begin_migration(
        move.migration.id, tools.limits, token=move.lease.token, ttl_s=tools.lease.ttl_s, key=uuid.uuid4().hex
    )
    move.lease.renewed(began)
    return wait
