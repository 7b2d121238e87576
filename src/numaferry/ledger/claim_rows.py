"""The rows of one claim: inserted together, deleted together, never edited."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import bindparam, delete, select

from numaferry.ledger import schema
from numaferry.ledger.insertion import Batch, Numbered, insert_all
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
    cause: str | Numbered
    cpus: Mapping[int, str]
    amounts: Sequence[Amount]
    #: The devices that it has there, as the claim notes them.
    pci_devices: tuple[PciDevice, ...] = ()
    #: Names of those that are promised to it.
    devices: Sequence[str] = ()
    vifs: tuple[Vif, ...] = ()
    migration_id: int | Numbered | None = None
    #: The instance has its other claim on this very host (a re-pin): what both hold is there already.
    beside: bool = False
    #: Known before the transaction, so that a controller can look its own claim up.
    id: str = attrs.field(factory=lambda: str(uuid.uuid4()))


_RELEASE = delete(schema.claim).where(schema.claim.c.id == bindparam("claim_id"))


def insert_claim(connection: Connection, rows: ClaimRows) -> str:
    """Insert a claim with its CPUs, devices and amounts; the schema refuses what is not there. Returns its id."""
    insert_all(connection, claim_batches(connection, rows))
    return rows.id


def claim_batches(connection: Connection, rows: ClaimRows) -> list[Batch]:
    """Return what a claim is made of, as it is inserted; the instance must be locked where it has another claim."""
    of_instance = {"host_id": rows.host_id, "instance_uuid": rows.instance_uuid}
    of_claim = {**of_instance, "claim_id": rows.id}
    claim = {
        **of_instance,
        "id": rows.id,
        "slot": rows.slot,
        "migration_id": rows.migration_id,
        "numa_topology_json": dumps(rows.numa_topology),
        "pci_devices_json": dumps(rows.pci_devices),
        "vifs_json": dumps(rows.vifs),
        "promise": str(rows.promise),
        "cause": rows.cause,
    }
    cpus = [{"cpu": cpu, "role": role} for cpu, role in sorted(rows.cpus.items())]
    devices = [{"device": device} for device in rows.devices]
    amounts = [
        {"cell": one.cell, "resource": one.resource, "amount": one.amount, "exact": one.exact} for one in rows.amounts
    ]
    return [
        Batch(schema.claim, claim),
        Batch(schema.claim_cpu, of_instance, _not_owned(connection, rows, "cpu", schema.claim_cpu, cpus)),
        Batch(schema.claim_cpu_link, of_claim, [{"cpu": one["cpu"]} for one in cpus]),
        Batch(schema.claim_device, of_instance, _not_owned(connection, rows, "device", schema.claim_device, devices)),
        Batch(schema.claim_device_link, of_claim, devices),
        Batch(schema.claim_amount, of_claim, amounts),
    ]


def _not_owned(
    connection: Connection, rows: ClaimRows, unit: str, table: Table, wanted: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what is wanted but for what the instance owns on the host already, by its other claim there.

    The role of a CPU is that of the first claim that took it. A row of another instance is refused by the key.
    """
    if not rows.beside:
        return wanted
    this = (table.c.host_id == rows.host_id) & (table.c.instance_uuid == rows.instance_uuid)
    owned = set(connection.execute(select(table.c[unit]).where(this)).scalars())
    return [one for one in wanted if one[unit] not in owned]


def release_claim(connection: Connection, claim_id: str) -> None:
    """Delete a claim with everything it holds; no error where it is gone already."""
    connection.execute(_RELEASE, {"claim_id": claim_id})
