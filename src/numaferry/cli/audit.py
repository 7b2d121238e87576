"""`numaferry audit [HOST]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numaferry.cli.exits import FOUND
from numaferry.cli.kit import Session, command_options, examples, table
from numaferry.cli.words import duration
from numaferry.errors import HostUnreachable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from numaferry.service.views import AuditReport


@click.command()
@click.argument("host", required=False)
@command_options
@examples("numaferry audit", "numaferry audit host-a -f json")
def audit(session: Session, host: str | None) -> None:
    """Hold the ledger against reality: what was promised and is not so, what is used and was not promised.

    Refreshes what is seen on the hosts; changes no promise, and no guest is ever stopped, paused or destroyed. Ends
    with 1 where something is wrong, else with 8 where a host can't be asked.
    """
    report = session.ferry().audit(host)
    session.show(report, lambda: _render(report))
    if any(one.severity != "info" for one in report.findings):
        click.get_current_context().exit(FOUND)
    if report.unreachable:
        click.get_current_context().exit(HostUnreachable.exit_code)


def _render(report: AuditReport) -> list[RenderableType]:
    """Render findings, costs and hosts that could not be asked."""
    parts: list[RenderableType] = []
    if report.findings:
        found = table("host", "severity", "kind", "subject", "finding", "remedy")
        for one in report.findings:
            found.add_row(one.host, one.severity, one.kind, one.subject, one.sentence, one.remedy)
        parts.append(found)
    elif report.cost_ms:
        parts.append("No findings: promises and reality agree.")
    else:
        parts.append("Nothing was audited: the ledger has no host that can be asked.")
    costs = ", ".join(f"{host} in {duration(cost)}" for host, cost in report.cost_ms.items())
    if costs:
        parts.append(f"audited: {costs}")
    parts += [f"not audited: {host}: {why}" for host, why in report.unreachable.items()]
    return parts
