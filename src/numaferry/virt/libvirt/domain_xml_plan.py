"""Where every thread and every cell's memory goes on the destination: values only, no XML is touched here.

The plan is made from what the guest's XML says (`DomainNeeds`), the mutated instance, and the destination.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.errors import CheckFailed
from numaferry.model import BASE_PAGE_SIZE_KIB, EMPTY, CpuSet, union

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numaferry.model import HostConfig, HostFacts, Instance, InstanceCell, InstanceNumaTopology
    from numaferry.request import DomainNeeds


@attrs.frozen(slots=True)
class Dest:
    """The destination as the plan sees it."""

    facts: HostFacts
    config: HostConfig

    def cpus_of(self, cell: int) -> CpuSet:
        """Return the CPUs of a host cell; raises CheckFailed where there is no such cell."""
        found = self.facts.topology.cell(cell)
        if found is None:
            known = CpuSet.of(one.id for one in self.facts.topology.cells)
            raise CheckFailed(
                f"host cell {cell} was claimed on {self.facts.hostname}, which has cells {known}",
                hint="its topology changed since the claim: run `numaferry audit` for this host and move again",
            )
        return found.cpus

    def shared_of(self, cell: int) -> CpuSet:
        """Return the CPUs of a host cell that are for shared vCPUs."""
        return self.cpus_of(cell) & self.config.cpu_shared_set

    def check_online(self, cpus: CpuSet) -> None:
        """Raise CheckFailed for CPUs that are not online: libvirt says so only after QEMU has started."""
        missing = cpus - self.facts.topology.cpus
        if missing:
            raise CheckFailed(
                f"CPUs {missing} were claimed on {self.facts.hostname}, where they are not online",
                hint="bring them online, or run `numaferry audit` for this host and move again",
            )


@attrs.frozen(slots=True)
class EmulatorCpus:
    """Where the emulator threads run: when QEMU starts, once the guest runs, and while it arrives.

    The first two differ only where huge pages need a CPU on their node at start (see `emulator_cpus`).
    """

    at_start: CpuSet
    settled: CpuSet
    #: While the guest is received: the threads of the migration are born with the emulator's mask.
    arriving: CpuSet


@attrs.frozen(slots=True)
class Plan:
    """What the destination XML must say. None for a pin: there must be none."""

    vcpu_pins: tuple[tuple[int, CpuSet | None], ...]
    emulator: CpuSet | None
    iothread_pins: tuple[tuple[int, CpuSet | None], ...]
    cpuset: CpuSet | None
    #: (guest cell, host cell), ordered; None: the guest's memory must not be bound.
    nodes: tuple[tuple[int, int], ...] | None
    #: (guest cell, page size in KiB), ordered; None: as it is.
    page_sizes: tuple[tuple[int, int], ...] | None


def make_plan(needs: DomainNeeds, instance: Instance, dest: Dest, *, arriving: bool = False) -> Plan:
    """Return the plan, with `arriving` for the start that receives a migration.

    Raises CheckFailed where instance, XML and destination do not go together.
    """
    emulator = emulator_cpus(instance, dest_facts=dest.facts, dest_config=dest.config)
    topology = instance.numa_topology
    if topology is None:
        return _floating(needs, dest, emulator if arriving else None)
    _check_shape(needs, topology)
    dest.check_online(topology.owned_cpus)
    vcpus = _vcpu_pins(needs, topology, dest)
    owned = bool(topology.cpu_pinning)
    shared = dest.config.cpu_shared_set or None
    kept_pin = emulator.at_start if owned or needs.emulatorpin is not None else None
    if arriving and (kept_pin is not None or emulator.arriving != emulator.settled):
        kept_pin = emulator.arriving
    cpuset = (union(pin for _, pin in vcpus if pin) if needs.cpuset else None) if owned else shared
    if not owned and kept_pin is None:
        _check_hugepage_nodes(topology, cpuset or dest.facts.topology.cpus, dest)
    return Plan(
        vcpu_pins=vcpus,
        emulator=kept_pin,
        iothread_pins=_iothread_pins(needs, topology, emulator.settled),
        cpuset=cpuset,
        nodes=tuple((cell.id, cell.host_cell) for cell in topology.cells),
        page_sizes=tuple((cell.id, cell.page_size_kib) for cell in topology.cells),
    )


def _floating(needs: DomainNeeds, dest: Dest, emulator: EmulatorCpus | None) -> Plan:
    """Return the plan for a guest without exact resources: loose pins and bindings of the source end here.

    The destination's shared set takes their place where there is one (nova LP 1869804); else threads run anywhere, and
    memory is never confined to some cell (nova LP 1461777). `emulator` is given for the start that receives it.
    """
    shared = dest.config.cpu_shared_set or None
    pin = shared if needs.emulatorpin is not None else None
    if emulator is not None and emulator.arriving != emulator.settled:
        pin = emulator.arriving
    return Plan(
        vcpu_pins=tuple((vcpu, None) for vcpu, _ in needs.vcpupins),
        emulator=pin,
        iothread_pins=tuple((iothread, shared) for iothread, _ in needs.iothreadpins),
        cpuset=shared,
        nodes=None,
        page_sizes=None,
    )


def _check_shape(needs: DomainNeeds, topology: InstanceNumaTopology) -> None:
    """Refuse an instance whose cells are not the XML's: guest cells can't change in a move (libvirt's ABI check)."""
    in_xml = [(cell.id, cell.vcpus) for cell in needs.bound_cells]
    claimed = [(cell.id, cell.vcpus) for cell in topology.cells]
    if in_xml != claimed:
        raise CheckFailed(
            f"{needs.name}: the claim has guest cells {_shown(claimed)}, its XML {_shown(in_xml)}",
            hint="adopt the instance again: its XML is not what was adopted",
        )


def _shown(cells: Iterable[tuple[int, CpuSet]]) -> str:
    return "; ".join(f"{cell}: vCPUs {vcpus}" for cell, vcpus in cells)


def _vcpu_pins(needs: DomainNeeds, topology: InstanceNumaTopology, dest: Dest) -> tuple[tuple[int, CpuSet | None], ...]:
    """Return a pin for *every* vCPU with a CPU of its own, and for shared ones where they must be kept off others'.

    Shared vCPUs of a guest with dedicated ones are always confined to their cell's shared CPUs, as nova does for mixed
    guests; those of a guest without any only where the source had a pin.
    """
    had = dict(needs.vcpupins)
    pins: dict[int, CpuSet | None] = dict.fromkeys(had)  # a pin that nothing below renews must not keep its old CPUs
    pins |= {vcpu: CpuSet.of([cpu]) for vcpu, cpu in topology.cpu_pinning}
    for cell in topology.cells:
        for vcpu in cell.vcpus - cell.pinned_vcpus:
            if topology.cpu_pinning or vcpu in had:
                pins[vcpu] = _shared_cpus(needs, cell, dest)
    return tuple(sorted(pins.items()))


def _shared_cpus(needs: DomainNeeds, cell: InstanceCell, dest: Dest) -> CpuSet:
    """Return the shared CPUs of the host cell that a guest cell is on; raises CheckFailed where there are none."""
    cpus = dest.shared_of(cell.host_cell)
    if not cpus:
        raise CheckFailed(
            f"{needs.name}: guest cell {cell.id} has shared vCPUs, and host cell {cell.host_cell} of "
            f"{dest.facts.hostname} has no CPU in cpu_shared_set {dest.config.cpu_shared_set or '(empty)'}",
            hint="add CPUs of that cell to cpu_shared_set",
        )
    return cpus


def emulator_cpus(instance: Instance, *, dest_facts: HostFacts, dest_config: HostConfig) -> EmulatorCpus:
    """Return where the emulator threads of a guest run.

    No policy: they float over the guest's own dedicated CPUs, the non-realtime ones only; `share`: the destination's
    shared set (where there is none, as without a policy, like nova); `isolate`: the extra CPU; a floating guest: the
    shared set, or anywhere. While it arrives they run on the host's `migration_cpus`, unless they are within them
    anyhow, isolated, or there are none.

    libvirt 9.0 with QEMU 7.2 does not start a guest whose huge pages lie on a node where the emulator has no CPU
    ("Setting CPU affinity failed"), so the sets with which QEMU starts are widened on each such node by CPUs of the
    guest's own (on which nobody runs yet while it arrives) or, for a cell with shared vCPUs, by the shared ones. Raises
    CheckFailed where neither is there.
    """
    topology, dest = instance.numa_topology, Dest(dest_facts, dest_config)
    if topology is None:
        anywhere = dest_config.cpu_shared_set or dest_facts.topology.cpus
        return EmulatorCpus(anywhere, anywhere, _arriving(anywhere, dest))
    usable = _usable(instance, topology)
    settled = _settled(topology, dest, usable)
    if not settled:
        raise CheckFailed(
            f"{instance.name}: no CPU for its emulator threads on {dest_facts.hostname}: vCPUs "
            f"{instance.request.realtime_vcpus or 'none'} are realtime ones and there is no shared set",
            hint="set cpu_shared_set there, or give the flavor hw:emulator_threads_policy",
        )
    at_start = _widened(settled, EMPTY, topology, dest, usable)
    _check_hugepage_nodes(topology, at_start, dest)
    first = settled if topology.isolated_cpus else _arriving(settled, dest)
    return EmulatorCpus(at_start, settled, _widened(first, at_start, topology, dest, usable))


def _arriving(settled: CpuSet, dest: Dest) -> CpuSet:
    """Return where the emulator threads run while the guest arrives, huge pages aside."""
    allowed = dest.config.migration_cpus & dest.facts.topology.cpus
    return allowed if allowed and not settled <= allowed else settled


def _widened(cpus: CpuSet, spare: CpuSet, topology: InstanceNumaTopology, dest: Dest, usable: CpuSet) -> CpuSet:
    """Return the set with a CPU on each node where huge pages lie, if there is one to take, at last out of `spare`."""
    for cell in _hugepage_cells(topology):
        here = dest.cpus_of(cell.host_cell)
        if cpus.isdisjoint(here):
            shared = dest.shared_of(cell.host_cell) if cell.vcpus - cell.pinned_vcpus else EMPTY
            cpus |= (usable & here) or shared or (spare & here)
    return cpus


def _usable(instance: Instance, topology: InstanceNumaTopology) -> CpuSet:
    """Return the guest's own CPUs on which no realtime vCPU would starve the emulator."""
    return CpuSet.of(cpu for vcpu, cpu in topology.cpu_pinning if vcpu not in instance.request.realtime_vcpus)


def _settled(topology: InstanceNumaTopology, dest: Dest, usable: CpuSet) -> CpuSet:
    """Return the emulator's set by its policy."""
    shared = dest.config.cpu_shared_set
    if topology.isolated_cpus:
        return topology.isolated_cpus
    if topology.emulator_threads_policy == "share" and shared:
        return shared
    if not topology.cpu_pinning:
        return union(dest.shared_of(cell.host_cell) for cell in topology.cells) or shared or dest.facts.topology.cpus
    return usable or shared


def _hugepage_cells(topology: InstanceNumaTopology) -> tuple[InstanceCell, ...]:
    return tuple(cell for cell in topology.cells if cell.page_size_kib > BASE_PAGE_SIZE_KIB)


def _check_hugepage_nodes(topology: InstanceNumaTopology, cpus: CpuSet, dest: Dest) -> None:
    """Refuse a set without a CPU on the node of some cell's huge pages: QEMU would not start."""
    for cell in _hugepage_cells(topology):
        if cpus.isdisjoint(dest.cpus_of(cell.host_cell)):
            raise CheckFailed(
                f"the emulator threads would have no CPU on host cell {cell.host_cell} of {dest.facts.hostname}, where "
                f"guest cell {cell.id} has pages of {cell.page_size_kib} KiB: QEMU does not start so (CPUs {cpus})",
                hint="give that guest cell a vCPU that is not a realtime one, or add CPUs there to cpu_shared_set",
            )


def _iothread_pins(
    needs: DomainNeeds, topology: InstanceNumaTopology, emulator: CpuSet
) -> tuple[tuple[int, CpuSet | None], ...]:
    """Return a pin for each iothread: the emulator's set, or the vCPU's new CPU where it was pinned beside a vCPU.

    Guests with dedicated CPUs get one for iothreads that had none (nova LP 2152697), which would else run anywhere.
    """
    had = dict(needs.iothreadpins)
    vcpu_by_old_cpu = {cpus.first(): vcpu for vcpu, cpus in needs.vcpupins if len(cpus) == 1}
    new = dict(topology.cpu_pinning)
    pins: list[tuple[int, CpuSet | None]] = []
    for iothread in sorted({*needs.iothread_ids, *had} if new else had):
        old = had.get(iothread)
        follows = [new.get(vcpu_by_old_cpu.get(cpu, -1)) for cpu in old or ()]
        individually = bool(follows) and None not in follows and old != needs.emulator_cpus
        mapped = CpuSet.of(cpu for cpu in follows if cpu is not None)
        pins.append((iothread, mapped if individually else emulator))
    return tuple(pins)
