"""A set of CPU ids as one integer bitmask: immutable, hashable, cheap to intersect.

Text form is libvirt's and nova's: ``0-3,^2,8`` (https://libvirt.org/formatdomain.html, "cpuset").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: No host has more; a larger id in a list is a typing error, not a machine.
MAX_CPU_ID = 16383

_PART = re.compile(r"^(?P<minus>\^?)(?P<first>\d{1,6})(?:-(?P<last>\d{1,6}))?$")


@attrs.frozen(slots=True, repr=False, order=False)
class CpuSet:
    """An immutable set of CPU ids; bit n of `mask` is CPU n."""

    mask: int = 0

    @classmethod
    def of(cls, cpus: Iterable[int]) -> CpuSet:
        """Return the set of the given ids (0..MAX_CPU_ID); raises InvalidInput for an id outside."""
        mask = 0
        for cpu in cpus:
            if not 0 <= cpu <= MAX_CPU_ID:
                raise InvalidInput(f"CPU id {cpu} is outside 0..{MAX_CPU_ID}", hint="check the CPU list")
            mask |= 1 << cpu
        return cls(mask)

    @classmethod
    def parse(cls, text: str) -> CpuSet:
        """Read ``0-3,^2,8``; an exclusion removes from what stands before it, as in libvirt.

        Raises InvalidInput that quotes the part which can't be read. The empty string is the empty set.
        """
        mask = 0
        for part in (p.strip() for p in text.split(",")):
            if not part:
                if text.strip():
                    raise InvalidInput(f"CPU list {text!r} has an empty part", hint="write it like 0-3,^2,8")
                continue
            found = _PART.match(part)
            if found is None:
                raise InvalidInput(f"CPU list {text!r}: can't read {part!r}", hint="write it like 0-3,^2,8")
            first = int(found["first"])
            last = first if found["last"] is None else int(found["last"])
            if last < first or last > MAX_CPU_ID:
                raise InvalidInput(
                    f"CPU list {text!r}: {part!r} is no range within 0..{MAX_CPU_ID}", hint="write it like 0-3,^2,8"
                )
            bits = (1 << (last + 1)) - (1 << first)
            mask = mask & ~bits if found["minus"] else mask | bits
        return cls(mask)

    def __iter__(self) -> Iterator[int]:
        mask = self.mask
        while mask:
            low = mask & -mask
            yield low.bit_length() - 1
            mask ^= low

    def __len__(self) -> int:
        return self.mask.bit_count()

    def __bool__(self) -> bool:
        return self.mask != 0

    def __contains__(self, cpu: int) -> bool:
        return cpu >= 0 and bool(self.mask >> cpu & 1)

    def __or__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask | other.mask)

    def __and__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask & other.mask)

    def __sub__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask & ~other.mask)

    def __le__(self, other: CpuSet) -> bool:
        return self.mask & ~other.mask == 0

    def isdisjoint(self, other: CpuSet) -> bool:
        """Tell whether no CPU is in both."""
        return self.mask & other.mask == 0

    def first(self) -> int:
        """Return the lowest id; raises ValueError for the empty set."""
        if not self.mask:
            raise ValueError("the empty CPU set has no first CPU")
        return (self.mask & -self.mask).bit_length() - 1

    def __str__(self) -> str:
        parts: list[str] = []
        start = previous = None
        for cpu in self:
            if previous is not None and cpu == previous + 1:
                previous = cpu
                continue
            if start is not None:
                parts.append(_span(start, previous))
            start = previous = cpu
        if start is not None:
            parts.append(_span(start, previous))
        return ",".join(parts)

    def __repr__(self) -> str:
        return f"CpuSet({str(self)!r})"


def _span(first: int, last: int | None) -> str:
    """Return ``first`` or ``first-last``."""
    return str(first) if last is None or last == first else f"{first}-{last}"


EMPTY = CpuSet()


def union(sets: Iterable[CpuSet]) -> CpuSet:
    """Return the union of any number of sets."""
    mask = 0
    for one in sets:
        mask |= one.mask
    return CpuSet(mask)
