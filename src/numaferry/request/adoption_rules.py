"""The rows of the adoption table: what refuses, and what a person should know. One function, one row, one test."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

import attrs

from numaferry.model import CpuSet, DomainState
from numaferry.request.charge import confined

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.model import HostTopology
    from numaferry.request.needs import DomainNeeds, GuestCell

#: Modes of memory binding that keep memory on the nodes named; `preferred` only tries.
KEEPING_MODES: Final = frozenset({"strict", "interleave", "restrictive"})


@attrs.frozen(slots=False)
class Subject:
    """A domain on its host, with what the rules ask of both worked out once."""

    needs: DomainNeeds
    dedicated: CpuSet
    host: HostTopology
    persistent_needs: DomainNeeds
    state: DomainState
    persistent: bool
    snapshots: int

    @cached_property
    def cells(self) -> tuple[GuestCell, ...]:
        """The guest's cells, or the implicit one."""
        return self.needs.bound_cells

    @cached_property
    def pins(self) -> dict[int, CpuSet | None]:
        """Where each vCPU is confined to; None: it may run anywhere."""
        return {vcpu: confined(self.needs.vcpupin(vcpu), self.host.cpus) for vcpu in range(self.needs.vcpus)}

    @cached_property
    def own(self) -> dict[int, int]:
        """The vCPU → CPU of every vCPU with a vcpupin to one CPU; ``<vcpu cpuset>`` is never meant one by one."""
        return {vcpu: cpus.first() for vcpu, cpus in self.needs.vcpupins if len(cpus) == 1}

    @cached_property
    def own_cpus(self) -> CpuSet:
        """The CPUs that vCPUs are pinned to one-to-one."""
        return CpuSet.of(self.own.values())

    def nodes_of_vcpus(self, vcpus: CpuSet) -> CpuSet:
        """Return the host cells of the CPUs that these vCPUs are pinned to one-to-one."""
        cpus = CpuSet.of(self.own[vcpu] for vcpu in vcpus if vcpu in self.own)
        return CpuSet.of(cell.id for cell in self.host.cells if not cell.cpus.isdisjoint(cpus))

    @cached_property
    def nodes(self) -> dict[int, int | None]:
        """Guest cell → the host cell of its memory: where it is bound, else where all its vCPUs are pinned; or None."""
        found: dict[int, int | None] = {}
        for cell in self.cells:
            binding = self.needs.memory_of(cell.id)
            nodes = binding.nodeset if binding is not None else None
            if nodes is None:
                nodes = self.nodes_of_vcpus(cell.vcpus)
            found[cell.id] = nodes.first() if nodes is not None and len(nodes) == 1 else None
        return found

    def node(self, cell: int) -> int:
        """Return the host cell of a guest cell's memory; only after the refusals have passed."""
        node = self.nodes[cell]
        if node is None:
            raise AssertionError(f"guest cell {cell} is on no single node, which `cell-over-nodes` refuses")
        return node

    @cached_property
    def floating(self) -> bool:
        """Nothing exact: no vCPU on a CPU of its own, and memory that is not bound cell by cell to one node each."""
        if self.own:
            return False
        bound = [self.needs.memory_of(cell.id) for cell in self.cells]
        return not all(
            memory is not None
            and memory.mode in KEEPING_MODES
            and memory.nodeset is not None
            and len(memory.nodeset) == 1
            for memory in bound
        )

    def why_floating(self) -> str:
        """Return why nothing exact can be promised, and what a move does to loose pins and bindings."""
        if self.needs.vcpu_placement == "auto":
            return "its placement is automatic (numad chooses); a move leaves it to the destination"
        ranged = CpuSet.of(vcpu for vcpu, cpus in self.pins.items() if cpus is not None)
        if ranged:
            return f"vCPUs {ranged} are pinned to ranges; a move puts them on the destination's shared set"
        if self.needs.memory is not None or self.needs.memnodes:
            return "its vCPUs float and its memory is bound to several nodes; a move takes the binding away"
        return "its vCPUs and its memory float"

    def page_wish(self, cell: GuestCell) -> int | None:
        """Return the page size that a move must keep: the huge one it has, or None for base pages."""
        return cell.page_size_kib if cell.page_size_kib != self.base_page_kib else None

    @property
    def base_page_kib(self) -> int:
        """The host's base page size."""
        sizes = [pool.size_kib for cell in self.host.cells for pool in cell.pages]
        return min(sizes, default=4)


@attrs.frozen(slots=True)
class Rule:
    """One row: `check` returns its sentence where it applies, else ""."""

    name: str
    check: Callable[[Subject], str]
    hint: str = ""


def _off(subject: Subject) -> str:
    return "" if subject.state.active else f"the domain is {subject.state}: nothing of it runs here"


def _devices(subject: Subject) -> str:
    count = subject.needs.device_count("hostdev")
    return f"{count} passed-through host devices, which this version does not move" if count else ""


def _memory_devices(subject: Subject) -> str:
    count = subject.needs.device_count("memory")
    return f"{count} memory devices (plugged memory), whose host cells its XML does not tell" if count else ""


def _cells_incomplete(subject: Subject) -> str:
    listed = [vcpu for cell in subject.needs.cells for vcpu in cell.vcpus]
    if not listed or sorted(listed) == list(range(subject.needs.vcpus)):
        return ""
    return f"its cells hold vCPUs {CpuSet.of(listed)}, it has {subject.needs.vcpus}"


def _unknown_cpus(subject: Subject) -> str:
    wrong = subject.own_cpus - subject.host.cpus
    return f"pinned to CPUs {wrong}, which are not online here (online: {subject.host.cpus})" if wrong else ""


def _unknown_nodes(subject: Subject) -> str:
    known = CpuSet.of(cell.id for cell in subject.host.cells)
    bindings = [binding for binding in (subject.needs.memory, *subject.needs.memnodes) if binding is not None]
    wrong = CpuSet.of(node for binding in bindings for node in (binding.nodeset or CpuSet())) - known
    return f"its memory is bound to host cells {wrong}, this host has {known}" if wrong else ""


def _twice(subject: Subject) -> str:
    holders: dict[int, list[int]] = {}
    for vcpu, cpu in subject.own.items():
        holders.setdefault(cpu, []).append(vcpu)
    shared = [f"vCPUs {CpuSet.of(vcpus)} on CPU {cpu}" for cpu, vcpus in sorted(holders.items()) if len(vcpus) > 1]
    return f"one CPU for two vCPUs: {', '.join(shared)}; a dedicated CPU is promised to one" if shared else ""


def _outside(subject: Subject) -> str:
    wrong = subject.own_cpus - subject.dedicated
    if not wrong:
        return ""
    vcpus = CpuSet.of(vcpu for vcpu, cpu in subject.own.items() if cpu in wrong)
    return f"vCPUs {vcpus} are pinned to CPUs {wrong}, outside the dedicated set {subject.dedicated or '(empty)'}"


def _over_nodes(subject: Subject) -> str:
    if subject.floating:
        return ""
    for cell in subject.cells:
        if subject.nodes[cell.id] is not None:
            continue
        binding = subject.needs.memory_of(cell.id)
        vcpus = subject.nodes_of_vcpus(cell.vcpus)
        bound = f"is bound to host cells {binding.nodeset}" if binding and binding.nodeset else "is not bound"
        return f"guest cell {cell.id} is on no single host cell: its memory {bound}, its vCPUs are on cells " + (
            str(vcpus) or "of no pin"
        )
    return ""


def _loose_pages(subject: Subject) -> str:
    huge = [cell for cell in subject.cells if subject.page_wish(cell) is not None]
    if not huge or not subject.floating:
        return ""
    size, memory = huge[0].page_size_kib, sum(cell.memory_kib for cell in huge)
    return f"{memory} KiB in pages of {size} KiB that are bound to no single host cell: nobody can say whose they are"


REFUSALS: Final = (
    Rule("off", _off, "start it first"),
    Rule("passthrough-devices", _devices, "it is charged as it is, and its CPUs are closed to others"),
    Rule("memory-devices", _memory_devices, "it is charged as it is, and its CPUs are closed to others"),
    Rule("cells-incomplete", _cells_incomplete, "every vCPU must be in exactly one <cell> of <cpu><numa>"),
    Rule("unknown-cpus", _unknown_cpus, "bring the CPUs online or re-pin with `virsh vcpupin`"),
    Rule("unknown-nodes", _unknown_nodes, "look at `virsh capabilities` and the domain's <numatune>"),
    Rule("two-vcpus-one-cpu", _twice, "give each vCPU a CPU of its own with `virsh vcpupin`"),
    Rule("outside-dedicated", _outside, "add them to cpu_dedicated_set (`numaferry host confirm`), or re-pin"),
    Rule("cell-over-nodes", _over_nodes, "give the guest one <cell> for each host cell it uses, or re-pin to one"),
    Rule("unbound-pages", _loose_pages, "bind its memory with <numatune>, which takes a restart of the guest"),
)


def _same_node(subject: Subject) -> str:
    if subject.floating or len(subject.cells) < 2:
        return ""
    by_node: dict[int, list[int]] = {}
    for cell in subject.cells:
        by_node.setdefault(subject.node(cell.id), []).append(cell.id)
    crowded = [f"guest cells {CpuSet.of(ids)} on host cell {node}" for node, ids in by_node.items() if len(ids) > 1]
    return f"{', '.join(crowded)}: a move spreads them over {len(subject.cells)} host cells" if crowded else ""


def _remote(subject: Subject) -> str:
    if subject.floating:
        return ""
    apart = [
        f"guest cell {cell.id}: vCPUs on host cells {nodes}, memory on {subject.node(cell.id)}"
        for cell in subject.cells
        if (nodes := subject.nodes_of_vcpus(cell.vcpus)) and nodes != CpuSet.of([subject.node(cell.id)])
    ]
    return f"misplaced now ({'; '.join(apart)}): a move puts each cell on one host cell" if apart else ""


def _preferred(subject: Subject) -> str:
    cells = [
        cell.id for cell in subject.cells if (memory := subject.needs.memory_of(cell.id)) and memory.mode == "preferred"
    ]
    if not cells or subject.floating:
        return ""
    return f"the memory of guest cells {CpuSet.of(cells)} is only preferred where it is charged, and may be elsewhere"


def _unbound(subject: Subject) -> str:
    if subject.floating or all(subject.needs.memory_of(cell.id) for cell in subject.cells):
        return ""
    return "its memory is bound to no host cell; it is charged where its vCPUs are, and a move binds it"


def _unpinned(subject: Subject) -> str:
    if not subject.own or len(subject.own) == subject.needs.vcpus:
        return ""
    rest = CpuSet.of(vcpu for vcpu in subject.pins if vcpu not in subject.own)
    foreign = [vcpu for vcpu in rest if (subject.pins[vcpu] or subject.host.cpus).mask & subject.dedicated.mask]
    if not foreign:
        return ""
    return f"vCPUs {CpuSet.of(foreign)} have no CPU of their own and may run on dedicated CPUs of this host"


def _emulator(subject: Subject) -> str:
    if not subject.own:
        return ""
    where = subject.needs.emulator_cpus
    if where is None:
        return "its emulator threads may run on every CPU of this host; a move confines them"
    foreign = (where & subject.dedicated) - subject.own_cpus
    return f"its emulator threads may run on dedicated CPUs {foreign}, which are not its own" if foreign else ""


def _persistent(subject: Subject) -> str:
    live, other = subject.needs, subject.persistent_needs
    parts = {
        "vCPU pins": (live.vcpupins, other.vcpupins),
        "the emulator pin": (live.emulatorpin, other.emulatorpin),
        "iothread pins": (live.iothreadpins, other.iothreadpins),
        "memory binding": ((live.memory, live.memnodes), (other.memory, other.memnodes)),
        "cells": (live.cells, other.cells),
        "vCPUs": (live.vcpus, other.vcpus),
    }
    names = [name for name, (left, right) in parts.items() if left != right]
    if not names:
        return ""
    return f"the persistent XML differs in {', '.join(names)}: its next start here would undo what runs now"


def _paused(subject: Subject) -> str:
    return "it is paused, and stays so in a move" if subject.state == DomainState.PAUSED else ""


def _transient(subject: Subject) -> str:
    return "" if subject.persistent else "it is transient, and stays so: when it ends, no definition of it is left"


def _snapshots(subject: Subject) -> str:
    count = subject.snapshots
    words = "1 snapshot" if count == 1 else f"{count} snapshots"
    return f"it has {words}, and libvirt refuses to move a domain that has any" if count else ""


def _offline(subject: Subject) -> str:
    needs = subject.needs
    if needs.online_vcpus == needs.vcpus:
        return ""
    return f"{needs.online_vcpus} of its {needs.vcpus} vCPUs are online; the others keep their CPUs too"


def _caches(subject: Subject) -> str:
    if not subject.needs.has_cache_allocation:
        return ""
    return "its cache allocation names caches of this host by number; a destination without them can't start it"


NOTES: Final = (
    Rule("same-node", _same_node),
    Rule("other-node-than-memory", _remote),
    Rule("memory-preferred", _preferred),
    Rule("memory-unbound", _unbound),
    Rule("some-unpinned", _unpinned),
    Rule("foreign-emulator", _emulator),
    Rule("live-not-persistent", _persistent),
    Rule("paused", _paused),
    Rule("transient", _transient),
    Rule("snapshots", _snapshots),
    Rule("offline-vcpus", _offline),
    Rule("cache-allocation", _caches),
)
