"""`numaferry host add|import|confirm|list|show|usage|remove`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples, table
from numaferry.cli.words import size
from numaferry.model import CpuSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from numaferry.model import HostConfig
    from numaferry.service.views import HostShow

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def host() -> None:
    """Hosts: add them, say which CPUs may be given away, see what is used."""


@host.command()
@click.argument("uri")
@click.option("--name", default="", help="Its name here; by default the host's own, without the domain.")
@click.option("--config", type=_FILE, help="A hosts file with an entry of this name: its sets are taken as confirmed.")
@click.option("--isolated", metavar="CPUS", help="Isolated CPUs, if the host has some: libvirt does not tell them.")
@click.option("--take-over", is_flag=True, help="Add it though its guests carry another ledger's mark.")
@command_options
@examples(
    "numaferry host add qemu+tls://host-a.example.org/system",
    "numaferry host add qemu+ssh://root@10.0.0.7/system --name host-b --isolated 2-15",
)
def add(session: Session, uri: str, name: str, config: Path | None, isolated: str | None, *, take_over: bool) -> None:
    """Look at a host and add it to the ledger.

    Without a configuration, CPU sets are proposed and explained, and nothing is claimable until `host confirm`.
    """
    said = None
    if config is not None:
        from numaferry.service.config import pick, read  # noqa: PLC0415  (pydantic is slow to import)

        entry = pick(read(config), name, where=str(config))
        said, name = entry.config, name or entry.name
    cpus = CpuSet.parse(isolated) if isolated is not None else None
    shown = session.ferry().host_add(name, uri, config=said, isolated=cpus, take_over=take_over)
    session.show(shown, lambda: _show(shown))


@host.command(name="import")
@click.argument("file", type=_FILE)
@click.option("--take-over", is_flag=True, help="Add hosts though their guests carry another ledger's mark.")
@command_options
@examples("numaferry host import hosts.toml")
def import_hosts(session: Session, file: Path, *, take_over: bool) -> None:
    """Add or update every host of a TOML file, in nova's words (docs/cli.md shows one).

    Sets that the file names are confirmed; all hosts are looked at before anything is stored.
    A quarantined host is refused: `numaferry host confirm` alone accepts another machine.
    """
    from numaferry.service.config import read  # noqa: PLC0415  (the same)

    shown = session.ferry().import_hosts(read(file), take_over=take_over)
    session.show(shown, lambda: _brief(shown))


@host.command()
@click.argument("name")
@click.option("--dedicated", metavar="CPUS", help="CPUs that may be given away alone, instead of the stored set.")
@click.option("--shared", metavar="CPUS", help="CPUs for shared vCPUs and emulator threads, instead of the stored set.")
@click.option(
    "--migration",
    metavar="CPUS",
    help='CPUs for the threads of migrations, instead of the stored set; "" for the shared set.',
)
@command_options
@examples(
    "numaferry host confirm host-a",
    "numaferry host confirm host-a --dedicated 2-7 --shared 0-1",
    "numaferry host confirm host-a --migration 0",
)
def confirm(session: Session, name: str, dedicated: str | None, shared: str | None, migration: str | None) -> None:
    """Say that a host's CPU sets are right: from now on its CPUs may be claimed."""
    shown = session.ferry().host_confirm(
        name,
        dedicated=CpuSet.parse(dedicated) if dedicated is not None else None,
        shared=CpuSet.parse(shared) if shared is not None else None,
        migration=CpuSet.parse(migration) if migration is not None else None,
    )
    session.show(shown, lambda: _brief([shown]))


@host.command(name="list")
@command_options
@examples("numaferry host list", "numaferry host list -f json")
def list_hosts(session: Session) -> None:
    """List the hosts of the ledger."""
    lines = session.ferry().host_list()

    def render() -> RenderableType:
        made = table(
            "name",
            "state",
            "confirmed",
            ">cells",
            ">CPUs",
            "dedicated",
            "shared",
            ">free dedicated",
            ">instances",
            "uri",
        )
        for one in lines:
            sets = (str(one.cpu_dedicated_set), str(one.cpu_shared_set))
            counts = (str(one.free_dedicated), str(one.instances))
            confirmed = "yes" if one.confirmed else "no"
            made.add_row(one.name, one.state, confirmed, str(one.cells), str(one.cpus), *sets, *counts, one.uri)
        return made

    session.show(lines, render)


@host.command()
@click.argument("name")
@command_options
@examples("numaferry host show host-a")
def show(session: Session, name: str) -> None:
    """Show a host: cells, configuration, and why each CPU is proposed for what while nothing is confirmed."""
    shown = session.ferry().host_show(name)
    session.show(shown, lambda: _show(shown))


@host.command()
@click.argument("name")
@command_options
@examples("numaferry host usage host-a")
def usage(session: Session, name: str) -> None:
    """Show what of a host is used per cell: by its own guests, by incoming and by outgoing migrations."""
    from numaferry.cli.usage import render  # noqa: PLC0415  (rich is imported only by what prints with it)

    found = session.ferry().host_usage(name)
    session.show(found, lambda: render(found))


@host.command()
@click.argument("name")
@command_options
@examples("numaferry host remove host-a")
def remove(session: Session, name: str) -> None:
    """Forget a host; refused while it has claims or migrations in progress. Its guests are left as they are."""
    session.ferry().host_remove(name)
    session.show({"removed": name}, lambda: f"host {name} removed from the ledger")


def _brief(shown: Sequence[HostShow]) -> RenderableType:
    """Render a row per host."""
    made = table("name", "state", "confirmed", "dedicated", "shared", "uri")
    for one in shown:
        sets = (str(one.config.cpu_dedicated_set), str(one.config.cpu_shared_set))
        made.add_row(one.name, one.state, "yes" if one.confirmed else "no", *sets, one.uri)
    return made


def _migration_cpus(config: HostConfig) -> str:
    """Return where a migration's threads run here, and where that comes from."""
    if config.migration_cpu_set:
        return str(config.migration_cpu_set)
    return f"{config.cpu_shared_set} (the shared set)" if config.cpu_shared_set else "none"


def _show(shown: HostShow) -> list[RenderableType]:
    """Render a host with its cells and, while it is not confirmed, its proposal."""
    config = shown.config
    facts = table("", "", title=f"host {shown.name}")
    facts.show_header = False
    for word, value in (
        ("uri", shown.uri),
        ("uuid", shown.uuid),
        ("state", shown.state),
        ("libvirt, QEMU", f"{shown.libvirt_version}, {shown.hypervisor_version}"),
        ("confirmed", "yes" if shown.confirmed else "no: nothing is claimable"),
        ("cpu_dedicated_set", str(config.cpu_dedicated_set)),
        ("cpu_shared_set", str(config.cpu_shared_set)),
        ("migration_cpu_set", _migration_cpus(config)),
        ("reserved_host_memory_mb", str(config.reserved_host_memory_mb)),
        ("physical_networks", ", ".join(f"{net} = {dev}" for net, dev in config.physical_networks)),
        (
            "physical_network_cells",
            ", ".join(f"{net} = {list(cells)}" for net, cells in config.physical_network_cells),
        ),
        ("migration_address", config.migration_address),
        ("peer_uri", config.peer_uri),
    ):
        facts.add_row(word, value)
    cells = table("cell", "socket", "CPUs", ">memory", "pages", "distances")
    for cell in shown.topology.cells:
        pages = ", ".join(f"{pool.size_kib} KiB: {pool.total}" for pool in cell.pages if pool.total)
        distances = " ".join(str(distance) for _, distance in cell.distances)
        socket = str(cell.socket) if cell.socket >= 0 else "-"
        cells.add_row(str(cell.id), socket, str(cell.cpus), size(cell.memory_kib), pages, distances)
    parts: list[RenderableType] = [facts, cells]
    if shown.proposal is not None and not shown.confirmed:
        verdicts = table(">CPU", "proposed", "why", title="proposed, from what is seen")
        for verdict in shown.proposal.verdicts:
            verdicts.add_row(str(verdict.cpu), str(verdict.role), verdict.why)
        notes = "".join(f"note: {note}\n" for note in shown.proposal.notes)
        parts += [verdicts, f"{notes}Look at it, then: numaferry host confirm {shown.name} [--dedicated CPUS]\n"]
    return parts
