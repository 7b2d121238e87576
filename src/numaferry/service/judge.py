"""What is wrong on a host today, judged from its running guests' XML alone. Pure.

Only what the XML says is judged: libvirt does not tell the emulator's real mask, nor where pages really are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.model import CpuSet, union
from numaferry.service.propose import Tenant
from numaferry.service.views import ScanFinding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.model import HostTopology
    from numaferry.request import DomainNeeds


def judge(host: str, topology: HostTopology, guests: Sequence[DomainNeeds]) -> tuple[ScanFinding, ...]:
    """Return what is wrong among the running guests of one host: double pins first."""
    pins = {guest.uuid: exclusive_cpus(guest, topology.cpus) for guest in guests}
    return (
        *_double_pins(host, guests, pins),
        *(found for guest in guests for found in _misplaced(host, topology, guest)),
        *_emulators(host, guests, pins),
        *_floaters(host, topology, guests, pins),
    )


def exclusive_cpus(guest: DomainNeeds, online: CpuSet) -> CpuSet:
    """Return the host CPUs of vCPUs that are pinned one to one: each vCPU on one CPU (or one core) of its own.

    A vCPU that may run on more CPUs than the guest has vCPUs floats within a set; that is no pin.
    """
    masks = [guest.vcpupin(vcpu) for vcpu in range(guest.vcpus)]
    own = [mask & online for mask in masks if mask is not None and 0 < len(mask & online) <= 2]
    return union(own)


def tenant(guest: DomainNeeds, online: CpuSet) -> Tenant:
    """Return where a guest's vCPUs may run, as `propose` wants it."""
    masks = [online if (mask := guest.vcpupin(vcpu)) is None else mask & online for vcpu in range(guest.vcpus)]
    pinned = exclusive_cpus(guest, online)
    return Tenant(
        name=guest.name,
        pinned=pinned,
        confined=union(mask for mask in masks if mask != online) - pinned,
        floating=online in masks,
    )


def _double_pins(host: str, guests: Sequence[DomainNeeds], pins: dict[str, CpuSet]) -> list[ScanFinding]:
    """Two guests pinned to one CPU: one finding per pair."""
    found = []
    for number, left in enumerate(guests):
        for right in guests[number + 1 :]:
            both = pins[left.uuid] & pins[right.uuid]
            if both:
                sentence = f"{left.name} and {right.name} are both pinned to {name_cpus(both)}"
                found.append(ScanFinding("double-pin", host, (left.name, right.name), sentence))
    return found


def _misplaced(host: str, topology: HostTopology, guest: DomainNeeds) -> list[ScanFinding]:
    """A guest cell whose vCPUs are pinned to other host cells than its memory is bound to."""
    found = []
    for cell in guest.bound_cells:
        binding = guest.memory_of(cell.id)
        masks = [mask for vcpu in cell.vcpus if (mask := guest.vcpupin(vcpu)) is not None]
        if binding is None or not binding.nodeset or not masks or len(masks) < len(cell.vcpus):
            continue
        run_on = CpuSet.of(one.id for one in topology.cells if not one.cpus.isdisjoint(union(masks)))
        if not run_on <= binding.nodeset:
            what = f"cell {cell.id} of {guest.name}" if guest.cells else guest.name
            sentence = f"{what} runs on host cell {run_on} with its memory on {binding.nodeset} (mode {binding.mode})"
            found.append(ScanFinding("misplaced", host, (guest.name,), sentence))
    return found


def _emulators(host: str, guests: Sequence[DomainNeeds], pins: dict[str, CpuSet]) -> list[ScanFinding]:
    """A guest's emulator threads that may run on CPUs that others are pinned to: one finding per guest."""
    found = []
    for guest in guests:
        mine = guest.emulator_cpus
        others = union(cpus for uuid, cpus in pins.items() if uuid != guest.uuid)
        over = others if mine is None else mine & others
        if not over:
            continue
        names = _owners(guest, guests, pins, over)
        how = "are not confined and may run" if mine is None else "may run"
        sentence = f"emulator threads of {guest.name} {how} on {name_cpus(over)}, where {_named(names)} pinned"
        found.append(ScanFinding("emulator-on-pinned", host, (guest.name, *names), sentence))
    return found


def _floaters(
    host: str, topology: HostTopology, guests: Sequence[DomainNeeds], pins: dict[str, CpuSet]
) -> list[ScanFinding]:
    """A guest whose vCPUs may run on CPUs that others are pinned to, since nothing (or too little) confines them."""
    found = []
    for guest in guests:
        masks = [guest.vcpupin(vcpu) for vcpu in range(guest.vcpus)]
        roams = union((topology.cpus if mask is None else mask) for mask in masks) - pins[guest.uuid]
        over = union(cpus for uuid, cpus in pins.items() if uuid != guest.uuid) & roams
        if over:
            names = _owners(guest, guests, pins, over)
            sentence = f"{guest.name} floats over {name_cpus(over)}, where {_named(names)} pinned"
            found.append(ScanFinding("floats-over-pinned", host, (guest.name, *names), sentence))
    return found


def _owners(
    guest: DomainNeeds, guests: Sequence[DomainNeeds], pins: dict[str, CpuSet], over: CpuSet
) -> tuple[str, ...]:
    """Return the names of the other guests that are pinned to any of these CPUs."""
    return tuple(other.name for other in guests if other is not guest and not pins[other.uuid].isdisjoint(over))


def _named(names: Sequence[str]) -> str:
    """Return `a is` or `a, b are`."""
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def name_cpus(cpus: CpuSet) -> str:
    """Return `CPU 3` or `CPUs 2-4`."""
    return f"CPU {cpus}" if len(cpus) == 1 else f"CPUs {cpus}"
