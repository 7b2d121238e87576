"""Readable hosts and requests for examples: equal cores, memory in MiB, everything else by keyword."""

from numaferry.model import EMPTY, CellRequest, CellState, CpuSet, HostLimits, HostState, NumaRequest, PageUsage

MIB = 1024
LIMITS = HostLimits(cpu_allocation_ratio=4.0, ram_allocation_ratio=1.0)


def cell(cell_id, cores, *, free=None, threads=1, first=None, shared=0, base_mib=1024, huge=0, huge_used=0, socket=0):
    """Return a host cell: `cores` dedicated cores, then `shared` shared CPUs; `free` (ids) is what is not pinned."""
    first = cell_id * 100 if first is None else first
    siblings = [CpuSet.of(first + core + cores * thread for thread in range(threads)) for core in range(cores)]
    dedicated = CpuSet.of(range(first, first + cores * threads))
    common = CpuSet.of(range(first + 80, first + 80 + shared))
    siblings += [CpuSet.of([cpu]) for cpu in common]
    pools = (PageUsage(4, base_mib * 256),) + ((PageUsage(2048, huge, huge_used),) if huge else ())
    return CellState(
        id=cell_id,
        cpus=dedicated | common,
        siblings=tuple(siblings),
        dedicated=dedicated,
        shared=common,
        pinned=EMPTY if free is None else dedicated - CpuSet.of(free),
        shared_vcpus=0,
        memory_kib=(base_mib + 2 * huge) * MIB,
        memory_used_kib=2 * huge_used * MIB,
        pages=pools,
        socket=socket,
    )


def host(*cells, **more):
    """Return a host of these cells with the usual limits."""
    return HostState(name="host", cells=cells, **{"limits": LIMITS, **more})


def guest(*vcpus, policy="dedicated", pinned=None, memory_mib=64, page=None, **more):
    """Return a request with one cell for each number of vCPUs; `pinned` are the ids of a mixed guest's own."""
    cells, first = [], 0
    for cell_id, count in enumerate(vcpus):
        ids = CpuSet.of(range(first, first + count))
        own = {"dedicated": ids, "shared": EMPTY, "mixed": ids & CpuSet.of(pinned or [])}[policy]
        cells.append(CellRequest(cell_id, ids, own, memory_mib * MIB, page))
        first += count
    return NumaRequest(first, memory_mib * MIB * len(vcpus), tuple(cells), policy, **more)


def homes(placement):
    """Return the host cell of each guest cell, in the order of the guest cells."""
    return [cell.host_cell for cell in placement.numa_topology.cells]


def pins(placement):
    """Return the CPUs of the guest's own vCPUs as a set."""
    return {cpu for _, cpu in placement.numa_topology.cpu_pinning}
