"""Forcing the end of a running migration: what it would mean, and asking its controller for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.errors import Conflict
from numaferry.migration.progress import mib
from numaferry.model import MigrationStatus, PostCopy
from numaferry.service.driving import name_of
from numaferry.service.instances import migration_line
from numaferry.service.views import ForceForecast, MigrationLine

if TYPE_CHECKING:
    from numaferry.ledger import Ledger
    from numaferry.model import JobInfo, Migration
    from numaferry.service.discovery import Reach

_MIB = 1 << 20


def forecast(ledger: Ledger, reach: Reach, ref: str, how: str | None = None) -> ForceForecast:
    """Return how a migration's end would be forced, by its job's figures now.

    Raises NotFound, Conflict where no job runs or its policy does not allow it, HostUnreachable for the source.
    """
    move = ledger.migration(ref)
    chosen = how or ("post-copy" if move.policy.post_copy is not PostCopy.NEVER else "pause")
    _refuse(move, chosen)
    job = reach(ledger.host(move.source).uri).job(move.instance_uuid)
    if job is None or not job.memory_total_bytes:
        raise Conflict(
            f"migration {move.id}: libvirt on {move.source} has no figures of a job",
            hint="it has not begun to copy, or has just ended: look again",
        )
    return ForceForecast(chosen, _sentence(move, name_of(ledger, move), job, chosen))


def _sentence(move: Migration, name: str, job: JobInfo, how: str) -> str:
    left = f"{mib(job.memory_remaining_bytes)} MiB are left"
    if how == "post-copy":
        return (
            f"{name} would run on {move.dest} at once and fetch what is missing ({left}): until then it is lost with"
            f" either host, and there is no way back"
        )
    if job.memory_bps <= 0:
        return f"{name} would stand still until the rest is copied ({left}, at an unknown rate)"
    pause_s = job.memory_remaining_bytes / job.memory_bps
    return f"{name} would stand still for about {pause_s:.1f} s ({left}, {job.memory_bps / _MIB:.0f} MiB/s)"


def force(ledger: Ledger, ref: str, how: str) -> MigrationLine:
    """Ask a migration's controller to force its end; raises NotFound, Conflict."""
    move = ledger.migration(ref)
    _refuse(move, how)
    return migration_line(ledger.request_force_complete(move.id, how), name_of(ledger, move))


def _refuse(move: Migration, how: str) -> None:
    """Raise Conflict where the end can't be forced so."""
    if move.status is not MigrationStatus.RUNNING:
        raise Conflict(
            f"migration {move.id} is {move.status}: only a running one can be forced to its end",
            hint=f"numaferry migration show {move.id}",
        )
    if how == "post-copy" and move.policy.post_copy is PostCopy.NEVER:
        raise Conflict(
            f"migration {move.id} was begun without post-copy, and libvirt can't switch to it any more",
            hint=f"numaferry migration force-complete {move.id} --by pause",
        )
