"""Huge pages of a claim, per host cell: what must be free before the move and gone after it. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from numaferry.model import BASE_PAGE_SIZE_KIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.model import InstanceNumaTopology

#: (host cell, page size in KiB)
PoolKey = tuple[int, int]


def pages_claimed(topology: InstanceNumaTopology | None) -> dict[PoolKey, int]:
    """Return huge pages per (host cell, page size in KiB) of a fitted guest; base pages are not pages of a pool."""
    claimed: dict[PoolKey, int] = {}
    for cell in topology.cells if topology else ():
        if cell.page_size_kib > BASE_PAGE_SIZE_KIB:
            key = (cell.host_cell, cell.page_size_kib)
            claimed[key] = claimed.get(key, 0) + cell.memory_kib // cell.page_size_kib
    return claimed


def dump_pages(free: Mapping[int, Mapping[int, int]]) -> str:
    """Return free huge pages (cell → size in KiB → count) as text for the migration's memo."""
    return json.dumps(
        [
            [cell, size, count]
            for cell, sizes in sorted(free.items())
            for size, count in sorted(sizes.items())
            if size > BASE_PAGE_SIZE_KIB
        ]
    )


def load_pages(text: str) -> dict[PoolKey, int]:
    """Read what `dump_pages` wrote."""
    return {(cell, size): count for cell, size, count in json.loads(text)}


def flatten(free: Mapping[int, Mapping[int, int]]) -> dict[PoolKey, int]:
    """Return `Hypervisor.free_pages()` with one key per pool, huge pages only."""
    return load_pages(dump_pages(free))
