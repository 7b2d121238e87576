"""Bringing a ledger of an older numaferry to the schema of this one, from every schema that was released.

`versions` holds one step per schema number, in alembic's form and run by alembic's operations. The one place that says
which number a ledger has is ``ledger.schema_version``: alembic keeps no table of its own there. A new ledger is made by
`engine.create_schema` without any step; ``tests/ledger/test_upgrades.py`` compares both ways, table by table.

What a step may rely on, and must keep to:

* It is frozen once it is released: it names tables, words and JSON keys by itself and imports nothing that changes.
* It runs in one transaction with all other steps that are due. No trigger is there; all are made anew after the last
  step. In SQLite foreign keys are off (a table that is rebuilt is dropped for a moment) and checked at the end.
* It knows nothing of what comes after it, and there is no way back but the backup.
"""

from __future__ import annotations

from numaferry.ledger.upgrades.upgrade import LedgerUpgrade, upgrade_ledger

__all__ = ["LedgerUpgrade", "upgrade_ledger"]
