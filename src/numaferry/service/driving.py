"""Who drives a migration, and how one is driven: what moving, following, recovering and serving have in common."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from numaferry.errors import LedgerError
from numaferry.migration import controllers
from numaferry.migration.lease import LeasePolicy
from numaferry.migration.progress import progress_of
from numaferry.model import MigrationStatus, Passes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.audit import AuditResult
    from numaferry.ledger import HostRecord, Ledger
    from numaferry.migration.engine import MigrationEngine
    from numaferry.migration.progress import Progress
    from numaferry.model import JobInfo, Limits, Migration
    from numaferry.service.discovery import Reach
    from numaferry.service.views import MigrationLine
    from numaferry.virt.port import Hypervisor


class Watch(Protocol):
    """Who is told how a migration goes, from the thread that drives it."""

    def warned(self, sentence: str) -> None:
        """Nothing is claimed yet, and this is to be known before."""
        ...

    def started(self, migration: MigrationLine) -> None:
        """The claim is taken."""
        ...

    def progress(self, migration: Migration, progress: Progress | None) -> None:
        """Something has changed: the status, the step, or the job's figures."""
        ...

    def again(self, migration: MigrationLine, sentence: str) -> None:
        """It is a further attempt, on another host, and why."""
        ...

    def handed_over(self, migration: MigrationLine, controller: str) -> None:
        """A controller that runs drives it; this command only follows."""
        ...


def engine_for(
    ledger: Ledger,
    reach: Reach,
    *,
    told: Callable[[Migration, JobInfo | None], None] | None = None,
    controller: str | None = None,
    lease: LeasePolicy | None = None,
    limits: Limits | None = None,
) -> MigrationEngine:
    """Return an engine on this ledger that reaches hosts by their records and tells `told` how it goes.

    `limits` are for who begins migrations; what was begun is recovered and given up whatever they are.
    """
    from numaferry.audit import update_available_resource  # noqa: PLC0415  (only who moves needs them)
    from numaferry.migration.engine import MigrationEngine  # noqa: PLC0415  (the same)

    def connect(record: HostRecord) -> Hypervisor:
        return reach.fresh(record.uri)

    def audit(host: str) -> AuditResult:
        with contextlib.closing(reach.fresh(ledger.host(host).uri)) as hypervisor:
            return update_available_resource(ledger, host, hypervisor)

    return MigrationEngine(ledger, connect, audit, told, controller=controller, lease=lease, limits=limits)


def watched_engine(
    ledger: Ledger, reach: Reach, watch: Watch | None, *, limits: Limits | None = None
) -> MigrationEngine:
    """Return an engine that tells a watch how it goes."""
    return engine_for(ledger, reach, told=teller(ledger, watch), limits=limits)


def teller(ledger: Ledger, watch: Watch | None) -> Callable[[Migration, JobInfo | None], None]:
    """Return what tells a watch of a job's looks what they mean, one after another.

    The trend goes on from the look that the ledger has, so that a job which is adopted reads the same everywhere.
    """
    passes: Passes | None = None

    def tell(migration: Migration, job: JobInfo | None) -> None:
        nonlocal passes
        if watch is None:
            return
        if job is None:
            watch.progress(migration, None)
            return
        if passes is None:
            passes = _passes_so_far(ledger, migration)
        passes = passes.observe(job)
        watch.progress(migration, progress_of(job, passes))

    return tell


def _passes_so_far(ledger: Ledger, migration: Migration) -> Passes:
    """Return the passes that the ledger knows; none where it can't be asked, which must not disturb who drives."""
    with contextlib.suppress(LedgerError):
        last = ledger.last_sample(migration.id)
        if last is not None:
            return last.passes
    return Passes()


def running_controller(ledger: Ledger) -> str:
    """Return the name of a controller that runs on this ledger now, or ""."""
    alive = [one for one in ledger.controllers() if one.alive and not controllers.is_dead(one.session)]
    return alive[0].name if alive else ""


def handed_over(move: Migration) -> bool:
    """Tell whether a migration waits for a controller to begin with it."""
    waiting = {MigrationStatus.ACCEPTED, MigrationStatus.QUEUED}
    return not move.controller and not move.step and move.status in waiting


def takeable(ledger: Ledger, move: Migration, lease: LeasePolicy) -> bool:
    """Tell whether nobody drives a migration: let go of, its process known dead, or its lease and longest call over."""
    if not move.controller or controllers.is_dead(move.controller):
        return True
    return move.lease_until + lease.longest_call_s <= ledger.now()


def abandoned(ledger: Ledger, move: Migration) -> bool:
    """Tell whether nobody drives a migration and no controller that runs is about to begin with it."""
    if handed_over(move) and running_controller(ledger):
        return False
    return takeable(ledger, move, LeasePolicy())


def left_by(move: Migration) -> str | None:
    """Return who is known to have left an abandoned migration; None where only its lease says so."""
    return move.controller if not move.controller or controllers.is_dead(move.controller) else None


def name_of(ledger: Ledger, move: Migration) -> str:
    """Return the instance's name, or its UUID where it is forgotten."""
    known = ledger.instance_by_uuid(move.instance_uuid)
    return known.name if known is not None else move.instance_uuid
