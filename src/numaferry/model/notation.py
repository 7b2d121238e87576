"""A host topology in one line, in the manner of hwloc's synthetic strings.

For example ``2 cells x 2 cores x 2 threads, 1536M, 2M:128``. The first part says cells, cores per cell and threads per
core (a part left out is 1); then the memory of *each cell*, huge pages included; then any number of ``SIZE:COUNT``
pools *per cell*. CPUs are numbered cell by cell, core by core, thread by thread; every cell is a socket of its own; the
distance between two cells is 21, as firmware of two-socket machines tells it.
"""

from __future__ import annotations

import re

from numaferry.errors import InvalidInput
from numaferry.model.cpuset import MAX_CPU_ID, CpuSet, union
from numaferry.model.host import BASE_PAGE_SIZE_KIB, HostCell, HostTopology, PagePool

EXAMPLE = "2 cells x 2 cores x 2 threads, 1536M, 2M:128"
LOCAL_DISTANCE = 10
REMOTE_DISTANCE = 21

_UNITS_KIB = {"K": 1, "M": 1024, "G": 1024 * 1024}
_SHAPE = re.compile(
    r"^(?P<cells>\d{1,3}) ?cells?"
    r"(?: ?x ?(?P<cores>\d{1,4}) ?cores?)?"
    r"(?: ?x ?(?P<threads>\d) ?threads?)?$"
)
_SIZE = re.compile(r"^(?P<number>\d{1,9}) ?(?P<unit>[KMG])(?:iB)?$")


def parse_topology(text: str) -> HostTopology:
    """Read the notation into a topology whose pages are all free.

    Raises InvalidInput that quotes the part which can't be read, or tells by how much the pages exceed the memory.
    """
    parts = [" ".join(part.split()) for part in text.split(",")]
    found = _SHAPE.match(parts[0])
    if found is None:
        raise _unreadable(text, parts[0])
    cells, cores, threads = (int(found[name] or 1) for name in ("cells", "cores", "threads"))
    if not cells * cores * threads or cells * cores * threads > MAX_CPU_ID + 1:
        raise InvalidInput(f"topology {text!r}: {cells * cores * threads} CPUs", hint=f"1..{MAX_CPU_ID + 1} CPUs")
    if len(parts) < 2:
        raise InvalidInput(f"topology {text!r} does not say a cell's memory", hint=f"write it like {EXAMPLE}")
    memory_kib = _size_kib(text, parts[1])
    pools = tuple(_pool(text, part) for part in parts[2:])
    pages = (_base_pool(text, memory_kib, pools), *sorted(pools, key=lambda pool: pool.size_kib))
    distances = {
        number: tuple((other, LOCAL_DISTANCE if other == number else REMOTE_DISTANCE) for other in range(cells))
        for number in range(cells)
    }
    return HostTopology(
        tuple(
            HostCell(
                id=number,
                cpus=union(siblings),
                siblings=siblings,
                memory_kib=memory_kib,
                pages=pages,
                socket=number,
                distances=distances[number],
            )
            for number in range(cells)
            for siblings in [_cores(number * cores * threads, cores, threads)]
        )
    )


def _unreadable(text: str, part: str) -> InvalidInput:
    return InvalidInput(f"topology {text!r}: can't read {part!r}", hint=f"write it like {EXAMPLE}")


def _size_kib(text: str, part: str) -> int:
    """Return ``1536M`` in KiB."""
    found = _SIZE.match(part)
    if found is None:
        raise _unreadable(text, part)
    return int(found["number"]) * _UNITS_KIB[found["unit"]]


def _pool(text: str, part: str) -> PagePool:
    """Return the pool of ``2M:128``, all free."""
    size, colon, count = part.partition(":")
    if not colon or not count.strip().isdecimal():
        raise _unreadable(text, part)
    size_kib = _size_kib(text, size.strip())
    if size_kib <= BASE_PAGE_SIZE_KIB:
        raise InvalidInput(
            f"topology {text!r}: {part!r} is no huge page size", hint="the rest of the memory is 4K pages"
        )
    return PagePool(size_kib, int(count), int(count))


def _base_pool(text: str, memory_kib: int, pools: tuple[PagePool, ...]) -> PagePool:
    """Return what the huge pages leave, in base pages."""
    left_kib = memory_kib - sum(pool.size_kib * pool.total for pool in pools)
    if left_kib < 0:
        raise InvalidInput(
            f"topology {text!r}: the pages of a cell take {-left_kib} KiB more than its memory",
            hint="fewer pages, or more memory",
        )
    count = left_kib // BASE_PAGE_SIZE_KIB
    return PagePool(BASE_PAGE_SIZE_KIB, count, count)


def _cores(first: int, cores: int, threads: int) -> tuple[CpuSet, ...]:
    """Return the sibling sets of a cell whose lowest CPU is `first`."""
    return tuple(CpuSet.of(range(first + n * threads, first + (n + 1) * threads)) for n in range(cores))
