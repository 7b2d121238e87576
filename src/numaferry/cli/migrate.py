"""`numaferry migrate INSTANCE`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples, table
from numaferry.cli.placements import pin_table
from numaferry.cli.policies import policy_options
from numaferry.cli.progress import make_watch
from numaferry.cli.words import duration
from numaferry.migration.progress import mib, rate
from numaferry.model.queue import HIGHEST_PRIORITY

if TYPE_CHECKING:
    from rich.console import RenderableType

    from numaferry.model import PolicyWish
    from numaferry.service.views import EstimateShow, MigrationShow, Plan


#: Beginnings of the history's sentences that are told at the end: what was measured, read back, and found.
_WORTH_TELLING = ("libvirt counted", "read back", "update_available_resource on", "the disk images on")


@click.command()
@click.argument("instance")
@click.option("--dest", metavar="HOST", help="Where to; by default the host that fits best.")
@click.option("--dry-run", is_flag=True, help="Show placement, checks and the XML difference; touch nothing.")
@click.option(
    "--as-virsh", is_flag=True, help="Print the destination XML and the `virsh migrate` command; touch nothing."
)
@click.option(
    "--estimate",
    is_flag=True,
    help="Measure for 8 s what the guest writes, and tell how it would go; touch nothing.",
)
@click.option("--force", is_flag=True, help="Move a guest that nova manages: its cloud would not know.")
@click.option(
    "--priority",
    type=click.IntRange(-HIGHEST_PRIORITY, HIGHEST_PRIORITY),
    default=0,
    metavar="N",
    help="Its place in the queue: the higher begins first, then the older; 0.",
)
@policy_options
@command_options
@examples(
    "numaferry migrate db1 --dry-run",
    "numaferry migrate db1 --dest host-b --bandwidth 500 --auto-converge --timeout 600",
    "numaferry migrate db1 --dest host-b --copy-storage=full --bandwidth 500",
    "numaferry migrate db1 --dest host-b --as-virsh",
    "numaferry migrate db1 --estimate --bandwidth 500",
)
def migrate(
    session: Session,
    instance: str,
    dest: str | None,
    *,
    dry_run: bool,
    as_virsh: bool,
    estimate: bool,
    force: bool,
    priority: int,
    policy: PolicyWish,
) -> None:
    """Move an instance live: choose a host, claim its exact CPUs, pages and memory, then migrate.

    What makes it end is its policy: the options below over the instance's own (`instance policy`), the source's in the
    hosts file, and the configuration. Ctrl-C leaves the job to libvirt: `migration recover` follows it, `migration
    abort` gives it up.
    """
    ferry = session.ferry()
    if estimate:
        found = ferry.estimate(instance, dest, policy=policy)
        session.show(found, lambda: _estimate(found))
        return
    if dry_run or as_virsh:
        plan = ferry.plan(instance, dest, policy=policy, force=force)
        session.show(plan, lambda: _as_virsh(plan) if as_virsh else _plan(plan))
        return
    for stale in ferry.stale(instance):
        session.say(
            f"migration {stale.id} of {instance} was left behind by {stale.controller or 'nobody'}: recovering it"
        )
        for done in ferry.migration_recover(str(stale.id)):
            session.say(f"migration {stale.id} is {done.migration.status}: {done.sentence}")
    watch = make_watch()
    try:
        shown = ferry.migrate(instance, dest, policy=policy, force=force, priority=priority, watch=watch)
    finally:
        watch.close()
    session.show(shown, lambda: _moved(shown))


def _plan(plan: Plan) -> list[RenderableType]:
    """Render what would be done."""
    parts: list[RenderableType] = [
        f"{plan.instance} would move from {plan.source} to {plan.dest}; nothing is touched.\n"
    ]
    parts.append(pin_table(plan.placement.numa_topology))
    checks = table("check", "outcome", "what was seen")
    for check in plan.checks:
        checks.add_row(check.name, check.outcome, check.reason)
    parts += [checks, plan.xml_difference or "The XML stays as it is.\n"]
    parts += [f"note: {note}\n" for note in plan.notes]
    if not plan.would_start:
        parts.append("It would not start: a check fails.\n")
    return parts


def _estimate(found: EstimateShow) -> list[RenderableType]:
    """Render the verdict, and what it rests on."""
    rows = table("estimate", "value")
    where = f"{found.source} to {found.dest or 'any host'}"
    rows.add_row("way", where)
    rows.add_row("to send at first", f"{mib(found.to_send_bytes)} of {found.memory_kib // 1024} MiB")
    rows.add_row("writes", f"{rate(found.dirty_bps)} over {mib(found.hot_bytes)} MiB")
    rows.add_row("measured", ", ".join(f"{mib(size)} MiB in {period:g} s" for period, size in found.samples))
    rows.add_row("bandwidth", f"{rate(found.bandwidth_bps) if found.bandwidth_bps else '-'}: {found.bandwidth_basis}")
    if found.duration_s is not None:
        rows.add_row("duration", f"{found.duration_s:.1f} s, {found.ending}")
    if found.naive_s is not None:
        rows.add_row("memory / bandwidth", f"{found.naive_s:.1f} s, whatever the guest writes")
    parts: list[RenderableType] = [f"{found.sentence}.\n", rows]
    parts += [f"it would end otherwise: {remedy}\n" for remedy in found.remedies]
    parts += [f"note: {note}\n" for note in found.notes]
    return parts


def _as_virsh(plan: Plan) -> list[RenderableType]:
    """Render the files and the command."""
    name = plan.instance
    lines = [
        f"# {name} from {plan.source} to {plan.dest}, by hand. Nothing claims these CPUs and pages while you do it.",
        "# Secrets (graphics passwords and the like) were removed: put yours in where the guest has some.",
        f"# 1. Save as {name}-dest.xml:",
        plan.dest_xml.strip(),
    ]
    if plan.persistent_xml is not None:
        lines += [f"# 2. Save as {name}-persistent.xml:", plan.persistent_xml.strip()]
    lines += [f"# {3 if plan.persistent_xml is not None else 2}. Run:"]
    pins = {when: shlex.join(words) for when, words in plan.virsh_pins}
    lines += filter(None, (pins.get("before"), shlex.join(plan.virsh), pins.get("after")))
    if "if it fails" in pins:
        lines += ["# If it fails:", pins["if it fails"]]
    return ["\n".join(lines)]


def _moved(shown: MigrationShow) -> list[RenderableType]:
    """Render how it went."""
    move = shown.migration
    took = duration(1000 * (move.updated_at - move.created_at))
    parts: list[RenderableType] = [
        f"{move.instance} moved from {move.source} to {move.dest} in {took} (migration {move.id}, {move.status}).\n"
    ]
    if shown.new_numa_topology is not None:
        parts.append(pin_table(shown.new_numa_topology, shown.old_numa_topology))
    return [*parts, *(event.sentence for event in shown.events if event.sentence.startswith(_WORTH_TELLING))]
