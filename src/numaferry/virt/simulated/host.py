"""One simulated host: its cells, pages, links, and the domains on it. Not thread-safe by itself: the fleet locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.errors import HypervisorError
from numaferry.model import (
    EMPTY,
    YES,
    Answer,
    CpuSet,
    DomainState,
    GuestSupport,
    HostTopology,
    Said,
    StartNeeds,
    ThreadMasks,
)
from numaferry.request import start_needs
from numaferry.virt.simulated.guest_xml import GuestConfig, read_config, without_id

if TYPE_CHECKING:
    from numaferry.model import StoragePool
    from numaferry.virt.simulated.guest_xml import GuestMemory
    from numaferry.virt.simulated.storage import SimImage

_HINT = "libvirt on the host says this when it starts the guest"

#: What a host says that can start any guest.
ABLE = GuestSupport(emulator=YES, machine=YES, cpu=YES, emulated_tpm=YES)

#: (host cell, page size in KiB) → pages
Pages = dict[tuple[int, int], int]


@attrs.define(slots=True)
class SimDomain:
    """One domain of one host. `live` is None while it is off, `persistent` None for a transient one."""

    uuid: str
    name: str
    state: DomainState
    reason: str
    live: str | None
    persistent: str | None
    number: int = 0
    pages: Pages = attrs.field(factory=dict)
    #: The kernel's masks, apart from the XML, so that the two can disagree.
    vcpu_masks: dict[int, CpuSet] = attrs.field(factory=dict)
    #: Of the emulator threads, with which the threads of a migration are born.
    emulator_mask: CpuSet = EMPTY
    iothread_masks: dict[int, CpuSet] = attrs.field(factory=dict)

    @property
    def running(self) -> bool:
        """Tell whether its vCPUs run."""
        return self.state is DomainState.RUNNING

    @property
    def masks(self) -> ThreadMasks:
        """The kernel's masks."""
        return ThreadMasks(tuple(sorted(self.vcpu_masks.items())), tuple(sorted(self.iothread_masks.items())))


@attrs.define(slots=True)
class SimHost:
    """A host of the fleet; `links` is name → up."""

    name: str
    uri: str
    uuid: str
    topology: HostTopology
    links: dict[str, bool]
    networks: set[str] = attrs.field(factory=set)
    libvirt_version: int = 9_000_000
    hypervisor_version: int = 7_002_000
    domains: dict[str, SimDomain] = attrs.field(factory=dict)
    #: Pages that something libvirt does not know has taken.
    taken: Pages = attrs.field(factory=dict)
    alive: bool = True
    #: When it was booted, by the fleet's clock; a fleet begins with hosts that have been up for a day.
    booted_at: float = -86_400.0
    #: The daemon answers again at this time of the fleet's clock.
    daemon_back_at: float = 0.0
    #: Set by a fault: pins are accepted and never reach the kernel.
    ignores_pins: bool = False
    next_number: int = 1
    #: What its libvirt says of any guest that is to be started; what it says no to does not start.
    support: GuestSupport = ABLE
    pools: dict[str, StoragePool] = attrs.field(factory=dict)
    #: Names of pools that are defined and not active.
    inactive_pools: set[str] = attrs.field(factory=set)
    #: Disk images, by path, in a pool or not.
    files: dict[str, SimImage] = attrs.field(factory=dict)

    def free_pages(self) -> dict[int, dict[int, int]]:
        """Return what the active domains and other consumers leave: cell → size in KiB → count."""
        free = {cell.id: {pool.size_kib: pool.free for pool in cell.pages} for cell in self.topology.cells}
        for pages in [self.taken, *(domain.pages for domain in self.domains.values())]:
            for (cell, size_kib), count in pages.items():
                free[cell][size_kib] -= count
        return free

    def begin(self, xml: str, *, reason: str, persistent: str | None = None) -> SimDomain:
        """Start a guest, paused as QEMU starts it; raises HypervisorError with libvirt's text for what is missing.

        What fails here is what libvirt itself finds only now: absent nodes, CPUs, page sizes, pages, links.
        """
        config = read_config(xml)
        present = self.domains.get(config.uuid)
        namesake = next((one for one in self.domains.values() if one.name == config.name and one is not present), None)
        if namesake is not None:
            raise HypervisorError(
                f"operation failed: domain '{config.name}' already exists with uuid {namesake.uuid}", hint=_HINT
            )
        if present is not None and present.state.active:
            raise HypervisorError(
                f"operation failed: domain '{config.name}' is already active as '{present.name}'", hint=_HINT
            )
        self._check_support(xml)
        self._check_nodes(config)
        self._check_links(config)
        vcpu_masks, iothread_masks = self._masks(config)
        pages = self._allocate(config)
        domain = SimDomain(
            uuid=config.uuid,
            name=config.name,
            state=DomainState.PAUSED,
            reason=reason,
            live=without_id(xml),
            persistent=persistent if present is None or persistent is not None else present.persistent,
            number=self.next_number,
            pages=pages,
            vcpu_masks=vcpu_masks,
            emulator_mask=self._kernel_mask(config.emulator_pin),
            iothread_masks=iothread_masks,
        )
        self.next_number += 1
        self.domains[domain.uuid] = domain
        return domain

    def supports(self, needs: StartNeeds) -> GuestSupport:
        """Return what this host's libvirt says of a guest with these needs."""
        return attrs.evolve(self.support, volumes=tuple(self._volume(pool) for pool, _ in needs.volumes))

    def _volume(self, pool: str) -> Answer:
        if pool not in self.pools:
            return Answer(Said.NO, f"Storage pool not found: no storage pool with matching name '{pool}'")
        return YES if pool not in self.inactive_pools else Answer(Said.NO, f"storage pool {pool} is not active")

    def _check_support(self, xml: str) -> None:
        """Refuse to start what `guest_support` said no to, in the words that it gave."""
        said = self.supports(start_needs(xml))
        for answer in (said.emulator, said.machine, said.cpu, *said.volumes):
            if answer.said is Said.NO:
                raise HypervisorError(answer.words, hint=_HINT)

    def end(self, uuid: str, reason: str) -> None:
        """End the domain's process: a persistent one stays defined and off, a transient one is gone.

        Nothing happens to a domain that is off, or not here.
        """
        domain = self.domains.get(uuid)
        if domain is None or not domain.state.active:
            return
        if domain.persistent is None:
            del self.domains[uuid]
            return
        domain.state, domain.reason, domain.live = DomainState.SHUTOFF, reason, None
        domain.pages, domain.vcpu_masks, domain.iothread_masks = {}, {}, {}
        domain.emulator_mask = EMPTY

    def pin(self, domain: SimDomain, vcpus: dict[int, CpuSet], emulator: CpuSet | None) -> None:
        """Set masks in the kernel; it cuts off CPUs that are not there."""
        if not self.ignores_pins:
            domain.vcpu_masks |= {number: self._kernel_mask(cpus) for number, cpus in vcpus.items()}
            if emulator is not None:
                domain.emulator_mask = self._kernel_mask(emulator)

    def _kernel_mask(self, cpus: CpuSet | None) -> CpuSet:
        mask = self.topology.cpus if cpus is None else cpus & self.topology.cpus
        if not mask:
            raise HypervisorError(
                f"cannot set CPU affinity on process {4000 + self.next_number}: Invalid argument", hint=_HINT
            )
        return mask

    def _masks(self, config: GuestConfig) -> tuple[dict[int, CpuSet], dict[int, CpuSet]]:
        pins = dict(config.vcpu_pins)
        vcpus = {number: self._kernel_mask(pins.get(number)) for number in range(config.vcpus)}
        return vcpus, {number: self._kernel_mask(cpus) for number, cpus in config.iothread_pins}

    def _check_nodes(self, config: GuestConfig) -> None:
        absent = config.nodes - CpuSet.of(cell.id for cell in self.topology.cells)
        if absent:
            raise HypervisorError(f"unsupported configuration: NUMA node {absent.first()} is unavailable", hint=_HINT)

    def _check_links(self, config: GuestConfig) -> None:
        for kind, link in config.links:
            if kind == "bridge" and link not in self.links:
                raise HypervisorError(f"Cannot get interface MTU on '{link}': No such device", hint=_HINT)
            if kind == "direct" and link not in self.links:
                raise HypervisorError(f"Unable to get index for interface {link}: No such device", hint=_HINT)
            if kind == "network" and link not in self.networks:
                raise HypervisorError(f"Network not found: no network with matching name '{link}'", hint=_HINT)

    def _allocate(self, config: GuestConfig) -> Pages:
        free = self.free_pages()
        taken: Pages = {}
        for memory in config.memory:
            for cell, count in self._pages_of(memory, free).items():
                free[cell][memory.page_size_kib] -= count
                key = (cell, memory.page_size_kib)
                taken[key] = taken.get(key, 0) + count
        return taken

    def _pages_of(self, memory: GuestMemory, free: dict[int, dict[int, int]]) -> dict[int, int]:
        """Return cell → pages for one guest cell, filling the cells that it may use in order."""
        size_kib = memory.page_size_kib
        if not any(size_kib in pools for pools in free.values()):
            raise HypervisorError(
                f"internal error: Unable to find any usable hugetlbfs mount for {size_kib} KiB", hint=_HINT
            )
        left = -(-memory.size_kib // size_kib)
        allowed = memory.nodes or CpuSet.of(free)
        chosen: dict[int, int] = {}
        for cell in allowed:
            chosen[cell] = min(left, max(0, free[cell].get(size_kib, 0)))
            left -= chosen[cell]
        if left:
            raise HypervisorError(
                "internal error: process exited while connecting to monitor: qemu-system-x86_64: unable to map backing "
                "store for guest RAM: Cannot allocate memory",
                hint=_HINT,
            )
        return {cell: count for cell, count in chosen.items() if count}
