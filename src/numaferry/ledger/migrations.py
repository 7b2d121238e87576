"""Migration rows: created by the claim, moved from status to status by compare-and-swap, kept as history."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import bindparam, select, update

from numaferry.errors import Ambiguous, Conflict, InvalidInput, NotFound, TakenOver
from numaferry.ledger import schema
from numaferry.ledger.events import write_migration_event, written
from numaferry.ledger.rows import migration_of
from numaferry.ledger.store import Store, lock, writes
from numaferry.model import IN_PROGRESS, Migration, MigrationStatus
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

_TABLE = schema.migration.c
#: A number of as many digits is no migration's: the column has 32 bits.
LONGEST_ID = 10


@attrs.frozen(slots=True)
class _Change:
    """What is to be written into a migration's row, and under which conditions."""

    values: dict[str, Any]
    sentence: str
    status: MigrationStatus | None
    expected_status: MigrationStatus | Collection[MigrationStatus] | None
    token: int | None
    key: str


_BY_ID = select(schema.migration).where(_TABLE.id == bindparam("id"))
_BY_UUID = select(schema.migration).where(_TABLE.uuid == bindparam("uuid"))
_MOVING = select(schema.migration).where(_TABLE.instance_uuid == bindparam("instance_uuid"), schema.moving())


def find_migration(connection: Connection, ref: int | str) -> Migration | None:
    """Return the migration of this id, UUID or beginning of a UUID, or None; raises Ambiguous."""
    text = str(ref)
    if text.isdecimal() and len(text) < LONGEST_ID:
        row = connection.execute(_BY_ID, {"id": int(text)}).one_or_none()
        if row is not None or isinstance(ref, int):
            return migration_of(row) if row is not None else None
    if isinstance(ref, int):
        return None
    if (row := connection.execute(_BY_UUID, {"uuid": text}).one_or_none()) is not None:
        return migration_of(row)
    rows = connection.execute(select(schema.migration).where(_TABLE.uuid.startswith(text, autoescape=True))).all()
    if len(rows) > 1:
        found = ", ".join(f"{row.id} ({row.uuid})" for row in rows)
        raise Ambiguous(f"{ref!r} fits {len(rows)} migrations: {found}", hint="use the number or the whole UUID")
    return migration_of(rows[0]) if rows and text else None


def load_migration(connection: Connection, ref: int | str) -> Migration:
    """Return a migration; raises NotFound."""
    migration = find_migration(connection, ref)
    if migration is None:
        raise NotFound(f"no migration {ref!r} in the ledger", hint="numaferry migration list shows them")
    return migration


def load_locked(connection: Connection, ref: int | str) -> Migration:
    """Return a migration that nobody else changes before this transaction ends; raises NotFound."""
    found = load_migration(connection, ref)
    lock(connection, schema.migration, _TABLE.id == found.id)
    return load_migration(connection, found.id)


def holder(migration: Migration) -> str:
    """Return who drives a migration, in words."""
    return migration.controller or "nobody"


def refuse_stale(migration: Migration, token: int | None) -> None:
    """Raise TakenOver where a migration was taken by another since `token` was given; None asks nothing."""
    if token is not None and migration.token != token:
        raise TakenOver(
            f"migration {migration.id} is driven by {holder(migration)} now (token {migration.token}, not {token})",
            hint=f"watch it: numaferry migration watch {migration.id}",
        )


def refuse_in_progress(connection: Connection, instance_uuid: str, name: str) -> None:
    """Raise Conflict while the instance is being moved."""
    row = connection.execute(_MOVING, {"instance_uuid": instance_uuid}).first()
    if row is not None:
        raise being_moved(migration_of(row), name)


def being_moved(migration: Migration, name: str) -> Conflict:
    """Return the error for a guest of this name that can't be touched while this migration is in progress."""
    return Conflict(
        f"{name} is being moved to {migration.dest} by migration {migration.id} ({migration.status})",
        hint=f"wait for it, or: numaferry migration abort {migration.id}",
    )


class MigrationStore(Store):
    """Migrations in the ledger."""

    def migrations(
        self, instance: str | None = None, status: MigrationStatus | Collection[MigrationStatus] | None = None
    ) -> tuple[Migration, ...]:
        """Return migrations of an instance (UUID) or of one or several statuses, the oldest first."""
        query = select(schema.migration).order_by(_TABLE.id)
        if instance is not None:
            query = query.where(_TABLE.instance_uuid == instance)
        if status is not None:
            wanted = [status] if isinstance(status, MigrationStatus) else list(status)
            query = query.where(_TABLE.status.in_([str(one) for one in wanted]))
        with self._read() as connection:
            return tuple(map(migration_of, connection.execute(query)))

    def migration(self, ref: int | str) -> Migration:
        """Return the migration of this id, UUID or beginning of a UUID; raises NotFound, Ambiguous."""
        with self._read() as connection:
            return load_migration(connection, ref)

    def set_migration(
        self,
        migration_id: int | str,
        *,
        sentence: str,
        status: MigrationStatus | None = None,
        step: str | None = None,
        reason: str | None = None,
        source_memo: tuple[tuple[str, str], ...] | None = None,
        expected_status: MigrationStatus | Collection[MigrationStatus] | None = None,
        token: int | None = None,
        ttl_s: float | None = None,
    ) -> Migration:
        """Write what is given, and an event with the sentence, if status and token are still those expected.

        With `ttl_s` the lease lasts for so long from now. Which transitions are legal is `numaferry.migration.states`'
        table; the ledger keeps one rule of its own: a migration does not end while its move claim is held (confirm or
        drop it). Raises TakenOver where another controller has it, Conflict, NotFound.
        """
        if not sentence:
            raise InvalidInput("a transition without a sentence", hint="say what happened, for who reads the events")
        given = {"status": status, "step": step, "reason": reason}
        values: dict[str, Any] = {name: str(value) for name, value in given.items() if value is not None}
        if source_memo is not None:
            values["source_memo_json"] = dumps(source_memo)
        if ttl_s is not None:
            values["lease_until"] = schema.epoch_now() + ttl_s
        change = _Change(values, sentence, status, expected_status, token, uuid.uuid4().hex)
        return self._set_migration(migration_id, change)

    @writes
    def _set_migration(self, connection: Connection, migration_id: int | str, change: _Change) -> Migration:
        """Swap a migration's row; once per key."""
        old = load_locked(connection, migration_id)
        if written(connection, change.key):
            return old
        refuse_stale(old, change.token)
        _expect(old, change.expected_status)
        if change.status is not None and change.status not in IN_PROGRESS:
            _refuse_leak(connection, old, change.status)
        values = {**change.values, "updated_at": schema.epoch_now()}
        connection.execute(update(schema.migration).where(_TABLE.id == old.id).values(values))
        write_migration_event(connection, old, "migration", change.sentence, key=change.key)
        return load_migration(connection, old.id)

    @writes
    def request_abort(self, connection: Connection, migration_id: int | str) -> Migration:
        """Note that a person wants a migration given up; its driver reads it. Raises NotFound, Conflict once ended."""
        old = load_locked(connection, migration_id)
        if not old.in_progress:
            raise Conflict(f"migration {old.id} is {old.status}: there is nothing to abort")
        if not old.abort_requested:
            connection.execute(
                update(schema.migration)
                .where(_TABLE.id == old.id)
                .values(abort_requested=True, updated_at=schema.epoch_now())
            )
            sentence = f"abort of migration {old.id} requested"
            write_migration_event(connection, old, "abort-requested", sentence)
        return load_migration(connection, old.id)

    @writes
    def request_force_complete(self, connection: Connection, migration_id: int | str, how: str) -> Migration:
        """Note that a person wants a running migration's end forced, by "post-copy" or "pause"; its driver reads it.

        Raises NotFound, Conflict where no job runs.
        """
        old = load_locked(connection, migration_id)
        if old.status is not MigrationStatus.RUNNING:
            raise Conflict(
                f"migration {old.id} is {old.status}: only a running one can be forced to its end",
                hint=f"numaferry migration show {old.id}",
            )
        if old.force_complete != how:
            values = {"force_complete": how, "updated_at": schema.epoch_now()}
            connection.execute(update(schema.migration).where(_TABLE.id == old.id).values(values))
            sentence = f"the end of migration {old.id} is to be forced by {how}"
            write_migration_event(connection, old, "force-complete-requested", sentence)
        return load_migration(connection, old.id)


def _expect(old: Migration, expected: MigrationStatus | Collection[MigrationStatus] | None) -> None:
    """Raise Conflict where a migration is not in the status that the caller goes by."""
    if expected is None:
        return
    wanted = {expected} if isinstance(expected, MigrationStatus) else set(expected)
    if old.status not in wanted:
        raise Conflict(
            f"migration {old.id} is {old.status}, not {' or '.join(sorted(wanted))}",
            hint="somebody else moved it on: look again with numaferry migration show",
        )


def _refuse_leak(connection: Connection, old: Migration, status: MigrationStatus) -> None:
    """Raise Conflict where a migration would end with its move claim held: nobody would ever release it."""
    claim, instance = schema.claim.c, schema.instance.c
    held = connection.execute(
        select(claim.id)
        .join(schema.instance, instance.uuid == claim.instance_uuid)
        .where(claim.migration_id == old.id, instance.current_claim != claim.id)
    ).first()
    if held is not None:
        raise Conflict(
            f"migration {old.id} can't be {status} while it holds its claim on {old.dest}",
            hint="confirm_migration or drop_move_claim first",
        )
