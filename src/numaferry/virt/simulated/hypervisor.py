"""The simulated side of the hypervisor port: the same promises as `numaferry.virt.port`, kept by a fleet."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

from numaferry.errors import HostUnreachable, HypervisorError, NotFound
from numaferry.model import (
    DirtySample,
    DomainSeen,
    DomainState,
    HostFacts,
    JobInfo,
    MemoryLook,
    ThreadMasks,
    VifKind,
    XmlKind,
)
from numaferry.virt.libvirt.capabilities import with_free_pages
from numaferry.virt.links import link_reason
from numaferry.virt.ownership import manager_of, read_ownership, with_ownership
from numaferry.virt.port import ClosesOnExit
from numaferry.virt.simulated import guest_xml, storage
from numaferry.virt.simulated.faults import ClientDied, Event
from numaferry.virt.simulated.guest_xml import read_config
from numaferry.virt.simulated.job import BUSY, MigrationJob

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numaferry.model import (
        CpuSet,
        DiskSize,
        GuestSupport,
        HostStorage,
        Instance,
        MigrateCall,
        Ownership,
        StartNeeds,
        Vif,
        Volume,
    )
    from numaferry.virt.simulated.fleet import Fleet
    from numaferry.virt.simulated.host import SimDomain, SimHost

T = TypeVar("T")


class SimulatedHypervisor(ClosesOnExit):
    """One simulated host; see `numaferry.virt.port.Hypervisor` for what each method promises."""

    def __init__(self, fleet: Fleet, host: SimHost) -> None:
        self._fleet = fleet
        self._host = host

    def __repr__(self) -> str:
        return f"SimulatedHypervisor({self.uri!r})"

    @property
    def uri(self) -> str:
        """``sim://FLEET/HOST``."""
        return self._host.uri

    def same_connection(self) -> AbstractContextManager[None]:
        """Do nothing: there is no connection."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _call(self, method: str, work: Callable[[], T], uuid: str = "") -> T:
        """Do the work of a method between its two points, where the host can be reached."""
        self._fleet.touch()
        with self._fleet.lock:
            self._pass(f"call.{method}", uuid)
            self._fleet.check_reachable(self._host)
            result = work()
            self._pass(f"return.{method}", uuid)
            self._fleet.check_reachable(self._host)
            return result

    def _pass(self, point: str, uuid: str) -> None:
        event = Event(point, self._host.name, uuid)
        self._fleet.trigger(event)
        if event.client_died:
            raise ClientDied(point)

    def _find(self, uuid: str) -> SimDomain:
        domain = self._host.domains.get(uuid)
        if domain is None:
            raise NotFound(
                f"{self.uri}: Domain not found: no domain with matching uuid '{uuid}'",
                hint="list what runs there with `numaferry scan`",
            )
        return domain

    def _refuse(self, text: str) -> HypervisorError:
        return HypervisorError(f"{self.uri}: {text}", hint="this is what libvirt says in this case")

    # reading

    def facts(self) -> HostFacts:
        """Return what discovery would read."""
        host = self._host

        def read() -> HostFacts:
            return HostFacts(
                hostname=host.name,
                uuid=host.uuid,
                uri=self.uri,
                topology=with_free_pages(host.topology, host.free_pages()),
                libvirt_version=host.libvirt_version,
                hypervisor_version=host.hypervisor_version,
                links=tuple(sorted(host.links)),
                domain_types=("kvm", "qemu"),
                uptime_s=max(1, int(self._fleet.now_s - host.booted_at)),
            )

        return self._call("facts", read)

    def free_pages(self) -> dict[int, dict[int, int]]:
        """Return free pages: cell id → page size in KiB → count."""
        return self._call("free_pages", self._host.free_pages)

    def domains(self) -> tuple[DomainSeen, ...]:
        """Return all domains, active and inactive, ordered by name."""

        def read() -> tuple[DomainSeen, ...]:
            return tuple(sorted(map(_see, self._host.domains.values()), key=lambda seen: (seen.name, seen.uuid)))

        return self._call("domains", read)

    def domain(self, uuid: str) -> DomainSeen | None:
        """Return one domain, or None where the host has none of this UUID."""

        def read() -> DomainSeen | None:
            domain = self._host.domains.get(uuid)
            return None if domain is None else _see(domain)

        return self._call("domain", read, uuid)

    def domain_xml(self, uuid: str, kind: XmlKind) -> str:
        """Return a domain's XML; MIGRATABLE and INACTIVE carry secrets."""
        return self._call("domain_xml", lambda: _xml(self._find(uuid), kind), uuid)

    def thread_masks(self, uuid: str) -> ThreadMasks:
        """Return the masks of the simulated kernel."""

        def read() -> ThreadMasks:
            domain = self._find(uuid)
            if not domain.state.active:
                raise self._refuse(
                    "Requested operation is not valid: cannot retrieve vcpu information for inactive domain"
                )
            if self._incoming(uuid):
                self._check_not_busy(uuid)
            return domain.masks

        return self._call("thread_masks", read, uuid)

    def look_at_memory(self, uuid: str, periods_s: Sequence[int]) -> MemoryLook:
        """Let the fleet's clock run as long; what the guest dirties is a line up to all of its memory."""

        def look() -> tuple[int, int]:
            domain = self._find(uuid)
            if not domain.state.active:
                raise self._refuse("Requested operation is not valid: domain is not running")
            memory = read_config(domain.live or "").memory_kib * 1024
            return memory, (self._fleet.dirty_mib_s.get(uuid, 0) << 20 if domain.running else 0)

        memory, bps = self._call("look_at_memory", look, uuid)
        for period_s in periods_s:
            self._fleet.advance(period_s)
        return MemoryLook(memory, tuple(DirtySample(float(one), min(memory, bps * one)) for one in periods_s))

    def check_vifs(self, vifs: Sequence[Vif]) -> tuple[str, ...]:
        """Return one sentence for each link that is missing or down here."""
        return self._call("check_vifs", lambda: self._missing(vifs))

    def _missing(self, vifs: Sequence[Vif]) -> tuple[str, ...]:
        return tuple(reason for vif in vifs if (reason := self._link_reason(vif)))

    def _link_reason(self, vif: Vif) -> str:
        if vif.kind is VifKind.NETWORK:
            known = vif.source_dev in self._host.networks
            return "" if known else f"NIC {vif.mac}: libvirt network {vif.source_dev} does not exist"
        return "" if vif.kind is VifKind.OTHER else link_reason(vif, self._host.links)

    def guest_support(self, needs: StartNeeds) -> GuestSupport:
        """Say what the host was built to say, and of each volume whether its pool is there."""
        return self._call("guest_support", lambda: self._host.supports(needs))

    def storage(self, paths: Sequence[str]) -> HostStorage:
        """Return the host's pools, and the images at those of `paths` that lie in one."""
        return self._call("storage", lambda: storage.read_storage(self._host, paths))

    def disk_sizes(self, uuid: str, targets: Sequence[str]) -> dict[str, DiskSize]:
        """Return how big these disks are."""
        return self._call(
            "disk_sizes",
            lambda: storage.disk_sizes(self._host, _xml(self._find(uuid), XmlKind.LIVE), targets),
            uuid,
        )

    # writing

    def create_volume(self, volume: Volume) -> None:
        """Make an empty image."""
        self._call("create_volume", lambda: storage.create(self._host, volume))

    def delete_volume(self, path: str) -> None:
        """Remove an image."""
        self._call("delete_volume", lambda: storage.delete(self._host, path))

    def set_ownership(self, uuid: str, ownership: Ownership | None) -> None:
        """Write or remove our metadata element, live and persistent."""

        def write() -> None:
            domain = self._find(uuid)
            self._check_not_busy(uuid)
            if domain.live is not None:
                domain.live = with_ownership(domain.live, ownership)
            if domain.persistent is not None:
                domain.persistent = with_ownership(domain.persistent, ownership)

        self._call("set_ownership", write, uuid)

    def plug_vifs(self, instance: Instance) -> None:
        """Verify the links of the instance's NICs, as on a real host."""

        def verify() -> None:
            missing = self._missing(instance.vifs)
            if missing:
                raise self._refuse("; ".join(missing))

        self._call("plug_vifs", verify, instance.uuid)

    def unplug_vifs(self, instance: Instance) -> None:
        """Do nothing, as on a real host."""
        self._call("unplug_vifs", lambda: None, instance.uuid)

    def set_pins(
        self, uuid: str, vcpus: Mapping[int, CpuSet], emulator: CpuSet | None = None, *, persistent: bool
    ) -> None:
        """Pin vCPUs and the emulator: live if active (XML and kernel), in the configuration if `persistent`."""

        def pin() -> None:
            domain = self._find(uuid)
            beyond = [cpus for cpus in [*vcpus.values(), *([emulator] if emulator else [])] if not self._has(cpus)]
            if beyond:
                count = len(self._host.topology.cpus)
                raise self._refuse(f"can't pin to CPUs {beyond[0]}: the host has {count}, 0-{count - 1}")
            self._check_not_busy(uuid)
            if persistent and domain.persistent is None:
                raise self._refuse(
                    "Requested operation is not valid: transient domains do not have any persistent config"
                )
            if domain.live is not None:
                domain.live = guest_xml.with_pins(domain.live, vcpus, emulator)
                self._host.pin(domain, dict(vcpus), emulator)
            if persistent and domain.persistent is not None:
                domain.persistent = guest_xml.with_pins(domain.persistent, vcpus, emulator)

        self._call("set_pins", pin, uuid)

    def _has(self, cpus: CpuSet) -> bool:
        return cpus <= self._host.topology.cpus

    def resume(self, uuid: str) -> None:
        """Let a paused domain run."""

        def run() -> None:
            domain = self._find(uuid)
            self._check_not_busy(uuid)
            if not domain.state.active:
                raise self._refuse("Requested operation is not valid: domain is not running")
            if domain.state is DomainState.PAUSED:
                domain.state, domain.reason = DomainState.RUNNING, "unpaused"

        self._call("resume", run, uuid)

    # migrating

    def live_migration(self, call: MigrateCall) -> None:
        """Move a domain; lets the fleet's clock run until the job has ended."""
        job = self._call("live_migration", lambda: MigrationJob.start(self._fleet, self._host, call), call.uuid)

        def watch() -> None:
            if job.client_died:
                raise ClientDied(f"live_migration of {call.uuid}")
            try:
                self._fleet.check_reachable(self._host)
            except HostUnreachable as error:
                raise HostUnreachable(
                    f"{self.uri}: the connection broke: End of file while reading data: Input/output error",
                    hint="what was asked may have happened or not: look again when the host answers",
                ) from error

        self._fleet.wait(job, watch)
        if job.error:
            raise self._refuse(job.error)

    def _running_job(self, uuid: str) -> JobInfo | None:
        """Return the job of the domain; as with libvirt, only the source has figures."""
        job = self._fleet.jobs.get(uuid)
        if job is None or job.ended or self._host not in (job.source, job.dest):
            return None
        return job.info() if job.source is self._host else JobInfo()

    def _incoming(self, uuid: str) -> bool:
        job = self._fleet.jobs.get(uuid)
        return job is not None and not job.ended and job.dest is self._host

    def _check_not_busy(self, uuid: str) -> None:
        if self._running_job(uuid) is not None:
            busy = self._refuse(BUSY)
            busy.retryable = True
            raise busy

    def job(self, uuid: str) -> JobInfo | None:
        """Return the progress of the domain's job; None without one."""
        return self._call("job", lambda: self._running_job(uuid) if uuid in self._host.domains else None, uuid)

    def completed_job(self, uuid: str) -> JobInfo | None:
        """Return the figures of the domain's last job that ended here."""

        def read() -> JobInfo | None:
            return self._fleet.completed.get((self._host.name, uuid)) if uuid in self._host.domains else None

        return self._call("completed_job", read, uuid)

    def abort_job(self, uuid: str) -> None:
        """Give up the domain's job at its next tick; after the switch-over it has no effect, as with libvirt."""

        def abort() -> None:
            job = self._fleet.jobs.get(uuid)
            if job is not None and not job.ended and job.source is self._host:
                if job.postcopy:
                    raise self._refuse(
                        "Requested operation is not valid: migration job cannot be aborted in post-copy mode"
                    )
                job.abort_requested = True

        self._call("abort_job", abort, uuid)

    def _own_job(self, uuid: str) -> MigrationJob | None:
        """Return the running job that leaves this host, or None."""
        job = self._fleet.jobs.get(uuid)
        return job if job is not None and not job.ended and job.source is self._host else None

    def set_max_downtime(self, uuid: str, downtime_ms: int) -> None:
        """Set the limit of the pause at the switch; without a job nothing happens."""

        def limit() -> None:
            if (job := self._own_job(uuid)) is not None:
                job.max_downtime_s = downtime_ms / 1000

        self._call("set_max_downtime", limit, uuid)

    def start_postcopy(self, uuid: str) -> None:
        """Switch the running job to post-copy."""

        def switch() -> None:
            job = self._own_job(uuid)
            if job is None:
                raise self._refuse("Requested operation is not valid: domain is not being migrated")
            job.switch_to_postcopy()

        self._call("start_postcopy", switch, uuid)

    def suspend(self, uuid: str) -> None:
        """Pause the guest of a running job."""

        def pause() -> None:
            domain = self._find(uuid)
            if self._own_job(uuid) is None:
                raise self._refuse(f"domain {domain.name} is under no migration job, so it is not paused")
            if domain.running:
                domain.state, domain.reason = DomainState.PAUSED, "user"

        self._call("suspend", pause, uuid)


def _see(domain: SimDomain) -> DomainSeen:
    xml = _xml(domain, XmlKind.LIVE)
    return DomainSeen(
        uuid=domain.uuid,
        name=domain.name,
        state=domain.state,
        state_reason=domain.reason,
        persistent=domain.persistent is not None,
        xml=xml,
        ownership=read_ownership(xml),
        manager=manager_of(xml),
        snapshots=0,
    )


def _xml(domain: SimDomain, kind: XmlKind) -> str:
    inactive = domain.persistent or domain.live or ""
    if kind is XmlKind.INACTIVE:
        return inactive
    if kind is XmlKind.MIGRATABLE:
        return domain.live or inactive
    live = inactive if domain.live is None else guest_xml.with_id(domain.live, domain.number)
    return guest_xml.without_secrets(live)
