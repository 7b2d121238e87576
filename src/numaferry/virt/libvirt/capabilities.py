"""libvirt's capabilities XML → topology. Pure (https://libvirt.org/formatcaps.html).

CPUs that are offline are left out: libvirt lists some of them, without or with wrong socket, core and siblings (nova
met this as LP 2077228). A CPU counts only if the host's online map has it. The reverse happens too: libvirt 9.0 keeps
the CPUs of each cell as they were when it first looked, so a CPU that comes online later is in no cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.errors import HypervisorError
from numaferry.model import CpuSet, HostCell, HostTopology, PagePool
from numaferry.request.xml import parse_xml, size_kib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxml import etree

#: cell id → page size in KiB → free pages
FreePages = dict[int, dict[int, int]]


@attrs.frozen(slots=True)
class Capabilities:
    """What the XML tells: the host's UUID ("" where it has none), its domain types, its topology, all pages free."""

    uuid: str
    domain_types: tuple[str, ...]
    topology: HostTopology


def parse_capabilities(xml: str, online: CpuSet) -> Capabilities:
    """Read capabilities against the host's map of online CPUs. Raises HypervisorError for a host without cells."""
    root = parse_xml(xml, "capabilities")
    cells = tuple(sorted((_cell(cell, online) for cell in root.iterfind("host/topology/cells/cell")), key=_by_id))
    if not cells:
        raise HypervisorError(
            "the host's capabilities tell no NUMA cell", hint="libvirt there was built without NUMA support"
        )
    types = {domain.get("type", "") for domain in root.iterfind("guest/arch/domain")}
    return Capabilities(
        uuid=root.findtext("host/uuid") or "", domain_types=tuple(sorted(types - {""})), topology=HostTopology(cells)
    )


def with_free_pages(topology: HostTopology, free: Mapping[int, Mapping[int, int]]) -> HostTopology:
    """Return the topology with the free counts of `free`; a pool that it does not tell keeps its own."""
    return HostTopology(
        tuple(
            attrs.evolve(
                cell,
                pages=tuple(
                    attrs.evolve(pool, free=free.get(cell.id, {}).get(pool.size_kib, pool.free)) for pool in cell.pages
                ),
            )
            for cell in topology.cells
        )
    )


def _by_id(cell: HostCell) -> int:
    return cell.id


def _cell(element: etree._Element, online: CpuSet) -> HostCell:
    cpus = [cpu for cpu in element.iterfind("cpus/cpu") if int(cpu.get("id", "-1")) in online]
    ids = CpuSet.of(int(cpu.get("id", "-1")) for cpu in cpus)
    sockets = [int(cpu.get("socket_id", "-1")) for cpu in cpus]
    cell_id = int(element.get("id", "0"))
    return HostCell(
        id=cell_id,
        cpus=ids,
        siblings=_cores(cpus, ids),
        memory_kib=size_kib(element.find("memory")),
        pages=_pools(element),
        # memory alone, or a socket that the firmware does not tell: on a socket of its own, near to no other cell
        socket=sockets[0] if sockets and sockets[0] >= 0 else -1 - cell_id,
        distances=tuple(
            (int(sibling.get("id", "0")), int(sibling.get("value", "0")))
            for sibling in element.iterfind("distances/sibling")
        ),
    )


def _cores(cpus: list[etree._Element], ids: CpuSet) -> tuple[CpuSet, ...]:
    """Return the cell's online CPUs as disjoint sets of siblings, by lowest id; a CPU that tells none is alone."""
    taken, cores = CpuSet(), []
    for cpu in sorted(cpus, key=lambda one: int(one.get("id", "0"))):
        own = CpuSet.of([int(cpu.get("id", "0"))])
        if own <= taken:
            continue
        core = (CpuSet.parse(cpu.get("siblings", "")) & ids) - taken | own
        cores.append(core)
        taken |= core
    return tuple(cores)


def _pools(element: etree._Element) -> tuple[PagePool, ...]:
    """Return the cell's page pools, smallest first, all free."""
    pools = []
    for pages in element.iterfind("pages"):
        total = int(pages.text or 0)
        pools.append(PagePool(size_kib(pages, attribute="size"), total, total))
    return tuple(sorted(pools, key=lambda pool: pool.size_kib))
