"""One host in one snapshot: what the explanations, the usage and the audit are computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from sqlalchemy import or_, select

from numaferry.ledger import schema
from numaferry.ledger.explain import HostExplanation, explain
from numaferry.ledger.rows import migration_of
from numaferry.ledger.snapshot import load_snapshot
from numaferry.ledger.states import host_state_of
from numaferry.ledger.store import Store
from numaferry.model import IN_PROGRESS, HostState, Migration, ObservedUse, PciDevice

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.ledger.holdings import Holding
    from numaferry.ledger.hosts import HostRecord


@attrs.frozen(slots=True)
class Overfull:
    """A capacity row that reality or an operator lowered below what is promised: closed, and a finding."""

    #: None: the host as a whole.
    cell: int | None
    #: "memory_kib", "vcpus" or "page:SIZE".
    resource: str
    used: int
    allowed: int


@attrs.frozen(slots=True)
class HostView:
    """A host, every claim on it, what is seen there, and the migrations in progress that name it."""

    record: HostRecord
    holdings: tuple[Holding, ...]
    observed: tuple[ObservedUse, ...]
    moves: tuple[Migration, ...]
    overfull: tuple[Overfull, ...]
    devices: tuple[PciDevice, ...] = ()

    @property
    def state(self) -> HostState:
        """What the fit sees."""
        return host_state_of(self.record, self.holdings, self.observed, devices=self.devices)


class ViewStore(Store):
    """Reading a whole host."""

    def view(self, name: str) -> HostView:
        """Return a host with everything on it, of one moment; raises NotFound."""
        table = schema.migration.c
        with self._read() as connection:
            all_of_it = load_snapshot(connection, name)
            moves = connection.execute(
                select(schema.migration)
                .where(or_(table.source == name, table.dest == name), table.status.in_(sorted(IN_PROGRESS)))
                .order_by(table.id)
            )
            return HostView(
                record=all_of_it.record,
                holdings=all_of_it.holdings,
                observed=all_of_it.observed,
                moves=tuple(map(migration_of, moves)),
                overfull=_overfull(connection, all_of_it.record.id),
                devices=all_of_it.devices,
            )

    def host_state(self, name: str, *, ignore_instance: str | None = None) -> HostState:
        """Return what the fit sees of a host: capacity less claims less what others are seen to use.

        `ignore_instance` (a UUID) is left out of both. Raises NotFound.
        """
        with self._read() as connection:
            return load_snapshot(connection, name).state(ignore_instance=ignore_instance)

    def explain_host(self, name: str) -> HostExplanation:
        """Say of every CPU, page pool and memory of a host who holds it, by which claim and why; raises NotFound."""
        return explain(self.view(name))


def _overfull(connection: Connection, host_id: int) -> tuple[Overfull, ...]:
    table = schema.capacity.c
    rows = connection.execute(
        select(schema.capacity)
        .where(table.host_id == host_id, table.used > table.allowed, table.used > table.total)
        .order_by(table.cell, table.resource)
    )
    return tuple(
        Overfull(
            None if row.cell == schema.HOST_CELL else row.cell, row.resource, row.used, max(row.allowed, row.total)
        )
        for row in rows
    )
