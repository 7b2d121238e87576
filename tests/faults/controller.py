"""A controller as a process of its own, with one fault in it: the tests of this room start it, kill it and stop it.

It reads one order from standard input (a JSON object with the fields of `Order`), moves one guest, and writes what
happens to standard output, a JSON object a line: ``hit`` with the step, right before the fault strikes; ``claimed``
with the migration's number; ``ended`` with the status, or ``error`` with the code and the message. Standard output is
a file of the test's, so what was written before a kill stays written.

The product knows nothing of faults: here are a table of steps, a ledger and hosts that fail, wrapped around the real
ones, and given to the engine as its arguments.
"""

from __future__ import annotations

import enum
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import event

from numaferry import virt
from numaferry.audit import update_available_resource
from numaferry.errors import HypervisorError, NumaferryError
from numaferry.ledger import open_ledger
from numaferry.migration.convergence import QEMU_DOWNTIME_MS
from numaferry.migration.engine import MigrationEngine
from numaferry.migration.lease import LeasePolicy
from numaferry.migration.steps import STEPS
from numaferry.model import MigrationPolicy
from numaferry.virt.libvirt import driver as _driver  # noqa: F401  (loaded before the order comes, not after)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.migration.move import Move
    from numaferry.migration.steps import Step


class Fault(enum.StrEnum):
    """What may go wrong in a step; the order is that of the columns in docs/faults.md."""

    FAILS_BEFORE = "fails before"
    FAILS_AFTER = "fails after"
    TWICE = "runs twice"
    KILLED_BEFORE = "kill -9 before"
    KILLED_AFTER = "kill -9 after"
    #: Long enough for another controller to take over, then set going again.
    STOPPED = "SIGSTOP, taken over, SIGCONT"


#: Methods of the ledger that commit something on the way of a migration.
WRITES = frozenset(
    {
        *("live_migration_claim", "set_migration", "confirm_migration", "drop_move_claim", "take_lease", "drop_lease"),
        *("update_host", "set_observed", "record_findings"),
    }
)


@attrs.frozen(kw_only=True)
class Order:
    """What a controller is told to do. At most one of `fault`, `dies_after_commit` and `stops_at_call` strikes."""

    db: str
    instance: str
    dest: str
    bandwidth_mib_s: int = 0
    #: A `Fault` in `step`.
    fault: str = ""
    step: str = ""
    #: The commit, counted from 1, after which it is killed; 0 for none, and the commits are counted anyway.
    dies_after_commit: int = 0
    #: The step whose intent's transaction it is stopped in, before it is committed.
    stops_in_commit_of: str = ""
    #: A method of the port: it is stopped when the lease was read for this call, and before the call is made.
    stops_at_call: str = ""
    #: Set going again, its other threads run for so long before the one that makes the call.
    dawdles_s: float = 0.0
    #: libvirt on the destination can't start the guest: its XML names a link that is not there.
    dest_refuses: bool = False
    #: Its process lives on for so long after it has told how it ended, as `numaferry serve` does.
    lingers_s: float = 0.0
    ttl_s: float = 30.0
    longest_call_s: float = 60.0
    poll_s: float = 0.05
    settle_s: float = 0.2
    wait_s: float = 0.2


def say(**words: object) -> None:
    """Write one line; it is in the file when this returns."""
    os.write(1, f"{json.dumps(words)}\n".encode())


def die() -> None:
    """End this process as kill -9 does: no handler of ours runs on."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    """Stop every thread of this process; returns when somebody sets it going again.

    A signal to the process would let the caller run on for a moment; one to its own thread is met before this returns.
    """
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def fail() -> None:
    """Fail as a host's libvirt does."""
    raise HypervisorError("a fault that a test asked for")


#: Fault → what is done before the step's work and what after it; running twice is neither.
DEEDS: dict[str, tuple[Callable[[], None] | None, Callable[[], None] | None]] = {
    Fault.FAILS_BEFORE: (fail, None),
    Fault.FAILS_AFTER: (None, fail),
    Fault.TWICE: (None, None),
    Fault.KILLED_BEFORE: (die, None),
    Fault.KILLED_AFTER: (None, die),
    Fault.STOPPED: (stop, None),
}


def faulty_steps(name: str, fault: str) -> tuple[Step, ...]:
    """Return the table of steps with a fault in the step called `name`, which strikes once."""
    before, after = DEEDS[fault]
    struck: list[str] = []

    def strike(step: str, deed: Callable[[], None] | None) -> None:
        if deed is not None and not struck:
            struck.append(step)
            say(hit=step, fault=fault)
            deed()

    def altered(step: Step) -> Step:
        def forward(move: Move) -> None:
            strike(move.migration.step, before)
            step.forward(move)
            if fault == Fault.TWICE:
                say(hit=move.migration.step, fault=fault)
                step.forward(move)
            strike(move.migration.step, after)

        return attrs.evolve(step, forward=forward) if step.name == name else step

    return tuple(map(altered, STEPS))


class CountedLedger:
    """The ledger, with its commits counted; its controller may die right after the n-th, or be stopped in one."""

    def __init__(self, ledger: Any, order: Order) -> None:
        self._ledger, self._dies_after, self._stops_in = ledger, order.dies_after_commit, order.stops_in_commit_of
        self.commits: list[str] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._ledger, name)
        if name not in WRITES:
            return value

        def committed(*args: Any, **kwargs: Any) -> Any:
            if self._stops_in and kwargs.get("step") == self._stops_in:
                # SQLAlchemy tells it right before the database's own COMMIT
                event.listen(self._ledger._engine, "commit", lambda _: self._stop(), once=True)
            result = value(*args, **kwargs)
            self.commits.append(f"{name}: {kwargs['sentence']}" if "sentence" in kwargs else name)
            if len(self.commits) == self._dies_after:
                say(hit=self.commits[-1], fault="kill -9")
                die()
            return result

        return committed

    def _stop(self) -> None:
        say(hit=self._stops_in, fault="SIGSTOP")
        stop()


class FaultyHost:
    """A host, with what happens at calls to it; the lease was read before any of this runs."""

    def __init__(self, hypervisor: Any, order: Order) -> None:
        self._hypervisor, self._order = hypervisor, order

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._hypervisor, name)
        if name == self._order.stops_at_call:
            return lambda *args: (self._stop(name), value(*args))[1]
        if name == "live_migration" and self._order.dest_refuses:
            return lambda call: value(attrs.evolve(call, dest_xml=without_link(call.dest_xml)))
        return value

    def _stop(self, name: str) -> None:
        say(hit=name, fault="SIGSTOP")
        stop()
        time.sleep(self._order.dawdles_s)


def without_link(xml: str) -> str:
    """Return a domain XML whose macvtap is on a link that no host has."""
    altered = xml.replace("<source dev='", "<source dev='no", 1).replace('<source dev="', '<source dev="no', 1)
    assert altered != xml
    return altered


def controller(order: Order) -> int:
    """Do what was ordered and return the exit code.

    The policy leaves the job as QEMU has it, so that a move makes the same commits whatever its passes.
    """
    ledger: Any = CountedLedger(open_ledger(order.db), order)

    def audit(host: str) -> Any:
        with virt.connect(ledger.host(host).uri) as opened:  # type: ignore[attr-defined]
            return update_available_resource(ledger, host, opened)

    engine = MigrationEngine(
        ledger,
        lambda record: FaultyHost(virt.connect(record.uri), order),  # type: ignore[arg-type,return-value]
        audit,
        poll_s=order.poll_s,
        settle_s=order.settle_s,
        wait_s=order.wait_s,
        steps=faulty_steps(order.step, order.fault) if order.fault else STEPS,
        lease=LeasePolicy(order.ttl_s, order.longest_call_s),
    )
    try:
        policy = MigrationPolicy(bandwidth_mib_s=order.bandwidth_mib_s, downtime_ms=QEMU_DOWNTIME_MS)
        migration = engine.start(ledger.instance(order.instance), order.dest, policy)
        say(claimed=migration.id)
        ended = engine.drive(migration.id)
    except NumaferryError as error:
        say(error=error.code, message=error.message, commits=ledger.commits)
        return error.exit_code
    say(ended=str(ended.status), commits=ledger.commits)
    return 0


def main() -> int:
    """Take an order, do it, and live on for as long as it says."""
    order = Order(**json.loads(sys.stdin.read()))
    code = controller(order)
    time.sleep(order.lingers_s)
    return code


if __name__ == "__main__":
    sys.exit(main())
