"""Which CPUs a host could dedicate, proposed from what is seen and explained CPU by CPU. Pure.

libvirt does not know poll-mode drivers, housekeeping CPUs or other consumers: a proposal is a draft for a person, and
nothing is claimable until somebody confirmed it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.model import EMPTY, CpuSet, HostTopology
from numaferry.service.hostmap import CpuRole

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen(slots=True)
class Tenant:
    """Where a running guest's vCPUs may run: on CPUs of their own, confined to a larger set, or anywhere."""

    name: str
    pinned: CpuSet = EMPTY
    confined: CpuSet = EMPTY
    floating: bool = False


@attrs.frozen(slots=True)
class CpuVerdict:
    """What is proposed for one CPU, and why."""

    cpu: int
    role: CpuRole
    why: str


@attrs.frozen(slots=True)
class Proposal:
    """The proposed sets; `verdicts` in order of CPU, `notes` what a person should look at before confirming."""

    cpu_dedicated_set: CpuSet
    cpu_shared_set: CpuSet
    verdicts: tuple[CpuVerdict, ...]
    notes: tuple[str, ...] = ()


def propose(
    topology: HostTopology,
    tenants: Sequence[Tenant] = (),
    isolated: CpuSet | None = None,
    *,
    unplaced: CpuSet = EMPTY,
) -> Proposal:
    """Propose sets from the topology, the guests seen, and the isolated CPUs where somebody knows them.

    `unplaced` are online CPUs that the host's libvirtd puts in no cell: only noted.

    CPU 0's core is never dedicated: the kernel's own work and interrupts fall to it first. CPUs that are not dedicated
    are shared, so that floating guests and emulator threads have a place.
    """
    verdicts = tuple(_verdict(cpu, topology, tenants, isolated) for cpu in topology.cpus)
    return Proposal(
        cpu_dedicated_set=CpuSet.of(one.cpu for one in verdicts if one.role is CpuRole.DEDICATED),
        cpu_shared_set=CpuSet.of(one.cpu for one in verdicts if one.role is CpuRole.SHARED),
        verdicts=verdicts,
        notes=(*_unplaced(unplaced), *_notes(topology, tenants, isolated)),
    )


def _verdict(cpu: int, topology: HostTopology, tenants: Sequence[Tenant], isolated: CpuSet | None) -> CpuVerdict:
    """Judge one CPU; the first rule that speaks decides."""
    boot = _boot_core(topology)
    if cpu in boot:
        return CpuVerdict(cpu, CpuRole.SHARED, f"on CPU {boot.first()}'s core, where the kernel's own work falls first")
    if isolated is not None:
        if cpu in isolated:
            return CpuVerdict(cpu, CpuRole.DEDICATED, "isolated from the scheduler")
        return CpuVerdict(cpu, CpuRole.SHARED, "not isolated: the host's own work runs here")
    here = [tenant.name for tenant in tenants if cpu in tenant.pinned]
    if here:
        return CpuVerdict(cpu, CpuRole.DEDICATED, f"{' and '.join(here)} {_be(here)} pinned here")
    confined = [tenant.name for tenant in tenants if cpu in tenant.confined]
    if confined:
        why = f"{' and '.join(confined)} {_be(confined)} confined to a set of CPUs with this one"
        return CpuVerdict(cpu, CpuRole.SHARED, why)
    return CpuVerdict(cpu, CpuRole.DEDICATED, "nothing is confined to it")


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _boot_core(topology: HostTopology) -> CpuSet:
    """Return the core of the lowest CPU."""
    cpus = topology.cpus
    if not cpus:
        return EMPTY
    cores = (core for cell in topology.cells for core in cell.siblings if cpus.first() in core)
    return next(cores, CpuSet.of([cpus.first()]))


def _unplaced(cpus: CpuSet) -> tuple[str, ...]:
    """Say what to do about CPUs that nothing can be placed on."""
    if not cpus:
        return ()
    return (f"CPU {cpus} came online after libvirtd had read the host: restart libvirtd there to have it used",)


def _notes(topology: HostTopology, tenants: Sequence[Tenant], isolated: CpuSet | None) -> tuple[str, ...]:
    """Say what a person should look at before confirming."""
    boot, notes = _boot_core(topology), []
    for tenant in tenants:
        if tenant.floating:
            notes.append(f"{tenant.name} may run on any CPU, the dedicated ones included: confine it to the shared set")
        if tenant.pinned & boot:
            notes.append(f"{tenant.name} is pinned to CPU {tenant.pinned & boot}, which is proposed as shared")
    if isolated is None:
        notes.append("isolated CPUs are not known over libvirt: give them with --isolated where the host has some")
    elif isolated - topology.cpus:
        notes.append(f"isolated CPUs {isolated - topology.cpus} are not online on this host")
    notes.append("leave out by hand: poll-mode drivers' cores, housekeeping CPUs, other users of huge pages")
    return tuple(notes)
