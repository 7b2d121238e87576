"""Converging: ask both hosts, have `recovery.decide` say what to do, do it, and ask again until it has ended.

One answer is done at once: to finish. Everything that undoes, resumes or gives up while the job may have been running
is done only when two looks, some time apart, agree: a job is not to be seen for a moment at its start and at its end
(nova: driver.py's five end states), and a call whose connection broke may still be on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from numaferry.errors import (
    HostError,
    HostUnreachable,
    LedgerError,
    MigrationFailed,
    NeedsPerson,
    NumaferryError,
    TakenOver,
)
from numaferry.migration.evidence import Phase, bears_mark
from numaferry.migration.finish import update_available_resource
from numaferry.migration.job import watch_job
from numaferry.migration.recovery import Action, Decision, decide
from numaferry.migration.start_errors import start_error, with_code
from numaferry.migration.states import Event, next_status
from numaferry.migration.steps import first_after, place_of
from numaferry.model import MigrationStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.migration.move import Move
    from numaferry.migration.steps import Step
    from numaferry.model import Migration

#: How often a step after the point of no return is begun again before it is left to `recover`.
FINISH_TRIES: Final = 3
#: Done only when a second look agrees.
LOOK_TWICE: Final = frozenset({Action.ROLL_BACK, Action.RESUME, Action.CANCELLED, Action.NEEDS_PERSON})


class Aborted(NumaferryError):
    """A person asked for the migration to be given up, before its job had begun."""

    code = "aborted"


def take(move: Move, step: Step) -> None:
    """Commit the intent of a step, then do it. Raises Aborted before one that touches a host, if it was asked for."""
    move.guard()
    if move.migration.abort_requested and step.undo is not None:
        raise Aborted(f"the abort was asked for before {step.name}")
    event = None if move.migration.status is step.status else step.event
    words = step.intent.format(name=move.instance.name, source=move.source.name, dest=move.dest.name)
    move.commit(words, step=step.name, event=event)
    step.forward(move)


def complete(move: Move) -> Migration:
    """Commit that all is done."""
    move.commit(f"{move.instance.name} is on {move.dest.name}", event=Event.COMPLETE, reason="")
    return move.migration


@attrs.define(slots=True)
class Convergence:
    """One migration on its way to an end; `error` is what went wrong, None for a take-over."""

    move: Move
    error: Exception | None = None
    _waits: int = attrs.field(default=0, init=False)
    _tries: int = attrs.field(default=0, init=False)

    def run(self) -> Migration:
        """Return the migration as it ended; raises as `MigrationEngine.drive` and `recover` say."""
        doing: dict[Action, Callable[[Decision], Migration | None]] = {
            Action.FINISH: self._finish,
            Action.ADOPT: self._adopt,
            Action.RESUME: self._resume,
            Action.ROLL_BACK: self._roll_back,
            Action.CANCELLED: self._cancelled,
            Action.WAIT: self._wait,
            Action.NEEDS_PERSON: self._puzzle,
        }
        said = None
        while True:
            decision = self._decide()
            if decision.sentence != said:
                self.move.commit(decision.sentence)
            said = decision.sentence
            ended = doing[decision.action](decision)
            if ended is not None:
                return ended
            if self._waits > self.move.tools.waits:
                self._give_up_waiting(decision)

    def _look(self) -> Decision:
        move = self.move
        return decide(move.migration, *move.look(), ledger_id=move.tools.ledger.ledger_id)

    def _decide(self) -> Decision:
        move = self.move
        decision = self._look()
        while decision.phase is Phase.MOVING and decision.action in LOOK_TWICE:
            move.tools.sleep(move.tools.settle_s)
            again = self._look()
            if again.action is decision.action:
                return again
            decision = again
        return decision

    def _finish(self, _decision: Decision) -> Migration | None:
        """Run the steps from the point of no return on; None: it failed and the hosts have to be asked again."""
        move = self.move
        self._tries += 1
        steps = move.tools.steps
        at = max(place_of(steps, move.migration.step), first_after(steps))
        try:
            for step in steps[at:]:
                take(move, step)
        except (LedgerError, TakenOver):
            raise
        except Exception as error:
            move.commit(f"{move.migration.step} failed: {error}")
            if self._tries == FINISH_TRIES:
                raise
            return None
        return complete(move)

    def _adopt(self, _decision: Decision) -> None:
        """Watch libvirt's job to its end; a host that is lost meanwhile is the next decision's matter."""
        try:
            watch_job(self.move)
        except HostError as error:
            self.move.commit(f"lost sight of the job: {error.message}")

    def _resume(self, decision: Decision) -> None:
        """Set the guest going again on the source; the one answer that could make it run twice, so doubt stops it."""
        move = self.move
        self._waits += 1
        try:
            doubt = self._doubt()
        except HostError as error:
            move.commit(f"resuming has to wait: {error.message}")
            return
        if doubt:
            words = "; ".join(("nothing was touched, a person has to look", doubt, *decision.evidence))
            self._puzzle(attrs.evolve(decision, sentence=words))
        move.tidy(f"resuming the guest on {move.source.name}", lambda: move.source_host.resume(move.uuid))

    def _doubt(self) -> str:
        """Return why the guest may be running somewhere that was not asked, "" where it can't be."""
        move = self.move
        seen = move.source_host.domain(move.uuid)
        if seen is None or not bears_mark(seen, move.migration):
            return (
                f"the guest on {move.source.name} does not bear this migration's mark: another one may have paused it"
            )
        if move.dest_host.facts().uuid != move.dest.uuid:
            return f"what answers as {move.dest.name} is not the machine that the guest was sent to"
        return ""

    def _roll_back(self, decision: Decision) -> Migration | None:
        move, error = self.move, self.error
        aborted = move.migration.abort_requested
        why = (
            "aborted on request"
            if aborted
            else f"rolled back: {with_code(error)}"
            if error
            else "rolled back after a take-over"
        )
        migration = self._undo(decision, Event.CANCEL if aborted else Event.FAIL, why)
        if migration is None or aborted or error is None:
            return migration
        if isinstance(error, NumaferryError) and not isinstance(error, HostError):
            raise error
        known = start_error(error)
        steps = f"what happened step by step: numaferry migration show {migration.id}"
        raise MigrationFailed(
            f"migration {migration.id} of {move.instance.name} to {move.dest.name} failed and was rolled back, "
            f"the guest is on {move.source.name}: {with_code(error)}",
            hint=f"{known.hint}; {steps}" if known else steps,
        ) from error

    def _cancelled(self, decision: Decision) -> Migration | None:
        return self._undo(decision, Event.CANCEL, decision.sentence)

    def _undo(self, decision: Decision, event: Event, reason: str) -> Migration | None:
        """Undo every step in reverse, drop the claim, audit both hosts; None: decide again before anything is dropped.

        An undo for a step not taken does nothing. Undoing may wait for a lock of the domain that a dead controller's
        call was waiting for too, so the hosts are asked once more: such a call may have begun its job meanwhile.
        """
        move = self.move
        status = next_status(move.migration.status, event)
        for step in reversed(move.tools.steps):
            if step.undo is not None:
                move.commit(f"undoing {step.name}", step=step.undo.__name__)
                try:
                    step.undo(move)
                except HostUnreachable as error:
                    move.commit(f"{step.undo.__name__} has to wait: {error.message}")
                    self._waits += 1
                    return None
        if (now := self._look()).action is not decision.action:
            move.commit(f"not given up after all: {now.sentence}")
            self._waits += 1
            return None
        move.guard()
        move.migration = (
            move.tools.ledger.drop_move_claim(move.migration.id, status, reason, token=move.lease.token)
            or move.migration
        )
        move.tools.on_progress(move.migration, None)
        update_available_resource(move)
        return move.migration

    def _wait(self, _decision: Decision) -> None:
        self._waits += 1
        self.move.tools.sleep(self.move.tools.wait_s)

    def _puzzle(self, decision: Decision) -> None:
        move = self.move
        if move.migration.status is not MigrationStatus.ERROR:
            move.commit(decision.sentence, event=Event.PUZZLE, reason=decision.sentence)
        recover = f"numaferry migration recover {move.migration.id}"
        raise NeedsPerson(
            f"migration {move.migration.id} of {move.instance.name}: {decision.sentence}",
            hint=f"look at both hosts; when only one has it: {recover}; when it is gone for good from both: "
            f"{recover} --answer guest-is-gone",
        )

    def _give_up_waiting(self, decision: Decision) -> None:
        """End the wait: for a host that is silent, with everything held; else the evidence is a person's matter."""
        silent = [text for text in decision.evidence if "can't be asked" in text]
        if not silent:
            self._puzzle(decision)
        move = self.move
        raise HostUnreachable(
            f"migration {move.migration.id} of {move.instance.name} stays {move.migration.status} and its claims are "
            f"held: {'; '.join(silent)}",
            hint=f"when the host answers again: numaferry migration recover {move.migration.id}",
        )
