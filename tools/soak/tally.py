"""What struck, where, and how it ended; added up over seeds and printed as tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Where a fault strikes while no migration has begun its first step, and while nobody drives.
CLAIMING, NOBODY = "choosing and claiming", "nobody drives"


@attrs.define
class Tally:
    """Counts of one story, or of many."""

    seeds: int = 0
    #: (kind, step) → faults that struck
    faults: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    #: Status of a migration → how many ended, or wait, so.
    outcomes: Counter[str] = attrs.field(factory=Counter)
    #: Named exception → guests.
    exceptions: Counter[str] = attrs.field(factory=Counter)
    #: What else happened: take-overs, answers of a person, ...
    events: Counter[str] = attrs.field(factory=Counter)

    @property
    def struck(self) -> int:
        """How many faults really struck."""
        return self.faults.total()

    def add(self, other: Tally) -> None:
        """Add another's counts."""
        self.seeds += other.seeds
        for name in ("faults", "outcomes", "exceptions", "events"):
            getattr(self, name).update(getattr(other, name))

    def lines(self) -> Iterator[str]:
        """Yield the tables."""
        for axis, title in ((0, "faults by kind"), (1, "faults by step")):
            summed: Counter[str] = Counter()
            for key, count in self.faults.items():
                summed[key[axis]] += count
            yield from _table(title, summed)
        yield from _table("migrations by outcome", self.outcomes)
        yield from _table("what else happened", self.events)
        yield from _table("guests outside the promise, by named exception", self.exceptions)


def _table(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    yield f"{title} ({sum(counts.values())})"
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {count:7}  {name}"
    yield ""
