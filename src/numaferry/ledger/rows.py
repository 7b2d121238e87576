"""Database rows to model values and back: the only place that knows both a column and a field."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from numaferry.model import (
    Flavor,
    HostConfig,
    HostFacts,
    Instance,
    InstanceNumaTopology,
    Migration,
    MigrationContext,
    MigrationPolicy,
    MigrationStatus,
    MigrationType,
    NumaRequest,
    ObservedUse,
    PciDevice,
    Promise,
    Vif,
)
from numaferry.model.codec import loads

if TYPE_CHECKING:
    from typing import TypeAlias

    from sqlalchemy import Row

    #: A row of any columns.
    AnyRow: TypeAlias = Row[*tuple[Any, ...]]

_TOPOLOGY: Any = InstanceNumaTopology | None
_DEVICES: Any = tuple[PciDevice, ...]
_VIFS: Any = tuple[Vif, ...]
_MEMO: Any = tuple[tuple[str, str], ...]


@lru_cache(maxsize=4096)
def facts_of(text: str) -> HostFacts:
    """Read stored facts; kept, since they are immutable and every claim reads them again."""
    return loads(text, HostFacts)


@lru_cache(maxsize=4096)
def config_of(text: str) -> HostConfig:
    """Read a stored host configuration; kept likewise."""
    return loads(text, HostConfig)


@lru_cache(maxsize=16384)
def use_of(text: str) -> ObservedUse:
    """Read a stored observation; kept likewise."""
    return loads(text, ObservedUse)


@lru_cache(maxsize=16384)
def device_of(text: str) -> PciDevice:
    """Read a stored device; kept likewise."""
    return loads(text, PciDevice)


@lru_cache(maxsize=256)
def policy_of_row(text: str) -> MigrationPolicy:
    """Read a stored policy; kept likewise."""
    return loads(text, MigrationPolicy)


@lru_cache(maxsize=16384)
def _read(text: str, what: Any) -> Any:
    """Read what is stored of a guest or of its move; kept likewise."""
    return loads(text, what)


def topology_of(text: str) -> InstanceNumaTopology | None:
    """Read the topology of a claim; None for a floating guest."""
    topology: InstanceNumaTopology | None = _read(text, _TOPOLOGY)
    return topology


def instance_of(row: AnyRow, context: MigrationContext | None) -> Instance:
    """Build an instance from its row joined with its current claim and that claim's host (`instances.SELECTION`)."""
    return Instance(
        uuid=row.uuid,
        name=row.name,
        host=row.host_name,
        flavor=_read(row.flavor_json, Flavor),
        request=_read(row.request_json, NumaRequest),
        numa_topology=topology_of(row.numa_topology_json),
        pci_devices=_read(row.pci_devices_json, _DEVICES),
        vifs=_read(row.vifs_json, _VIFS),
        promise=Promise(row.promise),
        persistent=row.persistent,
        migration_context=context,
    )


def migration_of(row: AnyRow, context: MigrationContext | None = None) -> Migration:
    """Build a migration from its row; `context` is what the row has of it, where it is known already."""
    return Migration(
        id=row.id,
        uuid=row.uuid,
        instance_uuid=row.instance_uuid,
        source=row.source,
        dest=row.dest,
        status=MigrationStatus(row.status),
        step=row.step,
        reason=row.reason,
        context=context or _read(row.context_json, MigrationContext),
        created_at=row.created_at,
        updated_at=row.updated_at,
        controller=row.controller,
        abort_requested=row.abort_requested,
        policy=policy_of_row(row.policy_json),
        force_complete=row.force_complete,
        source_memo=_read(row.source_memo_json, _MEMO),
        migration_type=MigrationType(row.migration_type),
        token=row.token,
        lease_until=row.lease_until,
        priority=row.priority,
    )
