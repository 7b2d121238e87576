"""How a job is made to converge: a schedule as data, and what it says of the job at this moment. Pure.

Steps are taken by iteration (a pass over the memory), not by the clock: a pass is what shows whether the last step
helped (oVirt's vdsm keeps such a table; KubeVirt VEP 291). Two things go by the clock: a job that moves no byte, and
the time within which the whole has to end.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

from numaferry.model import OnTimeout, PostCopy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numaferry.model import JobInfo, MigrationPolicy

#: QEMU's default of downtime-limit, which is what a job begins with.
QEMU_DOWNTIME_MS: Final = 300
_MIB: Final = 1 << 20


class Action(enum.StrEnum):
    """What the schedule may ask of the hypervisor."""

    MAX_DOWNTIME = "set the downtime limit"
    POST_COPY = "switch to post-copy"
    PAUSE = "pause the guest"
    ABORT = "abort"


@attrs.frozen(slots=True)
class Turn:
    """One row of a schedule: at this iteration, this is done, and why."""

    iteration: int
    action: Action
    why: str
    #: MAX_DOWNTIME: the limit in milliseconds; else 0.
    value: int = 0


def schedule(policy: MigrationPolicy) -> tuple[Turn, ...]:
    """Return what is done at which iteration under a policy, ordered by iteration.

    The downtime limit grows linearly, a step for each pass, from QEMU's own (or the policy's, where that is less) to
    the policy's; post-copy, where it is automatic, begins after the passes that the policy names. Throttling is QEMU's
    own and needs no row.
    """
    turns = list(_downtimes(policy))
    if policy.post_copy is PostCopy.AUTOMATIC:
        after = policy.post_copy_after_iterations
        turns.append(Turn(after + 1, Action.POST_COPY, f"{after} passes over the memory did not end it"))
    return tuple(sorted(turns, key=lambda turn: turn.iteration))


def _downtimes(policy: MigrationPolicy) -> Iterator[Turn]:
    """Yield the rows of the downtime limit; a step that changes nothing has none."""
    start, end, steps = min(QEMU_DOWNTIME_MS, policy.downtime_ms), policy.downtime_ms, policy.downtime_steps
    now = QEMU_DOWNTIME_MS
    for step in range(1, steps + 1):
        value = end if step == steps else start + (end - start) * (step - 1) // (steps - 1)
        if value != now:
            yield Turn(step, Action.MAX_DOWNTIME, f"step {step} of {steps}, {end} ms in the end", value)
        now = value


@attrs.frozen(slots=True)
class Course:
    """How a job has gone so far; `observe` returns the next one."""

    iteration: int = 0
    #: Before the first look -1.
    processed_bytes: int = -1
    moved_at_s: float = 0.0
    #: When the job began, by our clock: one that is adopted has run for a while.
    began_at_s: float = 0.0
    #: The least that was ever seen to remain, -1 before any look.
    low_bytes: int = -1
    #: How many rows of the schedule have been done.
    done: int = 0
    #: The end was forced (post-copy or pause): nothing more is scheduled.
    forced: bool = False

    def observe(self, job: JobInfo, now_s: float) -> Course:
        """Return the course with one more look at the job."""
        processed = job.memory_processed_bytes + job.disk_processed_bytes
        low = self.low_bytes
        if job.memory_total_bytes and (low < 0 or job.memory_remaining_bytes < low):
            low = job.memory_remaining_bytes
        return attrs.evolve(
            self,
            iteration=job.memory_iteration,
            processed_bytes=processed,
            moved_at_s=now_s if processed != self.processed_bytes else self.moved_at_s,
            began_at_s=now_s - job.time_elapsed_ms / 1000 if self.processed_bytes < 0 else self.began_at_s,
            low_bytes=low,
        )


@attrs.frozen(slots=True)
class Advice:
    """What is to be done now, each with its sentence, and the course after it."""

    turns: tuple[Turn, ...]
    course: Course


def advise(policy: MigrationPolicy, memory_kib: int, course: Course, now_s: float) -> Advice:
    """Return the rows of the schedule that are due, or what a clock demands; pure.

    A forced end has no further rows; what was given up is not scheduled any more either.
    """
    if course.forced:
        return Advice((), course)
    if (turn := _by_the_clock(policy, memory_kib, course, now_s)) is not None:
        return Advice((turn,), attrs.evolve(course, forced=True))
    due = [turn for turn in schedule(policy)[course.done :] if turn.iteration <= course.iteration]
    forced = any(turn.action is not Action.MAX_DOWNTIME for turn in due)
    # of several limits that are due at once only the last one counts
    limits = [turn for turn in due if turn.action is Action.MAX_DOWNTIME][-1:]
    others = [turn for turn in due if turn.action is not Action.MAX_DOWNTIME]
    return Advice((*limits, *others), attrs.evolve(course, done=course.done + len(due), forced=forced))


def _by_the_clock(policy: MigrationPolicy, memory_kib: int, course: Course, now_s: float) -> Turn | None:
    """Return what has to be done because time is up, or None."""
    if course.processed_bytes < 0:
        return None
    still_s = now_s - course.moved_at_s
    if policy.stall_timeout_s and still_s >= policy.stall_timeout_s:
        return Turn(course.iteration, Action.ABORT, f"no byte was moved for {still_s:.0f} s")
    limit_s = policy.timeout_s(memory_kib)
    took_s = now_s - course.began_at_s
    if not limit_s or took_s < limit_s:
        return None
    why = f"it has not ended in {limit_s} s"
    action = {
        OnTimeout.ABORT: Action.ABORT,
        OnTimeout.POST_COPY: Action.POST_COPY,
        OnTimeout.PAUSE: Action.PAUSE,
    }[policy.on_timeout]
    return Turn(course.iteration, action, why)


def told(turn: Turn, course: Course) -> str:
    """Return the sentence of the event for a row that is done."""
    what = f"{turn.action} to {turn.value} ms" if turn.action is Action.MAX_DOWNTIME else str(turn.action)
    left = f", {course.low_bytes // _MIB} MiB left at best" if course.low_bytes >= 0 else ""
    return f"iteration {course.iteration}: {what}: {turn.why}{left}"
