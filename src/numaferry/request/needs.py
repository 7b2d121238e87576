"""What a domain XML says of its guest, as one frozen value: `DomainNeeds`."""

from __future__ import annotations

import attrs

from numaferry.model import BASE_PAGE_SIZE_KIB, CpuSet, Flavor, Vif

#: Scheduler policies of ``<vcpusched>`` that make a vCPU a realtime one (sched(7)).
REALTIME_SCHEDULERS = frozenset({"fifo", "rr"})


@attrs.frozen(slots=True)
class GuestCell:
    """One ``<cpu><numa><cell>``; `page_size_kib` None where memoryBacking names no huge page size for it."""

    id: int
    vcpus: CpuSet
    memory_kib: int
    page_size_kib: int | None = None

    @property
    def real_page_size_kib(self) -> int:
        """The page size it really has: what is asked for, or the base size."""
        return self.page_size_kib or BASE_PAGE_SIZE_KIB


@attrs.frozen(slots=True)
class MemoryBinding:
    """``<numatune>``'s ``<memory>`` (`cell` None) or a ``<memnode>``.

    `mode` is libvirt's: strict, preferred, interleave, restrictive.
    """

    mode: str
    #: None where libvirt lets numad choose (placement auto).
    nodeset: CpuSet | None
    cell: int | None = None


@attrs.frozen(slots=True)
class VcpuSched:
    """One ``<vcpusched>``; libvirt writes one for each group of vCPUs of equal scheduler and priority."""

    vcpus: CpuSet
    scheduler: str
    priority: int | None = None


@attrs.frozen(slots=True)
class DomainNeeds:
    """A domain's XML (live or inactive) without devices' details and without secrets."""

    uuid: str
    name: str
    #: "kvm" or "qemu".
    domain_type: str
    #: The maximum; `online_vcpus` may be fewer.
    vcpus: int
    online_vcpus: int
    memory_kib: int
    #: Empty where the guest sees no NUMA cells.
    cells: tuple[GuestCell, ...]
    #: (vCPU, host CPUs) for each explicit ``<vcpupin>``, ordered.
    vcpupins: tuple[tuple[int, CpuSet], ...]
    emulatorpin: CpuSet | None
    #: Their ids, ordered; libvirt counts from 1 where ``<iothreadids>`` does not say.
    iothread_ids: tuple[int, ...]
    iothreadpins: tuple[tuple[int, CpuSet], ...]
    #: ``<vcpu cpuset>``: where threads without a pin of their own run. None: anywhere.
    cpuset: CpuSet | None
    #: ``<vcpu placement>``: "static", or "auto" where numad decides.
    vcpu_placement: str
    memory: MemoryBinding | None
    memnodes: tuple[MemoryBinding, ...]
    #: Page size asked for where no cell is named (guests without cells too); None: base pages.
    page_size_kib: int | None
    vcpuscheds: tuple[VcpuSched, ...]
    vifs: tuple[Vif, ...]
    machine: str
    #: (element name under ``<devices>``, how many), ordered by name.
    devices: tuple[tuple[str, int], ...]
    has_secrets: bool
    #: ``<cachetune>`` or ``<memorytune>`` (resctrl): they name caches and nodes of the host by number.
    has_cache_allocation: bool = False
    #: ``<title>`` and the flavor that the metadata carries, and whose it is: "numaferry", "nova" or "".
    title: str = ""
    flavor: Flavor | None = None
    flavor_from: str = ""

    def vcpupin(self, vcpu: int) -> CpuSet | None:
        """Return where a vCPU may run: its own pin, else ``<vcpu cpuset>``, else None (anywhere)."""
        return dict(self.vcpupins).get(vcpu, self.cpuset)

    def device_count(self, kind: str) -> int:
        """Return how many devices of this element name there are."""
        return dict(self.devices).get(kind, 0)

    @property
    def emulator_cpus(self) -> CpuSet | None:
        """Where the emulator threads may run; None: anywhere."""
        return self.emulatorpin if self.emulatorpin is not None else self.cpuset

    def iothreadpin(self, iothread: int) -> CpuSet | None:
        """Return where an iothread may run: its own pin, else ``<vcpu cpuset>``, else None (anywhere)."""
        return dict(self.iothreadpins).get(iothread, self.cpuset)

    @property
    def realtime_vcpus(self) -> CpuSet:
        """The vCPUs with a realtime scheduler."""
        return CpuSet.of(
            vcpu for sched in self.vcpuscheds if sched.scheduler in REALTIME_SCHEDULERS for vcpu in sched.vcpus
        )

    @property
    def bound_cells(self) -> tuple[GuestCell, ...]:
        """The guest's cells, or the one implicit cell of a guest without any."""
        if self.cells:
            return self.cells
        whole = CpuSet.of(range(self.vcpus))
        return (GuestCell(id=0, vcpus=whole, memory_kib=self.memory_kib, page_size_kib=self.page_size_kib),)

    def memory_of(self, cell: int) -> MemoryBinding | None:
        """Return what binds a guest cell's memory: its memnode, else ``<numatune><memory>``, else None."""
        return next((node for node in self.memnodes if node.cell == cell), self.memory)
