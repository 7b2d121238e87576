"""The short notation for a host's topology, in the manner of hwloc's synthetic descriptions.

::

    2 cells x 2 cores x 2 threads, 1536M, 2M:128
    │                              │      └─ pages per cell: size:count
    │                              └─ memory per cell
    └─ cells, cores per cell, threads per core (1 when left out)

Where cells differ, their values are separated by a slash: `2 cells x 4 cores, 1G/2G, 2M:64/128`.
"""

from __future__ import annotations

import re

from attrs import frozen

from numaferry.errors import InvalidInput

EXAMPLE = "2 cells x 2 cores x 2 threads, 1536M, 2M:128"

UNITS_MIB = {"M": 1, "MIB": 1, "G": 1024, "GIB": 1024}
PAGE_SIZE_KIB = {"2M": 2048}
MAX_CELLS = 8
MAX_CPUS = 64
# below this a Linux host with libvirtd runs out while it boots
MIN_HOST_MIB = 1024
MIN_CELL_MIB = 256

# SLIT values as firmware gives them: itself, one hop, farther
DISTANCES = (10, 21, 31)

_SHAPE = re.compile(r"(\d+)\s*cells?\s*[x*]\s*(\d+)\s*cores?(?:\s*[x*]\s*(\d+)\s*threads?)?", re.IGNORECASE)


@frozen
class Cell:
    """One NUMA cell of a host: memory in MiB, and how many 2 MiB pages are set aside in it."""

    memory_mib: int
    pages_2m: int


@frozen
class HostSpec:
    """A host's topology as written: `cells` in order, each with `cores` cores of `threads` threads."""

    cells: tuple[Cell, ...]
    cores: int
    threads: int
    notation: str

    @property
    def cpus_per_cell(self) -> int:
        """Return how many CPUs (threads) a cell has."""
        return self.cores * self.threads

    @property
    def cpus(self) -> int:
        """Return how many CPUs (threads) the host has."""
        return len(self.cells) * self.cpus_per_cell

    @property
    def memory_mib(self) -> int:
        """Return the host's memory, in MiB."""
        return sum(cell.memory_mib for cell in self.cells)

    def cell_cpus(self, cell: int) -> range:
        """Return the CPU numbers of a cell: they are counted through, cell after cell, siblings side by side."""
        return range(cell * self.cpus_per_cell, (cell + 1) * self.cpus_per_cell)

    def distance(self, cell: int, other: int) -> int:
        """Return the distance between two cells, which sit on a ring: 10 to itself, 21 to a neighbour, 31 beyond."""
        around = abs(cell - other)
        hops = min(around, len(self.cells) - around)
        return DISTANCES[min(hops, len(DISTANCES) - 1)]


def _wrong(text: str, part: str, why: str) -> InvalidInput:
    return InvalidInput(f"host notation {text!r}: {part!r} {why}", hint=f"for example: {EXAMPLE}")


def _per_cell(text: str, part: str, values: str, cells: int) -> list[str]:
    split = [value.strip() for value in values.split("/")]
    if len(split) not in (1, cells):
        raise _wrong(text, part, f"has {len(split)} values for {cells} cells: give one for all, or one each")
    return split * (cells // len(split))


def _memory_mib(text: str, part: str, value: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([A-Z]+)", value.upper())
    if match is None or match[2] not in UNITS_MIB:
        raise _wrong(text, part, "is no memory size per cell, like 1536M or 2G")
    memory_mib = int(match[1]) * UNITS_MIB[match[2]]
    if memory_mib < MIN_CELL_MIB:
        raise _wrong(text, part, f"gives a cell {memory_mib} MiB; {MIN_CELL_MIB} MiB is the least")
    return memory_mib


def _pages(text: str, part: str, cells: int) -> list[int]:
    size, colon, counts = part.partition(":")
    if not colon or size.strip().upper() not in PAGE_SIZE_KIB:
        raise _wrong(
            text, part, "is no number of pages per cell, like 2M:128 (2M is the only size a lab host sets aside)"
        )
    found = _per_cell(text, part, counts, cells)
    if not all(re.fullmatch(r"\d+", count) for count in found):
        raise _wrong(text, part, "has a count that is no whole number")
    return [int(count) for count in found]


def _shape(text: str, part: str) -> tuple[int, int, int]:
    match = _SHAPE.fullmatch(part)
    if match is None:
        raise _wrong(text, part, "is not `N cells x N cores` or `N cells x N cores x N threads`")
    cells, cores, threads = int(match[1]), int(match[2]), int(match[3] or 1)
    if not 1 <= cells <= MAX_CELLS:
        raise _wrong(text, part, f"has {cells} cells; 1 to {MAX_CELLS} can be made")
    if threads not in (1, 2):
        raise _wrong(text, part, f"has {threads} threads per core; 1 or 2 can be made")
    if not 1 <= cells * cores * threads <= MAX_CPUS:
        raise _wrong(text, part, f"has {cells * cores * threads} CPUs; 1 to {MAX_CPUS} can be made")
    return cells, cores, threads


def parse(text: str) -> HostSpec:
    """Return the topology that `text` describes. Raises InvalidInput, naming the part that can't be read and why."""
    shape, *rest = (part.strip() for part in text.split(","))
    cells, cores, threads = _shape(text, shape)
    if not rest:
        raise _wrong(text, text, "lacks the memory per cell")
    if len(rest) > 2:
        raise _wrong(text, rest[2], "is more than shape, memory and pages")
    memory = [_memory_mib(text, rest[0], value) for value in _per_cell(text, rest[0], rest[0], cells)]
    pages = _pages(text, rest[1], cells) if len(rest) == 2 else [0] * cells
    for memory_mib, count in zip(memory, pages, strict=True):
        if count * 2 > memory_mib // 2:
            raise _wrong(
                text, rest[-1], f"sets {count * 2} MiB aside in a cell of {memory_mib} MiB; half of it is the most"
            )
    if sum(memory) < MIN_HOST_MIB:
        raise _wrong(text, rest[0], f"gives the host {sum(memory)} MiB; {MIN_HOST_MIB} MiB is the least")
    made = tuple(Cell(memory_mib=memory_mib, pages_2m=count) for memory_mib, count in zip(memory, pages, strict=True))
    return HostSpec(cells=made, cores=cores, threads=threads, notation=" ".join(text.split()))
