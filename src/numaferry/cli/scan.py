"""`numaferry scan URI...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples, table
from numaferry.cli.words import pages_words, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from numaferry.service.views import ScannedHost, ScanReport


@click.command()
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A hosts file: its CPU sets instead of proposed ones.",
)
@click.option("--pictures/--no-pictures", default=False, help="Draw each host as well.")
@command_options
@examples(
    "numaferry scan qemu:///system",
    "numaferry scan qemu+ssh://root@host-a/system qemu+ssh://root@host-b/system --pictures",
)
def scan(session: Session, uris: tuple[str, ...], config: Path | None, *, pictures: bool) -> None:
    """Look at hosts: CPUs pinned twice, misplaced guests, page pools, and what could move where.

    Reads only; needs no ledger and leaves nothing behind. Moves are judged with each host's proposed CPU sets.
    """
    configs = {}
    if config is not None:
        from numaferry.service.config import read  # noqa: PLC0415  (pydantic is slow to import)

        configs = {entry.name: entry.config for entry in read(config)}
    report = session.without_ledger().scan(uris, configs)
    session.show(report, lambda: _report(session, report, pictures=pictures))


def _report(session: Session, report: ScanReport, *, pictures: bool) -> list[RenderableType]:
    """Render hosts, findings, moves."""
    parts: list[RenderableType] = []
    for host in report.hosts:
        parts += _host(host)
        if pictures:
            from numaferry.cli import numamap  # noqa: PLC0415  (imported by who draws)

            parts.append(numamap.render(host.map, session.picture_width()))
    if report.findings:
        found = table("host", "kind", "what", title=f"{len(report.findings)} findings")
        for finding in report.findings:
            found.add_row(finding.host, finding.kind, finding.sentence)
        parts.append(found)
    else:
        parts.append("No findings: no CPU is pinned twice, no pinned guest is misplaced.\n")
    if report.moves:
        moves = table("guest", "from", "to", "fits", "where, or why not", title="What could move where")
        for move in report.moves:
            moves.add_row(move.guest, move.source, move.dest, "yes" if move.fits else "no", move.reason)
        parts.append(moves)
    return parts


def _host(host: ScannedHost) -> list[RenderableType]:
    """Render one host: its guests, its pools, the proposed sets."""
    cells = host.topology.cells
    guests = table(
        "guest", "state", ">vCPUs", ">memory", "CPUs", "pages", "manager", "adoption",
        title=f"{host.name}: {len(cells)} cell{'s' * (len(cells) > 1)}, CPUs {host.topology.cpus},"
        f" libvirt {host.libvirt_version},"
        f" QEMU {host.hypervisor_version}",
    )  # fmt: skip
    for guest in host.guests:
        cpus = str(guest.pinned_cpus) + (" floats" if guest.floating else "")
        guests.add_row(
            guest.name, guest.state, str(guest.vcpus), size(guest.memory_kib), cpus.strip(),
            pages_words(guest.pages), guest.manager, f"{guest.outcome}: {guest.reason}",
        )  # fmt: skip
    pools = table("cell", "CPUs", ">memory", "pages free/total")
    for cell in cells:
        free = ", ".join(f"{pool.size_kib} KiB: {pool.free}/{pool.total}" for pool in cell.pages if pool.total)
        pools.add_row(str(cell.id), str(cell.cpus), size(cell.memory_kib), free)
    sets = (
        f"proposed: cpu_dedicated_set {host.proposal.cpu_dedicated_set or 'none'},"
        f" cpu_shared_set {host.proposal.cpu_shared_set or 'none'}\n"
    )
    notes = "".join(f"  note: {note}\n" for note in host.proposal.notes)
    return [guests, pools, sets + notes]
