"""A peer-to-peer pre-copy job as a state machine on the fleet's clock: Begin, Prepare, Perform, Finish, Confirm.

It lives in the source's daemon, not in the client: it goes on whenever the clock does, whether anybody waits or not.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

from numaferry.errors import HypervisorError, NotFound
from numaferry.model import DomainState, JobInfo, PostCopy
from numaferry.virt.simulated.faults import Event
from numaferry.virt.simulated.guest_xml import abi_difference, read_config, without_id
from numaferry.virt.simulated.storage import DiskCopy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numaferry.model import MigrateCall
    from numaferry.virt.simulated.fleet import Fleet
    from numaferry.virt.simulated.host import SimDomain, SimHost

PAGE_BYTES = 4096
MIB = 1024 * 1024
#: QEMU's default downtime limit.
MAX_DOWNTIME_S = 0.3
#: QEMU's defaults for auto-converge, in percent (cpu-throttle-initial, cpu-throttle-increment, max-cpu-throttle).
THROTTLE_INITIAL, THROTTLE_INCREMENT, THROTTLE_MAX = 20, 10, 99
#: After this long on the clock a job that does not converge ends, so that no test hangs.
PATIENCE_S = 600.0


#: How long the daemons wait for each other's signs of life (qemu.conf: keepalive_interval 5, keepalive_count 5).
KEEPALIVE_S = 30.0
#: What the source's daemon then says.
LOST = "internal error: client socket is closed"
#: What libvirt says, after 30 s, to whoever wants to change a domain while its job runs.
BUSY = (
    "Timed out during operation: cannot acquire state change lock "
    "(held by monitor=remoteDispatchDomainMigratePerform3Params)"
)


class Phase(enum.StrEnum):
    """Where the job is; libvirt's words for the phases of migration protocol 3."""

    BEGIN = "begin"
    PREPARE = "prepare"
    PERFORM = "perform"
    FINISH = "finish"
    CONFIRM = "confirm"
    ENDED = "ended"


class MigrationJob:
    """One move of one domain; `step` is called by the fleet at every tick, with the fleet's lock held."""

    def __init__(self, fleet: Fleet, source: SimHost, dest: SimHost, call: MigrateCall) -> None:
        self.fleet = fleet
        self.source = source
        self.dest = dest
        self.call = call
        self.phase = Phase.BEGIN
        #: libvirt's text when the job failed.
        self.error = ""
        self.abort_requested = False
        #: The waiting client was killed by a fault.
        self.client_died = False
        self.disks = DiskCopy.of(source, dest, source.domains[call.uuid].live or "", call)
        self.total_bytes = read_config(source.domains[call.uuid].live or "").memory_kib * 1024
        self.round_bytes = self.total_bytes
        self.dirtied_bytes = 0
        self.processed_bytes = 0
        self.iteration = 0
        self.dirty_bytes_s = fleet.dirty_mib_s.get(call.uuid, 0) * MIB
        self.bandwidth_bytes_s = (call.policy.bandwidth_mib_s or fleet.bandwidth_mib_s) * MIB
        self.max_downtime_s = MAX_DOWNTIME_S
        self.postcopy = False
        #: Percent of its CPU time that the guest is denied.
        self.throttle = 0
        self.started_at = fleet.now_s
        self.paused_at: float | None = None
        self.lost_at: float | None = None
        self.ended_at: float | None = None

    @classmethod
    def start(cls, fleet: Fleet, source: SimHost, call: MigrateCall) -> MigrationJob:
        """Start a job in the source's daemon. Raises NotFound, HypervisorError in libvirt's words."""
        domain = source.domains.get(call.uuid)
        if domain is None:
            raise NotFound(f"{source.uri}: Domain not found: no domain with matching uuid '{call.uuid}'")
        running = fleet.jobs.get(call.uuid)
        if running is not None and not running.ended:
            raise HypervisorError(BUSY, hint="a job runs")
        if not domain.state.active:
            raise HypervisorError("Requested operation is not valid: domain is not running", hint="start it first")
        dest = fleet.hosts.get(call.dest_uri.rpartition("/")[2])
        if dest is None or dest.uri != call.dest_uri or dest is source:
            raise HypervisorError(
                f"unable to connect to server at '{call.dest_uri}': No route to host", hint="no such host"
            )
        job = fleet.jobs[call.uuid] = cls(fleet, source, dest, call)
        fleet.tell(f"{source.name} to {dest.name}: {domain.name} begins to move")
        return job

    @property
    def ended(self) -> bool:
        """Tell whether there is no job any more."""
        return self.phase is Phase.ENDED

    @property
    def domain(self) -> SimDomain | None:
        """The domain on the source, as long as there is one."""
        return self.source.domains.get(self.call.uuid)

    def info(self) -> JobInfo:
        """Return the figures as virDomainGetJobStats gives them."""
        now = self.fleet.now_s if self.ended_at is None else self.ended_at
        downtime_s = 0.0 if self.paused_at is None else now - self.paused_at
        return JobInfo(
            time_elapsed_ms=round((now - self.started_at) * 1000),
            memory_total_bytes=self.total_bytes,
            memory_processed_bytes=self.processed_bytes,
            memory_remaining_bytes=0 if self.ended else min(self.total_bytes, self.round_bytes + self.dirtied_bytes),
            memory_bps=0 if self.ended else self.bandwidth_bytes_s,
            memory_dirty_rate=self.dirty_bytes_s * (100 - self.throttle) // 100 // PAGE_BYTES,
            memory_page_size_bytes=PAGE_BYTES,
            memory_iteration=self.iteration,
            downtime_ms=round(downtime_s * 1000),
            disk_total_bytes=self.disks.total_bytes,
            disk_processed_bytes=self.disks.done_bytes,
            disk_remaining_bytes=0 if self.ended else self.disks.total_bytes - self.disks.done_bytes,
            disk_bps=0 if self.ended or not self.disks.total_bytes else self.bandwidth_bytes_s,
            auto_converge_throttle=self.throttle,
            completed=self.ended,
        )

    def step(self) -> None:
        """Do one tick's worth: pass the phase's point, then its work unless a fault ended the job."""
        if self.ended:
            return
        event = Event(self.phase.value, self.source.name, self.call.uuid, self)
        self.fleet.trigger(event)
        self.client_died |= event.client_died
        if not self.ended:
            self._WORK[self.phase](self)

    def _begin(self) -> None:
        domain = self.domain
        if domain is None or domain.live is None:
            self.fail("Requested operation is not valid: domain is not running")
            return
        difference = abi_difference(read_config(domain.live), read_config(self.call.dest_xml))
        difference = difference or self.disks.refusal()
        if difference:
            self.fail(difference)
        else:
            self._enter(Phase.PREPARE)

    def _prepare(self) -> None:
        if not self.fleet.reachable(self.source.name, self.dest.name):
            self.fail(f"unable to connect to server at '{self.dest.name}:16509': No route to host")
            return
        try:
            self.dest.begin(self.call.dest_xml, reason="migration")
        except HypervisorError as error:
            self.fail(error.message)
            return
        self.iteration = 1
        self._enter(Phase.PERFORM)

    def _perform(self) -> None:
        domain = self.domain
        if self.abort_requested:
            self.fail("operation aborted: job 'migration out' canceled by client")
        elif domain is None or not domain.state.active:
            self.fail("operation failed: domain is not running")
        elif self._lost():
            return
        elif self.fleet.now_s - self.started_at > PATIENCE_S:
            self.fail(f"operation failed: the simulated job did not converge within {PATIENCE_S:g} s")
        else:
            self._transfer(domain)

    def _lost(self) -> bool:
        """Tell whether the hosts can't talk now; after the keep-alive's patience that ends the job."""
        if self.fleet.reachable(self.source.name, self.dest.name):
            self.lost_at = None
            return False
        if self.lost_at is None:
            self.lost_at = self.fleet.now_s
        if self.fleet.now_s - self.lost_at >= KEEPALIVE_S:
            self.fail(LOST)
        return True

    def _transfer(self, domain: SimDomain) -> None:
        sent = min(self.round_bytes, self.disks.send(int(self.bandwidth_bytes_s * self.fleet.tick_s)))
        self.round_bytes -= sent
        self.processed_bytes += sent
        if domain.running:
            dirtied = int(self.dirty_bytes_s * self.fleet.tick_s * (100 - self.throttle) / 100)
            self.dirtied_bytes = min(self.total_bytes, self.dirtied_bytes + dirtied)
        if self.round_bytes:
            return
        if self.dirtied_bytes <= self.bandwidth_bytes_s * self.max_downtime_s:
            self.processed_bytes += self.dirtied_bytes
            self.dirtied_bytes = 0
            self.paused_at = self.fleet.now_s
            domain.state, domain.reason = DomainState.PAUSED, "migration"
            self._enter(Phase.FINISH)
        else:
            self.round_bytes, self.dirtied_bytes = self.dirtied_bytes, 0
            self.iteration += 1
            self._throttle()

    def _throttle(self) -> None:
        """Deny the guest more CPU time with each pass that gained nothing, as QEMU's auto-converge does."""
        policy = self.call.policy
        if policy.auto_converge:
            more = policy.auto_converge_increment or THROTTLE_INCREMENT
            self.throttle = min(
                THROTTLE_MAX,
                self.throttle + more if self.throttle else policy.auto_converge_initial or THROTTLE_INITIAL,
            )

    def _finish(self) -> None:
        if self._lost():
            return
        incoming = self.dest.domains.get(self.call.uuid)
        if incoming is None:
            self.fail(LOST)
            return
        self.disks.finish()
        self.fleet.lives[self.call.uuid].lost_disks += self.disks.differing()
        incoming.state, incoming.reason = DomainState.RUNNING, "migrated"
        if self.call.persistent_xml is not None:
            incoming.persistent = without_id(self.call.persistent_xml)
        self.fleet.tell(f"{self.dest.name}: {incoming.name} runs here now")
        self._enter(Phase.CONFIRM)

    def _confirm(self) -> None:
        domain = self.domain
        if domain is not None:
            if self.call.persistent_xml is not None:
                domain.persistent = None
            self.source.end(self.call.uuid, "migrated")
        self._end()
        self.fleet.completed[self.dest.name, self.call.uuid] = self.info()

    def switch_to_postcopy(self) -> None:
        """Let the guest run on the destination now, its memory following; raises HypervisorError as libvirt does."""
        if self.call.policy.post_copy is PostCopy.NEVER:
            raise HypervisorError(
                "operation failed: Post-copy migration is not allowed for this job", hint="begin it with post-copy"
            )
        if self.phase is not Phase.PERFORM or self.iteration < 1:
            raise HypervisorError("Requested operation is not valid: the job has not begun to copy", hint="wait")
        domain, incoming = self.domain, self.dest.domains.get(self.call.uuid)
        if domain is None or incoming is None:
            raise HypervisorError("Requested operation is not valid: domain is not running", hint="look again")
        self.postcopy, self.paused_at = True, self.fleet.now_s
        domain.state, domain.reason = DomainState.PAUSED, "postcopy"
        incoming.state, incoming.reason = DomainState.RUNNING, "postcopy"
        self.round_bytes, self.dirtied_bytes = self.round_bytes + self.dirtied_bytes, 0
        self.fleet.tell(f"{self.source.name} to {self.dest.name}: post-copy")

    def fail(self, text: str) -> None:
        """End without success: the destination's half-started guest is killed, the source's goes on running.

        In post-copy both halves stay, paused: neither has the whole memory.
        """
        if self.postcopy:
            for half in (self.domain, self.dest.domains.get(self.call.uuid)):
                if half is not None and half.state.active:
                    half.state, half.reason = DomainState.PAUSED, "postcopy-failed"
            self._end(text)
            return
        self._drop_incoming()
        domain = self.domain
        if domain is not None and domain.state is DomainState.PAUSED and domain.reason == "migration":
            domain.state, domain.reason = DomainState.RUNNING, "migration-canceled"
        self._end(text)

    def orphan(self) -> None:
        """End as when the one that drives the job dies with it: the source's guest stays as it is, paused or not."""
        self._drop_incoming()
        self._end("End of file while reading data: Input/output error")

    def leave_paused_copy(self) -> None:
        """End after the switch-over without Confirm: the guest runs on the destination, its copy stays paused here."""
        self._end("End of file while reading data: Input/output error")

    def _drop_incoming(self) -> None:
        incoming = self.dest.domains.get(self.call.uuid)
        if self.phase in {Phase.PERFORM, Phase.FINISH} and incoming is not None and incoming.state.active:
            self.dest.end(self.call.uuid, "failed")

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.fleet.tell(f"{self.source.name} to {self.dest.name}: {phase.value}")

    def _end(self, text: str = "") -> None:
        self.error = text
        self.ended_at = self.fleet.now_s
        self.phase = Phase.ENDED
        self.fleet.tell(f"{self.source.name} to {self.dest.name}: {text or 'done'}")

    _WORK: ClassVar[Mapping[Phase, Callable[[MigrationJob], None]]] = {
        Phase.BEGIN: _begin,
        Phase.PREPARE: _prepare,
        Phase.PERFORM: _perform,
        Phase.FINISH: _finish,
        Phase.CONFIRM: _confirm,
    }
