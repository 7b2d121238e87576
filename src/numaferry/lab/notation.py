"""What of the one-line topology notation (`model.notation`) a lab host can be made from."""

from __future__ import annotations

from attrs import frozen

from numaferry.errors import InvalidInput
from numaferry.model.host import BASE_PAGE_SIZE_KIB, HostTopology
from numaferry.model.notation import EXAMPLE, parse_topology

PAGE_SIZE_KIB = 2048
MAX_CELLS = 8
MAX_CPUS = 64
# below this a Linux host with libvirtd runs out of memory while it boots
MIN_HOST_MIB = 1024


@frozen
class HostSpec:
    """A lab host's topology, and the notation it was read from."""

    topology: HostTopology
    notation: str

    @property
    def memory_mib(self) -> int:
        """Return the host's memory, in MiB."""
        return sum(cell.memory_kib for cell in self.topology.cells) >> 10

    @property
    def cores_per_cell(self) -> int:
        """Return how many cores each cell has."""
        return len(self.topology.cells[0].siblings)

    @property
    def threads_per_core(self) -> int:
        """Return how many threads each core has."""
        return len(self.topology.cells[0].siblings[0])

    @property
    def pages_2m(self) -> tuple[int, ...]:
        """Return how many 2 MiB pages each cell sets aside."""
        return tuple(
            sum(pool.total for pool in cell.pages if pool.size_kib == PAGE_SIZE_KIB) for cell in self.topology.cells
        )


def _refusal(spec: HostSpec) -> str:
    """Return why no lab host can be made from this, or nothing."""
    cells = spec.topology.cells
    cpus = len(cells) * spec.cores_per_cell * spec.threads_per_core
    sizes_kib = {pool.size_kib for cell in cells for pool in cell.pages} - {BASE_PAGE_SIZE_KIB, PAGE_SIZE_KIB}
    cell_mib, pages_mib = cells[0].memory_kib >> 10, spec.pages_2m[0] * 2
    rules = (
        (len(cells) > MAX_CELLS, f"{len(cells)} cells; {MAX_CELLS} is the most"),
        (spec.threads_per_core > 2, f"{spec.threads_per_core} threads per core; 2 is the most"),
        (cpus > MAX_CPUS, f"{cpus} CPUs; {MAX_CPUS} is the most"),
        (bool(sizes_kib), f"pages of {min(sizes_kib, default=0)} KiB; 2M is the only size"),
        (pages_mib > cell_mib // 2, f"{pages_mib} of a cell's {cell_mib} MiB in 2M pages; half is the most"),
        (spec.memory_mib < MIN_HOST_MIB, f"{spec.memory_mib} MiB of memory; {MIN_HOST_MIB} MiB is the least"),
    )
    return next((why for broken, why in rules if broken), "")


def parse(text: str) -> HostSpec:
    """Return the host that `text` describes.

    Raises InvalidInput when it can't be read, or when QEMU can't make such a host here; the message says which part.
    """
    spec = HostSpec(topology=parse_topology(text), notation=" ".join(text.split()))
    if why := _refusal(spec):
        raise InvalidInput(f"no lab host can be made from {text!r}: it has {why}", hint=f"for example: {EXAMPLE}")
    return spec
