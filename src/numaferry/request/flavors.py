"""A flavor for a guest that never had one: extra specs that say what its request says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.model import CpuSet, Flavor

if TYPE_CHECKING:
    from numaferry.model import NumaRequest

MIB_KIB = 1024


def derive_flavor(name: str, request: NumaRequest) -> tuple[Flavor, tuple[str, ...]]:
    """Return a flavor whose `numa_get_constraints` is `request`, and sentences about what no flavor can say.

    nova's extra specs know one page size for all cells, whole MiB, and realtime vCPUs only beside a vCPU that is not
    one; where a guest differs, the request alone holds it.
    """
    specs: dict[str, str] = {}
    notes: list[str] = []
    if request.cells:
        specs |= {"hw:numa_nodes": str(len(request.cells)), "hw:cpu_policy": request.cpu_policy}
        specs |= _cells(request)
        specs |= _pages(request, notes)
    realtime = _realtime(request, notes)
    specs |= realtime
    if request.cpu_policy == "mixed" and not realtime:
        specs["hw:cpu_dedicated_mask"] = str(_pinned(request))
    if request.thread_policy:
        specs["hw:cpu_thread_policy"] = request.thread_policy
    if request.emulator_threads_policy:
        specs["hw:emulator_threads_policy"] = request.emulator_threads_policy
    if any(size % MIB_KIB for size in (request.memory_kib, *(cell.memory_kib for cell in request.cells))):
        notes.append("its memory is no whole number of MiB: the flavor says it rounded up, the request exactly")
    memory_mb = sum(map(_mib, (cell.memory_kib for cell in request.cells))) or _mib(request.memory_kib)
    return Flavor(name, request.vcpus, memory_mb, tuple(sorted(specs.items()))), tuple(notes)


def _mib(size_kib: int) -> int:
    return -(-size_kib // MIB_KIB)


def _pinned(request: NumaRequest) -> CpuSet:
    """Return the vCPUs of all cells that want a CPU of their own."""
    return CpuSet.of(vcpu for cell in request.cells for vcpu in cell.pinned_vcpus)


def _cells(request: NumaRequest) -> dict[str, str]:
    """Return hw:numa_cpus.N and hw:numa_mem.N where the cells are not nova's equal shares."""
    count = len(request.cells)
    share = request.vcpus // count
    equal = [(CpuSet.of(range(cell * share, (cell + 1) * share)), request.memory_kib // count) for cell in range(count)]
    if request.vcpus % count == 0 and equal == [(cell.vcpus, cell.memory_kib) for cell in request.cells]:
        return {}
    listed = {f"hw:numa_cpus.{index}": str(cell.vcpus) for index, cell in enumerate(request.cells)}
    return listed | {f"hw:numa_mem.{index}": str(_mib(cell.memory_kib)) for index, cell in enumerate(request.cells)}


def _pages(request: NumaRequest, notes: list[str]) -> dict[str, str]:
    """Return hw:mem_page_size where all cells have the same."""
    sizes = {cell.page_size for cell in request.cells}
    if len(sizes) > 1:
        shown = ", ".join(f"cell {cell.id}: {cell.page_size or 'base'}" for cell in request.cells)
        notes.append(f"its cells have pages of different sizes ({shown} KiB), for which a flavor has no words")
        return {}
    size = sizes.pop()
    return {} if size is None else {"hw:mem_page_size": str(size)}


def _realtime(request: NumaRequest, notes: list[str]) -> dict[str, str]:
    """Return the realtime specs where nova would take them."""
    if not request.realtime_vcpus:
        return {}
    every = CpuSet.of(range(request.vcpus))
    pinned = _pinned(request)
    if request.cpu_policy == "shared" or (request.cpu_policy == "mixed" and request.realtime_vcpus != pinned):
        notes.append(f"realtime vCPUs {request.realtime_vcpus} are not those pinned, for which a flavor has no words")
        return {}
    if request.realtime_vcpus == every and not request.emulator_threads_policy:
        notes.append("every vCPU is a realtime one, which a flavor says only with an emulator threads policy")
        return {}
    return {"hw:cpu_realtime": "yes", "hw:cpu_realtime_mask": str(request.realtime_vcpus)}
