"""A guest's writing as two figures, a rate and a hot set, fitted to measurements of dirtied pages. Pure.

A guest writes to its hot set again and again: within `t` seconds min(rate x t, size) different bytes are dirtied. The
straight line up to the size is the most that any order of writing gives, so what rests on it errs towards the longer
migration. QEMU measures by sampling 512 pages of each GiB (calc-dirty-rate, mode page-sampling), and the fewer pages
are hit the less is known; so a second figure is taken only where one alone explains the measurements clearly worse.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.model import DirtySample

#: Bytes of memory for which QEMU looks at one page (its sample-pages: 512 for each GiB).
BYTES_PER_SAMPLE: Final = (1 << 30) // 512
#: What a hot set has to gain in deviance (twice the log likelihood) over writing everywhere: two standard deviations.
CLEARLY: Final = 4.0


@attrs.frozen(slots=True)
class HotSet:
    """How a guest writes: bytes per second as long as they are other ones, and how many there are in all."""

    rate_bps: float
    size_bytes: float

    def dirtied(self, seconds: float) -> float:
        """Return how many different bytes are dirtied within so long."""
        return min(self.rate_bps * seconds, self.size_bytes)


def hot_set(samples: Sequence[DirtySample], memory_bytes: int) -> HotSet:
    """Return what explains the measurements best; a size that they don't show is all of the memory.

    Raises ValueError without a measurement.
    """
    if not samples:
        raise ValueError("a hot set is fitted to at least one measurement")
    everywhere = HotSet(_rate(samples), float(memory_bytes))
    within = [HotSet(_rate(rising), _mean(flat)) for rising, flat in _splits(samples)]
    best = min(within, key=lambda one: _deviance(one, samples), default=everywhere)
    if _deviance(best, samples) + CLEARLY < _deviance(everywhere, samples):
        return attrs.evolve(best, size_bytes=min(best.size_bytes, float(memory_bytes)))
    return everywhere


def _splits(samples: Sequence[DirtySample]) -> list[tuple[list[DirtySample], list[DirtySample]]]:
    """Return every way to say: up to this period the rate is seen, in longer ones the size."""
    periods = sorted({one.period_s for one in samples})
    return [
        ([one for one in samples if one.period_s <= last], [one for one in samples if one.period_s > last])
        for last in periods[:-1]
    ]


def _rate(samples: Sequence[DirtySample]) -> float:
    return sum(one.dirtied_bytes for one in samples) / sum(one.period_s for one in samples)


def _mean(samples: Sequence[DirtySample]) -> float:
    return sum(one.dirtied_bytes for one in samples) / len(samples)


def _deviance(hot: HotSet, samples: Sequence[DirtySample]) -> float:
    """Return how badly a hot set explains counts of sampled pages that are Poisson's."""
    total = 0.0
    for one in samples:
        seen, meant = one.dirtied_bytes / BYTES_PER_SAMPLE, max(hot.dirtied(one.period_s) / BYTES_PER_SAMPLE, 1e-9)
        total += 2 * ((seen * math.log(seen / meant) if seen else 0.0) - (seen - meant))
    return total
