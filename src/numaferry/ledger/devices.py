"""Devices: an inventory per host, and exact claims on it, which the schema keeps like those on CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from sqlalchemy import delete, insert, select, update

from numaferry.ledger import schema
from numaferry.ledger.hosts import load_host, load_locked_host
from numaferry.ledger.names import device_name
from numaferry.ledger.rows import device_of
from numaferry.ledger.store import Store, writes
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from numaferry.model import HostState, PciDevice, Placement


def load_devices(connection: Connection, host_id: int, *, ignore_instance: str | None = None) -> tuple[PciDevice, ...]:
    """Return a host's inventory, ordered by address; `used` where another instance than the ignored one has it."""
    table, claimed = schema.device.c, schema.claim_device.c
    holder = (claimed.host_id == table.host_id) & (claimed.device == table.device)
    rows = connection.execute(
        select(table.device_json, claimed.instance_uuid)
        .outerjoin(schema.claim_device, holder)
        .where(table.host_id == host_id)
        .order_by(table.device)
    )
    return tuple(
        attrs.evolve(device_of(row.device_json), used=row.instance_uuid not in {None, ignore_instance}) for row in rows
    )


def chosen_devices(state: HostState, placement: Placement) -> tuple[PciDevice, ...]:
    """Return the devices that a placement takes."""
    known = {device.address: device for device in state.pci}
    return tuple(known[address] for address in placement.pci)


class DeviceStore(Store):
    """Devices in the ledger."""

    @writes
    def set_devices(self, connection: Connection, host: str, devices: Collection[PciDevice]) -> None:
        """Replace a host's inventory; raises NotFound.

        A device that is gone while it is promised stays promised: it can't be given to another if it comes back.
        """
        record = load_locked_host(connection, host)
        wanted = {device_name(device): attrs.evolve(device, used=False) for device in devices}
        this = schema.device.c.host_id == record.id
        if wanted == {device_name(one): attrs.evolve(one, used=False) for one in load_devices(connection, record.id)}:
            return
        connection.execute(delete(schema.device).where(this))
        if wanted:
            rows = [
                {"host_id": record.id, "device": name, "device_json": dumps(device)} for name, device in wanted.items()
            ]
            connection.execute(insert(schema.device), rows)
        grown = update(schema.host).where(schema.host.c.id == record.id)
        connection.execute(grown.values(generation=schema.host.c.generation + 1))

    def devices(self, host: str) -> tuple[PciDevice, ...]:
        """Return a host's inventory, each with whether it is promised; raises NotFound."""
        with self._read() as connection:
            return load_devices(connection, load_host(connection, host).id)
