"""Who uses a host: its own guests, those that are leaving, and those that are coming in.

The claims are the truth; this module says of each on whose account it stands. While a move runs both hosts are
charged, the source as *outgoing*, the destination as *incoming*, in whatever status the migration is that still holds
two claims, `accepted` included.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from numaferry.ledger.amounts import MEMORY, VCPUS, Key, page_size_kib
from numaferry.ledger.holdings import without_overlap
from numaferry.ledger.schema import HOST_CELL
from numaferry.model import EMPTY, CpuSet

if TYPE_CHECKING:
    from numaferry.ledger import Ledger
    from numaferry.ledger.holdings import Holding
    from numaferry.model import Migration

OWN, INCOMING, OUTGOING = "own", "incoming", "outgoing"


@attrs.frozen(slots=True)
class Use:
    """What is held of one cell on one account."""

    cpus: CpuSet = EMPTY
    shared_vcpus: int = 0
    #: Base pages, in KiB.
    memory_kib: int = 0
    #: (page size in KiB, pages), ordered.
    pages: tuple[tuple[int, int], ...] = ()

    def __add__(self, other: Use) -> Use:
        pages = Counter(dict(self.pages))
        pages.update(dict(other.pages))
        return Use(
            self.cpus | other.cpus,
            self.shared_vcpus + other.shared_vcpus,
            self.memory_kib + other.memory_kib,
            tuple(sorted(pages.items())),
        )


@attrs.frozen(slots=True)
class CellUsage:
    """One cell (None: what floats over the host) on three accounts."""

    cell: int | None
    own: Use = Use()
    incoming: Use = Use()
    outgoing: Use = Use()

    @property
    def total(self) -> Use:
        """What is held together."""
        return self.own + self.incoming + self.outgoing


@attrs.frozen(slots=True)
class HostUsage:
    """A host's usage by cell, ordered; the last one is what floats."""

    host: str
    cells: tuple[CellUsage, ...]

    def cell(self, cell: int | None) -> CellUsage | None:
        """Return the usage of this cell; None asks for what floats."""
        return next((usage for usage in self.cells if usage.cell == cell), None)

    def charge(self, account: str, uses: dict[int | None, Use]) -> HostUsage:
        """Return the usage with more on one account."""
        cells = tuple(
            attrs.evolve(cell, **{account: getattr(cell, account) + uses[cell.cell]}) if cell.cell in uses else cell
            for cell in self.cells
        )
        return attrs.evolve(self, cells=cells)


def update_usage_from_migration(usage: HostUsage, migration: Migration, uses: dict[int | None, Use]) -> HostUsage:
    """Charge a host for its side of a move (nova: _update_usage_from_migration).

    `uses` is what the guest's claim on this host holds, by cell. The destination is charged as incoming, the source as
    outgoing; once the move is confirmed the destination's claim is its own, and the source holds none.
    """
    return usage.charge(INCOMING if migration.dest == usage.host else OUTGOING, uses)


def uses_of(holding: Holding, cell_of: dict[int, int]) -> dict[int | None, Use]:
    """Return what one claim holds, by cell; `cell_of` maps host CPUs to their cells."""
    found: dict[int | None, Use] = {}

    def add(cell: int | None, use: Use) -> None:
        found[cell] = found.get(cell, Use()) + use

    for cpu, _ in holding.cpus:
        add(cell_of.get(cpu), Use(cpus=CpuSet.of([cpu])))
    for one in holding.amounts:
        add(None if one.cell == HOST_CELL else one.cell, _use((one.cell, one.resource), one.amount))
    return found


def _use(key: Key, amount: int) -> Use:
    resource = key[1]
    if resource == MEMORY:
        return Use(memory_kib=amount)
    if resource == VCPUS:
        return Use(shared_vcpus=amount)
    return Use(pages=((page_size_kib(resource) or 0, amount),))


def host_usage(ledger: Ledger, host: str) -> HostUsage:
    """Return own, incoming and outgoing use of a host, per cell; raises NotFound."""
    view = ledger.view(host)
    record = view.record
    moves = {move.instance_uuid: move for move in view.moves}
    topology = record.facts.topology
    cell_of = {cpu: cell.id for cell in topology.cells for cpu in cell.cpus}
    usage = HostUsage(host, (*(CellUsage(cell.id) for cell in topology.cells), CellUsage(None)))
    for holding in without_overlap(view.holdings):
        uses = uses_of(holding, cell_of)
        move = moves.get(holding.instance_uuid)
        if move is None or (holding.current and host == move.dest):
            usage = usage.charge(OWN, uses)
        else:
            usage = update_usage_from_migration(usage, move, uses)
    return usage
