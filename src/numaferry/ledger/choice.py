"""What every choice of a host has in common: who is no candidate, the swap, what is said if none fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import update

from numaferry.errors import ClaimLost, NoFit
from numaferry.ledger import schema
from numaferry.ledger.hosts import REACHABLE, HostRecord, load_host, refuse_unconfirmed
from numaferry.model import HostState, Misfit, NumaRequest, Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

#: `numaferry.fit.numa_fit_instance_to_host`, or what a test puts in its place.
Fit = Callable[[HostState, NumaRequest], Placement | Misfit]


def closed(record: HostRecord) -> Misfit | None:
    """Return why nothing may be claimed on a host by rule, or None."""
    if record.state != REACHABLE:
        return Misfit(record.name, f"host {record.name} is {record.state}: {record.state_reason or 'no reason noted'}")
    if not record.confirmed:
        return Misfit(record.name, f"host {record.name} is not confirmed: nothing is claimable there")
    return None


def swap_generation(connection: Connection, record: HostRecord, state: HostState) -> None:
    """Raise ClaimLost where the host is not what was looked at; from here on nobody else changes it.

    The claim that follows raises the generation, as every row of a claim does.
    """
    this = (schema.host.c.id == record.id) & (schema.host.c.generation == state.generation)
    swap = update(schema.host).where(this).values(generation=schema.host.c.generation)
    if connection.execute(swap).rowcount != 1:
        raise ClaimLost(f"host {record.name} changed while a place was chosen", hint="try again")


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
