"""The answer of the fit: a placement, or a misfit that says why not, host cell by host cell, in numbers."""

from __future__ import annotations

import attrs

from numaferry.model.host import PciAddress  # noqa: TC001  (cattrs reads the annotations when it runs)
from numaferry.model.instance import InstanceNumaTopology  # noqa: TC001  (the same)


@attrs.frozen(slots=True)
class Placement:
    """Exact resources on one host for one request; `numa_topology` is None for a floating guest."""

    host: str
    #: The ledger's generation of the host state that this was computed on.
    generation: int
    numa_topology: InstanceNumaTopology | None
    pci: tuple[PciAddress, ...] = ()
    #: Lower is better, component by component; comparable between hosts for the same request only.
    score: tuple[float, ...] = ()
    #: Equal to `score` where that is proven best; else no placement on this host can score below it. Empty where
    #: only the first that fits was asked for.
    score_bound: tuple[float, ...] = ()


@attrs.frozen(slots=True)
class Shortage:
    """One constraint that a host cell does not meet for a guest cell; None stands for the whole host or guest."""

    #: Stable word: "dedicated-cpus", "shared-cpus", "memory", "pages", "page-size", "threads", "emulator-cpu", "pci",
    #: "cells", "distinct-cells".
    resource: str
    needed: int
    free: int
    host_cell: int | None = None
    guest_cell: int | None = None
    page_size_kib: int | None = None
    #: The whole sentence with its numbers, for a person.
    sentence: str = ""

    @property
    def missing(self) -> int:
        """How much more would be needed."""
        return max(0, self.needed - self.free)


@attrs.frozen(slots=True)
class Misfit:
    """Why a request does not fit on a host. True values are Placements; a Misfit is false in a condition."""

    host: str
    #: The one sentence that says it best (for matching failures the Hall violator in words).
    reason: str
    shortages: tuple[Shortage, ...] = ()
    #: True sentences of the form "fits if ...".
    suggestions: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return False
