"""The hypervisor port: all that the rest of numaferry may ask of one host.

Two sides implement it: `numaferry.virt.libvirt` (real hosts) and `numaferry.virt.simulated` (a fleet with a clock).
Every method may raise HostUnreachable (no connection, or no answer in time) and HypervisorError (the host's libvirt
says no; its message is quoted); further errors are named at the method. One object is safe to use from several threads:
`live_migration` blocks in one of them while `job` and `abort_job` are called from another, on a connection of their
own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from numaferry.model import (
        CpuSet,
        DiskSize,
        DomainSeen,
        GuestSupport,
        HostFacts,
        HostStorage,
        Instance,
        JobInfo,
        MemoryLook,
        MigrateCall,
        Ownership,
        StartNeeds,
        ThreadMasks,
        Vif,
        Volume,
        XmlKind,
    )


class Hypervisor(Protocol):
    """One host. No method remembers an answer: what is returned was read for this call."""

    @property
    def uri(self) -> str:
        """The URI that `connect` was given."""
        ...

    def facts(self) -> HostFacts:
        """Read identity, versions, topology with free pages, links."""
        ...

    def free_pages(self) -> dict[int, dict[int, int]]:
        """Return free pages: cell id → page size in KiB → count."""
        ...

    def domains(self) -> tuple[DomainSeen, ...]:
        """Return all domains, active and inactive, ordered by name."""
        ...

    def domain(self, uuid: str) -> DomainSeen | None:
        """Return one domain, or None where the host has no domain of this UUID."""
        ...

    def domain_xml(self, uuid: str, kind: XmlKind) -> str:
        """Return a domain's XML; MIGRATABLE and INACTIVE carry secrets. Raises NotFound.

        INACTIVE of a transient domain is its live configuration, as with libvirt: ask `DomainSeen.persistent` first.
        """
        ...

    def set_ownership(self, uuid: str, ownership: Ownership | None) -> None:
        """Write, or with None remove, our metadata element, live and persistent; safe to repeat. Raises NotFound.

        While a migration job runs, libvirt lets nobody change the domain: HypervisorError (retryable) after 30 s. The
        same holds for `set_pins` and `resume`, and on the destination for `thread_masks`.
        """
        ...

    def thread_masks(self, uuid: str) -> ThreadMasks:
        """Return the affinity masks of a running domain's threads as the kernel has them. Raises NotFound."""
        ...

    def look_at_memory(self, uuid: str, periods_s: Sequence[int]) -> MemoryLook:
        """Measure how much of a running guest's memory is dirtied, for each of these periods, one after another.

        Takes as long as they are together and leaves the guest alone: only a sample of its pages is read. Never while
        a job runs on it. Raises NotFound; HypervisorError for a domain that is off, or while another measures.
        """
        ...

    def check_vifs(self, vifs: Sequence[Vif]) -> tuple[str, ...]:
        """Return one sentence for each link that is missing or down here; empty means all are there."""
        ...

    def guest_support(self, needs: StartNeeds) -> GuestSupport:
        """Ask this host's libvirt whether it could start such a guest; nothing is started.

        What it can't tell is an answer too, not an error: HypervisorError only where the whole look was refused.
        """
        ...

    def plug_vifs(self, instance: Instance) -> None:
        """Make the links of the instance's NICs ready on this host; safe to repeat.

        `instance` is mutated: its vifs name links of *this* host. Raises HypervisorError where one is missing or down.
        """
        ...

    def unplug_vifs(self, instance: Instance) -> None:
        """Take back what `plug_vifs` made; safe to repeat, and where nothing was plugged."""
        ...

    def storage(self, paths: Sequence[str]) -> HostStorage:
        """Return the active storage pools, and those of `paths` at which an image lies in one of them.

        Pools for the directories of `paths` are read anew: libvirt remembers what was in them.
        """
        ...

    def disk_sizes(self, uuid: str, targets: Sequence[str]) -> dict[str, DiskSize]:
        """Return how big these disks ("vda") of a running domain are; an empty drive is left out. Raises NotFound."""
        ...

    def create_volume(self, volume: Volume) -> None:
        """Make an empty image in its pool. Raises HypervisorError where the path is taken: nothing was made then."""
        ...

    def delete_volume(self, path: str) -> None:
        """Remove the image at this path. Raises NotFound where there is none in a pool."""
        ...

    def live_migration(self, call: MigrateCall) -> None:
        """Move a running domain from this host (the source); returns when it runs on the destination.

        Peer-to-peer: the source's daemon drives the job, which goes on when this process or its connection dies.
        Raises HypervisorError when the job failed or was aborted (by libvirt's rules the guest then runs on the
        source; look, don't assume), HostUnreachable when the connection broke and nothing is known, NotFound.
        """
        ...

    def job(self, uuid: str) -> JobInfo | None:
        """Return the progress of the migration job of this domain; None without one, or without the domain.

        Only the source has figures: on the destination of a running job the answer is an empty JobInfo.
        """
        ...

    def completed_job(self, uuid: str) -> JobInfo | None:
        """Return the figures of the last job that succeeded; the *destination* has them, until its daemon restarts."""
        ...

    def abort_job(self, uuid: str) -> None:
        """Ask libvirt to give up the domain's job; without a job or domain nothing happens (it has just ended).

        Raises HypervisorError where the job can no longer be aborted.
        """
        ...

    def set_max_downtime(self, uuid: str, downtime_ms: int) -> None:
        """Let the running job switch once its expected pause is no longer than this.

        Without a job nothing happens (it has just ended).
        """
        ...

    def start_postcopy(self, uuid: str) -> None:
        """Switch the running job, begun with post-copy allowed, to post-copy; there is no way back from it.

        Raises HypervisorError where the job was not begun so, or has made no pass over the memory yet.
        """
        ...

    def suspend(self, uuid: str) -> None:
        """Pause the guest of a running job, so that the job can end: libvirt runs it again on the destination.

        Only a person's word or the policy's timeout asks for it. Raises HypervisorError without a job: a guest that
        is not on its way is never paused.
        """
        ...

    def resume(self, uuid: str) -> None:
        """Let a paused domain run; a running one is left alone, one that is off refused. Raises NotFound."""
        ...

    def set_pins(
        self, uuid: str, vcpus: Mapping[int, CpuSet], emulator: CpuSet | None = None, *, persistent: bool
    ) -> None:
        """Pin vCPUs, and the emulator where given: live if the domain is active, in its configuration if `persistent`.

        Raises NotFound, HypervisorError for a CPU that the host lacks.
        """
        ...

    def same_connection(self) -> AbstractContextManager[None]:
        """Make this thread's calls, until the context ends, over what is open as it begins, or not at all.

        What is not open is opened first. A call then raises HostUnreachable where its connection has broken: the host
        closes that of a client which did not answer its keep-alive, and a call that was decided on before must not be
        made over another one.
        """
        ...

    def close(self) -> None:
        """Close all connections; safe to repeat."""
        ...


class ClosesOnExit:
    """`with connect(uri) as host:` for both sides of the port."""

    def close(self) -> None:
        """Close; the side that inherits says what."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
