"""The end of a move in the ledger: the flip, and the release of what was claimed for a move that is given up.

Each is one transaction and may be run twice, since a controller that comes back after a crash runs it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from numaferry.errors import Conflict
from numaferry.ledger import schema
from numaferry.ledger.claim_rows import release_claim
from numaferry.ledger.events import write_migration_event
from numaferry.ledger.migrations import find_migration, load_locked, load_migration, refuse_stale
from numaferry.ledger.observations import forget_observed
from numaferry.ledger.store import Store, lock, writes
from numaferry.model import Migration, MigrationStatus

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.ledger.rows import AnyRow

#: Statuses of a migration that ended without a flip.
GIVEN_UP = frozenset({MigrationStatus.FAILED, MigrationStatus.CANCELLED})


class FlipStore(Store):
    """Confirming and giving up moves."""

    @writes
    def confirm_migration(
        self,
        connection: Connection,
        migration_id: int | str,
        *,
        status: MigrationStatus | None = None,
        token: int | None = None,
    ) -> Migration:
        """Flip: the move claim becomes current and the source's claim is released, in one transaction.

        Host, topology, devices and links of the instance are then those of the destination; the context stays in the
        migration's row. The status is left alone unless `status` is given. May be run twice. Raises NotFound, TakenOver
        where `token` is no longer the migration's, Conflict where the move claim was dropped already.
        """
        migration = _locked(connection, load_migration(connection, migration_id))
        refuse_stale(migration, token)
        moved, current = _claims_of(connection, migration)
        if moved is None or current is None:
            if migration.status == MigrationStatus.COMPLETED:
                return migration
            raise Conflict(
                f"migration {migration.id} is {migration.status} and holds no claim on {migration.dest}",
                hint=f"numaferry migration show {migration.id}",
            )
        if moved.id != current.id:
            release_claim(connection, current.id)
            connection.execute(
                update(schema.instance)
                .where(schema.instance.c.uuid == migration.instance_uuid)
                .values(current_claim=moved.id)
            )
            if moved.host_id != current.host_id:
                forget_observed(connection, current.host_id, migration.instance_uuid)
            old = "old claim" if moved.host_id == current.host_id else f"claim on {migration.source}"
            sentence = f"{current.name} runs on {migration.dest}: its {old} is released"
            write_migration_event(connection, migration, "confirmed", sentence)
        if status is not None and status != migration.status:
            _end(connection, migration, status, "")
        return load_migration(connection, migration.id)

    @writes
    def drop_move_claim(
        self,
        connection: Connection,
        migration_id: int | str,
        status: MigrationStatus,
        reason: str,
        *,
        token: int | None = None,
    ) -> Migration | None:
        """Release the destination's claim of a move that is given up, and end it as `failed` or `cancelled`.

        May be run twice, and for a migration that never came to be (then the answer is None). Raises TakenOver where
        `token` is no longer the migration's, Conflict once the move was confirmed: the guest runs on the destination,
        and its claim there is the one that counts.
        """
        if status not in GIVEN_UP:
            raise Conflict(
                f"a move claim is dropped for a migration that ends as failed or cancelled, not as {status}",
                hint="an error keeps both claims until a person has decided",
            )
        found = find_migration(connection, migration_id)
        if found is None:
            return None
        migration = _locked(connection, found)
        refuse_stale(migration, token)
        if migration.status in GIVEN_UP:
            return migration
        moved, current = _claims_of(connection, migration)
        if migration.status == MigrationStatus.COMPLETED or (moved and current and moved.id == current.id):
            raise Conflict(
                f"migration {migration.id} was confirmed: the guest runs on {migration.dest}",
                hint="to have it back on the source, migrate it there",
            )
        if moved is not None:
            release_claim(connection, moved.id)
            sentence = f"the claim on {migration.dest} is released: {reason}"
            write_migration_event(connection, migration, "move-claim-dropped", sentence)
        _end(connection, migration, status, reason)
        return load_migration(connection, migration.id)


def _locked(connection: Connection, migration: Migration) -> Migration:
    """Return the migration; neither it nor its instance is changed by another before this transaction ends."""
    lock(connection, schema.instance, schema.instance.c.uuid == migration.instance_uuid)
    return load_locked(connection, migration.id)


def _claims_of(connection: Connection, migration: Migration) -> tuple[AnyRow | None, AnyRow | None]:
    """Return the claim made for this migration, None if it is gone, and the instance's current claim, None likewise."""
    claim = schema.claim.c
    query = select(claim.id, claim.host_id, schema.instance.c.name).join(
        schema.instance, schema.instance.c.uuid == claim.instance_uuid
    )
    moved = connection.execute(query.where(claim.migration_id == migration.id)).one_or_none()
    current = connection.execute(
        query.where(schema.instance.c.uuid == migration.instance_uuid, schema.instance.c.current_claim == claim.id)
    ).one_or_none()
    return moved, current


def _end(connection: Connection, migration: Migration, status: MigrationStatus, reason: str) -> None:
    """Write a migration's last status and its event."""
    values: dict[str, Any] = {"status": str(status), "updated_at": schema.epoch_now(), "lease_until": 0.0}
    if reason:
        values["reason"] = reason
    connection.execute(update(schema.migration).where(schema.migration.c.id == migration.id).values(values))
    because = f": {reason}" if reason else ""
    sentence = f"migration {migration.id} is {status}{because}"
    write_migration_event(connection, migration, "migration", sentence)
