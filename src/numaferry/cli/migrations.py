"""`numaferry migration list|show|watch|abort|force-complete|recover`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from numaferry.cli.kit import Session, command_options, examples, table
from numaferry.cli.placements import pin_table
from numaferry.cli.policies import policy_words
from numaferry.cli.progress import JsonLines, make_watch
from numaferry.cli.words import clock
from numaferry.errors import HostUnreachable, NeedsPerson, RefusedError
from numaferry.migration.progress import told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from numaferry.model import Vif
    from numaferry.service.views import MigrationLine, MigrationShow, Recovered


@click.group()
def migration() -> None:
    """Migrations: what is going on, what went on, giving up, and taking over after a crash."""


@migration.command(name="list")
@click.option("--instance", metavar="INSTANCE", help="Only those of this instance.")
@click.option("--in-progress", is_flag=True, help="Only those that have not ended.")
@command_options
@examples("numaferry migration list", "numaferry migration list --instance db1 -f json")
def list_migrations(session: Session, instance: str | None, *, in_progress: bool) -> None:
    """List migrations, the newest first."""
    lines = session.ferry().migration_list(instance=instance, in_progress=in_progress)
    session.show(lines, lambda: _list(lines))


@migration.command()
@click.argument("migration")
@command_options
@examples("numaferry migration show 3")
def show(session: Session, migration: str) -> None:
    """Show a migration by id or UUID: where from, where to, and what happened, sentence by sentence."""
    shown = session.ferry().migration_show(migration)
    session.show(shown, lambda: _show(shown))


@migration.command()
@click.argument("migration", metavar="ID|INSTANCE")
@command_options
@examples("numaferry migration watch 3", "numaferry migration watch db1 -f json")
def watch(session: Session, migration: str) -> None:
    """Follow a migration to its end, whoever drives it: status, figures, and what happens, as it comes.

    It asks the ledger alone and changes nothing; it may be started again at any moment, in any number of terminals.
    Of an instance its newest migration is meant. Ends with 0 when the migration has completed, with 6 when it ended in
    another way, with 7 when it needs a person. Ctrl-C ends the watching only.
    """
    shown = JsonLines() if session.json else make_watch(answer=True)
    try:
        session.ferry().migration_watch(migration, shown.look)
    finally:
        shown.close()


@migration.command()
@click.argument("migration")
@command_options
@examples("numaferry migration abort 3")
def abort(session: Session, migration: str) -> None:
    """Give a migration up: the guest stays on the source, the destination's claim is freed.

    Refused once the guest runs on the destination: to have it back, migrate it back.
    """
    line = session.ferry().migration_abort(migration)
    words = f"migration {line.id} of {line.instance} is {line.status}"
    if line.abort_requested and line.status not in {"cancelled", "failed"}:
        words += "; its controller was asked to give it up"
    session.show(line, lambda: words)


@migration.command(name="force-complete")
@click.argument("migration")
@click.option("--by", "how", type=click.Choice(["post-copy", "pause"]), help="How; post-copy where it is allowed.")
@click.option("--yes", is_flag=True, help="Do it without asking; needed where there is no terminal.")
@command_options
@examples("numaferry migration force-complete 3", "numaferry migration force-complete 3 --by pause --yes")
def force_complete(session: Session, migration: str, how: str | None, *, yes: bool) -> None:
    """Force the end of a running migration: by post-copy where its policy allows it, else by pausing the guest.

    The pause that is expected is said first.
    """
    ferry = session.ferry()
    forecast = ferry.migration_force_forecast(migration, how)
    session.say(forecast.sentence)
    if not yes and not (sys.stdin.isatty() and click.confirm("Force it?", err=True)):
        raise RefusedError("nothing was done", hint="answer yes, or give --yes")
    line = ferry.migration_force_complete(migration, forecast.how)
    session.show(line, lambda: f"migration {line.id} of {line.instance}: its end is forced by {forecast.how}")


@migration.command()
@click.argument("migration", required=False)
@click.option(
    "--answer",
    type=click.Choice(["guest-is-gone"]),
    help="Say what became of the guest, where a person is needed; refused unless both hosts bear it out now.",
)
@command_options
@examples(
    "numaferry migration recover",
    "numaferry migration recover 3",
    "numaferry migration recover 3 --answer guest-is-gone",
)
def recover(session: Session, migration: str | None, answer: str | None) -> None:
    """Take over migrations whose controller died: ask both hosts, then finish, roll back or adopt the running job.

    Without MIGRATION: all that nobody drives. Ends with 7 where one needs a person, else with 8 where one waits for a
    host that can't be asked.
    """
    watch = make_watch()
    try:
        done = session.ferry().migration_recover(migration, answer=answer, watch=watch)
    finally:
        watch.close()
    session.show(done, lambda: _recovered(done))
    outcomes = {one.outcome for one in done}
    for outcome, error in (("needs a person", NeedsPerson), ("waiting", HostUnreachable)):
        if outcome in outcomes:
            click.get_current_context().exit(error.exit_code)


def _list(lines: Sequence[MigrationLine]) -> RenderableType:
    made = table(">id", "instance", "source", "dest", "status", "step", "created", "updated", "reason")
    for one in lines:
        when = (clock(one.created_at), clock(one.updated_at))
        made.add_row(str(one.id), one.instance, one.source, one.dest, one.status, one.step, *when, one.reason)
    return made


def _show(shown: MigrationShow) -> list[RenderableType]:
    """Render a migration with its history."""
    move = shown.migration
    facts = table("", "", title=f"migration {move.id}")
    facts.show_header = False
    for word, value in (
        ("uuid", move.uuid),
        ("instance", f"{move.instance} ({move.instance_uuid})"),
        ("source, dest", f"{move.source}, {move.dest}"),
        ("status", move.status),
        ("step", move.step),
        ("reason", move.reason),
        ("controller", move.controller),
        ("policy", policy_words(move.policy)),
        *_figures(shown),
        *((f"nic {new.mac}", f"{old.source_dev} → {new.source_dev}") for old, new in _nics(shown)),
    ):
        facts.add_row(word, value)
    events = table("when", "what happened")
    for event in shown.events:
        events.add_row(clock(event.at), event.sentence)
    return [facts, pin_table(shown.new_numa_topology, shown.old_numa_topology), events]


def _figures(shown: MigrationShow) -> Sequence[tuple[str, str]]:
    """Return the job's last figures with the trend and when they were seen; nothing where it never was."""
    progress = shown.progress
    return [("last figures", f"{told(progress)} ({clock(progress.at)})")] if progress is not None else []


def _nics(shown: MigrationShow) -> Sequence[tuple[Vif, Vif]]:
    """Return the links of each NIC on both sides."""
    return list(zip(shown.old_vifs, shown.new_vifs, strict=False))


def _recovered(done: Sequence[Recovered]) -> RenderableType:
    """Render what became of each."""
    if not done:
        return "Nothing to recover: every migration has ended or is being driven."
    made = table(">id", "instance", "outcome", "status", "what was done")
    for one in done:
        made.add_row(str(one.migration.id), one.migration.instance, one.outcome, one.migration.status, one.sentence)
    return made
