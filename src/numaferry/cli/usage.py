"""The table of `numaferry host usage`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.cli.kit import table
from numaferry.cli.words import page_size, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from numaferry.ledger.usage import HostUsage, Use


def render(usage: HostUsage) -> RenderableType:
    """Return a row per cell and account that holds something."""
    made = table("cell", "account", "CPUs", ">shared vCPUs", ">memory", "pages", title=f"usage of {usage.host}")
    for cell in usage.cells:
        name = "floating" if cell.cell is None else str(cell.cell)
        accounts = (("own", cell.own), ("incoming", cell.incoming), ("outgoing", cell.outgoing))
        held = [(word, use) for word, use in accounts if _something(use)]
        for word, use in held or [("own", cell.own)]:
            pages = ", ".join(f"{count} x {page_size(size_kib)}" for size_kib, count in use.pages)
            made.add_row(name, word, str(use.cpus), str(use.shared_vcpus), size(use.memory_kib), pages)
    return made


def _something(use: Use) -> bool:
    return bool(use.cpus or use.shared_vcpus or use.memory_kib or use.pages)
