"""Migrations: moving, watching, aborting, recovering; what a face may ask about them."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

from numaferry.errors import (
    Conflict,
    HostUnreachable,
    InvalidInput,
    LedgerError,
    MigrationFailed,
    NeedsPerson,
    NumaferryError,
    TakenOver,
)
from numaferry.migration import controllers
from numaferry.migration.checks import check_can_live_migrate_source, look_at_source, refuse
from numaferry.migration.lease import LeasePolicy
from numaferry.migration.recovery import decisions
from numaferry.model import IN_PROGRESS, MigrationStatus
from numaferry.scheduler import select_destinations
from numaferry.service.discovery import look
from numaferry.service.hosts import refresh, try_refresh
from numaferry.service.instances import migration_line
from numaferry.service.plans import refuse_absent, refuse_moving
from numaferry.service.views import EventLine, MigrationLine, MigrationShow, Recovered

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.audit import AuditResult
    from numaferry.ledger import HostRecord, Ledger
    from numaferry.migration.engine import MigrationEngine
    from numaferry.model import Instance, JobInfo, Migration
    from numaferry.service.discovery import Reach
    from numaferry.virt.port import Hypervisor

#: How often the waiting thread wakes up to hear Ctrl-C.
_TICK_S = 0.2


class Watch(Protocol):
    """Who is told how a migration goes, from the thread that drives it."""

    def started(self, migration: MigrationLine) -> None:
        """The claim is taken."""
        ...

    def progress(self, migration: Migration, job: JobInfo | None) -> None:
        """Something has changed: the status, the step, or the job's figures."""
        ...


class LeftAlone(NumaferryError):
    """Ctrl-C while a migration was going on; the message says what happens now, the hint what one can do."""

    code = "interrupted"
    #: As shells have it: 128 + SIGINT.
    exit_code = 130

    def __init__(self, migration: Migration, name: str) -> None:
        if migration.status in {MigrationStatus.RUNNING, MigrationStatus.POST_MIGRATING}:
            message = (
                f"migration {migration.id} of {name} goes on without this command: libvirt on {migration.source} drives"
                f" the job, and the claims on both hosts stay"
            )
        else:
            message = (
                f"migration {migration.id} of {name} was left as {migration.status}: {name} runs on {migration.source},"
                f" its claim on {migration.dest} stays until the migration is recovered"
            )
        super().__init__(
            message,
            hint=f"numaferry migration recover {migration.id} follows it to its end;"
            f" numaferry migration abort {migration.id} gives it up",
        )


def engine_for(ledger: Ledger, reach: Reach, watch: Watch | None = None) -> MigrationEngine:
    """Return an engine on this ledger that reaches hosts by their records and tells `watch`."""
    from numaferry.audit import update_available_resource  # noqa: PLC0415  (only who moves needs them)
    from numaferry.migration.engine import MigrationEngine  # noqa: PLC0415  (the same)

    def connect(record: HostRecord) -> Hypervisor:
        return reach.fresh(record.uri)

    def audit(host: str) -> AuditResult:
        with contextlib.closing(reach.fresh(ledger.host(host).uri)) as hypervisor:
            return update_available_resource(ledger, host, hypervisor)

    told = watch.progress if watch is not None else None
    return MigrationEngine(ledger, connect, audit, told)


def migrate(
    ledger: Ledger,
    reach: Reach,
    ref: str,
    dest: str | None,
    *,
    bandwidth_mib_s: int = 0,
    force: bool = False,
    watch: Watch | None = None,
) -> MigrationShow:
    """Choose, claim and move; returns when the move has ended well.

    Hosts are looked at first, so that what runs there unmanaged is not claimed. Raises NotFound, Ambiguous, Conflict
    (destination = source, a migration in progress), NotConfirmed, NotManaged, NoFit, CheckFailed, HostUnreachable,
    MigrationFailed (rolled back: the guest runs on the source), NeedsPerson, and LeftAlone on Ctrl-C.
    """
    instance = ledger.instance(ref)
    if dest is not None:
        select_destinations(ledger, instance, dest=dest)
    refuse_moving(ledger, instance)
    hypervisor = reach(ledger.host(instance.host).uri)
    refuse_absent(hypervisor, instance)
    seen = look_at_source(instance.host, hypervisor, instance.uuid)
    refuse(
        check_can_live_migrate_source(seen, instance, ledger.ledger_id, force=force),
        f"{instance.name} can't leave {instance.host}",
    )
    if dest is not None:
        _refresh_dest(ledger, reach, dest)
    for record in ledger.hosts():
        if record.name == instance.host or (dest is None and record.confirmed):
            try_refresh(ledger, reach, record)
    engine = engine_for(ledger, reach, watch)
    migration = engine.start(instance, dest, bandwidth_mib_s, force=force)
    if watch is not None:
        watch.started(migration_line(migration, instance.name))
    _drive(ledger, migration, instance, lambda: engine.drive(migration.id))
    ended = ledger.migration(migration.id)
    if ended.status is not MigrationStatus.COMPLETED:
        raise MigrationFailed(
            f"migration {ended.id} of {instance.name} is {ended.status}: {ended.reason or 'no reason was noted'}",
            hint=f"what happened step by step: numaferry migration show {ended.id}",
        )
    return show(ledger, ended)


def _refresh_dest(ledger: Ledger, reach: Reach, dest: str) -> None:
    """Look at the destination that was asked for; raises HostUnreachable by the host's name."""
    try:
        seen = look(reach(ledger.host(dest).uri))
    except HostUnreachable as error:
        raise HostUnreachable(f"host {dest} can't be asked: {error.message}", hint=error.hint) from error
    refresh(ledger, dest, seen)


def _drive(ledger: Ledger, migration: Migration, instance: Instance, work: Callable[[], Migration]) -> None:
    """Run the engine in a thread of its own, so that Ctrl-C is heard while libvirt is called."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (carried over to the waiting thread as it is)
            failures.append(error)

    worker = threading.Thread(target=run, name=f"migration-{migration.id}", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(_TICK_S)
    except KeyboardInterrupt:
        raise LeftAlone(ledger.migration(migration.id), instance.name) from None
    if failures:
        raise failures[0]


def lines(ledger: Ledger, *, instance: str | None = None, in_progress: bool = False) -> tuple[MigrationLine, ...]:
    """Return migrations, the newest first; raises NotFound for an unknown instance."""
    uuid = ledger.instance(instance).uuid if instance is not None else None
    found = ledger.migrations(instance=uuid, status=IN_PROGRESS if in_progress else None)
    return tuple(migration_line(move, name_of(ledger, move)) for move in reversed(found))


def name_of(ledger: Ledger, move: Migration) -> str:
    """Return the instance's name, or its UUID where it is forgotten."""
    known = ledger.instance_by_uuid(move.instance_uuid)
    return known.name if known is not None else move.instance_uuid


def show(ledger: Ledger, move: Migration) -> MigrationShow:
    """Return a migration with both sides of its context and its history."""
    context = move.context
    return MigrationShow(
        migration=migration_line(move, name_of(ledger, move)),
        old_numa_topology=context.old_numa_topology if context else None,
        new_numa_topology=context.new_numa_topology if context else None,
        old_vifs=context.old_vifs if context else (),
        new_vifs=context.new_vifs if context else (),
        events=tuple(EventLine(one.at, one.kind, one.sentence) for one in ledger.events(migration=move.id)),
    )


def abort(ledger: Ledger, reach: Reach, ref: str, *, watch: Watch | None = None) -> MigrationLine:
    """Ask for a migration to be given up; one that nobody drives is given up here. Raises NotFound, Conflict.

    A migration whose guest runs on the destination can't be given up any more.
    """
    move = ledger.migration(ref)
    name = name_of(ledger, move)
    if not move.in_progress:
        raise Conflict(
            f"migration {move.id} of {name} is {move.status}: there is nothing to abort",
            hint=f"how it ended: numaferry migration show {move.id}",
        )
    if move.status is MigrationStatus.POST_MIGRATING:
        raise Conflict(
            f"migration {move.id}: {name} runs on {move.dest} already, there is no way back",
            hint=f"to have it on {move.source} again: numaferry migrate {name} --dest {move.source}",
        )
    engine = engine_for(ledger, reach, watch)
    left = abandoned(ledger, move)
    engine.abort(move.id)
    if left:
        engine.recover(move.id, left_by=left_by(move))
    return migration_line(ledger.migration(move.id), name)


def stale(ledger: Ledger, instance_uuid: str | None = None) -> tuple[Migration, ...]:
    """Return migrations in progress that nobody drives any more, the oldest first."""
    moves = ledger.migrations(instance=instance_uuid, status=IN_PROGRESS)
    return tuple(move for move in moves if abandoned(ledger, move))


def abandoned(ledger: Ledger, move: Migration) -> bool:
    """Tell whether nobody drives a migration: let go of, its process known dead, or its lease and longest call over."""
    if not move.controller or controllers.is_dead(move.controller):
        return True
    return move.lease_until + LeasePolicy().longest_call_s <= ledger.now()


def left_by(move: Migration) -> str | None:
    """Return who is known to have left an abandoned migration; None where only its lease says so."""
    return move.controller if not move.controller or controllers.is_dead(move.controller) else None


def recover(
    ledger: Ledger, reach: Reach, ref: str | None = None, *, answer: str | None = None, watch: Watch | None = None
) -> tuple[Recovered, ...]:
    """Converge one migration, or all in progress whose controller is gone, by what both hosts say.

    `answer` is what a person says of the one that is named (`migration.answers`). Raises NotFound, and Conflict where
    the one that is named has ended or is being driven, or where the hosts do not bear the answer out.
    """
    if answer and ref is None:
        raise InvalidInput(
            "an answer is given to one migration", hint="name it: numaferry migration list --in-progress"
        )
    if ref is None:
        return tuple(_recover(ledger, reach, move, watch) for move in stale(ledger))
    move = ledger.migration(ref)
    if not move.in_progress:
        raise Conflict(
            f"migration {move.id} is {move.status}: there is nothing to recover",
            hint=f"how it ended: numaferry migration show {move.id}",
        )
    if not abandoned(ledger, move):
        raise Conflict(
            f"migration {move.id} is being driven by {move.controller}",
            hint=f"let it work, or give the migration up: numaferry migration abort {move.id}",
        )
    return (_answer(ledger, reach, move, answer, watch) if answer else _recover(ledger, reach, move, watch),)


def _answer(ledger: Ledger, reach: Reach, move: Migration, answer: str, watch: Watch | None) -> Recovered:
    """End one migration as a person says, and say what it was held against."""
    from numaferry.migration.answers import Answer  # noqa: PLC0415  (only who answers needs it)

    name = name_of(ledger, move)
    if watch is not None:
        watch.started(migration_line(move, name))
    now = engine_for(ledger, reach, watch).answer(move.id, Answer(answer), left_by=left_by(move))
    return Recovered(migration_line(now, name), "recovered", now.reason)


def _recover(ledger: Ledger, reach: Reach, move: Migration, watch: Watch | None) -> Recovered:
    """Converge one migration and say what was found on both hosts, what was done about it, and how it ended."""
    name = name_of(ledger, move)
    if watch is not None:
        watch.started(migration_line(move, name))
    before = len(ledger.events(migration=move.id))
    outcome = "recovered"
    ending = ""
    try:
        engine_for(ledger, reach, watch).recover(move.id, left_by=left_by(move))
    except NeedsPerson as error:
        outcome, ending = "needs a person", f"{error.message}. {error.hint}".strip()
    except TakenOver as error:
        outcome, ending = "left alone", error.message
    except LedgerError:
        raise
    except NumaferryError as error:
        ending = error.message
    now = ledger.migration(move.id)
    if now.in_progress and outcome == "recovered":
        outcome = "needs a person" if now.status is MigrationStatus.ERROR else "waiting"
    done = [one.sentence for one in ledger.events(migration=move.id)[before:]]
    if outcome == "needs a person":
        return Recovered(migration_line(now, name), outcome, ending)
    if not ending:
        ending = now.reason or f"{name} is on {now.dest}"
    return Recovered(migration_line(now, name), outcome, ". ".join((*decisions(done), ending)))
