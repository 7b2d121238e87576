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


def base_memory_free_kib(host: HostState) -> int:
    """Return how much more memory in base pages the host may promise, bound and floating counted.

    Pools of huge pages are no use to a floating guest, and guests in them take nothing from it. A cell that tells no
    pools counts with its memory as it is.
    """
    ratio = host.limits.ram_allocation_ratio if host.limits else 1.0
    total, used = 0, host.floating_memory_kib
    for cell in host.cells:
        if cell.pages:
            base = cell.pages[0]
            total += (base.total - base.reserved) * base.size_kib
            used += base.used * base.size_kib
        else:
            total += cell.memory_kib
            used += cell.memory_used_kib
    return int(total * ratio) - used


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
            Total("memory", request.memory_kib, base_memory_free_kib(host), "KiB of base pages within the RAM ratio"),
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
    plain = sum(cell.memory_kib for cell in request.cells if cell.page_size in (None, "small"))
    if host.floating_memory_kib and plain:
        rows.append(Total("memory", plain, base_memory_free_kib(host), "KiB of base pages beside the floating guests"))
    return rows
