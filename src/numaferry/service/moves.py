"""Migrations: moving, watching, aborting, recovering; what a face may ask about them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from numaferry.errors import Conflict, HostError, HostUnreachable, NumaferryError
from numaferry.migration.checks import check_can_live_migrate_source, look_at_source, refuse
from numaferry.migration.evidence import POSTCOPY_REASONS
from numaferry.migration.lease import LeasePolicy
from numaferry.model import IN_PROGRESS, MigrationStatus, PolicyWish, PostCopy
from numaferry.scheduler import select_destinations
from numaferry.service.attempts import ATTEMPTS, PAUSES_S, note_attempt, worth_another_host
from numaferry.service.discovery import look
from numaferry.service.driving import Watch, left_by, name_of, running_controller, takeable, watched_engine
from numaferry.service.estimates import refuse_endless
from numaferry.service.following import follow, refuse_unfinished
from numaferry.service.hosts import refresh, try_refresh
from numaferry.service.instances import migration_line
from numaferry.service.plans import refuse_absent, refuse_moving
from numaferry.service.policies import configured_limits, resolve
from numaferry.service.views import EventLine, MigrationLine, MigrationShow
from numaferry.service.watching import last_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.ledger import Ledger
    from numaferry.migration.engine import MigrationEngine
    from numaferry.model import Instance, Migration
    from numaferry.service.discovery import Reach

#: How often the waiting thread wakes up to hear Ctrl-C.
_TICK_S = 0.2


class LeftAlone(NumaferryError):
    """Ctrl-C while a migration was going on; the message says what happens now, the hint what one can do."""

    code = "interrupted"
    #: As shells have it: 128 + SIGINT.
    exit_code = 130

    def __init__(self, migration: Migration, name: str, controller: str = "") -> None:
        if controller:
            message = (
                f"migration {migration.id} of {name} goes on without this command: controller {controller} drives it"
            )
        elif migration.status in {MigrationStatus.RUNNING, MigrationStatus.POST_MIGRATING}:
            message = (
                f"migration {migration.id} of {name} goes on without this command: libvirt on {migration.source} drives"
                f" the job, and the claims on both hosts stay"
            )
        else:
            message = (
                f"migration {migration.id} of {name} was left as {migration.status}: {name} runs on {migration.source},"
                f" its claim on {migration.dest} stays until the migration is recovered"
            )
        follows = "watch" if controller else "recover"
        super().__init__(
            message,
            hint=f"numaferry migration {follows} {migration.id} follows it to its end;"
            f" numaferry migration abort {migration.id} gives it up",
        )


def migrate(
    ledger: Ledger,
    reach: Reach,
    ref: str,
    dest: str | None,
    *,
    policy: PolicyWish | None = None,
    force: bool = False,
    priority: int = 0,
    watch: Watch | None = None,
) -> MigrationShow:
    """Choose, claim and move; returns when the move has ended well.

    Where a controller runs (`numaferry serve`) it drives the migration, and this only follows; else it is driven here.
    Hosts are looked at first, so that what runs there unmanaged is not claimed. Without `dest` one that failed before
    the switch is tried again on the next best host, a bounded number of times (`service.attempts`). Raises NotFound,
    Ambiguous, Conflict (destination = source, a migration in progress), NotConfirmed, NotManaged, NoFit, CheckFailed,
    HostUnreachable, MigrationFailed (rolled back: the guest runs on the source), NeedsPerson, and LeftAlone on Ctrl-C.
    """
    instance = ledger.instance(ref)
    if dest is not None:
        select_destinations(ledger, instance, dest=dest)
    refuse_moving(ledger, instance)
    chosen = resolve(ledger, instance, policy or PolicyWish())
    hypervisor = reach(ledger.host(instance.host).uri)
    refuse_absent(hypervisor, instance)
    seen = look_at_source(instance.host, hypervisor, instance.uuid)
    refuse(
        check_can_live_migrate_source(seen, instance, ledger.ledger_id, force=force),
        f"{instance.name} can't leave {instance.host}",
    )
    refuse_endless(ledger, reach, instance, dest, policy=chosen, watch=watch)
    if dest is not None:
        _refresh_dest(ledger, reach, dest)
    for record in ledger.hosts():
        if record.name == instance.host or (dest is None and record.confirmed):
            try_refresh(ledger, reach, record)
    engine = watched_engine(ledger, reach, watch, limits=configured_limits())
    failed: list[Migration] = []
    while True:
        controller = running_controller(ledger)
        migration = engine.start(
            instance,
            dest,
            chosen,
            force=force,
            handed_over=bool(controller),
            priority=priority,
            avoid=_tried(failed),
        )
        _tell_begin(ledger, migration, instance.name, failed, watch=watch, controller=controller)
        work = _work(ledger, reach, engine, migration, watch=watch, controller=controller)
        try:
            _drive(ledger, migration, instance, work, controller)
            refuse_unfinished(ledger.migration(migration.id), instance.name)
        except NumaferryError as error:
            failed.append(ledger.migration(migration.id))
            if dest is not None or isinstance(error, LeftAlone) or not _next_host(ledger, instance, failed):
                raise
            time.sleep(PAUSES_S[len(failed) - 1])
        else:
            return show(ledger, ledger.migration(migration.id))


def _tried(failed: list[Migration]) -> dict[str, str]:
    """Return the hosts on which a move failed just now, each with why."""
    return {one.dest: f"migration {one.id} there failed: {one.reason}" for one in failed}


def _next_host(ledger: Ledger, instance: Instance, failed: list[Migration]) -> bool:
    """Tell whether another attempt is made: it may help, not too many were made, and there is a host that fits."""
    if len(failed) >= ATTEMPTS or not worth_another_host(ledger, failed[-1]):
        return False
    return bool(select_destinations(ledger, instance, avoid=_tried(failed)))


def _tell_begin(
    ledger: Ledger, migration: Migration, name: str, failed: list[Migration], *, watch: Watch | None, controller: str
) -> None:
    """Note and tell that a migration begins, after which attempts, and who drives it."""
    again = note_attempt(ledger, migration, len(failed) + 1, failed[-1]) if failed else ""
    if watch is None:
        return
    line = migration_line(migration, name)
    if again:
        watch.again(line, again)
    watch.started(line)
    if controller:
        watch.handed_over(line, controller)


def _work(
    ledger: Ledger, reach: Reach, engine: MigrationEngine, migration: Migration, *, watch: Watch | None, controller: str
) -> Callable[[], Migration]:
    """Return what sees the migration to its end: driving it here, or following the controller that does."""
    if not controller:
        return lambda: engine.drive(migration.id)
    return lambda: follow(ledger, reach, engine, migration.id, watch)


def _refresh_dest(ledger: Ledger, reach: Reach, dest: str) -> None:
    """Look at the destination that was asked for; raises HostUnreachable by the host's name."""
    try:
        seen = look(reach(ledger.host(dest).uri))
    except HostUnreachable as error:
        raise HostUnreachable(f"host {dest} can't be asked: {error.message}", hint=error.hint) from error
    refresh(ledger, dest, seen)


def _drive(
    ledger: Ledger, migration: Migration, instance: Instance, work: Callable[[], Migration], controller: str
) -> None:
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
        raise LeftAlone(ledger.migration(migration.id), instance.name, controller) from None
    if failures:
        raise failures[0]


def lines(ledger: Ledger, *, instance: str | None = None, in_progress: bool = False) -> tuple[MigrationLine, ...]:
    """Return migrations, the newest first; raises NotFound for an unknown instance."""
    uuid = ledger.instance(instance).uuid if instance is not None else None
    found = ledger.migrations(instance=uuid, status=IN_PROGRESS if in_progress else None)
    return tuple(migration_line(move, name_of(ledger, move)) for move in reversed(found))


def show(ledger: Ledger, move: Migration) -> MigrationShow:
    """Return a migration with both sides of its context and its history."""
    context = move.context
    return MigrationShow(
        migration=migration_line(move, name_of(ledger, move)),
        old_numa_topology=context.old_numa_topology if context else None,
        new_numa_topology=context.new_numa_topology if context else None,
        old_vifs=context.old_vifs if context else (),
        new_vifs=context.new_vifs if context else (),
        progress=last_progress(move, ledger.last_sample(move.id)),
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
    engine = watched_engine(ledger, reach, watch)
    _refuse_in_postcopy(ledger, reach, move, name)
    left = takeable(ledger, move, LeasePolicy())
    engine.abort(move.id)
    if left:
        engine.recover(move.id, left_by=left_by(move))
    return migration_line(ledger.migration(move.id), name)


def _refuse_in_postcopy(ledger: Ledger, reach: Reach, move: Migration, name: str) -> None:
    """Raise Conflict where the guest runs on the destination already, fetching what is left: there is no way back.

    A source that can't be asked now is no reason to refuse: the wish is noted, and its driver finds out.
    """
    if move.status is not MigrationStatus.RUNNING or move.policy.post_copy is PostCopy.NEVER:
        return
    try:
        seen = reach(ledger.host(move.source).uri).domain(move.instance_uuid)
    except HostError:
        return
    if seen is not None and seen.state_reason in POSTCOPY_REASONS:
        raise Conflict(
            f"migration {move.id}: {name} is in post-copy and runs on {move.dest}: there is no way back",
            hint=f"to have it on {move.source} again, once it has arrived: numaferry migrate {name}",
        )
