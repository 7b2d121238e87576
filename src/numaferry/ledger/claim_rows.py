"""The rows of one claim: inserted together, deleted together, never edited."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import delete, insert, select

from numaferry.ledger import schema
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Table

    from numaferry.ledger.amounts import Amount
    from numaferry.model import InstanceNumaTopology, PciDevice, Promise, Vif


@attrs.frozen(slots=True)
class ClaimRows:
    """All rows of one claim before they are inserted."""

    instance_uuid: str
    host_id: int
    slot: int
    numa_topology: InstanceNumaTopology | None
    promise: Promise
    #: Why, in one sentence.
    cause: str
    cpus: Mapping[int, str]
    amounts: Sequence[Amount]
    #: The devices that it has there, as the claim notes them.
    pci_devices: tuple[PciDevice, ...] = ()
    #: Names of those that are promised to it.
    devices: Sequence[str] = ()
    vifs: tuple[Vif, ...] = ()
    migration_id: int | None = None
    #: Known before the transaction, so that a controller can look its own claim up.
    id: str = attrs.field(factory=lambda: str(uuid.uuid4()))


def insert_claim(connection: Connection, rows: ClaimRows) -> str:
    """Insert a claim with its CPUs, devices and amounts; the schema refuses what is not there. Returns its id."""
    connection.execute(
        insert(schema.claim).values(
            id=rows.id,
            instance_uuid=rows.instance_uuid,
            host_id=rows.host_id,
            slot=rows.slot,
            migration_id=rows.migration_id,
            numa_topology_json=dumps(rows.numa_topology),
            pci_devices_json=dumps(rows.pci_devices),
            vifs_json=dumps(rows.vifs),
            promise=str(rows.promise),
            cause=rows.cause,
            created_at=schema.epoch_now(),
        )
    )
    of_instance = {"host_id": rows.host_id, "instance_uuid": rows.instance_uuid}
    if rows.cpus:
        cpus = [of_instance | {"cpu": cpu, "role": role} for cpu, role in sorted(rows.cpus.items())]
        _hold(connection, schema.claim_cpu, cpus)
        links = [of_instance | {"claim_id": rows.id, "cpu": cpu} for cpu in sorted(rows.cpus)]
        connection.execute(insert(schema.claim_cpu_link), links)
    if rows.devices:
        devices = [of_instance | {"device": device} for device in rows.devices]
        _hold(connection, schema.claim_device, devices)
        connection.execute(insert(schema.claim_device_link), [one | {"claim_id": rows.id} for one in devices])
    if rows.amounts:
        taken = [of_instance | {"claim_id": rows.id} | attrs.asdict(amount) for amount in rows.amounts]
        connection.execute(insert(schema.claim_amount), taken)
    return rows.id


def _hold(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert what the instance is to own on a host, but for what it owns there already by its other claim (a re-pin).

    The role of a CPU is that of the first claim that took it. A row of another instance is refused by the key.
    """
    unit = next(name for name in ("cpu", "device") if name in table.c)
    this = (table.c.host_id == rows[0]["host_id"]) & (table.c.instance_uuid == rows[0]["instance_uuid"])
    owned = set(connection.execute(select(table.c[unit]).where(this)).scalars())
    new = [row for row in rows if row[unit] not in owned]
    if new:
        connection.execute(insert(table), new)


def release_claim(connection: Connection, claim_id: str) -> None:
    """Delete a claim with everything it holds; no error where it is gone already."""
    connection.execute(delete(schema.claim).where(schema.claim.c.id == claim_id))
