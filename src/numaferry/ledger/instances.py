"""Managed guests as the ledger has them: an instance is its row joined with its *current claim*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, func, select, update

from numaferry.errors import Ambiguous, NotFound
from numaferry.ledger import schema
from numaferry.ledger.events import write_event
from numaferry.ledger.rows import instance_of
from numaferry.ledger.store import Store, writes
from numaferry.model import Instance, MigrationContext, PolicyWish
from numaferry.model.codec import dumps, loads

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

    from numaferry.ledger.rows import AnyRow

_INSTANCE, _CLAIM, _HOST, _MOVE = schema.instance.c, schema.claim.c, schema.host.c, schema.migration.c
#: The claim of a move that has not been confirmed yet.
_MOVE_CLAIM = schema.claim.alias("move_claim")

#: Everything of an instance; `context_json` is set while a move claim is held.
SELECTION = (
    select(
        _INSTANCE.uuid,
        _INSTANCE.name,
        _INSTANCE.flavor_json,
        _INSTANCE.request_json,
        _INSTANCE.persistent,
        _INSTANCE.current_claim,
        _CLAIM.slot,
        _CLAIM.host_id,
        _CLAIM.numa_topology_json,
        _CLAIM.pci_devices_json,
        _CLAIM.vifs_json,
        _CLAIM.promise,
        _HOST.name.label("host_name"),
        _MOVE.context_json,
    )
    .join(schema.claim, _CLAIM.id == _INSTANCE.current_claim)
    .join(schema.host, _HOST.id == _CLAIM.host_id)
    .outerjoin(
        _MOVE_CLAIM,
        and_(_MOVE_CLAIM.c.instance_uuid == _INSTANCE.uuid, _MOVE_CLAIM.c.id != _INSTANCE.current_claim),
    )
    .outerjoin(schema.migration, and_(_MOVE.id == _MOVE_CLAIM.c.migration_id, schema.moving()))
    .order_by(_INSTANCE.name, _INSTANCE.uuid)
)
#: One row, which a server would sort all the same.
_BY_UUID = SELECTION.where(_INSTANCE.uuid == bindparam("uuid")).order_by(None)
#: Of what is joined, the migration's context alone may be from before the lock.
_BY_UUID_LOCKED = _BY_UUID.with_for_update(of=schema.instance)
_OTHER = schema.migration.alias("other")
_NUMBER = select(_OTHER.c.id).correlate(schema.instance)
#: With the numbers of the migration of a UUID and of the one in progress.
TO_MOVE = _BY_UUID_LOCKED.add_columns(
    _NUMBER.where(_OTHER.c.uuid == bindparam("migration_uuid")).scalar_subquery().label("made"),
    _NUMBER.where(_OTHER.c.instance_uuid == _INSTANCE.uuid, schema.moving(_OTHER)).scalar_subquery().label("moving"),
)


def instance_from(row: AnyRow) -> Instance:
    """Build an instance from its joined row (`SELECTION`)."""
    return instance_of(row, loads(row.context_json, MigrationContext) if row.context_json else None)


def find_row(connection: Connection, uuid: str) -> AnyRow | None:
    """Return the joined row of this UUID, or None."""
    return connection.execute(_BY_UUID, {"uuid": uuid}).one_or_none()


def load_row(connection: Connection, uuid: str) -> AnyRow:
    """Return the joined row of this UUID; raises NotFound."""
    row = find_row(connection, uuid)
    if row is None:
        raise _unknown(uuid)
    return row


def load_locked_row(connection: Connection, uuid: str) -> AnyRow:
    """Return the joined row of this UUID, which nobody else changes before this transaction ends; raises NotFound."""
    return locked_row(connection, _BY_UUID_LOCKED, {"uuid": uuid})


def locked_row(connection: Connection, query: Select[Any], this: dict[str, str]) -> AnyRow:
    """Return the row of a query that locks the instance `uuid` of `this`; raises NotFound."""
    row = connection.execute(query, this).one_or_none()
    if row is None:
        # its current claim may have become another one before it could be locked; it is locked now
        row = connection.execute(query, this).one_or_none()
    if row is None:
        raise _unknown(this["uuid"])
    return row


def _unknown(uuid: str) -> NotFound:
    return NotFound(f"no instance {uuid} in the ledger", hint="numaferry instance list shows them")


def load_instance(connection: Connection, uuid: str) -> Instance:
    """Return the instance of this UUID; raises NotFound."""
    return instance_from(load_row(connection, uuid))


class InstanceStore(Store):
    """Reading instances."""

    def instances(self, host: str | None = None) -> tuple[Instance, ...]:
        """Return all instances, or those that run on a host by the ledger; ordered by name."""
        query = SELECTION if host is None else SELECTION.where(_HOST.name == host)
        with self._read() as connection:
            return tuple(map(instance_from, connection.execute(query)))

    def instance_by_uuid(self, uuid: str) -> Instance | None:
        """Return the instance of exactly this UUID, or None."""
        with self._read() as connection:
            row = find_row(connection, uuid)
            return instance_from(row) if row is not None else None

    def instance_policy(self, uuid: str) -> PolicyWish:
        """Return what an operator said of a guest's migrations; raises NotFound."""
        with self._read() as connection:
            load_row(connection, uuid)
            text = connection.execute(select(_INSTANCE.policy_json).where(_INSTANCE.uuid == uuid)).scalar_one()
            return loads(text, PolicyWish)

    @writes
    def set_instance_policy(self, connection: Connection, uuid: str, wish: PolicyWish) -> None:
        """Replace what is said of a guest's migrations; raises NotFound."""
        row = load_locked_row(connection, uuid)
        this = update(schema.instance).where(_INSTANCE.uuid == uuid)
        connection.execute(this.values(policy_json=dumps(wish)))
        said = ", ".join(f"{name} = {value}" for name, value in wish.said) or "nothing of its own"
        write_event(connection, "policy", f"migrations of {row.name}: {said}", instance_uuid=uuid)

    def instance(self, ref: str) -> Instance:
        """Return the instance of this UUID, name, or beginning of a UUID, tried in this order.

        Raises NotFound, or Ambiguous that lists the UUIDs which the reference fits.
        """
        if not ref:
            raise NotFound("an empty name is no instance", hint="numaferry instance list shows them")
        lower = ref.lower()
        begins: Select[Any] = SELECTION.where(func.substr(_INSTANCE.uuid, 1, len(lower)) == lower)
        with self._read() as connection:
            for query in (SELECTION.where(_INSTANCE.uuid == lower), SELECTION.where(_INSTANCE.name == ref), begins):
                rows = connection.execute(query).all()
                if len(rows) > 1:
                    found = ", ".join(f"{row.uuid} ({row.name} on {row.host_name})" for row in rows)
                    raise Ambiguous(f"{ref!r} fits {len(rows)} instances: {found}", hint="use the whole UUID")
                if rows:
                    return instance_from(rows[0])
        raise NotFound(f"no instance {ref!r} in the ledger", hint="numaferry instance list shows them; adopt it first")
