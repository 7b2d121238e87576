"""What is charged per host: guests without any NUMA wish, and what they leave to the bound ones.

nova charges such guests to the host as a whole. The rule that keeps both kinds honest: bound(cell) ≤ capacity(cell)
for every cell, and bound + floating ≤ the host's capacity. Ratios are those of `HostState.limits`; where there are
none, only a guest's own size counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from numaferry.model import HostState, NumaRequest


class Total(NamedTuple):
    """One resource of the host as a whole."""

    resource: str
    needed: int
    free: int
    #: What it is, for a sentence.
    words: str


def shared_capacity(host: HostState) -> int:
    """Return how many shared vCPUs the host may carry; without a ratio as many as are asked for."""
    cpus = sum(len(cell.shared) for cell in host.cells)
    return int(cpus * host.limits.cpu_allocation_ratio) if host.limits else cpus


def shared_free(host: HostState) -> int:
    """Return how many more shared vCPUs the host carries, bound and floating ones counted."""
    return shared_capacity(host) - sum(cell.shared_vcpus for cell in host.cells) - host.floating_vcpus


def memory_free_kib(host: HostState) -> int:
    """Return how much more memory the host may promise within the RAM ratio, bound and floating counted."""
    total = sum(cell.memory_kib for cell in host.cells)
    ratio = host.limits.ram_allocation_ratio if host.limits else 1.0
    return int(total * ratio) - sum(cell.memory_used_kib for cell in host.cells) - host.floating_memory_kib


def base_memory_free_kib(host: HostState) -> int:
    """Return how much more memory in base pages the host may promise; huge pages are no use to a floating guest."""
    ratio = host.limits.ram_allocation_ratio if host.limits else 1.0
    bases = [cell.pages[0] for cell in host.cells if cell.pages]
    if not bases:
        return memory_free_kib(host)
    total = sum((pool.total - pool.reserved) * pool.size_kib for pool in bases)
    used = sum(pool.used * pool.size_kib for pool in bases)
    return int(total * ratio) - used - host.floating_memory_kib


def totals_for_floating(host: HostState, request: NumaRequest) -> list[Total]:
    """Return what a guest without a NUMA wish needs of the host and what is free."""
    cpus = sum(len(cell.shared) for cell in host.cells)
    memory = sum(cell.memory_kib for cell in host.cells)
    rows = [
        Total("shared-cpus", request.vcpus, cpus, "shared CPUs of the host"),
        Total("memory", request.memory_kib, memory, "KiB of the host's memory"),
    ]
    if host.limits is not None:
        rows += [
            Total("shared-cpus", request.vcpus, shared_free(host), "shared vCPUs within the CPU allocation ratio"),
            Total("memory", request.memory_kib, memory_free_kib(host), "KiB within the RAM allocation ratio"),
            Total("memory", request.memory_kib, base_memory_free_kib(host), "KiB of base pages"),
        ]
    return rows


def totals_for_bound(host: HostState, request: NumaRequest) -> list[Total]:
    """Return what a guest with cells needs of the host as a whole beside what floats; empty where nothing does."""
    rows: list[Total] = []
    if host.limits is None:
        return rows
    shared = sum(len(cell.vcpus - cell.pinned_vcpus) for cell in request.cells)
    if host.floating_vcpus and shared:
        rows.append(Total("shared-cpus", shared, shared_free(host), "shared vCPUs beside the floating guests"))
    if host.floating_memory_kib:
        # What floats lives in base pages; huge pages are bounded by their own pools.
        plain = sum(cell.memory_kib for cell in request.cells if cell.page_size in (None, "small"))
        if plain:
            rows.append(
                Total("memory", plain, base_memory_free_kib(host), "KiB of base pages beside the floating guests")
            )
    return rows
