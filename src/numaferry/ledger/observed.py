"""What is seen to run on a host: reality beside the promises, replaced as a whole, blocking nothing but new claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from numaferry.ledger import schema
from numaferry.ledger.engine import Store
from numaferry.ledger.hosts import load_host
from numaferry.ledger.rows import use_of
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from numaferry.ledger.hosts import HostRecord
    from numaferry.model import ObservedUse


def load_observed(connection: Connection, host_id: int) -> tuple[ObservedUse, ...]:
    """Return what is seen to run on a host, ordered by UUID."""
    table = schema.observed_use.c
    texts = connection.execute(select(table.use_json).where(table.host_id == host_id).order_by(table.uuid)).scalars()
    return tuple(use_of(text) for text in texts)


def forget_observed(connection: Connection, host_id: int, uuid: str) -> None:
    """Remove the observation of one domain: it is known to have left the host."""
    table = schema.observed_use.c
    connection.execute(delete(schema.observed_use).where(table.host_id == host_id, table.uuid == uuid))


class ObservedStore(Store):
    """Observations in the ledger."""

    def set_observed(self, name: str, uses: Iterable[ObservedUse]) -> HostRecord:
        """Replace what is seen to run on a host; the generation grows where it differs from what was known."""
        wanted = tuple(sorted(uses, key=lambda use: use.uuid))
        with self._write() as connection:
            record = load_host(connection, name)
            values: dict[str, Any] = {"observed_at": schema.epoch_now()}
            if load_observed(connection, record.id) != wanted:
                values["generation"] = schema.host.c.generation + 1
                _replace_observed(connection, record.id, wanted)
            connection.execute(update(schema.host).where(schema.host.c.id == record.id).values(values))
            return load_host(connection, name)

    def observed(self, name: str) -> tuple[ObservedUse, ...]:
        """Return what is seen to run on a host."""
        with self._read() as connection:
            return load_observed(connection, load_host(connection, name).id)


def _replace_observed(connection: Connection, host_id: int, uses: tuple[ObservedUse, ...]) -> None:
    """Write observations and their CPUs anew."""
    connection.execute(delete(schema.observed_use).where(schema.observed_use.c.host_id == host_id))
    if not uses:
        return
    connection.execute(
        insert(schema.observed_use), [{"host_id": host_id, "uuid": use.uuid, "use_json": dumps(use)} for use in uses]
    )
    cpus = [{"host_id": host_id, "cpu": cpu, "uuid": use.uuid} for use in uses for cpu in use.pinned_cpus]
    if cpus:
        connection.execute(insert(schema.observed_cpu), cpus)
