"""`numaferry serve`: a controller that runs on. It drives what is handed to it and takes over what others left.

Everything that it must not forget is in the ledger, so that it may be killed at any moment, and several may share one
ledger: each migration has one driver, the one that holds its lease.
"""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from numaferry.errors import Conflict, LeaseHeld, LedgerError, NumaferryError, TakenOver
from numaferry.migration import controllers
from numaferry.migration.lease import LeasePolicy
from numaferry.model import IN_PROGRESS, MigrationStatus
from numaferry.model.queue import WAITING, order, wait_of
from numaferry.service.driving import engine_for, handed_over, name_of, takeable
from numaferry.service.hosts import try_refresh
from numaferry.service.policies import configured_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numaferry.ledger import HostRecord, Ledger
    from numaferry.migration.engine import MigrationEngine
    from numaferry.model import JobInfo, Limits, Migration
    from numaferry.service.discovery import Reach

#: How often the ledger is asked for work.
TURN_S: Final = 1.0
#: How often each host is looked at.
LOOK_S: Final = 60.0
#: Hosts looked at at once.
LOOKERS: Final = 8
#: Migrations driven at once, in a thread each; more wait as `queued`, with their claims.
PARALLEL: Final = 8
#: A migration that could not go on is tried again after this long, doubled each time, at most `RETRY_MOST_S`.
RETRY_S: Final = 5.0
RETRY_MOST_S: Final = 300.0


def default_name() -> str:
    """Return the name of a controller that nobody named: this machine's."""
    return socket.gethostname()


class Controller:
    """One run of a controller; `say` is given one sentence for each thing that it did and why."""

    def __init__(
        self,
        ledger: Ledger,
        reach: Reach,
        say: Callable[[str], None],
        *,
        name: str = "",
        parallel: int = PARALLEL,
        turn_s: float = TURN_S,
        look_s: float = LOOK_S,
        lease: LeasePolicy | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name or default_name()
        self.session = controllers.new_name()
        self._ledger, self._reach, self._say = ledger, reach, say
        self._parallel, self._turn_s, self._look_s = parallel, turn_s, look_s
        self._lease = lease or LeasePolicy()
        self._limits = configured_limits() if limits is None else limits
        self._driven: dict[int, threading.Thread] = {}
        #: migration id → (not before, by our clock; how long the next pause is)
        self._later: dict[int, tuple[float, float]] = {}
        self._renewed_at = 0.0
        self._lost: str = ""
        #: host → what is wrong with it, as it was said last.
        self._silent: dict[str, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set; raises Conflict where the name is taken, LedgerUnusable at the start only.

        At the end migrations that are under way are left: libvirt drives their jobs, the next controller takes them
        over.
        """
        self._register()
        looking = threading.Thread(target=self._look_at_hosts, args=(stop,), name="look-at-hosts", daemon=True)
        looking.start()
        try:
            while not stop.is_set():
                self._turn()
                stop.wait(self._turn_s)
        finally:
            self._leave()

    def _register(self) -> None:
        known = {one.name: one.session for one in self._ledger.controllers()}
        other = known.get(self.name, "")
        gone = other if controllers.is_dead(other) else None
        self._ledger.register_controller(self.name, self.session, self._lease.ttl_s, gone=gone)
        self._renewed_at = time.monotonic()
        self._tell_all(f"controller {self.name} runs as {self.session} on ledger {self._ledger.where}")

    def _turn(self) -> None:
        """One turn; a ledger that can't be reached is said once, and asked again at the next turn."""
        try:
            self._renew()
            self._take_work()
        except LedgerError as error:
            if error.message != self._lost:
                self._lost = error.message
                self._tell_all(f"the ledger can't be used, trying again: {error.message}")
            return
        if self._lost:
            self._lost = ""
            self._tell_all("the ledger can be used again")

    def _renew(self) -> None:
        if time.monotonic() - self._renewed_at < self._lease.ttl_s / 3:
            return
        began = time.monotonic()
        try:
            self._ledger.renew_controller(self.name, self.session, self._lease.ttl_s)
        except TakenOver:
            # away for longer than the lease: the name may have been given to another, which is told then
            self._ledger.register_controller(self.name, self.session, self._lease.ttl_s)
        self._renewed_at = began

    def _take_work(self) -> None:
        """Begin to drive what nobody drives, as far as there is room; the rest is told to wait."""
        self._driven = {number: thread for number, thread in self._driven.items() if thread.is_alive()}
        now = time.monotonic()
        moves = self._ledger.migrations(status=IN_PROGRESS)
        self._later = {move.id: self._later[move.id] for move in moves if move.id in self._later}
        for move in sorted(moves, key=order):
            waits_until = self._later.get(move.id, (0.0, 0.0))[0]
            if move.id in self._driven or waits_until > now or not self._mine_to_take(move):
                continue
            if (why := self._has_to_wait(move, moves)) is None:
                self._begin(move)
            elif handed_over(move):
                self._queue(move, why)

    def _has_to_wait(self, move: Migration, moves: Collection[Migration]) -> str | None:
        """Return why a migration can't be begun now, or None; one that was begun is taken up wherever there is room."""
        if len(self._driven) >= self._parallel:
            return f"queued: {self.name} drives {len(self._driven)} migrations already"
        wait = wait_of(self._limits, move, moves, self._ledger.now(), self._driven)
        return None if wait is None else wait.sentence

    def _mine_to_take(self, move: Migration) -> bool:
        """Tell whether this controller may drive a migration; one that needs a person is left to `recover`."""
        if move.status is MigrationStatus.ERROR:
            return False
        return takeable(self._ledger, move, self._lease)

    def _queue(self, move: Migration, words: str) -> None:
        """Tell a migration that it has to wait, when that is news; its claim is held."""
        if move.reason == words:
            return
        try:
            self._ledger.set_migration(
                move.id,
                sentence=words,
                status=MigrationStatus.QUEUED,
                reason=words,
                expected_status=WAITING,
                token=move.token,
            )
        except Conflict:
            return
        what = f"migration {move.id} of {name_of(self._ledger, move)}"
        self._tell_all(f"{what} is {words}; its claim on {move.dest} is held")

    def _begin(self, move: Migration) -> None:
        thread = threading.Thread(target=self._drive, args=(move,), name=f"migration-{move.id}", daemon=True)
        self._driven[move.id] = thread
        thread.start()

    def _engine(self) -> MigrationEngine:
        return engine_for(
            self._ledger,
            self._reach,
            controller=self.session,
            lease=self._lease,
            limits=self._limits,
            told=self._tell,
        )

    def _drive(self, move: Migration) -> None:
        """Drive one migration in a thread of its own, and say how it went; whatever goes wrong ends no other."""
        what = f"migration {move.id}"
        try:
            what += f" of {name_of(self._ledger, move)}"
            engine = self._engine()
            begun = bool(move.step)
            verb = f"recovering what {move.controller or 'a controller'} left of" if begun else "driving"
            self._tell_all(f"{what}: {verb} {move.source} → {move.dest}")
            ended = engine.recover(move.id) if begun else engine.drive(move.id)
        except (TakenOver, LeaseHeld) as error:
            self._tell_all(f"{what} is left alone: {error.message}")
            self._pause(move.id)
        except NumaferryError as error:
            self._tell_all(f"{what}: {error.message}")
            self._pause(move.id)
        except Exception as error:  # noqa: BLE001  (one migration's fault must not end the others')
            self._tell_all(f"{what}: a fault of numaferry: {type(error).__name__}: {error}")
            self._pause(move.id)
        else:
            self._later.pop(move.id, None)
            because = f": {ended.reason}" if ended.reason else ""
            self._tell_all(f"{what} is {ended.status}{because}")

    def _pause(self, number: int) -> None:
        pause_s = min(RETRY_MOST_S, 2 * self._later.get(number, (0.0, RETRY_S / 2))[1])
        self._later[number] = (time.monotonic() + pause_s, pause_s)

    def _tell(self, migration: Migration, job: JobInfo | None) -> None:
        if job is None:
            self._tell_all(f"migration {migration.id}: {migration.status} {migration.step}".rstrip())

    def _look_at_hosts(self, stop: threading.Event) -> None:
        """Look at every host from time to time, so that the ledger knows what runs there and which are silent.

        Several at once: a silent host costs a connection's time limit, which the others must not wait for.
        """
        with ThreadPoolExecutor(LOOKERS, thread_name_prefix="look") as lookers:
            while not stop.is_set():
                try:
                    list(lookers.map(self._look_at, self._ledger.hosts()))
                except Exception as error:  # noqa: BLE001  (nobody else would look any more)
                    self._tell_all(f"looking at the hosts has to wait: {error}")
                stop.wait(self._look_s)

    def _look_at(self, record: HostRecord) -> None:
        """Look at one host; what is wrong with it is said once, and is no other host's matter."""
        try:
            trouble = try_refresh(self._ledger, self._reach, record)
        except Exception as error:  # noqa: BLE001  (the same)
            trouble = f"{type(error).__name__}: {error}"
        if trouble != self._silent.get(record.name, ""):
            self._silent[record.name] = trouble
            self._tell_all(f"host {record.name}: {trouble or 'can be asked again'}")

    def _leave(self) -> None:
        """Say good-bye. Leases of what is under way are kept: a call may be on its way to a host.

        On this machine the next controller finds that this process has ended, and takes over at once; on another one
        it waits for lease and longest call.
        """
        under_way = [number for number, thread in self._driven.items() if thread.is_alive()]
        # a ledger that could not be reached is not waited for: the name is free when its lease has run out
        if not self._lost:
            with suppress(LedgerError):
                self._ledger.leave_controller(self.name, self.session)
        left = f"; migrations {', '.join(map(str, under_way))} are left to the next one" if under_way else ""
        self._tell_all(f"controller {self.name} ends{left}")

    def _tell_all(self, sentence: str) -> None:
        """Say a sentence; that nobody listens any more stops nothing."""
        with suppress(OSError, ValueError):
            self._say(sentence)
