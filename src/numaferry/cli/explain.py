"""`numaferry explain INSTANCE [HOST]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples
from numaferry.cli.placements import misfit_table, pin_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from numaferry.service.views import Explanation


@click.command()
@click.argument("instance")
@click.argument("host", required=False)
@command_options
@examples("numaferry explain db1", "numaferry explain db1 host-b -f json")
def explain(session: Session, instance: str, host: str | None) -> None:
    """Say whether an instance fits on a host (or on each), and if not, what is missing and what would help."""
    answers = session.ferry().explain(instance, host)
    session.show(answers, lambda: _render(answers, instance))


def _render(answers: Sequence[Explanation], instance: str) -> list[RenderableType]:
    """Render an answer per host, those that fit first."""
    if not answers:
        return [f"There is no other host that {instance} could go to: numaferry host add URI"]
    parts: list[RenderableType] = []
    for one in sorted(answers, key=lambda answer: not answer.fits):
        note = f" ({one.note})" if one.note else ""
        if one.placement is not None:
            parts += [f"{one.instance} fits on {one.host}{note}:", pin_table(one.placement.numa_topology)]
        elif one.misfit is not None:
            parts += [
                f"{one.instance} does not fit on {one.host}{note}: {one.misfit.reason}",
                *misfit_table(one.misfit),
            ]
    return parts
