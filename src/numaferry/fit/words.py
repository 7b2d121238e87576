"""Numbers and lists as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def kib(amount: int) -> str:
    """Return an amount of memory in the largest unit that loses nothing."""
    for unit, size in (("GiB", 1 << 20), ("MiB", 1 << 10)):
        if amount and amount % size == 0:
            return f"{amount // size} {unit}"
    return f"{amount} KiB"


def page(size_kib: int) -> str:
    """Return a page size: ``2 MiB``."""
    return kib(size_kib)


def and_list(ids: Sequence[int]) -> str:
    """Return ``0, 1 and 2``."""
    words = [str(one) for one in ids]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def counted(number: int, thing: str) -> str:
    """Return ``1 vCPU`` or ``2 vCPUs``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
