"""The live migration itself: the blocking call, and the watch over the job that it starts.

libvirt's source daemon drives a peer-to-peer job, so the call's end is not the job's: after every failure both hosts
are asked, and `recovery.decide` says what is true (nova: Launchpad 1905944, a monitor that died and rolled back while
the guest moved).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import HostError, HypervisorError
from numaferry.migration.evidence import DestWord, SourceWord, dest_word, progress, source_word
from numaferry.migration.prepare import make_call

if TYPE_CHECKING:
    from numaferry.migration.move import Move
    from numaferry.model import JobInfo

_GONE = frozenset({SourceWord.ABSENT, SourceWord.OFF, SourceWord.ENDED})


def live_migration(move: Move) -> None:
    """Mark the guest on the source with this migration, then call driver.live_migration() and watch its job.

    Returns when the guest runs on the destination, at once where it already does. Raises what libvirt said; what is
    true then is for the caller to find out.
    """
    source, job, dest = move.look()
    if dest_word(dest) is DestWord.ACTIVE and source_word(source, job, move.migration) in _GONE:
        return
    call = make_call(move)
    move.source_host.set_ownership(move.uuid, move.mark(move.source, moving=True))
    move.guard()
    source_host = move.source_host
    move.tools.beside(lambda: source_host.live_migration(call), Watch(move).look, move.tools.poll_s)


def watch_job(move: Move) -> None:
    """Watch a job that somebody else started, until the source reports none; raises HostError."""
    watch = Watch(move, patient=False)
    while watch.look():
        move.tools.sleep(move.tools.poll_s)


@attrs.define(slots=True)
class Watch:
    """Polls the job on the control connection: progress to the caller, now and then to the ledger, abort to libvirt.

    A `patient` watch leaves a host that can't be asked to the blocking call beside it.
    """

    move: Move
    patient: bool = True
    _told_at: float | None = None

    def look(self) -> bool:
        """Look once; return whether there is a job."""
        move, tools = self.move, self.move.tools
        try:
            job = move.source_host.job(move.uuid)
            if job is None:
                return False
            tools.on_progress(move.migration, job)
            move.sample(job)
            self._tell(job)
            if move.migration.abort_requested or tools.ledger.migration(move.migration.id).abort_requested:
                move.guard()
                # one that comes too late is no failure: the job is watched to its end
                with contextlib.suppress(HypervisorError):
                    move.source_host.abort_job(move.uuid)
        except HostError:
            # the blocking call hears of it too and says more
            if not self.patient:
                raise
        return True

    def _tell(self, job: JobInfo) -> None:
        now = self.move.tools.clock()
        if self._told_at is None:
            self._told_at = now
        elif now - self._told_at >= self.move.tools.heartbeat_s:
            self._told_at = now
            self.move.commit(f"the job runs, {progress(job)}")
