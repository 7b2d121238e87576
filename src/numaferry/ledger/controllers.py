"""Controllers that run: one session per name, for as long as it renews its lease by the database's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from sqlalchemy import delete, insert, select, update

from numaferry.errors import Conflict, TakenOver
from numaferry.ledger import schema
from numaferry.ledger.events import write_event
from numaferry.ledger.store import Store, lock, writes

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TABLE = schema.controller.c


@attrs.frozen(slots=True)
class ControllerRecord:
    """One controller; `alive` is whether its lease holds now, by the database's clock."""

    name: str
    #: ``HOST/BOOT.NAMESPACE:PID:STARTTIME.N``, which its migrations bear as their controller.
    session: str
    started_at: float
    lease_until: float
    alive: bool


class ControllerStore(Store):
    """Controllers in the ledger."""

    @writes
    def register_controller(
        self, connection: Connection, name: str, session: str, ttl_s: float, *, gone: str | None = None
    ) -> None:
        """Register a session under a name; `gone` is a session that is known to be dead. May be repeated.

        Raises Conflict while another session of this name holds its lease.
        """
        lock(connection, schema.controller, _TABLE.name == name)
        row = connection.execute(select(schema.controller, schema.epoch_now().label("now")).where(_TABLE.name == name))
        old = row.one_or_none()
        if old is not None and old.session not in {session, gone} and old.lease_until > old.now:
            raise Conflict(
                f"a controller named {name} runs already ({old.session}); its lease ends in"
                f" {old.lease_until - old.now:.0f} s unless it renews it",
                hint="stop that one first, or give this one another name with --name",
                code="controller-runs",
            )
        values = {"session": session, "lease_until": schema.epoch_now() + ttl_s}
        if old is not None and old.session == session:
            connection.execute(update(schema.controller).where(_TABLE.name == name).values(values))
            return
        connection.execute(delete(schema.controller).where(_TABLE.name == name))
        connection.execute(insert(schema.controller).values(name=name, started_at=schema.epoch_now(), **values))
        write_event(connection, "controller", f"controller {name} runs as {session}")

    @writes
    def renew_controller(self, connection: Connection, name: str, session: str, ttl_s: float) -> None:
        """Renew a session's lease; raises TakenOver where another session has the name by now."""
        this = (_TABLE.name == name) & (_TABLE.session == session)
        renewed = update(schema.controller).where(this).values(lease_until=schema.epoch_now() + ttl_s)
        if connection.execute(renewed).rowcount != 1:
            raise TakenOver(
                f"another session runs under the name {name} by now", hint="give each controller a name of its own"
            )

    @writes
    def leave_controller(self, connection: Connection, name: str, session: str) -> None:
        """Take a session's name out; nothing if it is not there."""
        this = (_TABLE.name == name) & (_TABLE.session == session)
        if connection.execute(delete(schema.controller).where(this)).rowcount:
            write_event(connection, "controller", f"controller {name} ({session}) has ended")

    def controllers(self) -> tuple[ControllerRecord, ...]:
        """Return all that ever registered and did not leave, ordered by name."""
        query = select(schema.controller, (_TABLE.lease_until > schema.epoch_now()).label("alive"))
        with self._read() as connection:
            return tuple(
                ControllerRecord(row.name, row.session, row.started_at, row.lease_until, bool(row.alive))
                for row in connection.execute(query.order_by(_TABLE.name))
            )
