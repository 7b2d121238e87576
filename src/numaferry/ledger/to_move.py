"""What the claim of a move is made from, read by one statement: the instance, locked, with its first candidate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import attrs
from sqlalchemy import true

from numaferry.ledger.instances import TO_MOVE, locked_row
from numaferry.ledger.snapshot import SNAPSHOT, HostSnapshot, snapshot_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.ledger.rows import AnyRow

_FIRST = SNAPSHOT.subquery("first")
_QUERY = TO_MOVE.add_columns(*(column.label(f"first_{column.name}") for column in _FIRST.c)).outerjoin(_FIRST, true())
_NAMES = tuple(_FIRST.c.keys())


@attrs.frozen(slots=True)
class ToMove:
    """An instance that nobody else changes before this transaction ends, and the host that is looked at first."""

    #: As `instances` joins it, with the numbers of the migration of this UUID (`made`) and of the one in progress
    #: (`moving`).
    row: AnyRow
    #: None: there is no such host.
    first: HostSnapshot | None


def load_to_move(connection: Connection, uuid: str, migration_uuid: str, first: str) -> ToMove:
    """Return the instance of this UUID and the host of the name `first`; raises NotFound for the instance.

    Only the instance is certain to be as it is after the lock, which may have been waited for. The host is claimed on
    only if it still is what was looked at, and looked at again before it is called unfit; a migration that has ended
    since is no obstacle, and one that was made since is in the way of the keys: who runs into them begins again
    (`trouble`).
    """
    row = locked_row(connection, _QUERY, {"uuid": uuid, "migration_uuid": migration_uuid, "name": first})
    of_host = SimpleNamespace(**dict(zip(_NAMES, row[-len(_NAMES) :], strict=True)))
    return ToMove(row, None if of_host.id is None else snapshot_of(of_host))
