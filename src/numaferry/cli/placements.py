"""Placements and misfits as tables: shared by `migrate`, `explain` and `migration show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.cli.kit import table
from numaferry.cli.words import memory_of, page_size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from numaferry.model import InstanceNumaTopology, Misfit


def pin_table(new: InstanceNumaTopology | None, old: InstanceNumaTopology | None = None) -> RenderableType:
    """Return a row per guest cell: host cell, vCPU → CPU, pages; with the old place beside it where it is given."""
    if new is None:
        return "It floats on the shared CPUs: no CPU and no page of its own.\n"
    before = {cell.id: cell for cell in old.cells} if old is not None else {}
    kept = any(cell.siblings for cell in new.cells)
    columns = [">guest cell", ">host cell", "vCPU → CPU", "memory"]
    made = table(*columns, *(["kept free"] if kept else []), *(["before"] if before else []))
    for cell in new.cells:
        pins = " ".join(f"{vcpu}→{cpu}" for vcpu, cpu in cell.cpu_pinning) or "shared"
        row = [str(cell.id), str(cell.host_cell), pins, memory_of(cell)]
        if kept:
            row.append(str(cell.siblings))
        if before:
            was = before.get(cell.id)
            row.append(f"cell {was.host_cell}, CPUs {was.pinned_cpus or 'shared'}" if was else "")
        made.add_row(*row)
    return made


def misfit_table(misfit: Misfit) -> list[RenderableType]:
    """Return the shortages of one host, nearest miss as the fit orders them, and what would help."""
    parts: list[RenderableType] = []
    if misfit.shortages:
        made = table("guest cell", "host cell", "resource", ">needed", ">free", ">missing", "in words")
        for one in misfit.shortages:
            resource = one.resource + (f" {page_size(one.page_size_kib)}" if one.page_size_kib else "")
            cells = ("" if cell is None else str(cell) for cell in (one.guest_cell, one.host_cell))
            made.add_row(*cells, resource, str(one.needed), str(one.free), str(one.missing), one.sentence)
        parts.append(made)
    parts += [f"  {suggestion}" for suggestion in misfit.suggestions]
    return parts
