"""`numaferry fit --cases FILE`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from numaferry.cli.kit import Session, command_options, examples


@click.command()
@click.option(
    "--cases",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of cases: one JSON object per line, a host and a flavor each.",
)
@command_options
@examples("numaferry fit --cases cases.jsonl", "numaferry fit --cases cases.jsonl > answers.jsonl")
def fit(session: Session, cases: Path) -> None:
    """Run the fit on a file of cases, without a ledger and without hosts; one JSON line per case."""
    from numaferry.service.cases import run_cases  # noqa: PLC0415  (the solver is imported by who fits)

    fits = count = 0
    for answer in run_cases(cases):
        count += 1
        fits += answer["verdict"] == "fits"
        click.echo(json.dumps(answer, sort_keys=True))
    if not session.json:
        click.echo(f"{count} cases, {fits} fit, {count - fits} do not", err=True)
