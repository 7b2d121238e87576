"""`numaferry ledger explain HOST`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples, table
from numaferry.cli.words import page_size, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

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
