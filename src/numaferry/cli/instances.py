"""`numaferry instance list|show|adopt|forget`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples, table
from numaferry.cli.policies import policy_options, wish_words
from numaferry.cli.words import memory_of, size
from numaferry.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from numaferry.model import PolicyWish
    from numaferry.service.views import AdoptLine, InstanceLine, InstanceShow


@click.group()
def instance() -> None:
    """Instances: the guests that numaferry has promised something to."""


@instance.command(name="list")
@click.option("--host", help="Only those that run on this host.")
@command_options
@examples("numaferry instance list", "numaferry instance list --host host-a -f json")
def list_instances(session: Session, host: str | None) -> None:
    """List instances with the CPUs that they own."""
    lines = session.ferry().instance_list(host)
    session.show(lines, lambda: _list(lines))


@instance.command()
@click.argument("instance")
@command_options
@examples("numaferry instance show db1", "numaferry instance show 6f1c -f json")
def show(session: Session, instance: str) -> None:
    """Show an instance by name, UUID or beginning of a UUID: what it asked for, and where it is."""
    shown = session.ferry().instance_show(instance)
    session.show(shown, lambda: _show(shown))


@instance.command()
@click.argument("instance")
@click.option("--clear", is_flag=True, help="Say nothing of its own any more.")
@policy_options
@command_options
@examples("numaferry instance policy db1", "numaferry instance policy db1 --auto-converge --downtime 300")
def policy(session: Session, instance: str, *, clear: bool, policy: PolicyWish) -> None:
    """Show what is said of an instance's migrations, or replace it by the options that are given."""
    wish = policy if policy.said or clear else None
    said = session.ferry().instance_policy(instance, wish)
    session.show(dict(said.said), lambda: f"migrations of {instance}: {wish_words(said)}")


@instance.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Every domain that runs on the confirmed hosts.")
@click.option("--host", help="Only look on this host.")
@click.option("--dry-run", is_flag=True, help="Say what would be promised, and write nothing.")
@click.option("--force", is_flag=True, help="Adopt guests that nova or another ledger manages: they would not know.")
@command_options
@examples("numaferry instance adopt db1 --host host-a", "numaferry instance adopt --all --dry-run")
def adopt(
    session: Session, names: tuple[str, ...], host: str | None, *, everything: bool, dry_run: bool, force: bool
) -> None:
    """Adopt running guests: what one has, it is promised, as far as nobody else has it.

    What it needs is read from its own XML. The guest is left as it is but for a mark in its metadata; adopting it again
    writes a mark that is missing. Ends with 8 where a mark could not be written.
    """
    if bool(names) == everything:
        raise click.UsageError("name domains, or give --all (and not both)")
    lines = session.ferry().adopt(names, host=host, everything=everything, dry_run=dry_run, force=force)
    session.show(lines, lambda: _adopted(lines))
    if any(one.outcome == "not marked" for one in lines):
        click.get_current_context().exit(HostError.exit_code)


@instance.command()
@click.argument("instance")
@command_options
@examples("numaferry instance forget db1")
def forget(session: Session, instance: str) -> None:
    """Forget an instance: what it was promised is free, and the guest runs on unmanaged.

    Its mark is taken off where its host can be reached. Refused while it is being moved.
    """
    name = session.ferry().instance_forget(instance)
    session.show({"forgotten": name}, lambda: f"instance {name} forgotten; the guest runs on, unmanaged")


def _list(lines: Sequence[InstanceLine]) -> RenderableType:
    made = table("name", "host", "promise", ">vCPUs", ">memory", "CPUs", "host cells", "moving", "uuid")
    for one in lines:
        cells = ",".join(map(str, one.host_cells))
        moving = f"migration {one.moving}" if one.moving is not None else ""
        made.add_row(
            one.name,
            one.host,
            str(one.promise),
            str(one.vcpus),
            size(one.memory_kib),
            str(one.cpus),
            cells,
            moving,
            one.uuid,
        )
    return made


def _adopted(lines: Sequence[AdoptLine]) -> RenderableType:
    made = table("name", "host", "outcome", "promise", "CPUs", "why")
    for one in lines:
        made.add_row(one.name, one.host, one.outcome, str(one.promise or ""), str(one.cpus), one.reason)
    return made


def _show(shown: InstanceShow) -> list[RenderableType]:
    """Render an instance, its cells and its links."""
    facts = table("", "", title=f"instance {shown.name}")
    facts.show_header = False
    for word, value in (
        ("uuid", shown.uuid),
        ("host", shown.host),
        ("promise", str(shown.promise)),
        ("persistent", "yes" if shown.persistent else "no"),
        ("flavor", f"{shown.flavor.name}: {shown.flavor.vcpus} vCPUs, {shown.flavor.memory_mb} MiB"),
        *((f"  {key}", value) for key, value in shown.flavor.extra_specs),
        *((f"nic {vif.mac}", f"{vif.kind} {vif.source_dev} ({vif.physical_network or '-'})") for vif in shown.vifs),
    ):
        facts.add_row(word, value)
    parts: list[RenderableType] = [facts]
    if shown.migration is not None:
        move = shown.migration
        parts.append(f"moving: migration {move.id}, {move.source} to {move.dest}, {move.status} {move.step}\n")
    if shown.numa_topology is None:
        return [*parts, "It floats: no CPU and no page is promised to it.\n"]
    cells = table(">guest cell", ">host cell", "vCPU → CPU", "memory")
    for cell in shown.numa_topology.cells:
        pins = " ".join(f"{vcpu}→{cpu}" for vcpu, cpu in cell.cpu_pinning) or "shared"
        cells.add_row(str(cell.id), str(cell.host_cell), pins, memory_of(cell))
    return [*parts, cells]
