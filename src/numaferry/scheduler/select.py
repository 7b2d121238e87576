"""Choose where a guest may go: filter by rule, fit on a snapshot, weigh. Nothing is claimed here.

The answer may be out of date the moment it is given; `Ledger.live_migration_claim` runs the fit again on what it
commits against, for each candidate in this order.

The weigher is simple for now, and these are its rules: the fit's own score first (lower is better: fewer cells split,
siblings kept together, devices near), then the host with more free dedicated CPUs, then more free memory, then the
name, so that equal hosts give the same answer twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from numaferry.errors import Conflict
from numaferry.fit import numa_fit_instance_to_host
from numaferry.ledger import move_request
from numaferry.ledger.hosts import refuse_unconfirmed
from numaferry.model import Misfit, Placement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numaferry.ledger import Fit, HostRecord, Ledger
    from numaferry.model import HostState, Instance, NumaRequest


class Destinations(tuple[str, ...]):  # noqa: SLOT001  (a tuple can have no slots of its own, and this one has a field)
    """Names of hosts, the best first; `misfits` says of every other host why it is not among them."""

    misfits: tuple[Misfit, ...]

    def __new__(cls, hosts: Iterable[str] = (), misfits: Iterable[Misfit] = ()) -> Self:
        """Make the tuple; it equals the plain tuple of its names."""
        made = super().__new__(cls, tuple(hosts))
        made.misfits = tuple(misfits)
        return made


def select_destinations(
    ledger: Ledger,
    instance: Instance,
    *,
    dest: str | None = None,
    request: NumaRequest | None = None,
    fit: Fit = numa_fit_instance_to_host,
    avoid: Mapping[str, str] | None = None,
) -> Destinations:
    """Return hosts that take the instance by their present state, the best first, with a misfit for each other.

    `dest` names the only candidate: raises NotFound, Conflict where it is the source, NotConfirmed. `request` is
    the instance's own with the source's page sizes unless given. `avoid` are hosts that are no candidates, each with
    why.
    """
    wanted = request if request is not None else move_request(instance)
    records = ledger.hosts() if dest is None else (_named(ledger, instance, dest),)
    fits: list[tuple[tuple[object, ...], str]] = []
    misfits: list[Misfit] = []
    for record in records:
        if record.name == instance.host:
            continue
        if refusal := _refusal(record) or (avoid or {}).get(record.name, ""):
            misfits.append(Misfit(record.name, refusal))
            continue
        state = ledger.host_state(record.name)
        answer = fit(state, wanted)
        if isinstance(answer, Misfit):
            misfits.append(answer)
        else:
            fits.append((weight(state, answer), record.name))
    return Destinations((name for _, name in sorted(fits, key=lambda pair: pair[0])), misfits)


def weight(state: HostState, placement: Placement) -> tuple[object, ...]:
    """Return what hosts are ordered by, the lowest first; the rules are in the module's text."""
    free_cpus = sum(len(cell.free_dedicated) for cell in state.cells)
    used_kib = sum(cell.memory_used_kib for cell in state.cells) + state.floating_memory_kib
    free_kib = sum(cell.memory_kib for cell in state.cells) - used_kib
    return (placement.score, -free_cpus, -free_kib, state.name)


def _named(ledger: Ledger, instance: Instance, dest: str) -> HostRecord:
    """Return the host that the operator named, or say at once why it can't be."""
    record = ledger.host(dest)
    if record.name == instance.host:
        raise Conflict(f"{instance.name} runs on {dest} already", hint="name another destination, or none")
    refuse_unconfirmed(record)
    return record


def _refusal(record: HostRecord) -> str:
    """Return "" or the rule by which a host is no candidate."""
    if not record.confirmed:
        return f"host {record.name} is not confirmed: nothing is claimable there"
    if not record.claimable:
        return f"host {record.name} is {record.state}: {record.state_reason or 'no reason noted'}"
    return ""
