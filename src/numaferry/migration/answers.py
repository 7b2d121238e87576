"""What a person may answer where the evidence allows no automatic one; no answer is taken at its word.

Each is held against what both hosts say at that moment, and refused with that evidence where they say otherwise.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from numaferry.errors import Conflict, HostUnreachable
from numaferry.migration import images
from numaferry.migration.evidence import DestWord, Phase, SourceWord, dest_word, phase_of, source_word, tell
from numaferry.migration.finish import update_available_resource
from numaferry.migration.rollback import unplug_at_destination
from numaferry.migration.states import Event, next_status
from numaferry.model import MigrationStatus

if TYPE_CHECKING:
    from numaferry.migration.move import Move
    from numaferry.model import Migration


class Answer(enum.StrEnum):
    """The answers that there are."""

    #: Neither host has the guest any more, and nobody expects it back.
    GUEST_IS_GONE = "guest-is-gone"


def guest_is_gone(move: Move) -> Migration:
    """End a migration whose guest is on neither host as cancelled, and release the claims on both.

    Both hosts are asked twice, some time apart, as `converge` does. The guest is forgotten: one that appears again is
    a stranger. Raises Conflict with the evidence where a host has the domain or is not the machine that is meant, and
    HostUnreachable where one can't be asked; both claims are held then.
    """
    _refuse_unless_gone(move)
    move.tools.sleep(move.tools.settle_s)
    evidence = _refuse_unless_gone(move)
    reason = f"a person answered that the guest is gone, and neither host has it: {evidence}"
    if move.migration.status is not MigrationStatus.ERROR:
        move.commit(reason, event=Event.PUZZLE, reason=reason)
    unplug_at_destination(move)
    # it may have ended there: its disks may be the only ones that are up to date
    images.leave(move, "since nobody knows where the guest ran last")
    move.guard()
    ledger, status = move.tools.ledger, next_status(move.migration.status, Event.CANCEL)
    # a controller that dies between the two leaves a guest that `instance forget` takes
    move.migration = ledger.drop_move_claim(move.migration.id, status, reason, token=move.lease.token) or move.migration
    ledger.forget_instance(move.uuid)
    move.tools.on_progress(move.migration, None)
    update_available_resource(move)
    return move.migration


def _refuse_unless_gone(move: Move) -> str:
    """Return what both hosts say of a guest that neither has; raises Conflict, HostUnreachable, HypervisorError."""
    number, name = move.migration.id, move.instance.name
    recover = f"numaferry migration recover {number}"
    source, job, dest = move.look()
    words = source_word(source, job, move.migration), dest_word(dest)
    evidence = f"{tell('source', move.source.name, source, job)}; {tell('dest', move.dest.name, dest)}"
    if SourceWord.UNREACHABLE in words or DestWord.UNREACHABLE in words:
        raise HostUnreachable(
            f"migration {number}: whether {name} is gone can't be known, its claims are held: {evidence}",
            hint="answer again when both hosts can be asked",
        )
    if words != (SourceWord.ABSENT, DestWord.ABSENT):
        raise Conflict(
            f"migration {number}: {name} is not gone: {evidence}",
            hint=f"undefine what is left of it on its host if it is to go, or: {recover}",
        )
    if phase_of(move.migration) is Phase.CONFIRMED:
        raise Conflict(f"migration {number}: {name} had arrived on {move.dest.name}", hint=f"{recover} finishes it")
    for record, hypervisor in ((move.source, move.source_host), (move.dest, move.dest_host)):
        if (found := hypervisor.facts().uuid) != record.uuid:
            raise Conflict(
                f"migration {number}: what answers as {record.name} is machine {found}, not {record.uuid}: it can't "
                f"tell whether {name} is gone",
                hint=f"if it took that one's place for good: numaferry host confirm {record.name}, then answer again",
            )
    return evidence
