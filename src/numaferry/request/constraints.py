"""nova's `numa_get_constraints`: from a flavor and an image to what a guest needs of a host.

A guest has a NUMA wish when it asks for cells, for a page size, or for CPUs of its own; every other one floats, and its
request has no cells. The order of the checks is nova's, since a request with two faults is told the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from numaferry.model import CellRequest, CpuSet, NumaRequest
from numaferry.request import specs as read
from numaferry.request.pci import pci_requests
from numaferry.request.specs import Specs
from numaferry.request.words import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.model import Flavor
    from numaferry.model.instance import CpuPolicy, EmulatorThreadsPolicy, PageSizeWish, ThreadPolicy
    from numaferry.request.pci import PciAliases

_NO_IMAGE: Final[Mapping[str, str]] = {}
_NO_ALIASES: Final[PciAliases] = {}
_THREADS_BY_TRAIT: Final[dict[str, ThreadPolicy]] = {"forbidden": "isolate", "required": "require"}


@attrs.frozen(slots=True)
class _Policies:
    """What the extra specs say of CPUs, before any cell is known."""

    cpu: CpuPolicy | None
    thread: ThreadPolicy | None
    emulator: EmulatorThreadsPolicy | None
    realtime: CpuSet
    #: hw:cpu_dedicated_mask as written; `pinned` is what follows from it and from the policy.
    mask: CpuSet
    vcpus: int

    @property
    def pinned(self) -> CpuSet:
        """The vCPUs that want a CPU of their own; for mixed guests without a mask the realtime ones."""
        if self.cpu == "dedicated":
            return CpuSet.of(range(self.vcpus))
        return (self.mask or self.realtime) if self.cpu == "mixed" else CpuSet()


def numa_get_constraints(
    flavor: Flavor,
    image: Mapping[str, str] = _NO_IMAGE,
    *,
    aliases: PciAliases = _NO_ALIASES,
) -> NumaRequest:
    """Return what the flavor's extra specs and the image's properties ask for; without a NUMA wish no cells.

    `image` has nova's property names (``hw_numa_nodes``, lists as ``hw_numa_cpus.0``); `aliases` gives each name that
    pci_passthrough:alias may use the (vendor, product) pairs it stands for. Raises InvalidRequest whose code is the
    name of nova's exception and whose message quotes the value at fault.
    """
    if flavor.vcpus < 1:
        raise invalid("Invalid", f"flavor {flavor.name} has {flavor.vcpus} vCPUs", "a guest has at least one")
    specs = Specs(flavor, dict(flavor.extra_specs), image)
    policies = _by_traits(specs, _by_placement(specs, _policies(specs)))
    _check_policies(policies)
    nodes, page_size = read.cell_count(specs), read.page_size(specs)
    read.check_locked_memory(specs)
    cells: tuple[CellRequest, ...] = ()
    if nodes or page_size or policies.cpu in {"dedicated", "mixed"}:
        cells = _cells(specs, nodes or 1, policies.pinned, page_size)
    return NumaRequest(
        vcpus=flavor.vcpus,
        memory_kib=flavor.memory_mb * 1024,
        cells=cells,
        cpu_policy=policies.cpu or "shared",
        thread_policy=policies.thread,
        emulator_threads_policy=policies.emulator,
        realtime_vcpus=policies.realtime,
        pci_requests=pci_requests(specs, aliases),
    )


def _policies(specs: Specs) -> _Policies:
    """Read each policy by itself."""
    return _Policies(
        cpu=read.cpu_policy(specs),
        thread=read.thread_policy(specs),
        realtime=read.realtime_vcpus(specs),
        mask=read.dedicated_vcpus(specs),
        emulator=read.emulator_threads_policy(specs),
        vcpus=specs.flavor.vcpus,
    )


def _by_placement(specs: Specs, policies: _Policies) -> _Policies:
    """Take the CPU policy from resources:PCPU or resources:VCPU, which say the same as hw:cpu_policy."""
    shared, dedicated = read.placement_resources(specs)
    if policies.cpu and (shared or dedicated):
        raise invalid(
            "InvalidRequest",
            f"hw:cpu_policy={policies.cpu!r} together with resources:VCPU={shared}, resources:PCPU={dedicated}",
            "use one or the other",
        )
    if shared and dedicated:
        raise invalid(
            "InvalidRequest",
            f"resources:VCPU={shared} together with resources:PCPU={dedicated}",
            "use one or the other; a guest with both kinds has hw:cpu_policy=mixed",
        )
    wanted = policies.vcpus + (policies.emulator == "isolate")
    if dedicated and dedicated != wanted:
        raise invalid(
            "InvalidRequest",
            f"resources:PCPU={dedicated} for {policies.vcpus} vCPUs"
            + (" and one CPU for isolated emulator threads" if policies.emulator == "isolate" else ""),
            f"set resources:PCPU={wanted}",
        )
    if shared or dedicated:
        return attrs.evolve(policies, cpu="dedicated" if dedicated else "shared")
    return policies


def _by_traits(specs: Specs, policies: _Policies) -> _Policies:
    """Take the thread policy from a HW_CPU_HYPERTHREADING trait: forbidden isolates, required requires."""
    trait = read.hyperthreading_trait(specs)
    if trait and policies.thread:
        raise invalid(
            "InvalidRequest",
            f"hw:cpu_thread_policy={policies.thread!r} together with trait:HW_CPU_HYPERTHREADING={trait!r}",
            "use one or the other",
        )
    return attrs.evolve(policies, thread=_THREADS_BY_TRAIT.get(trait, policies.thread)) if trait else policies


def _check_policies(policies: _Policies) -> None:
    """Refuse policies that contradict one another."""
    shown = f"hw:cpu_policy={policies.cpu or 'shared'!r}"
    if policies.cpu in {"shared", None}:
        if policies.thread:
            raise invalid(
                "CPUThreadPolicyConfigurationInvalid",
                f"hw:cpu_thread_policy={policies.thread!r} with {shown}: shared vCPUs have no threads to choose",
                "set hw:cpu_policy=dedicated or remove hw:cpu_thread_policy",
            )
        if policies.emulator == "isolate":
            raise invalid(
                "BadRequirementEmulatorThreadsPolicy",
                f"hw:emulator_threads_policy='isolate' with {shown}",
                "isolated emulator threads need hw:cpu_policy=dedicated or mixed",
            )
    if policies.cpu != "mixed" and policies.mask:
        raise invalid(
            "RequiredMixedInstancePolicy",
            f"hw:cpu_dedicated_mask={str(policies.mask)!r} with {shown}",
            "set hw:cpu_policy=mixed or remove the mask",
        )
    if policies.cpu in {"shared", None} and policies.realtime:
        raise invalid(
            "RealtimeConfigurationInvalid",
            f"hw:cpu_realtime for vCPUs {policies.realtime} with {shown}",
            "realtime vCPUs need hw:cpu_policy=dedicated or mixed",
        )
    if policies.cpu == "mixed" and bool(policies.realtime) == bool(policies.mask):
        count = f"both (vCPUs {policies.mask} and {policies.realtime})" if policies.mask else "neither"
        raise invalid(
            "RequiredMixedOrRealtimeCPUMask",
            f"hw:cpu_policy='mixed' with {count} of hw:cpu_dedicated_mask and hw:cpu_realtime_mask",
            "set exactly one of them",
        )


def _cells(specs: Specs, nodes: int, pinned: CpuSet, page_size: PageSizeWish) -> tuple[CellRequest, ...]:
    """Return the guest's cells: equal ones, or those of hw:numa_cpus.N and hw:numa_mem.N."""
    cpus, memory_mb = read.cell_cpus(specs), read.cell_memory_mb(specs)
    if cpus is None and memory_mb is None:
        cpus, memory_mb = _equal_cells(specs.flavor, nodes)
    elif cpus is None or memory_mb is None or len(cpus) != nodes or len(memory_mb) != nodes:
        raise invalid(
            "ImageNUMATopologyIncomplete",
            f"{nodes} cells, but hw:numa_cpus for {len(cpus or ())} and hw:numa_mem for {len(memory_mb or ())} of them",
            f"give hw:numa_cpus.N and hw:numa_mem.N for every N of 0-{nodes - 1}, or none of them",
        )
    else:
        _check_cells(specs.flavor, cpus, memory_mb)
    return tuple(
        CellRequest(cell, cpus[cell], cpus[cell] & pinned, memory_mb[cell] * 1024, page_size) for cell in range(nodes)
    )


def _equal_cells(flavor: Flavor, nodes: int) -> tuple[list[CpuSet], list[int]]:
    """Return equal shares of vCPUs (in order) and memory in MiB."""
    if flavor.vcpus % nodes or flavor.memory_mb % nodes:
        raise invalid(
            "ImageNUMATopologyAsymmetric",
            f"{flavor.vcpus} vCPUs and {flavor.memory_mb} MiB can't be shared equally by hw:numa_nodes={nodes}",
            "give hw:numa_cpus.N and hw:numa_mem.N for every cell",
        )
    share = flavor.vcpus // nodes
    cpus = [CpuSet.of(range(cell * share, (cell + 1) * share)) for cell in range(nodes)]
    return cpus, [flavor.memory_mb // nodes] * nodes


def _check_cells(flavor: Flavor, cpus: list[CpuSet], memory_mb: list[int]) -> None:
    """Refuse cells that don't share out exactly the flavor's vCPUs and memory."""
    every = CpuSet.of(range(flavor.vcpus))
    left = every
    for cell, mine in enumerate(cpus):
        if not mine <= every:
            raise invalid(
                "ImageNUMATopologyCPUOutOfRange",
                f"hw:numa_cpus.{cell}={str(mine)!r} names vCPUs {mine - every}, the guest has 0-{flavor.vcpus - 1}",
                "name only vCPUs that the guest has",
            )
        if not mine <= left:
            raise invalid(
                "ImageNUMATopologyCPUDuplicates",
                f"hw:numa_cpus.{cell}={str(mine)!r}: vCPUs {mine - left} are in another cell already",
                "name each vCPU once",
            )
        left -= mine
    if left:
        raise invalid("ImageNUMATopologyCPUsUnassigned", f"vCPUs {left} are in no cell", "name each vCPU once")
    if sum(memory_mb) != flavor.memory_mb:
        raise invalid(
            "ImageNUMATopologyMemoryOutOfRange",
            f"hw:numa_mem gives {sum(memory_mb)} MiB to the cells, the flavor has {flavor.memory_mb} MiB",
            "the cells' memory must sum up to the flavor's",
        )
    if min(memory_mb) <= 0:
        least = min(memory_mb)
        raise invalid(
            "Invalid", f"hw:numa_mem.{memory_mb.index(least)}='{least}': a cell without memory", "MiB, above 0"
        )
