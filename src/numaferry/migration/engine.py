"""The engine: takes the claim, drives the steps, and converges to what is true after any failure or crash.

There are two ways through it. `drive` runs the table of steps forward. Whatever goes wrong leads to `converge`, the
same for a failed step, a lost connection, and a migration whose controller was killed.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from numaferry.errors import LedgerError, NumaferryError, TakenOver
from numaferry.migration import controllers, repin
from numaferry.migration.answers import Answer, guest_is_gone
from numaferry.migration.converge import Aborted, Convergence, complete, take
from numaferry.migration.lease import Lease, LeasePolicy, monotonic_s
from numaferry.migration.move import Move, Tools
from numaferry.migration.shortlist import choose_and_claim
from numaferry.migration.start_errors import with_code
from numaferry.migration.steps import STEPS
from numaferry.migration.turn import await_turn
from numaferry.model import EMPTY, Limits, MigrationPolicy, MigrationType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numaferry.ledger import HostRecord, Ledger
    from numaferry.migration.move import AuditReport
    from numaferry.migration.steps import Step
    from numaferry.model import CpuSet, Instance, JobInfo, Migration
    from numaferry.virt.port import Hypervisor


def _unheard(
    on_progress: Callable[[Migration, JobInfo | None], None] | None,
) -> Callable[[Migration, JobInfo | None], None]:
    """Return the callback so that a terminal or pipe which has gone does not stop the move that it was to show."""

    def told(migration: Migration, job: JobInfo | None) -> None:
        if on_progress is not None:
            with suppress(OSError, ValueError):
                on_progress(migration, job)

    return told


class MigrationEngine:
    """Drives migrations, one call each; several engines may share a ledger, as long as each migration has one driver.

    `connect` opens a host; `audit` runs `update_available_resource` for a host name; `on_progress` is called with the
    migration after every commit (job None) and at every poll of its job.
    """

    def __init__(
        self,
        ledger: Ledger,
        connect: Callable[[HostRecord], Hypervisor],
        audit: Callable[[str], AuditReport],
        on_progress: Callable[[Migration, JobInfo | None], None] | None = None,
        *,
        controller: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = monotonic_s,
        poll_s: float = 0.5,
        wait_s: float = 2.0,
        waits: int = 15,
        settle_s: float = 1.0,
        steps: tuple[Step, ...] = STEPS,
        lease: LeasePolicy | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._tools = Tools(
            ledger=ledger,
            connect=connect,
            audit=audit,
            on_progress=_unheard(on_progress),
            controller=controller or controllers.new_name(),
            sleep=sleep,
            clock=clock,
            poll_s=poll_s,
            wait_s=wait_s,
            waits=waits,
            settle_s=settle_s,
            steps=steps,
            lease=lease or LeasePolicy(),
            limits=limits or Limits(),
        )

    @property
    def controller(self) -> str:
        """The name under which this engine drives."""
        return self._tools.controller

    def start(
        self,
        instance: Instance,
        dest: str | None = None,
        policy: MigrationPolicy | None = None,
        *,
        force: bool = False,
        handed_over: bool = False,
        priority: int = 0,
        avoid: Mapping[str, str] | None = None,
    ) -> Migration:
        """Check the guest and a shortlist (reads only), choose and claim in one transaction; returns it `accepted`.

        `dest` names the only candidate; `force` moves a guest that another manager (nova) owns; with `handed_over` it
        is left to a controller that runs (`numaferry serve`) to drive; `avoid` are hosts that are no candidates, each
        with why. Raises CheckFailed, Conflict, NotManaged, NoFit,
        NotConfirmed, NotFound, HostUnreachable; nothing is claimed then.
        """
        return choose_and_claim(
            self._tools,
            instance,
            dest,
            policy or MigrationPolicy(),
            force=force,
            handed_over=handed_over,
            priority=priority,
            avoid=avoid,
        )

    def repin(self, instance: Instance, avoid: CpuSet = EMPTY) -> Migration:
        """Claim other CPUs of the host on which a guest runs, none of `avoid`, beside its own; returns it `accepted`.

        `drive` then pins it anew and drops the old ones. Raises Conflict (it has none of its own, it is being moved),
        NoFit, NotFound; nothing is claimed then.
        """
        return repin.claim(self._tools, instance, avoid)

    def drive(self, migration_id: int) -> Migration:
        """Run the steps to the end and return the migration as completed or cancelled.

        Raises what a check said, MigrationFailed after a roll back (the guest runs on the source), NeedsPerson, and
        HostUnreachable where a host has to be waited for (`recover` goes on). One that another controller started is
        taken over, if its lease is free (LeaseHeld); one that it had begun to drive is recovered.
        """
        with self._move(migration_id) as move:
            if not move.migration.in_progress:
                return move.migration
            if move.migration.step or move.migration.controller != self._tools.controller:
                self._take_over(move)
            begun = bool(move.migration.step)
            if move.migration.migration_type is MigrationType.REPIN:
                return repin.recover(move) if begun else repin.drive(move)
            return Convergence(move).run() if begun else self._run(move)

    def recover(self, migration_id: int, *, left_by: str | None = None) -> Migration:
        """Take over a migration: ask both hosts, decide, converge, and return it as it ended.

        `left_by` is the controller that was found to be gone: its lease is not waited for; where another one has taken
        over since, TakenOver is raised and it is left alone. Without it the lease and the longest call have to be over,
        else LeaseHeld is raised; a process of this machine that has ended is found to be gone here. A roll back is a
        good end and is returned, not raised. Raises NeedsPerson with the evidence, and HostUnreachable where a host has
        to be waited for.
        """
        with self._move(migration_id) as move:
            if not move.migration.in_progress:
                return move.migration
            self._take_over(move, left_by)
            if move.migration.migration_type is MigrationType.REPIN:
                return repin.recover(move)
            return Convergence(move).run()

    def answer(self, migration_id: int, answer: Answer, *, left_by: str | None = None) -> Migration:
        """Take over a migration and end it as a person says, if both hosts agree; see `migration.answers`.

        Raises Conflict with the evidence where they do not, or where another controller has taken over (`left_by`, as
        with `recover`), and HostUnreachable.
        """
        with self._move(migration_id) as move:
            if not move.migration.in_progress:
                return move.migration
            self._take_over(move, left_by)
            return {Answer.GUEST_IS_GONE: guest_is_gone}[answer](move)

    def abort(self, migration_id: int) -> Migration:
        """Ask for a migration to be given up: its driver stops before the job, or aborts the job at its next poll.

        Raises NotFound, Conflict once it has ended.
        """
        return self._tools.ledger.request_abort(migration_id)

    @contextmanager
    def _move(self, migration_id: int) -> Iterator[Move]:
        move = Move.load(self._tools, migration_id)
        try:
            yield move
        except Exception as error:
            if move.migration.in_progress:
                self._let_go(move, error)
            raise
        finally:
            move.close()

    def _let_go(self, move: Move, error: Exception) -> None:
        """Give the lease back of a migration that is left before its end: this process may live on without driving it.

        Where another one drives it by now, or the ledger can't be written, nothing is done; nor where a call that
        changes something is still under way: then the next controller has to wait for the lease and the longest call.
        """
        move.close()
        if move.calls:
            return
        with suppress(NumaferryError):
            sentence = f"{self._tools.controller} lets go of it: {error}"
            self._tools.ledger.drop_lease(move.migration.id, move.lease.token, sentence)

    def _take_over(self, move: Move, left_by: str | None = None) -> None:
        """Take the lease; whoever drove it finds out at its next commit, and before it changes anything on a host."""
        tools, now = self._tools, move.migration
        if left_by is None and controllers.is_dead(now.controller):
            left_by = now.controller
        began = tools.clock()
        move.migration = tools.ledger.take_lease(
            now.id,
            tools.controller,
            tools.lease.ttl_s,
            grace_s=tools.lease.longest_call_s,
            gone=left_by,
            key=uuid.uuid4().hex,
        )
        move.lease = Lease.of(tools.ledger, move.migration, tools.lease.ttl_s, tools.clock, ours=True)
        move.lease.renewed(began)

    def _run(self, move: Move) -> Migration:
        try:
            await_turn(move)
        except Aborted as error:
            return Convergence(move, error).run()
        for step in self._tools.steps:
            try:
                take(move, step)
            except (LedgerError, TakenOver):
                # nothing can be written, or it is no longer ours: who takes over asks the hosts
                raise
            except Exception as error:  # noqa: BLE001  (an unforeseen error must not leave a claim behind either)
                move.commit(f"{step.name} failed: {with_code(error)}")
                return Convergence(move, error).run()
        return complete(move)
