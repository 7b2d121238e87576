"""What a look at a running guest's memory says: how much there is to send, how much is dirtied in so many seconds."""

from __future__ import annotations

import attrs


@attrs.frozen(slots=True)
class DirtySample:
    """One measurement: so many different bytes (whole pages) were written to within the period."""

    period_s: float
    dirtied_bytes: int


@attrs.frozen(slots=True)
class MemoryLook:
    """A guest's memory as its host sees it."""

    #: Resident set of its QEMU, 0 where the host does not tell; pages of hugetlbfs are not in it.
    resident_bytes: int
    samples: tuple[DirtySample, ...]
