"""What every choice of a host has in common: who is no candidate, the look, what is said if none fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import NoFit
from numaferry.ledger.hosts import REACHABLE, HostRecord, load_host, locked_generation, refuse_unconfirmed
from numaferry.ledger.snapshot import HostSnapshot, load_snapshot
from numaferry.model import HostState, Misfit, NumaRequest, Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

#: `numaferry.fit.numa_fit_instance_to_host`, or what a test puts in its place.
Fit = Callable[[HostState, NumaRequest], Placement | Misfit]


@attrs.frozen(slots=True)
class Question:
    """What is asked of every candidate; it is answered as if `ignore_instance` were not there."""

    request: NumaRequest
    fit: Fit
    ignore_instance: str | None = None


@attrs.frozen(slots=True)
class Found:
    """A host as it is now, and a placement on it."""

    record: HostRecord
    state: HostState
    placement: Placement


def closed(record: HostRecord) -> Misfit | None:
    """Return why nothing may be claimed on a host by rule, or None."""
    if record.state != REACHABLE:
        return Misfit(record.name, f"host {record.name} is {record.state}: {record.state_reason or 'no reason noted'}")
    if not record.confirmed:
        return Misfit(record.name, f"host {record.name} is not confirmed: nothing is claimable there")
    return None


def look(connection: Connection, name: str, question: Question) -> Found | Misfit:
    """Return a placement on a host that nobody else changes before this transaction ends, or why there is none.

    It is looked for without a lock first, so that who does not fit is in nobody's way. Where another changed the host
    before it was locked, the answer is looked for again: what a claim commits against is what it looked at. Raises
    NotFound.
    """
    found = glance(connection, name, question)
    if isinstance(found, Misfit) or locked_generation(connection, found.record.id) == found.state.generation:
        return found
    return glance(connection, name, question)


def glance(
    connection: Connection, name: str, question: Question, snapshot: HostSnapshot | None = None
) -> Found | Misfit:
    """Return a placement on a host as it is now, or as it was read before, or why there is none. Raises NotFound."""
    snapshot = snapshot or load_snapshot(connection, name)
    if (refused := closed(snapshot.record)) is not None:
        return refused
    state = snapshot.state(ignore_instance=question.ignore_instance)
    placement = question.fit(state, question.request)
    return placement if isinstance(placement, Misfit) else Found(snapshot.record, state, placement)


def refuse_all_closed(connection: Connection, candidates: Sequence[str]) -> None:
    """Raise NotConfirmed if nothing could be claimed on any of the candidates."""
    records = [load_host(connection, name) for name in candidates]
    if not any(record.claimable for record in records):
        for record in records:
            refuse_unconfirmed(record)


def no_fit(name: str, misfits: tuple[Misfit, ...]) -> NoFit:
    """Return the error for a guest that none of the candidates takes."""
    if not misfits:
        return NoFit(f"there is no host that {name} could go to", hint="numaferry host list", misfits=misfits)
    said = "; ".join(f"{misfit.host}: {misfit.reason}" for misfit in misfits)
    suggestions = [text for misfit in misfits for text in misfit.suggestions]
    hint = suggestions[0] if suggestions else f"numaferry explain {name}"
    return NoFit(f"{name} does not fit on any of {len(misfits)} candidates ({said})", hint=hint, misfits=misfits)
