"""The live migration itself: the blocking call, and the watch over the job that it starts.

libvirt's source daemon drives a peer-to-peer job, so the call's end is not the job's: after every failure both hosts
are asked, and `recovery.decide` says what is true (nova: Launchpad 1905944, a monitor that died and rolled back while
the guest moved).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable  # noqa: TC003  (the table's type is read when it runs)
from typing import TYPE_CHECKING, Final

import attrs

from numaferry.errors import HostError, HypervisorError, LedgerUnusable
from numaferry.migration.convergence import Action, Course, Turn, advise, told
from numaferry.migration.emulator import keep_off_dedicated
from numaferry.migration.evidence import DestWord, SourceWord, dest_word, progress, source_word
from numaferry.migration.prepare import make_call

if TYPE_CHECKING:
    from numaferry.migration.move import Move
    from numaferry.model import JobInfo

#: How a person may force the end → what the schedule calls it.
_FORCED: Final = {"post-copy": Action.POST_COPY, "pause": Action.PAUSE}
_GONE = frozenset({SourceWord.ABSENT, SourceWord.OFF, SourceWord.ENDED})


def live_migration(move: Move) -> None:
    """Mark the guest with this migration, call driver.live_migration() off dedicated CPUs, and watch its job.

    Returns when the guest runs on the destination, at once where it already does. Raises what libvirt said; what is
    true then is for the caller to find out.
    """
    source, job, dest = move.look()
    if dest_word(dest) is DestWord.ACTIVE and source_word(source, job, move.migration) in _GONE:
        return
    call = make_call(move)
    keep_off_dedicated(move)
    move.source_host.set_ownership(move.uuid, move.mark(move.source, moving=True))
    move.guard()
    source_host = move.source_host
    move.tools.beside(lambda: source_host.live_migration(call), Watch(move).look, move.tools.poll_s)


def watch_job(move: Move) -> None:
    """Watch a job that somebody else started, until the source reports none; raises HostError."""
    watch = Watch(move, patient=False)
    while watch.look():
        move.tools.sleep(move.tools.poll_s)


#: What the schedule, or a person, may ask for → the call that does it.
_ACTIONS: Final[dict[Action, Callable[[Move, int], None]]] = {
    Action.MAX_DOWNTIME: lambda move, value: move.source_host.set_max_downtime(move.uuid, value),
    Action.POST_COPY: lambda move, _: move.source_host.start_postcopy(move.uuid),
    Action.PAUSE: lambda move, _: move.source_host.suspend(move.uuid),
    Action.ABORT: lambda move, _: move.source_host.abort_job(move.uuid),
}


@attrs.define(slots=True)
class Watch:
    """Polls the job on the control connection: progress to caller and ledger, schedule and wishes to libvirt.

    A `patient` watch leaves a host that can't be asked to the blocking call beside it.
    """

    move: Move
    patient: bool = True
    _told_at: float | None = None
    _course: Course = attrs.field(factory=Course)

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
            self._converge(job)
        except HostError:
            # the blocking call hears of it too and says more
            if not self.patient:
                raise
        except LedgerUnusable:
            # a ledger that is away for a moment stops nobody before the deadline: raises LeaseLapsed then
            move.lease.hold()
        return True

    def _converge(self, job: JobInfo) -> None:
        """Do what a person wants of the job, else what its schedule says now."""
        move = self.move
        row = move.tools.ledger.migration(move.migration.id)
        now = move.tools.clock()
        self._course = self._course.observe(job, now)
        if move.migration.abort_requested or row.abort_requested:
            move.guard()
            # one that comes too late is no failure: the job is watched to its end
            with contextlib.suppress(HypervisorError):
                move.source_host.abort_job(move.uuid)
        elif row.force_complete and not self._course.forced:
            self._course = attrs.evolve(self._course, forced=True)
            self._do(Turn(self._course.iteration, _FORCED[row.force_complete], "a person wants it"))
        elif job.memory_total_bytes or job.disk_total_bytes:
            # what is copied of disks takes time as memory does (nova: _live_migration_data_gb)
            size_kib = move.instance.request.memory_kib + job.disk_total_bytes // 1024
            advice = advise(row.policy, size_kib, self._course, now)
            self._course = advice.course
            for turn in advice.turns:
                self._do(turn)

    def _do(self, turn: Turn) -> None:
        """Tell a decision, then do it; what libvirt refuses is told, and the job is watched on."""
        move = self.move
        move.commit(told(turn, self._course))
        try:
            _ACTIONS[turn.action](move, turn.value)
        except HypervisorError as error:
            move.commit(f"{turn.action} was refused: {error.message}")

    def _tell(self, job: JobInfo) -> None:
        now = self.move.tools.clock()
        if self._told_at is None:
            self._told_at = now
        elif now - self._told_at >= self.move.tools.heartbeat_s:
            self._told_at = now
            self.move.commit(f"the job runs, {progress(job)}")
