"""How quantities are written in tables."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from numaferry.model import BASE_PAGE_SIZE_KIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numaferry.model import InstanceCell

_MIB_KIB = 1024
_GIB_KIB = 1024 * 1024


def size(memory_kib: int) -> str:
    """Return GiB with one digit, or MiB below one GiB: `1.5G`, `512M`."""
    return f"{memory_kib / _GIB_KIB:.1f}G" if memory_kib >= _GIB_KIB else f"{memory_kib // _MIB_KIB}M"


def page_size(size_kib: int) -> str:
    """Return `4K`, `2M`, `1G`."""
    for unit, kib in (("G", _GIB_KIB), ("M", _MIB_KIB)):
        if size_kib >= kib and size_kib % kib == 0:
            return f"{size_kib // kib}{unit}"
    return f"{size_kib}K"


def pages_words(pages: Iterable[tuple[int, int, int]]) -> str:
    """Return `cell 0: 128 x 2M` for (cell, size in KiB, count)."""
    return ", ".join(f"cell {cell}: {count} x {page_size(size_kib)}" for cell, size_kib, count in pages)


def memory_of(cell: InstanceCell) -> str:
    """Return the memory of a placed guest cell: `32 x 2M` in huge pages, `48M` in ordinary ones."""
    if cell.page_size_kib == BASE_PAGE_SIZE_KIB:
        return size(cell.memory_kib)
    return f"{-(-cell.memory_kib // cell.page_size_kib)} x {page_size(cell.page_size_kib)}"


def clock(seconds: float) -> str:
    """Return a moment in local time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def duration(milliseconds: float) -> str:
    """Return `45 ms`, `3.2 s`, `4 min 10 s`."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
