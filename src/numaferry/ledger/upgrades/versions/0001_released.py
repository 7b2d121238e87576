"""Schema 1: the first that was released, in SQLite alone. No ledger is upgraded to it; tests build it by this step."""

from __future__ import annotations

from alembic import op
from sqlalchemy import MetaData

from numaferry.ledger.upgrades import schema_1

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables of schema 1 in an empty database; from a copy, as `schema.create_tables` says."""
    fresh = MetaData()
    for table in schema_1.metadata.tables.values():
        table.to_metadata(fresh)
    fresh.create_all(op.get_bind(), checkfirst=False)
