"""A host: what it is (topology, facts), what its operator said (config), and what is left of it (state).

The three are kept apart on purpose. `HostTopology` and `HostFacts` come from discovery, `HostConfig` from a person,
`HostState` from the ledger; the fit sees only a `HostState`.
"""

from __future__ import annotations

import ipaddress

import attrs

from numaferry.model.cpuset import EMPTY, CpuSet, union
from numaferry.model.policy import PolicyWish

#: The base page size of x86-64; the first pool of every cell has it.
BASE_PAGE_SIZE_KIB = 4
#: A step back of the uptime counters that is no boot.
UPTIME_SLACK_S = 5


def version_text(encoded: int) -> str:
    """Return a version that libvirt encoded as a person writes it: 10001002 → 10.1.2."""
    return f"{encoded // 1_000_000}.{encoded // 1000 % 1000}.{encoded % 1000}"


@attrs.frozen(slots=True)
class PagePool:
    """Pages of one size on one cell, as libvirt's capabilities and virNodeGetFreePages tell them."""

    size_kib: int
    total: int
    free: int


@attrs.frozen(slots=True)
class HostCell:
    """One NUMA cell of a host (libvirt: ``<cell id=>``); ids may be sparse, a cell may have no CPUs or no memory."""

    id: int
    cpus: CpuSet
    #: Hardware threads that share a core, one set per core; every CPU of the cell is in exactly one.
    siblings: tuple[CpuSet, ...]
    memory_kib: int
    pages: tuple[PagePool, ...]
    socket: int = 0
    #: (cell id, distance) in SLIT units, 10 = local; empty where the firmware gives none.
    distances: tuple[tuple[int, int], ...] = ()

    def pool(self, size_kib: int) -> PagePool | None:
        """Return the pool of this page size, or None where the cell has none."""
        return next((pool for pool in self.pages if pool.size_kib == size_kib), None)


@attrs.frozen(slots=True)
class HostTopology:
    """All NUMA cells of a host, ordered by id."""

    cells: tuple[HostCell, ...]

    @property
    def cpus(self) -> CpuSet:
        """Every online CPU of the host."""
        return union(cell.cpus for cell in self.cells)

    def cell(self, cell_id: int) -> HostCell | None:
        """Return the cell of this id, or None."""
        return next((cell for cell in self.cells if cell.id == cell_id), None)


@attrs.frozen(slots=True)
class HostFacts:
    """What discovery read from a host's libvirtd, and nothing that it did not."""

    hostname: str
    #: `host/uuid` of the capabilities: how a host is recognised again.
    uuid: str
    uri: str
    topology: HostTopology
    #: libvirt's and QEMU's versions as libvirt encodes them: major * 1_000_000 + minor * 1_000 + release.
    libvirt_version: int
    hypervisor_version: int
    #: Net device and bridge names present on the host; None where this libvirt could not list them.
    links: tuple[str, ...] | None = None
    #: Domain types that the host's QEMU can run ("kvm", "qemu").
    domain_types: tuple[str, ...] = ("kvm",)
    #: How long the host has been up by its CPUs' own counters (virNodeGetCPUStats, the mean per CPU); 0: not told.
    uptime_s: int = 0
    #: Online CPUs that the daemon puts in no cell: they came online after it had read the map. Nothing can be placed
    #: on them until the host's libvirtd is restarted.
    unplaced_cpus: CpuSet = EMPTY

    def booted_since(self, earlier: HostFacts) -> bool:
        """Tell whether the host was booted between the two looks; no clock is asked, so a skewed one changes nothing.

        The kernel's counters may step back a little by themselves (proc_stat(5), iowait).
        """
        return 0 < self.uptime_s < earlier.uptime_s - UPTIME_SLACK_S


@attrs.frozen(slots=True)
class ReservedPages:
    """nova's ``reserved_huge_pages``: pages on a cell that are not ours to promise."""

    cell: int
    size_kib: int
    count: int


@attrs.frozen(slots=True)
class HostConfig:
    """What an operator says of a host, in nova's words (nova.conf ``[compute]``, ``[DEFAULT]``)."""

    cpu_dedicated_set: CpuSet = EMPTY
    #: CPUs where shared vCPUs and floating guests run.
    cpu_shared_set: CpuSet = EMPTY
    #: CPUs for the threads of a migration itself, from here or to here; none of them dedicated. Empty: the shared set.
    migration_cpu_set: CpuSet = EMPTY
    reserved_host_memory_mb: int = 512
    reserved_huge_pages: tuple[ReservedPages, ...] = ()
    cpu_allocation_ratio: float = 16.0
    ram_allocation_ratio: float = 1.0
    #: physical network → the net device that carries it here (macvtap parent), or the bridge of that network.
    physical_networks: tuple[tuple[str, str], ...] = ()
    #: physical network → ids of the cells that its device is near to (nova's ``[neutron_physnet_*] numa_nodes``).
    physical_network_cells: tuple[tuple[str, tuple[int, ...]], ...] = ()
    #: Address that the source's QEMU connects to (tcp://ADDRESS); "" lets libvirt choose.
    migration_address: str = ""
    #: The URI under which *other hosts'* libvirtd reach this one (peer-to-peer); "" = the one the controller uses.
    peer_uri: str = ""
    #: How migrations from this host are driven, as far as its entry says.
    migration: PolicyWish = attrs.field(factory=PolicyWish)

    @property
    def listen_address(self) -> str:
        """Where a QEMU that arrives here listens: `migration_address` if it is a bare IP address, else "".

        A name, a URI and an address with a scope (fe80::1%eth0) say nothing of where to listen: its qemu.conf does.
        """
        address = self.migration_address.removeprefix("[").removesuffix("]")
        if "%" in address:
            return ""
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return ""
        return address

    @property
    def migrate_uri(self) -> str:
        """The URI of the data connection to here, "" where libvirt chooses; an IPv6 address has brackets (RFC 3986)."""
        address = self.migration_address
        if not address or "://" in address:
            return address
        return f"tcp://[{address}]" if address.count(":") > 1 and not address.startswith("[") else f"tcp://{address}"

    @property
    def migration_cpus(self) -> CpuSet:
        """CPUs that a migration's own threads may use here: `migration_cpu_set`, else the shared set; may be empty."""
        return self.migration_cpu_set or self.cpu_shared_set

    def link_of(self, physical_network: str) -> str | None:
        """Return the net device that carries this physical network here, or None."""
        return dict(self.physical_networks).get(physical_network)

    def physical_network_of(self, link: str) -> str | None:
        """Return the physical network that this net device carries here, or None."""
        return next((net for net, dev in self.physical_networks if dev == link), None)


@attrs.frozen(slots=True)
class PageUsage:
    """Pages of one size on one cell: how many there are, promised or observed in use, and reserved by the operator."""

    size_kib: int
    total: int
    used: int = 0
    reserved: int = 0

    @property
    def free(self) -> int:
        """Pages that may still be promised; never negative."""
        return max(0, self.total - self.used - self.reserved)


@attrs.frozen(slots=True)
class CellState:
    """One host cell with what is taken of it: the unit that the fit looks at."""

    id: int
    cpus: CpuSet
    siblings: tuple[CpuSet, ...]
    #: CPUs that may be given away alone.
    dedicated: CpuSet
    #: CPUs for shared vCPUs.
    shared: CpuSet
    #: Dedicated CPUs that are promised, or closed because something is seen running on them.
    pinned: CpuSet
    #: Shared vCPUs bound to this cell.
    shared_vcpus: int
    memory_kib: int
    memory_used_kib: int
    pages: tuple[PageUsage, ...]
    socket: int = 0
    distances: tuple[tuple[int, int], ...] = ()

    @property
    def free_dedicated(self) -> CpuSet:
        """Dedicated CPUs that may be promised now."""
        return self.dedicated - self.pinned

    def pool(self, size_kib: int) -> PageUsage | None:
        """Return the usage of this page size, or None where the cell has none."""
        return next((pool for pool in self.pages if pool.size_kib == size_kib), None)


@attrs.frozen(slots=True)
class PciAddress:
    """A PCI function: domain, bus, slot, function; text form ``0000:81:00.1``."""

    domain: int
    bus: int
    slot: int
    function: int

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Read ``0000:81:00.1``; raises ValueError."""
        domain, bus, rest = text.split(":")
        slot, function = rest.split(".")
        return cls(int(domain, 16), int(bus, 16), int(slot, 16), int(function, 16))

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"


@attrs.frozen(slots=True)
class PciDevice:
    """A device that can be given to a guest; `numa_node` None where the firmware does not say."""

    address: PciAddress
    vendor: str
    product: str
    numa_node: int | None = None
    used: bool = False
    physical_network: str | None = None


@attrs.frozen(slots=True)
class HostLimits:
    """Allocation ratios, as in nova; they apply to shared vCPUs and base pages only."""

    cpu_allocation_ratio: float
    ram_allocation_ratio: float


@attrs.frozen(slots=True)
class HostState:
    """All that the fit needs to know of one host, at one generation of the ledger."""

    name: str
    cells: tuple[CellState, ...]
    generation: int = 0
    #: None: no ratio is applied (the rules about a cell's own size still are).
    limits: HostLimits | None = None
    #: Guests without any NUMA wish are charged per host.
    floating_vcpus: int = 0
    floating_memory_kib: int = 0
    pci: tuple[PciDevice, ...] = ()
    #: physical network → ids of the cells that it is near to (nova's ``[neutron_physnet_*] numa_nodes``); a network
    #: that is not named here binds nobody.
    network_cells: tuple[tuple[str, tuple[int, ...]], ...] = ()
    #: This host's libvirt starts a guest with huge pages only where its emulator threads may run on every cell that
    #: the pages come from; which versions do is found by experiment.
    emulator_cpu_on_page_cells: bool = False

    def cell(self, cell_id: int) -> CellState | None:
        """Return the cell of this id, or None."""
        return next((cell for cell in self.cells if cell.id == cell_id), None)
