"""Leases: one controller drives a migration, for as long as it renews its lease by the database's clock.

Each taking raises the migration's *token*, and every commit of a controller names the token that it was given: one that
was taken over can write nothing more. libvirt can't check a token, so a controller also keeps a deadline of its own
(`numaferry.migration.lease`), and whoever takes over by time waits for the longest call to a host beyond the lease.

A controller whose process is known to be dead needs no such wait: it makes no further call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, update

from numaferry.errors import Conflict, LeaseHeld, TakenOver
from numaferry.ledger import schema
from numaferry.ledger.events import write_migration_event, written
from numaferry.ledger.migrations import holder, load_locked, load_migration, refuse_stale
from numaferry.ledger.store import Store, writes

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.model import Migration

_TABLE = schema.migration.c


def lease_values(ttl_s: float) -> dict[str, Any]:
    """Return the values that make a lease last for `ttl_s` from now."""
    return {"lease_until": schema.epoch_now() + ttl_s}


class LeaseStore(Store):
    """Leases in the ledger."""

    @writes
    def take_lease(
        self,
        connection: Connection,
        migration_id: int,
        controller: str,
        ttl_s: float,
        *,
        grace_s: float,
        gone: str | None = None,
        key: str,
    ) -> Migration:
        """Take the lease of a migration in progress, and return it with its new token.

        Free is one that nobody holds, that `gone` holds (a controller known to be dead; "" for nobody), or that ran out
        `grace_s` ago; one that `controller` itself held and did not let go of is no exception, since a call of its own
        may be under way. `key` tells a repeated call from a second one. Raises LeaseHeld with the seconds that are
        left, TakenOver where another than `gone` holds it by now, Conflict once ended.
        """
        old = load_locked(connection, migration_id)
        if written(connection, key):
            if old.controller != controller:
                raise self._held(connection, old, grace_s, gone)
            return old
        this = _TABLE.id == migration_id
        if not old.in_progress:
            raise Conflict(f"migration {old.id} is {old.status}: there is nothing to drive")
        known = ["", *([gone] if gone else [])]
        free = or_(_TABLE.controller.in_(known), _TABLE.lease_until + grace_s <= schema.epoch_now())
        values = {
            "controller": controller,
            "token": _TABLE.token + 1,
            "updated_at": schema.epoch_now(),
            **lease_values(ttl_s),
        }
        if connection.execute(update(schema.migration).where(this, free).values(values)).rowcount != 1:
            raise self._held(connection, old, grace_s, gone)
        new = load_migration(connection, migration_id)
        before = f" from {old.controller}" if old.controller not in {"", controller} else ""
        sentence = f"{controller} takes over{before} (token {new.token})"
        write_migration_event(connection, new, "lease", sentence, key=key)
        return new

    def _held(self, connection: Connection, old: Migration, grace_s: float, gone: str | None) -> Conflict:
        """Return why a lease can't be taken."""
        if gone is not None:
            return TakenOver(
                f"migration {old.id} is driven by {holder(old)} now", hint=f"numaferry migration show {old.id}"
            )
        now = connection.execute(schema.epoch_now().select()).scalar_one()
        left_s = max(0.0, old.lease_until + grace_s - now)
        return LeaseHeld(
            f"migration {old.id} may still be driven by {holder(old)}: its lease and its longest call end in"
            f" {left_s:.0f} s",
            hint=f"try again then; what it does: numaferry migration show {old.id}",
        )

    @writes
    def renew_lease(
        self, connection: Connection, migration_id: int, token: int, ttl_s: float, *, moving: bool = False
    ) -> None:
        """Make a lease last for `ttl_s` from now; raises TakenOver where another holds it.

        With `moving` one of a migration that has ended is not renewed either (Conflict): its claim may be free.

        One that ran out and that nobody took is renewed: who would take it has waited for longer.
        """
        this = (_TABLE.id == migration_id) & (_TABLE.token == token)
        if connection.execute(update(schema.migration).where(this).values(lease_values(ttl_s))).rowcount != 1:
            refuse_stale(load_migration(connection, migration_id), token)
        if moving and not (now := load_migration(connection, migration_id)).in_progress:
            raise Conflict(f"migration {migration_id} is {now.status}: nothing is changed for it any more")

    @writes
    def drop_lease(self, connection: Connection, migration_id: int, token: int, sentence: str) -> None:
        """Let go of a migration before its end: the next controller takes it at once. Nothing if it is not held.

        The token grows, so that a thread of the one that let go can write nothing more.
        """
        this = (_TABLE.id == migration_id) & (_TABLE.token == token) & (_TABLE.controller != "")
        let_go = update(schema.migration).where(this).values(controller="", lease_until=0, token=token + 1)
        if connection.execute(let_go).rowcount:
            write_migration_event(connection, load_migration(connection, migration_id), "lease", sentence)
