"""Sockets, cores and threads that a guest sees: ``hw:cpu_sockets``, ``_cores``, ``_threads`` and their maxima.

The choice among what is possible is nova's. Placement does not depend on it, and a running guest's topology can't
change in a move; it is read so that a flavor is judged whole, and so that a guest made from one gets what nova gives.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from numaferry.request.specs import Specs
from numaferry.request.words import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.model import Flavor

#: nova's limit where neither flavor nor image sets one.
NO_LIMIT: Final = 65536
_NO_IMAGE: Final[Mapping[str, str]] = {}


@attrs.frozen(slots=True)
class CpuTopology:
    """Counts; 0 in a preference means no preference."""

    sockets: int
    cores: int
    threads: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """Sockets, cores, threads."""
        return self.sockets, self.cores, self.threads

    def within(self, limit: CpuTopology) -> bool:
        """Tell whether no count is above the limit's."""
        return all(mine <= most for mine, most in zip(self.counts, limit.counts, strict=True))

    def __str__(self) -> str:
        return ":".join(map(str, self.counts))


def get_best_cpu_topology(
    flavor: Flavor, image: Mapping[str, str] = _NO_IMAGE, *, allow_threads: bool = True
) -> CpuTopology:
    """Return the topology that nova would give the guest.

    Of all whole products within the maxima: the one that agrees with most of the preferred counts, then with fewest
    threads, then with most sockets. An image may lower the flavor's maxima and replaces its preference as a whole.
    Raises InvalidRequest: ImageVCPULimitsRangeExceeded, ImageVCPUTopologyRangeExceeded, ImageVCPULimitsRangeImpossible,
    and InvalidRequest for what is no number.
    """
    specs = Specs(flavor, dict(flavor.extra_specs), image)
    preferred, limit = constraints(specs)
    possible = _possible(flavor.vcpus, limit, allow_threads=allow_threads)
    return max(possible, key=lambda one: (_agreement(one, preferred), one.sockets * one.cores, one.sockets))


def constraints(specs: Specs) -> tuple[CpuTopology, CpuTopology]:
    """Return the preferred counts (0: none) and the maxima, from flavor and image."""
    flavor_limit, image_limit = _read(specs, "cpu_max_")
    exceeded = [
        (most, flavors)
        for most, flavors in zip(image_limit.counts, flavor_limit.counts, strict=True)
        if flavors and most > flavors
    ]
    if exceeded:
        raise invalid(
            "ImageVCPULimitsRangeExceeded",
            f"image maxima (sockets:cores:threads) {image_limit} are above the flavor's {flavor_limit}",
            "an image may only lower hw:cpu_max_sockets, hw:cpu_max_cores and hw:cpu_max_threads",
        )
    limit = CpuTopology(
        *(mine or flavors or NO_LIMIT for mine, flavors in zip(image_limit.counts, flavor_limit.counts, strict=True))
    )
    flavor_wish, image_wish = _read(specs, "cpu_")
    if not image_wish.within(limit):
        raise invalid(
            "ImageVCPUTopologyRangeExceeded",
            f"image topology (sockets:cores:threads) {image_wish} is above the maxima {limit}",
            "lower hw_cpu_sockets, hw_cpu_cores or hw_cpu_threads",
        )
    if any(image_wish.counts):
        return image_wish, limit
    return (flavor_wish if flavor_wish.within(limit) else CpuTopology(0, 0, 0)), limit


def _read(specs: Specs, prefix: str) -> tuple[CpuTopology, CpuTopology]:
    """Return the three counts of flavor and of image; 0 where one is not set."""
    flavor: list[int] = []
    image: list[int] = []
    for name in ("sockets", "cores", "threads"):
        key = f"{prefix}{name}"
        for found, value, shown in zip((flavor, image), specs.both(key), (f"hw:{key}", f"hw_{key}"), strict=True):
            count = "0" if value is None else value.strip()
            if not re.fullmatch(r"[0-9]{1,9}", count):
                raise invalid("InvalidRequest", f"{shown}={value!r} is no count", "use 1, 2, 4, …")
            found.append(int(count))
    return CpuTopology(*flavor), CpuTopology(*image)


def _possible(vcpus: int, limit: CpuTopology, *, allow_threads: bool) -> list[CpuTopology]:
    """Return every topology whose product is the number of vCPUs, within the limit."""
    threads_limit = limit.threads if allow_threads else 1
    found = [
        CpuTopology(sockets, vcpus // sockets // threads, threads)
        for threads in range(1, min(vcpus, threads_limit) + 1)
        if vcpus % threads == 0
        for sockets in range(1, min(vcpus, limit.sockets) + 1)
        if vcpus // threads % sockets == 0 and vcpus // sockets // threads <= limit.cores
    ]
    if not found:
        raise invalid(
            "ImageVCPULimitsRangeImpossible",
            f"{vcpus} vCPUs are no product of sockets, cores and threads within {limit}"
            + ("" if allow_threads else ", without threads"),
            "raise hw:cpu_max_sockets, hw:cpu_max_cores or hw:cpu_max_threads",
        )
    return found


def _agreement(topology: CpuTopology, preferred: CpuTopology) -> int:
    """Return how many preferred counts the topology has."""
    return sum(bool(wish) and wish == mine for wish, mine in zip(preferred.counts, topology.counts, strict=True))
