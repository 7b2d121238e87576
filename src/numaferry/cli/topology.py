"""`numaferry topology HOST`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples

if TYPE_CHECKING:
    from rich.text import Text


@click.command()
@click.argument("host")
@click.option("--as-stored", is_flag=True, help="Draw what the ledger has, without a fresh look at the host.")
@click.option("--width", type=click.IntRange(40, 400), help="Columns; by default those of the terminal, else 80.")
@command_options
@examples("numaferry topology host-a", "numaferry topology host-a --width 120")
def topology(session: Session, host: str, width: int | None, *, as_stored: bool) -> None:
    """Draw a host: cells, cores, CPUs, who owns each CPU, memory and pages.

    A letter stands for a guest and the legend says who it is; nothing is said by colour alone.
    """
    shown = session.ferry().topology(host, refresh=not as_stored)

    def render() -> Text:
        from numaferry.cli import numamap  # noqa: PLC0415  (rich is imported only by what prints with it)

        return numamap.render(shown, width or session.picture_width())

    session.show(shown, render)
