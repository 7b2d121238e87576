"""One host with everything on it, read by one statement: what a choice is made from, and what the views show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import JSON, ColumnElement, Join, bindparam, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from numaferry.ledger import schema
from numaferry.ledger.amounts import Amount
from numaferry.ledger.holdings import Holding
from numaferry.ledger.hosts import HostRecord, record_of, unknown_host
from numaferry.ledger.rows import device_of, use_of
from numaferry.ledger.states import host_state_of

if TYPE_CHECKING:
    from types import SimpleNamespace

    from sqlalchemy import Connection, Label, Table
    from sqlalchemy.sql.compiler import SQLCompiler

    from numaferry.ledger.rows import AnyRow
    from numaferry.model import HostState, ObservedUse, PciDevice

_HOST = schema.host.c
_CLAIM, _INSTANCE, _AMOUNT = schema.claim.c, schema.instance.c, schema.claim_amount.c
_LINK, _CPU = schema.claim_cpu_link.c, schema.claim_cpu.c
_DEVICE, _HOLDER, _USE = schema.device.c, schema.claim_device.c, schema.observed_use.c


class _lists(FunctionElement[Any]):  # noqa: N801  (SQL functions are written in lower case)
    """The rows of a query as one JSON list of lists, in no order."""

    type = JSON()
    inherit_cache = True


@compiles(_lists, "sqlite")
def _sqlite_lists(element: _lists, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_array(json_array({compiler.process(element.clauses, **options)}))"


@compiles(_lists, "postgresql")
def _postgresql_lists(element: _lists, compiler: SQLCompiler, **options: Any) -> str:
    return f"coalesce(json_agg(json_build_array({compiler.process(element.clauses, **options)})), '[]')"


def _on_host(name: str, source: Table | Join, host_id: ColumnElement[int], *columns: ColumnElement[Any]) -> Label[Any]:
    """Return the subquery for what stands in `source` for the host of the outer query."""
    rows = select(_lists(*columns)).select_from(source).where(host_id == _HOST.id)
    return rows.correlate(schema.host).scalar_subquery().label(name)


#: All of the host `name`: what `snapshot_of` reads.
SNAPSHOT = select(
    schema.host,
    _on_host(
        "claims",
        schema.claim.join(schema.instance, _INSTANCE.uuid == _CLAIM.instance_uuid),
        _CLAIM.host_id,
        _INSTANCE.name,
        _CLAIM.id,
        _CLAIM.instance_uuid,
        _INSTANCE.current_claim,
        _CLAIM.migration_id,
        _CLAIM.cause,
        _CLAIM.promise,
    ),
    _on_host(
        "cpus",
        schema.claim_cpu_link.join(schema.claim_cpu, (_CPU.host_id == _LINK.host_id) & (_CPU.cpu == _LINK.cpu)),
        _LINK.host_id,
        _LINK.cpu,
        _LINK.claim_id,
        _CPU.role,
    ),
    _on_host(
        "amounts",
        schema.claim_amount.join(schema.claim, _CLAIM.id == _AMOUNT.claim_id),
        _CLAIM.host_id,
        _AMOUNT.cell,
        _AMOUNT.resource,
        _AMOUNT.claim_id,
        _AMOUNT.amount,
        _AMOUNT.exact,
    ),
    _on_host("uses", schema.observed_use, _USE.host_id, _USE.uuid, _USE.use_json),
    _on_host(
        "devices",
        schema.device.outerjoin(
            schema.claim_device, (_HOLDER.host_id == _DEVICE.host_id) & (_HOLDER.device == _DEVICE.device)
        ),
        _DEVICE.host_id,
        _DEVICE.device,
        _DEVICE.device_json,
        _HOLDER.instance_uuid,
    ),
).where(_HOST.name == bindparam("name"))


@attrs.frozen(slots=True)
class HostSnapshot:
    """A host at one generation, and everything on it."""

    record: HostRecord
    #: Every claim, ordered by instance name.
    holdings: tuple[Holding, ...]
    #: What is seen to run there, ordered by UUID.
    observed: tuple[ObservedUse, ...]
    #: Its inventory, ordered by name, and who is promised each.
    inventory: tuple[tuple[PciDevice, str | None], ...]

    @property
    def devices(self) -> tuple[PciDevice, ...]:
        """The inventory, each `used` where it is promised."""
        return self.devices_for(None)

    def devices_for(self, instance: str | None) -> tuple[PciDevice, ...]:
        """Return the inventory, each `used` where it is promised to another than this instance."""
        return tuple(
            attrs.evolve(device, used=True) if holder not in {None, instance} else device
            for device, holder in self.inventory
        )

    def state(self, *, ignore_instance: str | None = None) -> HostState:
        """Return what the fit sees, as if `ignore_instance` were not there."""
        devices = self.devices_for(ignore_instance)
        return host_state_of(
            self.record, self.holdings, self.observed, devices=devices, ignore_instance=ignore_instance
        )


def load_snapshot(connection: Connection, name: str) -> HostSnapshot:
    """Return a host with everything on it, of one moment; raises NotFound."""
    row = connection.execute(SNAPSHOT, {"name": name}).one_or_none()
    if row is None:
        raise unknown_host(connection, name)
    return snapshot_of(row)


def snapshot_of(row: AnyRow | SimpleNamespace) -> HostSnapshot:
    """Build the snapshot of a host from its row."""
    return HostSnapshot(
        record_of(row),
        _holdings(row),
        tuple(use_of(text) for _, text in sorted(row.uses)),
        tuple((attrs.evolve(device_of(text), used=False), holder) for _, text, holder in sorted(row.devices)),
    )


def _holdings(row: AnyRow | SimpleNamespace) -> tuple[Holding, ...]:
    """Return every claim with what it holds, each in order."""
    cpus: dict[str, list[tuple[int, str]]] = {}
    for cpu, claim_id, role in sorted(row.cpus):
        cpus.setdefault(claim_id, []).append((cpu, role))
    amounts: dict[str, list[Amount]] = {}
    for cell, resource, claim_id, amount, exact in sorted(row.amounts):
        amounts.setdefault(claim_id, []).append(Amount(cell, resource, amount, bool(exact)))
    return tuple(
        Holding(
            claim_id=claim_id,
            instance_uuid=instance_uuid,
            instance_name=instance_name,
            current=current_claim == claim_id,
            migration_id=migration_id,
            cause=cause,
            promise=promise,
            cpus=tuple(cpus.get(claim_id, ())),
            amounts=tuple(amounts.get(claim_id, ())),
        )
        for instance_name, claim_id, instance_uuid, current_claim, migration_id, cause, promise in sorted(row.claims)
    )
