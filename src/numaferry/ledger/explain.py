"""Who holds what on a host, by which claim and why: `numaferry ledger explain HOST`. Pure, from a `HostView`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.ledger.amounts import MEMORY, VCPUS, beyond_claim, capacities, page_resource
from numaferry.ledger.holdings import by_instance, without_overlap
from numaferry.ledger.schema import HOST_CELL
from numaferry.model import BASE_PAGE_SIZE_KIB, EMPTY, MigrationType

if TYPE_CHECKING:
    from numaferry.ledger.holdings import Holding
    from numaferry.ledger.views import HostView
    from numaferry.model import Migration


@attrs.frozen(slots=True)
class Holder:
    """One that holds or uses something, with the reason in a sentence."""

    name: str
    instance_uuid: str
    #: "" for a domain that is only seen.
    claim_id: str
    #: For a CPU its role ("vcpu", "sibling", "emulator"), or "seen"; for a pool "claimed" or "seen".
    role: str
    why: str
    #: Pages, KiB or vCPUs; 1 for a CPU.
    amount: int = 1


@attrs.frozen(slots=True)
class CpuExplanation:
    """One host CPU: what it is for, and everyone on it (more than one is a conflict that was found, never promised)."""

    cpu: int
    cell: int
    #: "dedicated", "shared" or "host" (in neither set: the host's own).
    use: str
    holders: tuple[Holder, ...] = ()


@attrs.frozen(slots=True)
class PoolExplanation:
    """One resource of one cell (None: of the host): pages of a size, memory, or shared vCPUs."""

    cell: int | None
    #: "page:SIZE", "memory_kib" or "vcpus".
    resource: str
    #: What is there for guests, and what may be promised of it with the allocation ratio.
    total: int
    allowed: int
    used: int
    holders: tuple[Holder, ...] = ()

    @property
    def free(self) -> int:
        """What may still be promised."""
        return max(0, self.allowed - self.used)


@attrs.frozen(slots=True)
class HostExplanation:
    """Everything on a host that can be promised, with its holders."""

    host: str
    generation: int
    confirmed: bool
    cpus: tuple[CpuExplanation, ...]
    pools: tuple[PoolExplanation, ...]


def why(holding: Holding, moves: tuple[Migration, ...]) -> str:
    """Say why a claim is held: adopted, or by which migration, and in which status that is."""
    move = next((one for one in moves if one.instance_uuid == holding.instance_uuid), None)
    if move is None:
        return holding.cause
    if holding.migration_id == move.id and not holding.current:
        return f"comes in: {holding.cause} ({move.status})"
    if holding.migration_id == move.id:
        return f"{holding.cause} ({move.status})"
    if move.migration_type is MigrationType.REPIN:
        return f"{holding.cause}; gives way to migration {move.id} ({move.status})"
    return f"{holding.cause}; leaves for {move.dest}: migration {move.id} ({move.status})"


def explain(view: HostView) -> HostExplanation:
    """Explain one host."""
    return HostExplanation(
        host=view.record.name,
        generation=view.record.generation,
        confirmed=view.record.confirmed,
        cpus=_cpus(view),
        pools=_pools(view),
    )


def _cpus(view: HostView) -> tuple[CpuExplanation, ...]:
    """Return every CPU of the host with who holds it, promised ones first."""
    config = view.record.config
    holders: dict[int, list[Holder]] = {}
    for holding in without_overlap(view.holdings):
        reason = why(holding, view.moves)
        for cpu, role in holding.cpus:
            holder = Holder(holding.instance_name, holding.instance_uuid, holding.claim_id, role, reason)
            holders.setdefault(cpu, []).append(holder)
    own = by_instance(view.holdings)
    for use in view.observed:
        for cpu in use.pinned_cpus - (own[use.uuid].cpu_set if use.uuid in own else EMPTY):
            reason = "its claim does not cover this CPU" if use.uuid in own else "it is not adopted"
            holders.setdefault(cpu, []).append(Holder(use.name, use.uuid, "", "seen", f"seen here, {reason}"))
    return tuple(
        CpuExplanation(
            cpu,
            cell.id,
            "dedicated" if cpu in config.cpu_dedicated_set else "shared" if cpu in config.cpu_shared_set else "host",
            tuple(holders.get(cpu, ())),
        )
        for cell in view.record.facts.topology.cells
        for cpu in cell.cpus
    )


def _pools(view: HostView) -> tuple[PoolExplanation, ...]:
    """Return every resource, cell by cell, the host's own last."""
    record = view.record
    limits = capacities(record.facts.topology, record.config) if record.confirmed else {}
    resources = [
        (cell.id, word)
        for cell in record.facts.topology.cells
        for word in (
            MEMORY,
            *(page_resource(pool.size_kib) for pool in cell.pages if pool.size_kib != BASE_PAGE_SIZE_KIB),
            VCPUS,
        )
    ]
    found = []
    for key in (*resources, (HOST_CELL, MEMORY), (HOST_CELL, VCPUS)):
        limit = limits.get(key)
        holders = tuple(_pool_holders(view, key))
        found.append(
            PoolExplanation(
                cell=None if key[0] == HOST_CELL else key[0],
                resource=key[1],
                total=limit.total if limit else 0,
                allowed=limit.allowed if limit else 0,
                used=sum(holder.amount for holder in holders),
                holders=holders,
            )
        )
    return tuple(found)


def _pool_holders(view: HostView, key: tuple[int, str]) -> list[Holder]:
    """Return who holds some of a resource; the host's row counts what is bound to its cells too."""
    found = []
    own = by_instance(view.holdings)
    for holding in without_overlap(view.holdings):
        if amount := holding.taken.get(key, 0):
            reason = why(holding, view.moves)
            found.append(
                Holder(holding.instance_name, holding.instance_uuid, holding.claim_id, "claimed", reason, amount)
            )
    for use in view.observed:
        _, beyond = beyond_claim(use, own[use.uuid].taken if use.uuid in own else {}, EMPTY)
        if amount := beyond.get(key, 0):
            reason = "its claim does not cover this" if use.uuid in own else "it is not adopted"
            found.append(Holder(use.name, use.uuid, "", "seen", f"seen here, {reason}", amount))
    return found
