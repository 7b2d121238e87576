"""How long a migration will take, and whether it ends at all, before it is started: a small model of pre-copy. Pure.

QEMU sends all memory, then again what was dirtied meanwhile, until what remains can be sent within the downtime limit
(migration_iteration_run). The model does the same with two figures of the guest (`dirtying.HotSet`) and one of the way
there, under the very schedule that the engine will follow (`convergence.schedule`), with QEMU's rule for auto-converge
(migration_trigger_throttle: at every second pass in which more than half as much is dirtied as is sent).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

from numaferry.migration.convergence import QEMU_DOWNTIME_MS, Action, Turn, schedule
from numaferry.model import OnTimeout, PostCopy

if TYPE_CHECKING:
    from numaferry.migration.dirtying import HotSet
    from numaferry.model import MigrationPolicy

#: What a job takes beside sending memory: connecting, devices, the switch. Fitted in `benchmarks/estimate.py`.
FIXED_S: Final = 0.3
#: QEMU sends in bursts of a tenth of a second; what of a burst lies below the limit when it is noticed, on average.
_BURST_S: Final = 0.05
#: More passes than any migration has that ends, and so many without a gain are for ever.
_MOST_PASSES: Final = 2000
_SAME: Final = 0.999
#: QEMU's cpu-throttle-initial, cpu-throttle-increment, max-cpu-throttle, throttle-trigger-threshold, in percent.
_THROTTLE: Final = (20, 10, 99, 50)


class Ending(enum.StrEnum):
    """How a migration is expected to end."""

    SWITCHED = "switched"
    #: By post-copy, because the passes did not end it.
    POST_COPY = "post-copy"
    #: The guest is paused at the timeout, so that the copy can end.
    PAUSED = "paused at the timeout"
    #: It is aborted at the timeout.
    ABORTED = "aborted at the timeout"
    #: It goes on until somebody ends it.
    NEVER = "never"


@attrs.frozen(slots=True)
class Way:
    """What is known of sending: memory that has to go, and bytes per second."""

    memory_bytes: int
    bandwidth_bps: float
    #: In post-copy; 0: the same.
    postcopy_bps: float = 0.0


@attrs.frozen(slots=True)
class Forecast:
    """What the model says."""

    ending: Ending
    #: From the job's begin to its end; None: there is none.
    duration_s: float | None
    #: The pause at the switch is no longer than this; 0 where there is none to speak of (post-copy, abort).
    downtime_ms: int
    passes: int
    sent_bytes: int
    #: Percent of its CPU time that auto-converge takes from the guest in the end.
    throttle: int

    @property
    def converges(self) -> bool:
        """Tell whether the copy ends by itself: neither forced, nor given up."""
        return self.ending is Ending.SWITCHED


@attrs.define(slots=True)
class _Run:
    """A migration while it is worked out."""

    policy: MigrationPolicy
    left: float
    seconds: float = FIXED_S
    sent: float = 0.0
    passes: int = 0
    throttle: int = 0
    high: int = 0
    turns: tuple[Turn, ...] = attrs.field(
        default=attrs.Factory(lambda self: schedule(self.policy), takes_self=True), init=False
    )

    def limit_s(self) -> float:
        """Return the downtime limit in force in this pass."""
        due = (turn for turn in self.turns if turn.iteration <= max(1, self.passes))
        values = [turn.value for turn in due if turn.action is Action.MAX_DOWNTIME]
        return (values[-1] if values else QEMU_DOWNTIME_MS) / 1000

    def throttled(self, hot: HotSet, seconds: float) -> float:
        """Return what the guest dirties in so long, as far as it is let."""
        return min(hot.rate_bps * (1 - self.throttle / 100) * seconds, hot.size_bytes)

    def judge(self, dirtied: float, sent: float) -> None:
        """Throttle as QEMU does after a pass."""
        initial, increment, most, trigger = _THROTTLE
        if not self.policy.auto_converge or dirtied <= sent * trigger / 100:
            return
        self.high += 1
        if self.high < 2:
            return
        self.high = 0
        more = self.policy.auto_converge_increment or increment
        first = self.policy.auto_converge_initial or initial
        self.throttle = min(most, self.throttle + more if self.throttle else first)

    def ended(self, ending: Ending, *, way: Way, downtime_s: float = 0.0) -> Forecast:
        """Return the forecast for an end with what is left still to be sent, unless it is given up."""
        given_up = ending in {Ending.ABORTED, Ending.NEVER}
        rate = (way.postcopy_bps if ending is Ending.POST_COPY else 0.0) or way.bandwidth_bps
        seconds = self.seconds + (0.0 if given_up else self.left / rate)
        return Forecast(
            ending,
            None if ending is Ending.NEVER else seconds,
            round(1000 * downtime_s),
            self.passes,
            round(self.sent + (0.0 if given_up else self.left)),
            self.throttle,
        )


def forecast(way: Way, hot: HotSet, policy: MigrationPolicy, memory_kib: int) -> Forecast:
    """Return how a migration of a guest of this size would go under a policy.

    Raises ValueError for a bandwidth that is not positive: without one nothing can be said.
    """
    if way.bandwidth_bps <= 0:
        raise ValueError(f"a bandwidth of {way.bandwidth_bps} B/s moves nothing")
    run = _Run(policy, float(way.memory_bytes))
    timeout_s = policy.timeout_s(memory_kib)
    stuck, took_s = 0, 0.0
    while run.passes < _MOST_PASSES and stuck <= policy.downtime_steps + 1:
        before, throttle = run.left, run.throttle
        if (forced := _post_copy(run, way)) is not None:
            return forced
        run.passes += 1
        threshold = run.limit_s() * way.bandwidth_bps
        keep = min(run.left, max(0.0, threshold - _BURST_S * way.bandwidth_bps))
        took_s = (run.left - keep) / way.bandwidth_bps
        if timeout_s and run.seconds + took_s > timeout_s:
            return _timed_out(run, hot, way, timeout_s)
        dirtied = run.throttled(hot, took_s)
        run.seconds += took_s
        run.sent += run.left - keep
        # what is kept back from the second pass on was dirtied before, so it is in the hot set
        run.left = keep + dirtied if run.passes == 1 else min(keep + dirtied, max(keep, hot.size_bytes))
        if run.left <= threshold:
            return run.ended(Ending.SWITCHED, way=way, downtime_s=run.left / way.bandwidth_bps)
        run.judge(dirtied, before - keep)
        gains = run.left < before * _SAME or run.throttle != throttle
        may_throttle = policy.auto_converge and run.throttle < _THROTTLE[2]
        stuck = 0 if gains or may_throttle else stuck + 1
    if not timeout_s:
        return run.ended(Ending.NEVER, way=way)
    idle_s = timeout_s - run.seconds
    run.sent, run.passes = run.sent + idle_s * way.bandwidth_bps, run.passes + int(idle_s / max(took_s, _BURST_S))
    run.seconds = float(timeout_s)
    return _timed_out(run, hot, way, timeout_s)


def _post_copy(run: _Run, way: Way) -> Forecast | None:
    """Return the end by post-copy where it is automatic and its passes are over."""
    policy = run.policy
    if policy.post_copy is PostCopy.AUTOMATIC and run.passes >= policy.post_copy_after_iterations:
        return run.ended(Ending.POST_COPY, way=way)
    return None


def _timed_out(run: _Run, hot: HotSet, way: Way, timeout_s: int) -> Forecast:
    """Return how a migration ends whose time is up."""
    passing_s = max(0.0, timeout_s - run.seconds)
    sent = min(run.left, passing_s * way.bandwidth_bps)
    run.left, run.sent = run.left - sent + run.throttled(hot, passing_s), run.sent + sent
    run.seconds = float(timeout_s)
    match run.policy.on_timeout:
        case OnTimeout.POST_COPY:
            return run.ended(Ending.POST_COPY, way=way)
        case OnTimeout.PAUSE:
            return run.ended(Ending.PAUSED, way=way, downtime_s=run.left / way.bandwidth_bps)
        case OnTimeout.ABORT:
            return run.ended(Ending.ABORTED, way=way)


def naive_s(way: Way) -> float:
    """Return what dividing memory by bandwidth says, whatever the guest writes."""
    return way.memory_bytes / way.bandwidth_bps
