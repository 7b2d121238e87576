"""How the passes of a job over the guest's memory have gone: what a trend is told from, one look at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from numaferry.model.domain import JobInfo


@attrs.frozen(slots=True)
class Passes:
    """The passes so far; `observe` returns them with one more look.

    A pass is measured by what remained when it was first seen: later in it that shrinks, whatever the guest does. So
    nothing but the last value is needed to go on, and no older look has to be kept.
    """

    #: The pass that was seen first, and the one that was seen last; 0 before any.
    first_iteration: int = 0
    iteration: int = 0
    #: The pass that began with the least, and with how much.
    low_iteration: int = 0
    low_bytes: int = 0

    @property
    def lost(self) -> int:
        """How many passes have begun since the one that began with the least."""
        return self.iteration - self.low_iteration

    def observe(self, job: JobInfo) -> Passes:
        """Return the passes with a look at the job; one without figures, or of a job that has ended, tells nothing."""
        at = job.memory_iteration
        if not job.memory_total_bytes or job.completed or at <= 0 or at == self.iteration:
            return self
        left = job.memory_remaining_bytes
        # a job that counts from lower down is another one
        if not self.iteration or at < self.iteration:
            return Passes(at, at, at, left)
        if left < self.low_bytes:
            return attrs.evolve(self, iteration=at, low_iteration=at, low_bytes=left)
        return attrs.evolve(self, iteration=at)
