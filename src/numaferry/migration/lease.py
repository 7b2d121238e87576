"""The lease under which a controller drives a migration, seen from the controller.

The ledger's lease runs on the database's clock. libvirt can't check a fencing token, so every call to a host is made
only while a *local* monotonic deadline holds, which is shorter than the lease. It is put off by each commit and, when
half of it is over, by renewing the lease. A call that starts, aborts, resumes or changes something reads the lease
again in the statement before it.

What is left: a controller that is stopped, or cut off, between that statement and its call makes the call when it goes
on. The connection is what fences it then. libvirtd closes that of a client which has not answered its keep-alive for
30 s (libvirtd.conf: ``keepalive_interval`` 5 s, ``keepalive_count`` 5), and a changing call is made over the connection
that was open before the lease was read, or not at all (`Hypervisor.same_connection`). Whoever takes over by time has
waited for the lease and the longest call, 90 s by default.

Measured on libvirt 9.0 (tests/faults/test_namespaces_window.py): stopped for 36 s before its call to migrate and taken
over meanwhile, a controller that goes on gets "the connection broke", and no job begins. Stopped for up to 28 s, the
call is made and the job begins: with a policy so short that it could be taken over within that time, the guest moves to
a host where it has no claim any more (the audit tells). So lease and longest call have to last longer together than the
keep-alive of the hosts' daemons, which must not be turned off there.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self, cast

import attrs

from numaferry.errors import LeaseLapsed, LedgerUnusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.ledger import Ledger
    from numaferry.model import Migration
    from numaferry.virt.port import Hypervisor

#: Part of the lease that the local deadline does not use: clocks of two machines run differently fast.
MARGIN: Final = 0.2
#: Never a migration's token.
NO_TOKEN: Final = -1
#: Methods of the port that change something; the lease is read again right before each.
CHANGING: Final = frozenset(
    {
        *("set_ownership", "plug_vifs", "unplug_vifs", "set_pins"),
        *("live_migration", "abort_job", "set_max_downtime", "start_postcopy", "suspend", "resume"),
        *("create_volume", "delete_volume"),
    }
)
#: Methods that ask a host for nothing.
UNGUARDED: Final = frozenset({"close", "same_connection"})


def monotonic_s() -> float:
    """Return the clock of local deadlines: it goes on while the machine is suspended, unlike `time.monotonic`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@attrs.frozen(slots=True)
class LeasePolicy:
    """How long a lease lasts, and how long a call to a host may take at most.

    Together longer than the 30 s after which libvirtd closes the connection of a client that is silent; see above.
    """

    ttl_s: float = 30.0
    #: virt.libvirt.connection.CALL_TIMEOUT_S, the longest call but the one that migrates, which is libvirt's own job.
    longest_call_s: float = 60.0


@attrs.define(slots=True)
class Lease:
    """One controller's hold on one migration."""

    ledger: Ledger
    migration_id: int
    token: int
    ttl_s: float
    clock: Callable[[], float]
    _since: float = attrs.field(default=0.0, init=False)

    @classmethod
    def of(cls, ledger: Ledger, migration: Migration, ttl_s: float, clock: Callable[[], float], *, ours: bool) -> Lease:
        """Return the hold that a migration's row gives; it is renewed before it is first relied upon.

        One that is not `ours` gives none: nothing can be done under it before it was taken.
        """
        lease = cls(ledger, migration.id, migration.token if ours else NO_TOKEN, ttl_s, clock)
        lease._since = clock() - ttl_s
        return lease

    def renew(self, *, moving: bool = False) -> None:
        """Renew the lease in the ledger; raises TakenOver, LedgerError; with `moving` Conflict once it has ended."""
        began = self.clock()
        self.ledger.renew_lease(self.migration_id, self.token, self.ttl_s, moving=moving)
        self._since = began

    def renewed(self, began: float) -> None:
        """Note that a commit which was begun at `began` (by our clock) has renewed it."""
        self._since = began

    def hold(self) -> None:
        """Return while the lease holds, renewing it in time; raises TakenOver, or LeaseLapsed where it no longer does.

        A ledger that can't be reached for a moment stops nobody before the deadline.
        """
        age_s = self.clock() - self._since
        if age_s < self.ttl_s / 2:
            return
        try:
            self.renew()
        except LedgerUnusable as error:
            if self.clock() - self._since < self.ttl_s * (1 - MARGIN):
                return
            raise LeaseLapsed(
                f"migration {self.migration_id}: its lease of {self.ttl_s:g} s could not be renewed in time, so no host"
                f" is touched any more: {error.message}",
                hint="libvirt's job goes on; when the ledger answers again: numaferry migration recover"
                f" {self.migration_id}",
            ) from error


class CallsUnderWay:
    """How many calls that change something are between their lease and their answer, in any thread."""

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0

    def __enter__(self) -> Self:
        with self._lock:
            self._count += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1

    def __bool__(self) -> bool:
        return self._count > 0


class _Guarded:
    """A hypervisor whose every call is made under the lease."""

    def __init__(self, hypervisor: Hypervisor, lease: Callable[[], Lease], calls: CallsUnderWay) -> None:
        self._hypervisor = hypervisor
        self._lease = lease
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._hypervisor, name)
        if not callable(value) or name in UNGUARDED:
            return value

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            lease = self._lease()
            if name not in CHANGING:
                lease.hold()
                return value(*args, **kwargs)
            with self._calls, self._hypervisor.same_connection():
                lease.renew(moving=True)
                return value(*args, **kwargs)

        return call


def guarded(hypervisor: Hypervisor, lease: Callable[[], Lease], calls: CallsUnderWay | None = None) -> Hypervisor:
    """Return a hypervisor that makes no call without the lease; what it raises then is `Lease`'s."""
    return cast("Hypervisor", _Guarded(hypervisor, lease, CallsUnderWay() if calls is None else calls))
