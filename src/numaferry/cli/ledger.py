"""`numaferry ledger explain HOST` and `numaferry ledger upgrade`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples, table
from numaferry.cli.words import page_size, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from numaferry.ledger.upgrades import LedgerUpgrade
    from numaferry.service.views import LedgerExplanation


@click.group()
def ledger() -> None:
    """The ledger: what is promised to whom."""


@ledger.command(name="explain")
@click.argument("host")
@command_options
@examples("numaferry ledger explain host-a", "numaferry ledger explain host-a -f json")
def explain_host(session: Session, host: str) -> None:
    """Say of every CPU, page pool and memory of a host who holds it, by which claim, and why."""
    explained = session.ferry().ledger_explain(host)
    session.show(explained, lambda: _render(explained))


@ledger.command(name="upgrade")
@click.option("--yes", is_flag=True, help="A ledger in PostgreSQL: there is a backup of it (pg_dump).")
@command_options
@examples("numaferry ledger upgrade", "numaferry ledger upgrade --yes")
def upgrade(session: Session, *, yes: bool) -> None:
    """Bring the ledger of an older numaferry to this one's schema; stop every controller and command before.

    A file is copied first, to LEDGER.schema-NUMBER beside it. Whatever goes wrong, the ledger is as it was, and the
    command can be run again.
    """
    done = session.without_ledger().ledger_upgrade(session.db, has_backup=yes)
    session.show(done, lambda: _upgraded(done))


def _upgraded(done: LedgerUpgrade) -> str:
    """Say what was done."""
    if done.before == done.after:
        return f"ledger {done.ledger} has schema {done.after} already"
    backup = f", backup at {done.backup}" if done.backup else ""
    return f"ledger {done.ledger}: schema {done.before} → {done.after}{backup}"


def _render(explained: LedgerExplanation) -> list[RenderableType]:
    """Render CPUs, then pools."""
    cpus = table(
        ">CPU", ">cell", "use", "holder", "role", "why", title=f"{explained.host}, generation {explained.generation}"
    )
    for row in explained.cpus:
        first = (str(row.cpu), str(row.cell), row.use)
        if not row.holders:
            cpus.add_row(*first, "", "", "free" if row.use == "dedicated" else "")
        if row.use == "shared" and row.holders:
            cpus.add_row(*first, ", ".join(holder.name for holder in row.holders), "", "shared")
            continue
        for holder in row.holders:
            cpus.add_row(*first, holder.name, holder.role, holder.why)
    pools = table("cell", "resource", ">total", ">may be promised", ">used", "holders")
    for pool in explained.pools:
        amount, word = _unit(pool.resource)
        holders = "; ".join(f"{one.name} {amount(one.amount)} ({one.role}: {one.why})" for one in pool.holders)
        cell = "host" if pool.cell is None else str(pool.cell)
        pools.add_row(cell, word, amount(pool.total), amount(pool.allowed), amount(pool.used), holders)
    return [cpus, pools]


def _unit(resource: str) -> tuple[Callable[[int], str], str]:
    """Return how amounts of a resource are written, and its name."""
    if resource == "memory_kib":
        return size, "memory"
    if resource.startswith("page:"):
        return str, f"pages of {page_size(int(resource.removeprefix('page:')))}"
    return str, "shared vCPUs"
