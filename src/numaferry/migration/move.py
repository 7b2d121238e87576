"""One migration while it is being driven: the ledger's row, both hosts, and the one way to commit an intent."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs

from numaferry.errors import CheckFailed, HostError, HostUnreachable, NotFound, NumaferryError
from numaferry.ledger.migrations import refuse_stale
from numaferry.ledger.samples import due
from numaferry.migration.beside import in_thread
from numaferry.migration.evidence import Sight, Unreachable
from numaferry.migration.lease import CallsUnderWay, Lease, LeasePolicy, guarded
from numaferry.migration.states import next_status
from numaferry.model import Limits, Ownership, mutated_migration_context

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numaferry.ledger import HostRecord, Ledger
    from numaferry.migration.beside import Beside
    from numaferry.migration.states import Event
    from numaferry.migration.steps import Step
    from numaferry.model import Instance, JobInfo, Migration
    from numaferry.virt.port import Hypervisor

T = TypeVar("T")

#: How often a call that only tidies up is made before it is left to the audit.
TRIES = 2


class AuditReport(Protocol):
    """What the engine needs to know of an audit; `numaferry.audit.AuditResult` is one."""

    @property
    def findings(self) -> Sequence[FindingLike]:
        """Where promise and reality disagree."""
        ...

    @property
    def cost_ms(self) -> float:
        """How long the audit took."""
        ...


class FindingLike(Protocol):
    """A finding's sentence is all that the engine tells."""

    @property
    def sentence(self) -> str:
        """What is wrong, with its numbers."""
        ...


@attrs.frozen(slots=True)
class Tools:
    """What an engine works with; `sleep` and the intervals are replaced in tests and simulations."""

    ledger: Ledger
    connect: Callable[[HostRecord], Hypervisor]
    audit: Callable[[str], AuditReport]
    on_progress: Callable[[Migration, JobInfo | None], None]
    controller: str
    #: The table of steps; tests give one with faults in it.
    steps: tuple[Step, ...]
    sleep: Callable[[float], None]
    clock: Callable[[], float]
    poll_s: float = 0.5
    #: How often progress is written to the ledger, which is the heartbeat too; each poll would overload it.
    heartbeat_s: float = 10.0
    wait_s: float = 2.0
    #: Between two looks that have to agree.
    settle_s: float = 1.0
    waits: int = 15
    #: How the blocking call and the watch over its job go side by side.
    beside: Beside = in_thread
    lease: LeasePolicy = attrs.field(factory=LeasePolicy)
    limits: Limits = attrs.field(factory=Limits)
    #: How often one that is queued asks for its turn.
    turn_s: float = 1.0


@attrs.define(slots=True)
class Move:
    """A migration being driven under a lease. `migration` is the row as last committed or read."""

    tools: Tools
    migration: Migration
    instance: Instance
    source: HostRecord
    dest: HostRecord
    lease: Lease
    #: Calls under way that change something on a host.
    calls: CallsUnderWay = attrs.field(factory=CallsUnderWay, init=False)
    _hypervisors: dict[str, Hypervisor] = attrs.field(factory=dict, init=False)
    #: The look at the job that was given to the ledger last, and when.
    _sampled: tuple[JobInfo | None, float] = attrs.field(default=(None, 0.0), init=False)

    @classmethod
    def load(cls, tools: Tools, migration_id: int) -> Move:
        """Read a migration with its instance and both hosts from the ledger; raises NotFound."""
        ledger = tools.ledger
        migration = ledger.migration(migration_id)
        instance = ledger.instance_by_uuid(migration.instance_uuid)
        if instance is None:
            raise NotFound(
                f"migration {migration.id} is of instance {migration.instance_uuid}, which the ledger has forgotten",
                hint="numaferry instance list shows what it has",
            )
        ours = migration.controller == tools.controller
        lease = Lease.of(ledger, migration, tools.lease.ttl_s, tools.clock, ours=ours)
        return cls(tools, migration, instance, ledger.host(migration.source), ledger.host(migration.dest), lease)

    def close(self) -> None:
        """Close what was opened to both hosts."""
        for hypervisor in self._hypervisors.values():
            with contextlib.suppress(HostError):
                hypervisor.close()
        self._hypervisors.clear()

    # the two hosts

    @property
    def uuid(self) -> str:
        """The domain's UUID."""
        return self.migration.instance_uuid

    @property
    def source_host(self) -> Hypervisor:
        """The source's hypervisor, opened when first needed; raises HostUnreachable."""
        return self._open(self.source)

    @property
    def dest_host(self) -> Hypervisor:
        """The destination's hypervisor, opened when first needed; raises HostUnreachable."""
        return self._open(self.dest)

    def _open(self, record: HostRecord) -> Hypervisor:
        if record.name not in self._hypervisors:
            self._hypervisors[record.name] = guarded(self.tools.connect(record), lambda: self.lease, self.calls)
        return self._hypervisors[record.name]

    def look(self) -> tuple[Sight, JobInfo | None, Sight]:
        """Ask both hosts for the domain, and the source for its job; a host that can't be asked is Unreachable."""
        try:
            # the job first: one that ends between the two questions is then seen again, not missed
            job = self.source_host.job(self.uuid)
            source: Sight = self.source_host.domain(self.uuid)
        except HostError as error:
            job, source = None, Unreachable(error.message)
        try:
            dest: Sight = self.dest_host.domain(self.uuid)
        except HostError as error:
            dest = Unreachable(error.message)
        return source, job, dest

    # the instance on either side

    @property
    def mutated(self) -> Instance:
        """The instance as it will be on the destination: the only source of the new XML and links."""
        return mutated_migration_context(attrs.evolve(self.instance, migration_context=self.migration.context))

    @property
    def original(self) -> Instance:
        """The instance as it was on the source, also after the flip."""
        context = self.migration.context
        if context is None:
            return self.instance
        return attrs.evolve(
            self.instance,
            host=self.migration.source,
            numa_topology=context.old_numa_topology,
            pci_devices=context.old_pci_devices,
            vifs=context.old_vifs,
        )

    def mark(self, host: HostRecord, *, moving: bool) -> Ownership | None:
        """Return what the domain's metadata says on this host: the claim there; while it moves, migration and token."""
        holdings = self.tools.ledger.view(host.name).holdings
        claim = next((one.claim_id for one in holdings if one.instance_uuid == self.uuid), None)
        if claim is None:
            return None
        ledger_id = self.tools.ledger.ledger_id
        return (
            Ownership(ledger_id, claim, self.migration.uuid, self.lease.token)
            if moving
            else Ownership(ledger_id, claim)
        )

    # the ledger

    def memo(self, key: str) -> str | None:
        """Return what was noted about the state before the move, or None."""
        return dict(self.migration.source_memo).get(key)

    def guard(self) -> None:
        """Renew the lease and read the migration again before touching a host; raises TakenOver."""
        self.lease.renew()
        self.migration = self.tools.ledger.migration(self.migration.id)
        # between the two it may have been stopped
        refuse_stale(self.migration, self.lease.token)

    def commit(
        self,
        sentence: str,
        *,
        step: str | None = None,
        event: Event | None = None,
        reason: str | None = None,
        memo: dict[str, str] | None = None,
    ) -> None:
        """Commit an intent or an outcome: step, transition and memo, with the sentence that says it.

        Swaps only where the status is still the one last seen, and the lease is still ours; renews it. Raises Conflict,
        TakenOver.
        """
        now = self.migration = self.tools.ledger.migration(self.migration.id)
        # before anything is concluded from a row that another controller has written since
        refuse_stale(now, self.lease.token)
        began = self.tools.clock()
        notes = None if memo is None else tuple(sorted({**dict(now.source_memo), **memo}.items()))
        self.migration = self.tools.ledger.set_migration(
            now.id,
            sentence=sentence,
            status=None if event is None else next_status(now.status, event),
            step=step,
            reason=reason,
            source_memo=notes,
            expected_status=now.status,
            token=self.lease.token,
            ttl_s=self.lease.ttl_s,
        )
        self.lease.renewed(began)
        self.tools.on_progress(self.migration, None)

    def sample(self, job: JobInfo) -> None:
        """Keep a look at the job in the ledger where it is due; may be called with every look.

        Whatever goes wrong is passed over: nothing depends on a sample, and what is wrong is met at the next commit.
        """
        last, at = self._sampled
        now = self.tools.clock()
        if not due(job, last, now - at):
            return
        # before it is tried: a ledger that is away is not asked at every look
        self._sampled = (job, now)
        with contextlib.suppress(NumaferryError):
            self.tools.ledger.add_sample(self.migration.id, job, token=self.lease.token)

    def tidy(self, what: str, work: Callable[[], T], *, reach: bool = True) -> T | None:
        """Make a call that only tidies up: tried twice, then told in an event and left to the audit.

        With `reach` a host that can't be reached is raised (HostUnreachable): it is worth waiting for.
        """
        for left in reversed(range(TRIES)):
            try:
                return work()
            except NotFound as error:
                self.commit(f"{what}: nothing to do, {error.message}")
                return None
            except (HostError, CheckFailed) as error:
                if reach and isinstance(error, HostUnreachable):
                    raise
                if not left:
                    self.commit(f"{what} did not work and is left to the audit: {error.message}")
        return None
