"""Devices: an inventory per host, and exact claims on it, which the schema keeps like those on CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from sqlalchemy import delete, insert, update

from numaferry.ledger import schema
from numaferry.ledger.events import write_event
from numaferry.ledger.hosts import load_locked_host
from numaferry.ledger.names import device_name
from numaferry.ledger.snapshot import load_snapshot
from numaferry.ledger.store import Store, writes
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from numaferry.model import HostState, PciDevice, Placement


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
        known = {device_name(device): device for device, _ in load_snapshot(connection, host).inventory}
        if wanted == known:
            return
        connection.execute(delete(schema.device).where(this))
        if wanted:
            rows = [
                {"host_id": record.id, "device": name, "device_json": dumps(device)} for name, device in wanted.items()
            ]
            connection.execute(insert(schema.device), rows)
        grown = update(schema.host).where(schema.host.c.id == record.id)
        connection.execute(grown.values(generation=schema.host.c.generation + 1))
        new, gone = len(wanted.keys() - known.keys()), len(known.keys() - wanted.keys())
        sentence = f"{host} has {len(wanted)} devices now: {new} new, {gone} gone"
        write_event(connection, "devices", sentence, host=host)

    def devices(self, host: str) -> tuple[PciDevice, ...]:
        """Return a host's inventory, each with whether it is promised; raises NotFound."""
        with self._read() as connection:
            return load_snapshot(connection, host).devices
