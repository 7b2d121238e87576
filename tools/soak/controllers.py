"""Controllers that run in turns in one thread, and through which all that befalls them comes.

Each has the ledger and the hosts through a wrapper of its own, which tells `Controller.at` whatever is passed: a read,
a write, a call to a host, a step. One that is stopped runs nothing while the others take over; when it goes on, it must
find out before it touches anything.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import attrs

from numaferry.audit import update_available_resource
from numaferry.errors import (
    Conflict,
    HostUnreachable,
    HypervisorError,
    InputError,
    LedgerUnusable,
    NotFound,
    NumaferryError,
    Overcommitted,
)
from numaferry.ledger import Ledger
from numaferry.ledger.trouble import Interrupted
from numaferry.migration.engine import MigrationEngine
from numaferry.migration.lease import UNGUARDED, LeasePolicy
from numaferry.migration.steps import STEPS
from numaferry.virt.simulated import ClientDied
from soak.tally import CLAIMING
from soak.troubles import (
    AFTER_CALL,
    AFTER_WRITE,
    AWAY,
    BEFORE_CALL,
    BEFORE_READ,
    BEFORE_WRITE,
    CONFLICT,
    DIES,
    FAILS,
    FULL,
    LOCKED,
    LOST,
    MEANWHILE,
    SLOW,
    STOPPED,
    TWICE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numaferry.migration.move import Move
    from numaferry.model import Migration
    from soak.troubles import Trouble
    from soak.world import World

#: The lease runs on the database's clock, the story on the fleet's. One that comes when as much time has passed for the
#: database as for the fleet may take over at once: `LATER`. Nobody may under `POLICY`.
POLICY = LeasePolicy(ttl_s=6.0, longest_call_s=600.0)
LATER = LeasePolicy(ttl_s=6.0, longest_call_s=-60.0)
#: How long a controller is stopped: the lease, and the longest call that the fleet makes.
STOP_S = 12.0


class Crash(BaseException):
    """The controller is gone, as by kill -9: no handler of ours may run on."""


class Bug(RuntimeError):
    """An unforeseen error in a step."""


class Broken(BaseException):
    """A promise was broken: no handler of ours may swallow it."""


class TroubledLedger(Ledger):
    """One controller's ledger."""

    def __init__(self, ledger: Ledger, controller: Controller) -> None:
        self._controller: Controller | None = None
        super().__init__(ledger._engine, ledger._reader, ledger.where)  # noqa: SLF001  (the same connections)
        self._controller = controller

    @contextlib.contextmanager
    def _write(self) -> Iterator[Any]:
        self._at(BEFORE_WRITE)
        with super()._write() as connection:
            yield connection
        self._at(AFTER_WRITE)

    @contextlib.contextmanager
    def _read(self) -> Iterator[Any]:
        self._at(BEFORE_READ)
        with super()._read() as connection:
            yield connection

    def _at(self, place: str) -> None:
        if self._controller is not None:
            self._controller.at_ledger(place)

    def _renewing(self, work: Callable[[], Any]) -> Any:
        """Do what gives or renews the lease, and note since when it holds by the controller's clock."""
        controller = self._controller
        assert controller is not None  # noqa: S101  (none is made without one)
        began = controller.world.fleet.now_s
        result = work()
        controller.renewed_at = began
        return result

    def live_migration_claim(self, *args: Any, **kwargs: Any) -> Any:
        """Claim, with the first lease."""
        return self._renewing(lambda: Ledger.live_migration_claim(self, *args, **kwargs))

    def repin_claim(self, *args: Any, **kwargs: Any) -> Any:
        """Claim, with the first lease."""
        return self._renewing(lambda: Ledger.repin_claim(self, *args, **kwargs))

    def set_migration(self, *args: Any, **kwargs: Any) -> Any:
        """Commit, which renews the lease."""
        return self._renewing(lambda: Ledger.set_migration(self, *args, **kwargs))

    def renew_lease(self, *args: Any, **kwargs: Any) -> Any:
        """Renew the lease."""
        controller = self._controller
        assert controller is not None  # noqa: S101  (as above)
        controller.checking = True
        try:
            return self._renewing(lambda: Ledger.renew_lease(self, *args, **kwargs))
        finally:
            controller.checking = False

    def take_lease(self, *args: Any, **kwargs: Any) -> Any:
        """Take the lease."""
        taken = self._renewing(lambda: Ledger.take_lease(self, *args, **kwargs))
        # one that was taken over and comes back in due form is a controller like any other
        if self._controller is not None:
            self._controller.overtaken = None
        return taken


class Wire:
    """One controller's connection to one host; one that was stopped finds its connections closed by the host."""

    def __init__(self, controller: Controller, host: str) -> None:
        self._controller = controller
        self._hypervisor = controller.world.fleet.hypervisor(host)
        self.cut = False
        controller.wires.append(self)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._hypervisor, name)
        if not callable(value) or name in UNGUARDED:
            return value

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            controller = self._controller
            if not (self.cut and controller.checked):
                controller.may_call(f"{name} on {self._hypervisor.uri}")
            controller.checked = False
            controller.at(BEFORE_CALL)
            if self.cut:
                raise HostUnreachable(
                    f"{self._hypervisor.uri}: the connection broke: End of file while reading data",
                    hint="the host closes the connection of a client that does not answer its keep-alive",
                )
            result = value(*args, **kwargs)
            controller.at(AFTER_CALL)
            return result

        return call


@attrs.define
class Watch:
    """Looks after a job every so many seconds of the fleet's clock, between the ticks for which its call waits."""

    look: Callable[[], object]
    every_s: float
    next_at: float
    busy: bool = False

    def tick(self, now_s: float) -> None:
        """Look if it is time to, and not in the middle of a look."""
        if self.busy or now_s < self.next_at:
            return
        self.busy = True
        try:
            self.look()
        finally:
            self.busy, self.next_at = False, now_s + self.every_s


@attrs.define(eq=False)
class Controller:
    """One controller with what is going to befall it. It drives one migration, and is then done with."""

    world: World
    name: str
    troubles: list[Trouble]
    policy: LeasePolicy = POLICY
    wires: list[Wire] = attrs.field(factory=list, init=False)
    step: str = attrs.field(default=CLAIMING, init=False)
    renewed_at: float | None = attrs.field(default=None, init=False)
    away_until: float = attrs.field(default=0.0, init=False)
    auditing: bool = attrs.field(default=False, init=False)
    #: It renews its lease at this moment.
    checking: bool = attrs.field(default=False, init=False)
    #: It was stopped when it had just read its lease: the call that follows is made, on a connection that is closed.
    checked: bool = attrs.field(default=False, init=False)
    #: The migration that another took from it, and all that it could have left a trace in.
    overtaken: tuple[int, object] | None = attrs.field(default=None, init=False)

    def engine(self) -> MigrationEngine:
        """Return its engine; time is the fleet's, and the call that blocks is made in turns with the watch."""
        ledger = TroubledLedger(self.world.ledger, self)
        engine = MigrationEngine(
            ledger,
            lambda record: Wire(self, record.name),
            lambda host: self.audit(ledger, host),
            self._progress,
            controller=self.name,
            sleep=self.world.fleet.advance,
            clock=lambda: self.world.fleet.now_s,
            waits=5,
            steps=self._steps(),
            lease=self.policy,
        )
        engine._tools = attrs.evolve(engine._tools, beside=self.world.beside, heartbeat_s=2.0)  # noqa: SLF001
        return engine

    def run(self, work: Callable[[MigrationEngine], object]) -> Exception | None:
        """Let it work until it has done, or died; returns the error with which it ended."""
        world = self.world
        with world.driven_by(self):
            try:
                work(self.engine())
            except (Crash, ClientDied):
                world.dead.add(self.name)
            except Overcommitted as error:
                raise Broken(f"{self.name}: {error.message}") from error
            except InputError as error:
                if not isinstance(error, NotFound):
                    raise Broken(f"{self.name}: {error.message}") from error
                return error
            except Conflict as error:
                if error.code == "illegal-transition":
                    raise Broken(f"{self.name}: {error.message}") from error
                return error
            except (NumaferryError, Bug) as error:
                return error
            finally:
                self._left_alone()
        return None

    def recover(self, number: int, left_by: str | None = None) -> Exception | None:
        """Let it recover a migration; returns the error with which it ended."""
        return self.run(lambda engine: engine.recover(number, left_by=left_by))

    def audit(self, ledger: Ledger, host: str) -> Any:
        """Audit a host on a connection of its own."""
        if not self.checked:
            self.may_call(f"an audit of {host}")
        self.auditing, self.checked = True, False
        try:
            return update_available_resource(ledger, host, Wire(self, host))
        finally:
            self.auditing = False

    def _progress(self, migration: Migration, _job: object) -> None:
        self.step = migration.step or CLAIMING

    def _steps(self) -> tuple[Any, ...]:
        def forward(move: Move, step: Any) -> None:
            self.at(f"before {step.name}")
            step.forward(move)
            self.at(f"after {step.name}", again=lambda: step.forward(move))

        return tuple(attrs.evolve(step, forward=functools.partial(forward, step=step)) for step in STEPS)

    # what it passes

    def at(self, place: str, again: Callable[[], object] | None = None) -> None:
        """Pass a place: whatever waits for it there happens."""
        if self.overtaken is not None:
            return
        for trouble in self.troubles:
            if trouble.place == place and trouble.left > 0:
                trouble.left -= 1
                if trouble.left == 0:
                    self._strike(trouble, again)

    def at_ledger(self, place: str) -> None:
        """Pass a place of the ledger, which may be away."""
        if place != AFTER_WRITE and self.world.fleet.now_s < self.away_until:
            raise LedgerUnusable("the ledger can't be reached", hint="a fault of the story")
        self.at(place)

    def may_call(self, what: str) -> None:
        """Refuse a call that it may not make any more: taken over, or past its lease."""
        now_s = self.world.fleet.now_s
        if self.overtaken is not None and not self.auditing:
            raise Broken(f"{self.name} was taken over and goes on with {what}")
        if self.renewed_at is not None and now_s - self.renewed_at > POLICY.ttl_s and not self.auditing:
            raise Broken(f"{self.name} makes a call {now_s - self.renewed_at:.1f} s after its lease of 6 s: {what}")

    def _strike(self, trouble: Trouble, again: Callable[[], object] | None) -> None:
        what, place = trouble.what, trouble.place
        if what in {MEANWHILE, SLOW}:
            {MEANWHILE: self.world.meanwhile, SLOW: self.world.impatient}[what](self)
            return
        self.world.struck(f"{what} {place}" if what in {DIES, STOPPED} and place.endswith(("write", "call")) else what)
        self.world.fleet.tell(f"{self.name}: {what} {place}")
        match what:
            case _ if what == DIES:
                raise Crash
            case _ if what == STOPPED:
                self.world.stop(self)
            case _ if what == FAILS:
                raise self.world.rng.choice([HypervisorError("libvirt says no"), Bug("a bug of ours")])
            case _ if what == TWICE and again is not None:
                again()
            case _:
                self._ledger_trouble(what)

    def _ledger_trouble(self, what: str) -> None:
        if what == AWAY:
            self.away_until = self.world.fleet.now_s + self.world.rng.choice([1.0, 8.0])
        if what in {CONFLICT, LOST}:
            raise Interrupted(f"the {what}", hint="a fault of the story")
        if what in {LOCKED, FULL, AWAY}:
            raise LedgerUnusable(f"the {what}", hint="a fault of the story")

    # stopped

    def overtake(self, number: int) -> None:
        """Note that another took a migration from it, and how everything is at this moment."""
        self.overtaken = (number, self.world.traces(number))

    def cut(self) -> None:
        """Close all its connections, as hosts do with a client that does not answer."""
        self.checked = self.checking
        for wire in self.wires:
            wire.cut = True
        self.wires.clear()

    def _left_alone(self) -> None:
        """Raise Broken where it changed anything after it was taken over."""
        if self.overtaken is None:
            return
        number, before = self.overtaken
        if (now := self.world.traces(number)) != before:
            raise Broken(f"{self.name} was taken over and changed something: {before} before, {now} now")
