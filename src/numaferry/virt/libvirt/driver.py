"""The libvirt side of the hypervisor port: each method is one call to a module of this package, errors translated."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from numaferry.errors import HypervisorError, NotFound
from numaferry.model import MemoryLook
from numaferry.virt.libvirt import dirtying, discovery, domains, jobs, pins, storage, support, vif
from numaferry.virt.libvirt.connection import CALL_TIMEOUT_S, Connection, HostConnections, libvirt
from numaferry.virt.port import ClosesOnExit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numaferry.model import (
        CpuSet,
        DiskSize,
        DomainSeen,
        GuestSupport,
        HostFacts,
        HostStorage,
        Instance,
        JobInfo,
        MigrateCall,
        Ownership,
        StartNeeds,
        ThreadMasks,
        Vif,
        Volume,
        XmlKind,
    )
    from numaferry.virt.port import Hypervisor

T = TypeVar("T")


class LibvirtHypervisor(ClosesOnExit):
    """One real host; see `numaferry.virt.port.Hypervisor` for what each method promises."""

    def __init__(self, uri: str, *, call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._connections = HostConnections(uri, call_timeout_s=call_timeout_s)

    def __repr__(self) -> str:
        return f"LibvirtHypervisor({self.uri!r})"

    @property
    def uri(self) -> str:
        """The URI that `connect` was given."""
        return self._connections.uri

    def same_connection(self) -> AbstractContextManager[None]:
        """Make this thread's calls over the connections that are open now, or not at all."""
        return self._connections.kept()

    def close(self) -> None:
        """Close both connections; a later call opens them again."""
        self._connections.close()

    def _on(self, connection: Connection, what: str, uuid: str, work: Callable[[libvirt.virDomain], T]) -> T:
        """Run `work`, which the port calls `what`, with the domain of this UUID. Raises NotFound."""
        return connection.call(lambda opened: work(opened.lookupByUUIDString(uuid)), what=what)

    def _job_of(self, what: str, uuid: str, read: Callable[[libvirt.virDomain], JobInfo | None]) -> JobInfo | None:
        try:
            return self._on(self._connections.control, what, uuid, read)
        except NotFound:  # a transient domain that has left, or a persistent one that was undefined when it left
            return None

    # reading

    def facts(self) -> HostFacts:
        """Read identity, versions, topology with free pages, links."""
        return self._connections.main.call(lambda opened: discovery.read_facts(opened, self.uri), what="facts")

    def free_pages(self) -> dict[int, dict[int, int]]:
        """Return free pages: cell id → page size in KiB → count."""
        return self._connections.main.call(discovery.read_all_free_pages, what="free_pages")

    def domains(self) -> tuple[DomainSeen, ...]:
        """Return all domains, active and inactive, ordered by name."""
        main = self._connections.main
        # a call for each: how long they take together grows with the host, how long one takes does not
        listed = main.call(domains.list_all, what="domains")
        return domains.see_all(
            listed, lambda domain: main.call(lambda _: domains.see(domain), what=f"domain {domain.UUIDString()}")
        )

    def domain(self, uuid: str) -> DomainSeen | None:
        """Return one domain, or None where the host has none of this UUID."""
        try:
            return self._on(self._connections.main, "domain", uuid, domains.see)
        except NotFound:
            return None

    def domain_xml(self, uuid: str, kind: XmlKind) -> str:
        """Return a domain's XML; MIGRATABLE and INACTIVE carry secrets."""
        return self._on(self._connections.main, "domain_xml", uuid, lambda domain: domains.read_xml(domain, kind))

    def thread_masks(self, uuid: str) -> ThreadMasks:
        """Return the kernel's affinity masks of a running domain's vCPU and IO threads."""
        return self._on(self._connections.main, "thread_masks", uuid, pins.read_masks)

    def look_at_memory(self, uuid: str, periods_s: Sequence[int]) -> MemoryLook:
        """Measure how much of a running guest's memory is dirtied within each of these periods."""
        resident = self._on(self._connections.main, "memory", uuid, dirtying.resident_bytes)
        return MemoryLook(
            resident, tuple(dirtying.measure(self._connections.main, uuid, period_s) for period_s in periods_s)
        )

    def check_vifs(self, vifs: Sequence[Vif]) -> tuple[str, ...]:
        """Return one sentence for each link that is missing or down here."""
        return self._connections.main.call(lambda opened: vif.missing_links(opened, vifs), what="check_vifs")

    def guest_support(self, needs: StartNeeds) -> GuestSupport:
        """Ask whether this libvirt could start such a guest."""
        return self._connections.main.call(lambda opened: support.read_support(opened, needs), what="guest_support")

    def storage(self, paths: Sequence[str]) -> HostStorage:
        """Return the active storage pools, and the images at those of `paths` that have one."""
        return self._connections.main.call(lambda opened: storage.read_storage(opened, paths), what="storage")

    def disk_sizes(self, uuid: str, targets: Sequence[str]) -> dict[str, DiskSize]:
        """Return how big these disks of a running domain are."""
        return self._on(
            self._connections.main, "disk_sizes", uuid, lambda domain: storage.read_disk_sizes(domain, targets)
        )

    # writing

    def create_volume(self, volume: Volume) -> None:
        """Make an empty image in its pool."""
        self._connections.main.call(lambda opened: storage.create(opened, volume), what="create_volume")

    def delete_volume(self, path: str) -> None:
        """Remove the image at this path."""
        self._connections.main.call(lambda opened: storage.delete(opened, path), what="delete_volume")

    def set_ownership(self, uuid: str, ownership: Ownership | None) -> None:
        """Write or remove our metadata element, live and persistent."""
        self._on(
            self._connections.main, "set_ownership", uuid, lambda domain: domains.write_ownership(domain, ownership)
        )

    def plug_vifs(self, instance: Instance) -> None:
        """Verify the links of the instance's NICs: libvirt itself makes taps and macvtaps on them (see `vif`)."""
        missing = self.check_vifs(instance.vifs)
        if missing:
            raise HypervisorError(
                f"{self.uri}: {'; '.join(missing)}",
                hint="bring the link up, or name another in the host's configuration",
            )

    def unplug_vifs(self, instance: Instance) -> None:
        """Do nothing: libvirt removes taps and macvtaps with the guest they were made for."""

    def set_pins(
        self, uuid: str, vcpus: Mapping[int, CpuSet], emulator: CpuSet | None = None, *, persistent: bool
    ) -> None:
        """Pin vCPUs and the emulator, live if active and in the configuration if `persistent`."""
        self._connections.main.call(
            lambda opened: pins.write_pins(
                opened, opened.lookupByUUIDString(uuid), vcpus, emulator, persistent=persistent
            ),
            what="set_pins",
        )

    def resume(self, uuid: str) -> None:
        """Let a paused domain run."""

        def run(domain: libvirt.virDomain) -> None:
            if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
                domain.resume()

        self._on(self._connections.control, "resume", uuid, run)

    # migrating

    def live_migration(self, call: MigrateCall) -> None:
        """Move a domain peer-to-peer in pre-copy; blocks until the job has ended."""
        live_migration(self._connections.main, call)

    def job(self, uuid: str) -> JobInfo | None:
        """Return the progress of the domain's migration job, on the connection for job control."""
        return self._job_of("job", uuid, jobs.read_job)

    def completed_job(self, uuid: str) -> JobInfo | None:
        """Return the figures of the domain's last migration."""
        return self._job_of("completed_job", uuid, jobs.read_completed_job)

    def abort_job(self, uuid: str) -> None:
        """Give up the domain's job; without one nothing happens."""
        self._to_job("abort_job", uuid, jobs.abort)

    def set_max_downtime(self, uuid: str, downtime_ms: int) -> None:
        """Set the limit of the pause at the switch; without a job nothing happens."""
        self._to_job(
            "set_max_downtime",
            uuid,
            lambda domain: jobs.while_running(domain, lambda: domain.migrateSetMaxDowntime(downtime_ms)),
        )

    def start_postcopy(self, uuid: str) -> None:
        """Switch the running job to post-copy."""
        self._on(self._connections.control, "start_postcopy", uuid, lambda domain: domain.migrateStartPostCopy())

    def suspend(self, uuid: str) -> None:
        """Pause the guest of a running job."""
        self._on(self._connections.control, "suspend", uuid, jobs.suspend)

    def _to_job(self, what: str, uuid: str, work: Callable[[libvirt.virDomain], object]) -> None:
        """Do something to a job; a domain that has left has ended its job before that."""
        with suppress(NotFound):
            self._on(self._connections.control, what, uuid, work)


def live_migration(connection: Connection, call: MigrateCall) -> None:
    """Make the one libvirt call that moves a guest (virDomainMigrateToURI3, peer-to-peer, live).

    The source's daemon drives it and goes on without us. Raises HypervisorError with libvirt's message, cleared of the
    XMLs' secrets; HostUnreachable when our connection broke, which says nothing about the job.
    """
    parameters, flags = jobs.migrate_arguments(call)

    domain = connection.call(lambda opened: opened.lookupByUUIDString(call.uuid), what="domain")

    def migrate(_: libvirt.virConnect) -> None:
        domain.migrateToURI3(call.dest_uri, parameters, flags)

    try:
        connection.call(
            migrate,
            what="live_migration",
            secrets=jobs.secrets_in(call.dest_xml, call.persistent_xml),
            limited=False,
        )
    except NotFound as error:  # it was there a moment ago: a transient guest that ended while it was being moved
        raise HypervisorError(error.message, hint="the guest ended by itself while it was being moved") from None


def connect(uri: str) -> Hypervisor:
    """Open a real host at once, so that a wrong URI is told here. Raises HostUnreachable, HypervisorError, TooOld."""
    hypervisor = LibvirtHypervisor(uri)
    hypervisor._connections.main.get()  # noqa: SLF001  (this function is the class's other constructor)
    return hypervisor
