"""What is seen to run on a host: reality beside the promises, replaced as a whole, blocking nothing but new claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from numaferry.ledger import schema
from numaferry.ledger.events import write_event
from numaferry.ledger.hosts import REACHABLE, UNREACHABLE, load_host, load_locked_host
from numaferry.ledger.observations import replace_observed
from numaferry.ledger.snapshot import load_snapshot
from numaferry.ledger.store import Store, lock, writes
from numaferry.model import IN_PROGRESS

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from numaferry.ledger.hosts import HostRecord
    from numaferry.ledger.rows import AnyRow
    from numaferry.model import ObservedUse

_INSTANCE, _MOVE, _USE = schema.instance.c, schema.migration.c, schema.observed_use.c


class ObservedStore(Store):
    """Observations in the ledger."""

    @writes
    def set_observed(
        self, connection: Connection, name: str, uses: Collection[ObservedUse], looked_at: float | None = None
    ) -> HostRecord:
        """Replace what is seen to run on a host; the generation grows where it differs from what was known.

        A host that was unreachable, or closed since it was booted, is open again: now it is known what runs there.
        `looked_at` is when the look began, by the database's clock: one that is older than what is known says nothing,
        nor does one at another machine than the accepted one.
        """
        wanted = tuple(sorted(uses, key=lambda use: use.uuid))
        record = load_locked_host(connection, name)
        if not record.is_itself or record.is_newer_than(looked_at):
            return record
        values: dict[str, Any] = {"observed_at": schema.epoch_now() if looked_at is None else looked_at}
        if load_snapshot(connection, name).observed != wanted:
            values["generation"] = schema.host.c.generation + 1
            replace_observed(connection, record.id, wanted)
        if record.state == UNREACHABLE:
            values |= {"state": REACHABLE, "state_reason": "", "generation": schema.host.c.generation + 1}
            write_event(connection, "host-state", f"host {name} is {REACHABLE}: looked at again", host=name)
        connection.execute(update(schema.host).where(schema.host.c.id == record.id).values(values))
        return load_host(connection, name)

    @writes
    def note_present(
        self,
        connection: Connection,
        name: str,
        present: Collection[str],
        grace_s: float,
        looked_at: float | None = None,
    ) -> tuple[str, ...]:
        """Note which domains (UUIDs, running or only defined) a look at a host found; return who was released.

        A transient guest that is gone is released once it has been missing for `grace_s` by the database's clock; one
        that is being moved, or is seen on another host, never. A persistent guest keeps its claim, whatever was found:
        that it was undefined is a finding. Only what was looked at counts, so a silent host releases nothing, nor does
        another machine that answers in its place, nor a look that is older than what is known.
        """
        record = load_host(connection, name)
        if not record.is_itself or record.is_newer_than(looked_at):
            return ()
        claims = select(schema.claim.c.id).where(schema.claim.c.host_id == record.id)
        transient = _INSTANCE.persistent.is_(False) & _INSTANCE.current_claim.in_(claims)
        # a move of one of them is either seen below, or waits and then finds it gone
        lock(connection, schema.instance, transient)
        now: float = connection.execute(select(schema.epoch_now())).scalar_one()
        back = update(schema.instance).where(_INSTANCE.uuid.in_(sorted(present)), _INSTANCE.gone_since.is_not(None))
        connection.execute(back.values(gone_since=None))
        moving = select(_MOVE.instance_uuid).where(_MOVE.status.in_(sorted(IN_PROGRESS)))
        elsewhere = select(_USE.uuid).where(_USE.host_id != record.id)
        absent = select(_INSTANCE.uuid, _INSTANCE.name, _INSTANCE.gone_since).where(
            transient, _INSTANCE.uuid.not_in(moving), _INSTANCE.uuid.not_in(elsewhere)
        )
        missing = [row for row in connection.execute(absent.order_by(_INSTANCE.uuid)).all() if row.uuid not in present]
        return tuple(row.name for row in missing if _released(connection, row, name, now, grace_s))

    def observed(self, name: str) -> tuple[ObservedUse, ...]:
        """Return what is seen to run on a host."""
        with self._read() as connection:
            return load_snapshot(connection, name).observed


def _released(connection: Connection, row: AnyRow, host: str, now: float, grace_s: float) -> bool:
    """Release a transient guest that has been missing for long enough, or note since when it is; tell which."""
    if row.gone_since is None:
        gone = update(schema.instance).where(_INSTANCE.uuid == row.uuid)
        connection.execute(gone.values(gone_since=now))
        sentence = f"{row.name}, a transient guest, is gone from {host}: released in {grace_s:.0f} s if it stays so"
        write_event(connection, "guest-gone", sentence, host=host, instance_uuid=row.uuid)
        return False
    if now - row.gone_since < grace_s:
        return False
    connection.execute(delete(schema.instance).where(_INSTANCE.uuid == row.uuid))
    sentence = f"{row.name} has been gone from {host} for {now - row.gone_since:.0f} s: what it held is free"
    write_event(connection, "forgotten", sentence, host=host, instance_uuid=row.uuid)
    return True
