"""A throw-away copy of the ledger: what a dry run claims on, whichever database the ledger itself is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import create_engine, insert, or_, select

from numaferry.ledger import schema
from numaferry.ledger.store import Store
from numaferry.ledger.triggers import statements
from numaferry.model import IN_PROGRESS

if TYPE_CHECKING:
    from pathlib import Path

#: What no claim depends on, and what grows for ever.
_LEFT_OUT = frozenset({schema.event, schema.finding, schema.controller, schema.migration_sample})


class CopyStore(Store):
    """Copying what is promised."""

    def copy_to(self, path: Path) -> None:
        """Write hosts, instances, claims, and the migrations that these name into a new SQLite ledger; one snapshot.

        The copy has the ledger's own id. Events, findings and ended migrations are left out.
        """
        claim, move = schema.claim.c, schema.migration.c
        needed = or_(move.status.in_(sorted(IN_PROGRESS)), move.id.in_(select(claim.migration_id)))
        engine = create_engine(f"sqlite:///{path}")
        try:
            with self._read() as source, engine.begin() as copy:
                schema.create_tables(copy)
                for table in schema.metadata.tables.values():
                    if table in _LEFT_OUT:
                        continue
                    query = select(table).where(needed) if table is schema.migration else select(table)
                    rows = [dict(row._mapping) for row in source.execute(query)]  # noqa: SLF001  (its documented name)
                    if rows:
                        copy.execute(insert(table), rows)
                for statement in statements("sqlite"):
                    copy.exec_driver_sql(statement)
        finally:
            engine.dispose()
