"""What an adopted guest may claim of what it really has: all that nobody else holds or is seen on. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.ledger.amounts import (
    Amount,
    Capacity,
    Key,
    amounts,
    capacities,
    owned_cpus,
    page_size_kib,
)
from numaferry.ledger.holdings import by_instance
from numaferry.ledger.names import device_name
from numaferry.ledger.schema import HOST_CELL
from numaferry.ledger.states import taken
from numaferry.model import EMPTY, CpuSet

if TYPE_CHECKING:
    from collections.abc import Collection

    from numaferry.ledger.holdings import Holding
    from numaferry.ledger.hosts import HostRecord
    from numaferry.model import Instance, ObservedUse


@attrs.frozen(slots=True)
class Adoptable:
    """The part that is free to claim, the CPUs that are not, and a sentence for each thing that is not."""

    cpus: dict[int, str]
    amounts: tuple[Amount, ...]
    #: By name.
    devices: tuple[str, ...] = ()
    contested_cpus: CpuSet = EMPTY
    conflicts: tuple[str, ...] = ()


def adoptable(
    record: HostRecord,
    holdings: tuple[Holding, ...],
    observed: tuple[ObservedUse, ...],
    instance: Instance,
    *,
    free_devices: Collection[str] = (),
) -> Adoptable:
    """Split what a running guest has into what it may claim and what is contested.

    Its own observation does not stand against it; that of any other domain does, adopted or not.
    """
    others = tuple(use for use in observed if use.uuid != instance.uuid)
    closed, used = taken(holdings, others)
    wanted = owned_cpus(instance.numa_topology)
    mine = CpuSet.of(wanted)
    contested = (mine & closed) | (mine - record.config.cpu_dedicated_set)
    sentences = _contested_cpus(record, holdings, others, mine)
    limits = capacities(record.facts.topology, record.config)
    got: list[Amount] = []
    for one in amounts(instance.request, instance.numa_topology):
        amount = min(one.amount, _free(limits, used, one))
        if amount < one.amount:
            sentences.append(_short(record.name, one, amount))
        if amount:
            got.append(attrs.evolve(one, amount=amount))
            for cell in {one.cell, HOST_CELL}:
                used[cell, one.resource] = used.get((cell, one.resource), 0) + amount
    cpus = {cpu: role for cpu, role in wanted.items() if cpu not in contested}
    devices = tuple(map(device_name, instance.pci_devices))
    sentences += [f"{name} of {record.name} can't be promised to it" for name in devices if name not in free_devices]
    return Adoptable(
        cpus, tuple(got), tuple(name for name in devices if name in free_devices), contested, tuple(sentences)
    )


def _contested_cpus(
    record: HostRecord, holdings: tuple[Holding, ...], others: tuple[ObservedUse, ...], mine: CpuSet
) -> list[str]:
    """Say of each CPU that can't be claimed who is in the way."""
    sentences = []
    if outside := mine - record.config.cpu_dedicated_set:
        sentences.append(f"CPU {outside} is not in the dedicated set of {record.name}")
    own = {uuid: holding.cpu_set for uuid, holding in by_instance(holdings).items()}
    claimed = [(holding.cpu_set & mine, holding.instance_name) for holding in holdings]
    seen = [((use.pinned_cpus - own.get(use.uuid, EMPTY)) & mine, use.name) for use in others]
    sentences += [f"CPU {both} is claimed by {name}" for both, name in claimed if both]
    sentences += [f"{name} is seen on CPU {both}" for both, name in seen if both]
    return sentences


def _free(limits: dict[Key, Capacity], used: dict[Key, int], one: Amount) -> int:
    """Return how much may still be promised, by the rules that the schema's trigger holds claims against."""
    limit = limits.get((one.cell, one.resource))
    if limit is None:
        return 0
    free = (limit.total if one.exact else limit.allowed) - used.get((one.cell, one.resource), 0)
    host = limits.get((HOST_CELL, one.resource))
    if one.cell != HOST_CELL and host is not None:
        most = max(host.total, host.allowed) if one.exact else host.allowed
        free = min(free, most - used.get((HOST_CELL, one.resource), 0))
    return max(0, free)


def _short(host: str, one: Amount, free: int) -> str:
    """Say in numbers what is short."""
    where = f"cell {one.cell} of {host}" if one.cell != HOST_CELL else host
    size = page_size_kib(one.resource)
    what = f"{size} KiB pages" if size else {"memory_kib": "KiB of base pages", "vcpus": "shared vCPUs"}[one.resource]
    return f"it has {one.amount} {what} on {where}, and {free} may be promised there"
