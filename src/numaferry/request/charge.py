"""What a domain that was not adopted is charged: by its XML, as reality, without any promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.model import CpuSet, ObservedUse, union

if TYPE_CHECKING:
    from numaferry.request.needs import DomainNeeds


def confined(cpus: CpuSet | None, online: CpuSet) -> CpuSet | None:
    """Return the online CPUs that a pin confines to, or None where it confines nothing (absent, or all of them)."""
    if cpus is None:
        return None
    here = cpus & online
    return None if not here or online <= here else here


def charge(needs: DomainNeeds, online: CpuSet, *, managed: bool = False) -> ObservedUse:
    """Return what a domain uses of a host with these online CPUs.

    Threads (vCPUs, emulator, iothreads) confined to a strict subset of the online CPUs block those CPUs. A domain with
    any vCPU that nothing confines is `floating`. Pages are told where strict binding to one node makes them known; an
    emulator pinned to CPUs does not make a floating domain a pinned one.
    """
    vcpus = [confined(needs.vcpupin(vcpu), online) for vcpu in range(needs.online_vcpus)]
    others = [needs.emulator_cpus, *map(needs.iothreadpin, needs.iothread_ids)]
    seen = [cpus for cpus in [*vcpus, *(confined(cpus, online) for cpus in others)] if cpus is not None]
    return ObservedUse(
        uuid=needs.uuid,
        name=needs.name,
        pinned_cpus=union(seen),
        floating=any(cpus is None for cpus in vcpus),
        vcpus=needs.vcpus,
        memory_kib=needs.memory_kib,
        pages=_pages(needs),
        managed=managed,
    )


def _pages(needs: DomainNeeds) -> tuple[tuple[int, int, int], ...]:
    """Return (host cell, page size in KiB, pages) of all memory strictly bound to one node, summed and ordered."""
    totals: dict[tuple[int, int], int] = {}
    for cell in needs.bound_cells:
        binding = needs.memory_of(cell.id)
        if binding is None or binding.mode != "strict" or binding.nodeset is None or len(binding.nodeset) != 1:
            continue
        size_kib = cell.real_page_size_kib
        key = (binding.nodeset.first(), size_kib)
        totals[key] = totals.get(key, 0) + -(-cell.memory_kib // size_kib)
    return tuple((host_cell, size_kib, count) for (host_cell, size_kib), count in sorted(totals.items()))
