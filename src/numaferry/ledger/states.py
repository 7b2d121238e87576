"""`HostState`, what the fit sees: capacity less claims less what is observed beyond them. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from numaferry.ledger.amounts import (
    MEMORY,
    VCPUS,
    Key,
    beyond_claim,
    huge_kib,
    page_resource,
    reserved_kib,
    reserved_pages,
)
from numaferry.ledger.holdings import by_instance, taken_by
from numaferry.ledger.schema import HOST_CELL
from numaferry.model import (
    BASE_PAGE_SIZE_KIB,
    EMPTY,
    CellState,
    CpuSet,
    HostConfig,
    HostLimits,
    HostState,
    PageUsage,
    union,
)

if TYPE_CHECKING:
    from numaferry.ledger.holdings import Holding
    from numaferry.ledger.hosts import HostRecord
    from numaferry.model import HostCell, ObservedUse, PciDevice


#: libvirt that starts a guest with huge pages only where its emulator threads may run on every cell that the pages come
#: from (QEMU's thread contexts, pinned to the emulator's CPUs). Seen with 9.0.0; later ones are taken to be the same
#: until tried.
_THREAD_CONTEXTS_SINCE = 9_000_000


def host_state_of(
    record: HostRecord,
    holdings: tuple[Holding, ...],
    observed: tuple[ObservedUse, ...],
    *,
    devices: tuple[PciDevice, ...] = (),
    ignore_instance: str | None = None,
) -> HostState:
    """Return what is left of a host at its generation, as if `ignore_instance` were not there.

    Both sides of a move are claims, so both hosts are charged while it runs. A host that is not confirmed has nothing
    to give: no CPU, no memory, no page.
    """
    held = tuple(one for one in holdings if one.instance_uuid != ignore_instance)
    seen = tuple(use for use in observed if use.uuid != ignore_instance)
    cpus, used = taken(held, seen)
    config = record.config if record.confirmed else HostConfig()
    reserved = reserved_kib(record.facts.topology, config)
    cells = tuple(_cell(cell, config, reserved[cell.id], cpus, used) for cell in record.facts.topology.cells)
    if not record.confirmed:
        cells = tuple(map(_closed, cells))
    return HostState(
        name=record.name,
        cells=cells,
        generation=record.generation,
        limits=HostLimits(config.cpu_allocation_ratio, config.ram_allocation_ratio),
        floating_vcpus=_floating(used, VCPUS),
        floating_memory_kib=_floating(used, MEMORY),
        pci=devices if record.confirmed else (),
        network_cells=config.physical_network_cells,
        emulator_cpu_on_page_cells=record.facts.libvirt_version >= _THREAD_CONTEXTS_SINCE,
    )


def taken(held: tuple[Holding, ...], seen: tuple[ObservedUse, ...]) -> tuple[CpuSet, dict[Key, int]]:
    """Return CPUs and amounts that are promised, or seen in use beyond what the domain's own claim covers."""
    own = by_instance(held)
    used = Counter(taken_by(held))
    cpus = union(one.cpu_set for one in held)
    for use in seen:
        claim = own.get(use.uuid)
        more_cpus, more = beyond_claim(use, claim.taken if claim else {}, claim.cpu_set if claim else EMPTY)
        cpus |= more_cpus
        used.update(more)
    return cpus, dict(used)


def _floating(used: dict[Key, int], resource: str) -> int:
    """Return what is charged to the host beyond what is bound to its cells."""
    bound = sum(amount for (cell, word), amount in used.items() if cell != HOST_CELL and word == resource)
    return max(0, used.get((HOST_CELL, resource), 0) - bound)


def _cell(cell: HostCell, config: HostConfig, reserved: int, cpus: CpuSet, used: dict[Key, int]) -> CellState:
    """Return one cell; its memory figures are those of its base pages, so that a ratio never lends out huge pages."""
    base_kib = max(0, cell.memory_kib - huge_kib(cell))
    base_used_kib = used.get((cell.id, MEMORY), 0)
    base = PageUsage(
        BASE_PAGE_SIZE_KIB,
        base_kib // BASE_PAGE_SIZE_KIB,
        -(-base_used_kib // BASE_PAGE_SIZE_KIB),
        reserved // BASE_PAGE_SIZE_KIB,
    )
    huge = tuple(
        PageUsage(
            pool.size_kib,
            pool.total,
            used.get((cell.id, page_resource(pool.size_kib)), 0),
            reserved_pages(config, cell.id, pool.size_kib),
        )
        for pool in cell.pages
        if pool.size_kib != BASE_PAGE_SIZE_KIB
    )
    dedicated = config.cpu_dedicated_set & cell.cpus
    return CellState(
        id=cell.id,
        cpus=cell.cpus,
        siblings=cell.siblings,
        dedicated=dedicated,
        shared=config.cpu_shared_set & cell.cpus,
        pinned=cpus & dedicated,
        shared_vcpus=used.get((cell.id, VCPUS), 0),
        memory_kib=base_kib - reserved,
        memory_used_kib=base_used_kib,
        pages=(base, *huge),
        socket=cell.socket,
        distances=cell.distances,
    )


def _closed(cell: CellState) -> CellState:
    """Return the cell of a host that was never confirmed: it is there, and nothing of it may be promised."""
    return CellState(
        id=cell.id,
        cpus=cell.cpus,
        siblings=cell.siblings,
        dedicated=EMPTY,
        shared=EMPTY,
        pinned=EMPTY,
        shared_vcpus=0,
        memory_kib=0,
        memory_used_kib=0,
        pages=(),
        socket=cell.socket,
        distances=cell.distances,
    )
