"""The rows of one claim: inserted together, deleted together, never edited."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import bindparam, delete, insert, select

from numaferry.ledger import schema
from numaferry.ledger.insertion import insert_rows
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
    #: The instance has its other claim on this very host (a re-pin): what both hold is there already.
    beside: bool = False
    #: Known before the transaction, so that a controller can look its own claim up.
    id: str = attrs.field(factory=lambda: str(uuid.uuid4()))


_CLAIM = insert(schema.claim).values(created_at=schema.epoch_now())
_RELEASE = delete(schema.claim).where(schema.claim.c.id == bindparam("claim_id"))


def insert_claim(connection: Connection, rows: ClaimRows) -> str:
    """Insert a claim with its CPUs, devices and amounts; the schema refuses what is not there. Returns its id."""
    of_instance = {"host_id": rows.host_id, "instance_uuid": rows.instance_uuid}
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
    connection.execute(_CLAIM, claim)
    if rows.cpus:
        cpus = [{**of_instance, "cpu": cpu, "role": role} for cpu, role in sorted(rows.cpus.items())]
        _hold(connection, schema.claim_cpu, cpus, beside=rows.beside)
        links = [{**of_instance, "claim_id": rows.id, "cpu": one["cpu"]} for one in cpus]
        insert_rows(connection, schema.claim_cpu_link, links)
    if rows.devices:
        devices = [{**of_instance, "device": device} for device in rows.devices]
        _hold(connection, schema.claim_device, devices, beside=rows.beside)
        insert_rows(connection, schema.claim_device_link, [{**one, "claim_id": rows.id} for one in devices])
    if rows.amounts:
        taken = [{**of_instance, "claim_id": rows.id, **attrs.asdict(amount)} for amount in rows.amounts]
        insert_rows(connection, schema.claim_amount, taken)
    return rows.id


def _hold(connection: Connection, table: Table, rows: list[dict[str, Any]], *, beside: bool) -> None:
    """Insert what the instance is to own on a host, but for what it owns there already by its other claim.

    The role of a CPU is that of the first claim that took it. A row of another instance is refused by the key.
    """
    if beside:
        unit = next(name for name in ("cpu", "device") if name in table.c)
        this = (table.c.host_id == rows[0]["host_id"]) & (table.c.instance_uuid == rows[0]["instance_uuid"])
        owned = set(connection.execute(select(table.c[unit]).where(this)).scalars())
        rows = [row for row in rows if row[unit] not in owned]
    if rows:
        insert_rows(connection, table, rows)


def release_claim(connection: Connection, claim_id: str) -> None:
    """Delete a claim with everything it holds; no error where it is gone already."""
    connection.execute(_RELEASE, {"claim_id": claim_id})
