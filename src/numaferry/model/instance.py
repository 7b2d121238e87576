"""A guest: what it needs (`NumaRequest`), what it was given (`InstanceNumaTopology`), and who it is (`Instance`)."""

from __future__ import annotations

import enum
from typing import Literal

import attrs

from numaferry.model.cpuset import EMPTY, CpuSet, union
from numaferry.model.host import PciDevice  # noqa: TC001  (cattrs reads the annotations when it runs)
from numaferry.model.migration import MigrationContext  # noqa: TC001  (the same)

CpuPolicy = Literal["shared", "dedicated", "mixed"]
ThreadPolicy = Literal["prefer", "require", "isolate"]
EmulatorThreadsPolicy = Literal["share", "isolate"]
#: KiB, or nova's words, or None where the guest asked for nothing (base pages).
PageSizeWish = int | Literal["small", "large", "any"] | None
PciAffinityPolicy = Literal["required", "legacy", "preferred", "socket"]


@attrs.frozen(slots=True)
class Flavor:
    """A named size with nova's extra specs; an adopted guest has a derived one that says what its XML said."""

    name: str
    vcpus: int
    memory_mb: int
    extra_specs: tuple[tuple[str, str], ...] = ()

    def spec(self, key: str) -> str | None:
        """Return the extra spec of this key, or None."""
        return dict(self.extra_specs).get(key)


@attrs.frozen(slots=True)
class CellRequest:
    """What one guest cell needs, before any host is known."""

    id: int
    #: Guest vCPU ids of the cell, and those of them that want a CPU of their own.
    vcpus: CpuSet
    pinned_vcpus: CpuSet
    memory_kib: int
    page_size: PageSizeWish = None


@attrs.frozen(slots=True)
class PciRequest:
    """`count` devices that match any (vendor, product) of an alias, with an affinity."""

    alias: str
    count: int
    products: tuple[tuple[str, str], ...]
    policy: PciAffinityPolicy = "legacy"
    #: Only devices that carry this physical network; None where any will do.
    physical_network: str | None = None


@attrs.frozen(slots=True)
class NumaRequest:
    """All that the fit needs to know of one guest. No cells: the guest has no NUMA wish and floats."""

    vcpus: int
    memory_kib: int
    cells: tuple[CellRequest, ...] = ()
    cpu_policy: CpuPolicy = "shared"
    thread_policy: ThreadPolicy | None = None
    emulator_threads_policy: EmulatorThreadsPolicy | None = None
    realtime_vcpus: CpuSet = EMPTY
    pci_requests: tuple[PciRequest, ...] = ()
    #: Networks that bind the guest to a host cell where the host declares one (`HostState.network_cells`).
    physical_networks: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class InstanceCell:
    """One guest cell as it was placed: on which host cell, which vCPU on which CPU, in pages of which size."""

    id: int
    vcpus: CpuSet
    pinned_vcpus: CpuSet
    memory_kib: int
    #: The size really used; BASE_PAGE_SIZE_KIB for ordinary memory.
    page_size_kib: int
    host_cell: int
    #: (vCPU, host CPU) for every vCPU with a CPU of its own, ordered by vCPU.
    cpu_pinning: tuple[tuple[int, int], ...] = ()
    #: CPUs kept free beside the pinned ones (thread policy isolate); owned, never in a vcpupin.
    siblings: CpuSet = EMPTY

    @property
    def pinned_cpus(self) -> CpuSet:
        """The host CPUs that vCPUs of this cell are pinned to."""
        return CpuSet.of(cpu for _, cpu in self.cpu_pinning)


@attrs.frozen(slots=True)
class InstanceNumaTopology:
    """A fitted guest (nova's InstanceNUMATopology): its cells on host cells, and extra CPUs for the emulator."""

    cells: tuple[InstanceCell, ...]
    emulator_threads_policy: EmulatorThreadsPolicy | None = None
    #: The extra CPU that emulator threads policy `isolate` owns; empty otherwise.
    emulator_pcpus: CpuSet = EMPTY

    @property
    def cpu_pinning(self) -> tuple[tuple[int, int], ...]:
        """(vCPU, host CPU) of the whole guest, ordered by vCPU."""
        return tuple(sorted(pair for cell in self.cells for pair in cell.cpu_pinning))

    @property
    def isolated_cpus(self) -> CpuSet:
        """The CPU that the emulator threads have for their own by policy `isolate`; empty where they have none."""
        return self.emulator_pcpus if self.emulator_threads_policy == "isolate" else EMPTY

    @property
    def owned_cpus(self) -> CpuSet:
        """Every CPU that the guest owns: pinned ones, kept-free siblings, and the emulator's."""
        return union([self.emulator_pcpus, *(cell.pinned_cpus | cell.siblings for cell in self.cells)])


class VifKind(enum.StrEnum):
    """How a guest's NIC hangs on the host; libvirt's words for ``<interface type=>``."""

    BRIDGE = "bridge"
    DIRECT = "direct"
    NETWORK = "network"
    OTHER = "other"


@attrs.frozen(slots=True)
class Vif:
    """A NIC and the host link under it: a bridge, or the parent device of a macvtap."""

    mac: str
    kind: VifKind
    #: The name on *this* host: bridge, macvtap parent, or libvirt network.
    source_dev: str
    #: The network that the link carries, which is what must be found again on the destination.
    physical_network: str | None = None


class Promise(enum.StrEnum):
    """What the ledger holds for an adopted guest."""

    #: Every dedicated CPU and every page is claimed.
    KEPT = "kept"
    #: Adopted while some of its CPUs were claimed or observed elsewhere: it claims what was free.
    CONFLICTED = "conflicted"
    #: Adopted, but its XML asks for nothing exact (floating): charged, no CPU promised.
    FLOATING = "floating"


@attrs.frozen(slots=True)
class Instance:
    """A managed guest. `uuid` is the domain's; `host` the name of the host that runs it by the ledger."""

    uuid: str
    name: str
    host: str
    flavor: Flavor
    request: NumaRequest
    numa_topology: InstanceNumaTopology | None = None
    pci_devices: tuple[PciDevice, ...] = ()
    vifs: tuple[Vif, ...] = ()
    promise: Promise = Promise.KEPT
    persistent: bool = True
    migration_context: MigrationContext | None = None
