"""The rows of what is seen to run on a host: replaced, forgotten within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert

from numaferry.ledger import schema
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from numaferry.model import ObservedUse


def forget_observed(connection: Connection, host_id: int, uuid: str) -> None:
    """Remove the observation of one domain: it is known to have left the host."""
    table = schema.observed_use.c
    connection.execute(delete(schema.observed_use).where(table.host_id == host_id, table.uuid == uuid))


def replace_observed(connection: Connection, host_id: int, seen: Iterable[ObservedUse]) -> None:
    """Write what is seen to run on a host, and its CPUs, anew."""
    uses = tuple(seen)
    connection.execute(delete(schema.observed_use).where(schema.observed_use.c.host_id == host_id))
    if not uses:
        return
    connection.execute(
        insert(schema.observed_use), [{"host_id": host_id, "uuid": use.uuid, "use_json": dumps(use)} for use in uses]
    )
    cpus = [{"host_id": host_id, "cpu": cpu, "uuid": use.uuid} for use in uses for cpu in use.pinned_cpus]
    if cpus:
        connection.execute(insert(schema.observed_cpu), cpus)
