"""One file per schema number, in alembic's form; `numaferry.ledger.upgrades` says what a step may rely on."""
