"""How far a migration's job is: percent, time left and on what that rests, trend; in `virsh domjobinfo`'s words. Pure.

What is told is never better than the figures: no 100 % while a byte remains, no time left where the guest dirties
memory as fast as it is sent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

if TYPE_CHECKING:
    from numaferry.model import JobInfo, Passes

_MIB: Final = 1 << 20
#: Passes without a new low of what remains, after which a job is called stalled.
STALLED_AFTER: Final = 3
#: Why there is no time left.
NO_END: Final = "dirty rate exceeds bandwidth"


@attrs.frozen(slots=True)
class Progress:
    """A look at a job and what it means; `-f json` prints it field by field."""

    #: When it was seen, in seconds since the epoch by the ledger's clock; 0 for one that is not from the ledger.
    at: float
    #: Of memory and disk together.
    percent: int
    dirty_bps: int
    #: Seconds; None where there is no end in sight, nothing to tell it from, or no job that runs any more.
    eta_s: float | None
    #: The time left with what it rests on, or why there is none; "" where no job runs any more.
    eta: str
    #: converging, stalled since iteration N, ...; "" before anything is copied.
    trend: str
    #: The pass since which nothing was gained; 0: there is none.
    stalled_since: int
    job: JobInfo


class Eta(NamedTuple):
    """How many seconds are left, None where that can't be said, and the words for it."""

    seconds: float | None
    words: str


def progress_of(job: JobInfo, passes: Passes, *, at: float = 0.0, running: bool = True) -> Progress:
    """Return what a look means; of a job that does not run any more (`running`) no time left is told."""
    left = eta(job) if running and not job.completed else Eta(None, "")
    return Progress(
        at=at,
        percent=percent(job),
        dirty_bps=dirty_bps(job),
        eta_s=left.seconds,
        eta=left.words,
        trend=trend(job, passes),
        stalled_since=stalled_since(passes),
        job=job,
    )


def remaining_bytes(job: JobInfo) -> int:
    """Return how many bytes of memory and disk are still to be sent."""
    return job.memory_remaining_bytes + job.disk_remaining_bytes


def percent(job: JobInfo) -> int:
    """Return how much is done, in whole percent: never 100 while bytes remain, never less than 0."""
    total, left = job.memory_total_bytes + job.disk_total_bytes, remaining_bytes(job)
    if total <= 0:
        return 100 if job.completed and left <= 0 else 0
    whole = max(0, min(100, 100 * (total - left) // total))
    return min(whole, 99) if left > 0 else whole


def dirty_bps(job: JobInfo) -> int:
    """Return how many bytes per second the guest dirties; none in post-copy, when it runs on the destination."""
    return 0 if job.postcopy_requests else job.memory_dirty_rate * job.memory_page_size_bytes


def eta(job: JobInfo) -> Eta:
    """Return the time left at the rates of this moment: the longer one of memory, less what is dirtied, and disk."""
    if not (job.memory_total_bytes or job.disk_total_bytes):
        return Eta(None, "preparing the destination")
    if remaining_bytes(job) <= 0:
        return Eta(0.0, "switching")
    dirtied = dirty_bps(job)
    parts = [(job.memory_remaining_bytes, job.memory_bps, job.memory_bps - dirtied, _basis(job.memory_bps, dirtied))]
    parts.append((job.disk_remaining_bytes, job.disk_bps, job.disk_bps, f"the disk at {rate(job.disk_bps)}"))
    parts = [part for part in parts if part[0] > 0]
    if any(sent <= 0 for _, sent, _, _ in parts):
        return Eta(None, "unknown: nothing is being sent")
    if any(net <= 0 for _, _, net, _ in parts):
        return Eta(None, f"none: {NO_END}")
    seconds, basis = max((left / net, basis) for left, _, net, basis in parts)
    return Eta(seconds, f"about {span(seconds)} left, {basis}")


def _basis(sent: int, dirtied: int) -> str:
    """Return "at 64 MiB/s less 20 MiB/s dirtied"."""
    return f"at {rate(sent)} less {rate(dirtied)} dirtied" if dirtied else f"at {rate(sent)}"


def stalled_since(passes: Passes) -> int:
    """Return the pass since which nothing was gained, 0 where there is none."""
    return passes.low_iteration + 1 if passes.lost >= STALLED_AFTER else 0


def trend(job: JobInfo, passes: Passes) -> str:
    """Return whether the passes over the memory get shorter, in words; "" before there is one."""
    if job.completed:
        return "completed"
    if job.postcopy_requests:
        return "post-copy"
    if not passes.iteration:
        return ""
    if passes.iteration == passes.first_iteration:
        return "too early to tell"
    since = stalled_since(passes)
    return f"stalled since iteration {since}" if since else "converging"


def figures(job: JobInfo) -> str:
    """Return the figures of a job in one line; those of a kind that it has none of are left out."""
    under_way = not job.completed
    rows = (
        (True, f"memory processed {mib(job.memory_processed_bytes)} MiB"),
        (True, f"remaining {mib(job.memory_remaining_bytes)} of {mib(job.memory_total_bytes)} MiB"),
        (under_way, f"bandwidth {rate(job.memory_bps)}"),
        (under_way, f"dirty rate {rate(dirty_bps(job))}"),
        (job.memory_iteration, f"iteration {job.memory_iteration}"),
        (job.disk_total_bytes, f"disk remaining {mib(job.disk_remaining_bytes)} of {mib(job.disk_total_bytes)} MiB"),
        (job.disk_total_bytes and under_way, f"disk bandwidth {rate(job.disk_bps)}"),
        (job.downtime_ms, f"{'expected ' if under_way else ''}downtime {job.downtime_ms} ms"),
        (job.auto_converge_throttle, f"auto-converge throttle {job.auto_converge_throttle} %"),
        (job.postcopy_requests, f"post-copy requests {job.postcopy_requests}"),
    )
    return ", ".join(words for told, words in rows if told)


def told(progress: Progress) -> str:
    """Return percent, figures, trend and time left in one line; before anything is copied only what is going on."""
    job = progress.job
    if not (job.memory_total_bytes or job.disk_total_bytes):
        return progress.eta
    # what has completed says so in its status
    trend_words = "" if job.completed else progress.trend
    words = (f"{progress.percent} %", figures(job), trend_words, _left(progress))
    return ", ".join(word for word in words if word)


def brief(progress: Progress) -> str:
    """Return what fits beside a bar on 80 columns: what is left, and how fast and how long, or what is wrong."""
    job = progress.job
    if not (job.memory_total_bytes or job.disk_total_bytes):
        return progress.eta
    total = mib(job.memory_total_bytes + job.disk_total_bytes)
    fast = f"{rate(job.memory_bps)}, {_left(progress)}"
    how = progress.trend if progress.stalled_since else NO_END if progress.eta.endswith(NO_END) else fast
    return f"{mib(remaining_bytes(job))}/{total} MiB left, {how.partition(', at ')[0]}".removesuffix(", ")


def _left(progress: Progress) -> str:
    """Return the time left as it stands in a line: `none` alone would not say of what."""
    return f"time left {progress.eta}" if progress.eta and progress.eta_s is None else progress.eta


def mib(size_bytes: int) -> int:
    """Return whole MiB, rounded up so that a remainder never reads as nothing."""
    return -(-size_bytes // _MIB)


def rate(bps: int) -> str:
    """Return `64 MiB/s`; below 10 MiB/s with a digit more, so that a slow copy does not read as none."""
    value = bps / _MIB
    return f"{value:.0f} MiB/s" if value >= 10 or not bps else f"{max(value, 0.1):.1f} MiB/s"


def span(seconds: float) -> str:
    """Return `12 s`, `4 min 10 s`, `2 h 5 min`: rounded up, so at least a second."""
    left = max(1, math.ceil(seconds))
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60} s"
    minutes = -(-left // 60)
    return f"{minutes // 60} h {minutes % 60} min"
