"""Conversions, in one place: what a host has, what a claim takes, what a domain is seen to take, in the same units.

A *resource* is ``memory_kib`` (base pages), ``vcpus`` (shared vCPUs) or ``page:SIZE`` (huge pages of SIZE KiB). An
amount belongs to a host cell, or to the host as a whole (`HOST_CELL`) for guests that float. What is bound to a cell
counts for the host too: bound(cell) ≤ capacity(cell), and bound + floating ≤ the host's capacity.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from numaferry.ledger.schema import HOST_CELL
from numaferry.model import BASE_PAGE_SIZE_KIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.model import (
        CellRequest,
        CpuSet,
        HostCell,
        HostConfig,
        HostTopology,
        Instance,
        InstanceCell,
        InstanceNumaTopology,
        NumaRequest,
        ObservedUse,
    )

MEMORY = "memory_kib"
VCPUS = "vcpus"
_PAGE = "page:"

#: (cell, resource)
Key = tuple[int, str]


def page_resource(size_kib: int) -> str:
    """Return the resource word for huge pages of this size."""
    return f"{_PAGE}{size_kib}"


def page_size_kib(resource: str) -> int | None:
    """Return the page size of a ``page:SIZE`` resource, None for the others."""
    return int(resource.removeprefix(_PAGE)) if resource.startswith(_PAGE) else None


@attrs.frozen(slots=True)
class Capacity:
    """What is there, and what may be promised of it with the allocation ratio."""

    total: int
    allowed: int


@attrs.frozen(slots=True)
class Amount:
    """What one claim takes of one resource; `exact` takes no part in overcommit."""

    cell: int
    resource: str
    amount: int
    exact: bool


def with_ratio(total: int, ratio: float) -> int:
    """Return what may be promised of `total`, rounded down; a hair is added since 10 * 1.1 is not 11 in binary."""
    return int(total * ratio + 1e-6)


def huge_kib(cell: HostCell) -> int:
    """Return the memory of a cell that is in huge pages."""
    return sum(pool.size_kib * pool.total for pool in cell.pages if pool.size_kib != BASE_PAGE_SIZE_KIB)


def reserved_pages(config: HostConfig, cell_id: int, size_kib: int) -> int:
    """Return the pages of this size on this cell that the operator keeps (nova: reserved_huge_pages)."""
    return sum(r.count for r in config.reserved_huge_pages if (r.cell, r.size_kib) == (cell_id, size_kib))


def reserved_kib(topology: HostTopology, config: HostConfig) -> dict[int, int]:
    """Return the base-page memory per cell that is not ours to promise.

    ``reserved_host_memory_mb`` is one figure per host (nova takes it from placement's inventory, not from cells); it is
    spread over the cells in proportion to their base-page memory, in whole pages, rounded up. Base pages named in
    ``reserved_huge_pages`` come on top.
    """
    base = {cell.id: max(0, cell.memory_kib - huge_kib(cell)) for cell in topology.cells}
    whole = max(1, sum(base.values()))
    wanted_kib = config.reserved_host_memory_mb * 1024
    reserved = {}
    for cell_id, base_kib in base.items():
        share_pages = -(-wanted_kib * base_kib // (whole * BASE_PAGE_SIZE_KIB))
        named_pages = reserved_pages(config, cell_id, BASE_PAGE_SIZE_KIB)
        reserved[cell_id] = min(base_kib, (share_pages + named_pages) * BASE_PAGE_SIZE_KIB)
    return reserved


def capacities(topology: HostTopology, config: HostConfig) -> dict[Key, Capacity]:
    """Return all that may be promised of a confirmed host.

    Base-page memory of a cell is its memory without what is in huge pages, less the reserved part. Ratios apply to base
    pages and shared vCPUs only, never to huge pages.
    """
    reserved = reserved_kib(topology, config)
    found: dict[Key, Capacity] = {}
    host_kib = host_vcpus = 0
    for cell in topology.cells:
        memory_kib = max(0, cell.memory_kib - huge_kib(cell)) - reserved[cell.id]
        vcpus = len(cell.cpus & config.cpu_shared_set)
        host_kib += memory_kib
        host_vcpus += vcpus
        found[cell.id, MEMORY] = Capacity(memory_kib, with_ratio(memory_kib, config.ram_allocation_ratio))
        found[cell.id, VCPUS] = Capacity(vcpus, with_ratio(vcpus, config.cpu_allocation_ratio))
        for pool in cell.pages:
            if pool.size_kib != BASE_PAGE_SIZE_KIB:
                pages = max(0, pool.total - reserved_pages(config, cell.id, pool.size_kib))
                found[cell.id, page_resource(pool.size_kib)] = Capacity(pages, pages)
    found[HOST_CELL, MEMORY] = Capacity(host_kib, with_ratio(host_kib, config.ram_allocation_ratio))
    found[HOST_CELL, VCPUS] = Capacity(host_vcpus, with_ratio(host_vcpus, config.cpu_allocation_ratio))
    return found


def amounts(request: NumaRequest, topology: InstanceNumaTopology | None) -> tuple[Amount, ...]:
    """Return what a placed guest takes; without a topology it floats and is charged to the host."""
    if topology is None:
        taken = Counter({(HOST_CELL, MEMORY): request.memory_kib, (HOST_CELL, VCPUS): request.vcpus})
        return tuple(
            Amount(cell, resource, amount, exact=False) for (cell, resource), amount in taken.items() if amount
        )
    bound: Counter[Key] = Counter()
    exact: set[Key] = set()
    for cell in topology.cells:
        key, amount = _memory(cell)
        bound[key] += amount
        if cell.page_size_kib != BASE_PAGE_SIZE_KIB or wants_own_memory(request, cell.id):
            exact.add(key)
        bound[cell.host_cell, VCPUS] += len(cell.vcpus - cell.pinned_vcpus)
    return tuple(
        Amount(cell, resource, amount, (cell, resource) in exact)
        for (cell, resource), amount in sorted(bound.items())
        if amount
    )


def _memory(cell: InstanceCell) -> tuple[Key, int]:
    """Return where and how much memory a placed guest cell takes: KiB of base pages, or a count of huge pages."""
    if cell.page_size_kib == BASE_PAGE_SIZE_KIB:
        return (cell.host_cell, MEMORY), cell.memory_kib
    return (cell.host_cell, page_resource(cell.page_size_kib)), -(-cell.memory_kib // cell.page_size_kib)


def wants_own_memory(request: NumaRequest, cell_id: int) -> bool:
    """Tell whether a guest cell's base pages are never overcommitted: dedicated and mixed guests, explicit sizes."""
    wish = next((cell.page_size for cell in request.cells if cell.id == cell_id), None)
    return request.cpu_policy != "shared" or wish is not None


def owned_cpus(topology: InstanceNumaTopology | None) -> dict[int, str]:
    """Return host CPU → role (vcpu, sibling, emulator) of all that a placed guest owns."""
    if topology is None:
        return {}
    roles = dict.fromkeys(topology.emulator_pcpus, "emulator")
    for cell in topology.cells:
        roles |= dict.fromkeys(cell.siblings, "sibling")
    for cell in topology.cells:
        roles |= dict.fromkeys(cell.pinned_cpus, "vcpu")
    return roles


def roll_up(taken: Mapping[Key, int]) -> dict[Key, int]:
    """Add what is bound to cells to the host's own figures (base memory and shared vCPUs; pages have no host row)."""
    total = Counter(taken)
    for (cell, resource), amount in taken.items():
        if cell != HOST_CELL and page_size_kib(resource) is None:
            total[HOST_CELL, resource] += amount
    return dict(total)


def observed_amounts(use: ObservedUse) -> dict[Key, int]:
    """Return what a domain is seen to take, host row included: pages per cell where bound, the rest per host."""
    taken: Counter[Key] = Counter()
    bound_kib = 0
    for cell, size_kib, count in use.pages:
        bound_kib += size_kib * count
        if size_kib == BASE_PAGE_SIZE_KIB:
            taken[cell, MEMORY] += size_kib * count
        else:
            taken[cell, page_resource(size_kib)] += count
    taken[HOST_CELL, MEMORY] += max(0, use.memory_kib - bound_kib)
    if use.floating:
        taken[HOST_CELL, VCPUS] += use.vcpus
    return roll_up(taken)


def beyond_claim(use: ObservedUse, claimed: Mapping[Key, int], cpus: CpuSet) -> tuple[CpuSet, dict[Key, int]]:
    """Return what a domain is seen to take beyond what its own claim (`claimed`, host row included; `cpus`) covers.

    Memory that its XML binds to no single cell (`preferred`, `restrictive`) is seen as the host's base memory; the
    claim has it as pages of a cell where it is in huge pages, and is not charged for it a second time.
    """
    seen = observed_amounts(use)
    loose_kib = max(0, use.memory_kib - sum(size_kib * count for _, size_kib, count in use.pages))
    in_pages_kib = sum(
        size_kib * max(0, amount - seen.get((cell, resource), 0))
        for (cell, resource), amount in claimed.items()
        if (size_kib := page_size_kib(resource))
    )
    seen[HOST_CELL, MEMORY] = seen.get((HOST_CELL, MEMORY), 0) - min(loose_kib, in_pages_kib)
    more = {key: amount - claimed.get(key, 0) for key, amount in seen.items()}
    return use.pinned_cpus - cpus, {key: amount for key, amount in more.items() if amount > 0}


def move_request(instance: Instance) -> NumaRequest:
    """Return what an instance asks of a destination: its own request, with the page size that each cell has now.

    A live guest keeps the page size it was started with, so `large` and `any` mean that size from then on, and it is a
    constraint of the search, not an afterthought (nova chooses 1 GiB pages there and then refuses them). A cell that
    asked for nothing stays so: base pages, within the RAM allocation ratio.
    """
    if instance.numa_topology is None:
        return instance.request
    sizes = {cell.id: cell.page_size_kib for cell in instance.numa_topology.cells}
    cells = tuple(
        attrs.evolve(cell, page_size=sizes[cell.id]) if _keeps_size(cell, sizes) else cell
        for cell in instance.request.cells
    )
    return attrs.evolve(instance.request, cells=cells)


def _keeps_size(cell: CellRequest, sizes: Mapping[int, int]) -> bool:
    """Tell whether the wish must become the size that is used now."""
    if cell.id not in sizes:
        return False
    return cell.page_size is not None or sizes[cell.id] != BASE_PAGE_SIZE_KIB
