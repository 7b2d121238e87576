"""What the guest really has on the destination, held against its claim. Pure.

Invariant 9: nothing is reported that was not measured. libvirt's pin-info calls and the live XML only echo what was
sent, so affinity comes from the kernel's masks (virDomainGetVcpus, virDomainGetIOThreadInfo) and huge pages from the
change of virNodeGetFreePages on each cell. What can't be measured over libvirt says so and is never "verified".
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from numaferry.migration.pages import PoolKey, pages_claimed
from numaferry.model import BASE_PAGE_SIZE_KIB, CpuSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numaferry.model import InstanceNumaTopology, ThreadMasks


class Verdict(enum.StrEnum):
    """What the read-back says of one item."""

    VERIFIED = "verified"
    DISAGREES = "disagrees"
    NOT_VERIFIABLE = "not verifiable"


@attrs.frozen(slots=True)
class ReadBack:
    """One item: a stable name ("vcpu 0", "2048 KiB pages on cell 1"), the verdict, the sentence with numbers."""

    item: str
    verdict: Verdict
    sentence: str


def read_back(
    topology: InstanceNumaTopology | None,
    shared: CpuSet,
    masks: ThreadMasks,
    pages_before: Mapping[PoolKey, int] | None,
    pages_after: Mapping[PoolKey, int],
) -> tuple[ReadBack, ...]:
    """Return the read-back of a guest against `topology` (its claim; None: it floats).

    `shared` is where threads without a CPU of their own may run (empty: anywhere). `pages_before` are free huge pages
    per (cell, KiB) just before the move, None where nobody counted them.
    """
    return (
        *_vcpus(topology, shared, masks),
        *_iothreads(topology, shared, masks),
        *_pages(topology, pages_before, pages_after),
        *_base_memory(topology),
        ReadBack("emulator threads", Verdict.NOT_VERIFIABLE, "libvirt does not tell the emulator threads' kernel mask"),
    )


def disagreements(results: Iterable[ReadBack]) -> tuple[ReadBack, ...]:
    """Return the items where reality is not the promise."""
    return tuple(one for one in results if one.verdict is Verdict.DISAGREES)


def expected_masks(topology: InstanceNumaTopology | None) -> dict[int, CpuSet]:
    """Return vCPU → the one CPU that the claim gives it, for every vCPU with a CPU of its own."""
    return {vcpu: CpuSet.of([cpu]) for vcpu, cpu in (topology.cpu_pinning if topology else ())}


def _vcpus(topology: InstanceNumaTopology | None, shared: CpuSet, masks: ThreadMasks) -> list[ReadBack]:
    wanted, seen = expected_masks(topology), dict(masks.vcpus)
    results = [_exact(f"vcpu {vcpu}", cpus, seen.get(vcpu)) for vcpu, cpus in sorted(wanted.items())]
    floating = [(vcpu, mask) for vcpu, mask in masks.vcpus if vcpu not in wanted]
    return results + [_within(f"vcpu {vcpu}", shared, mask) for vcpu, mask in floating]


def _iothreads(topology: InstanceNumaTopology | None, shared: CpuSet, masks: ThreadMasks) -> list[ReadBack]:
    owned = topology.owned_cpus if topology else CpuSet()
    # no shared set: they float over the host, unless the guest owns CPUs for them to float over
    allowed = owned | shared
    return [_within(f"iothread {thread}", allowed, mask) for thread, mask in masks.iothreads]


def _exact(item: str, wanted: CpuSet, mask: CpuSet | None) -> ReadBack:
    if mask is None:
        return ReadBack(item, Verdict.DISAGREES, f"{item} is claimed CPU {wanted}, and the kernel has no such thread")
    if mask == wanted:
        return ReadBack(item, Verdict.VERIFIED, f"{item} runs on CPU {mask} by the kernel's mask, as claimed")
    return ReadBack(item, Verdict.DISAGREES, f"{item} may run on CPUs {mask} by the kernel's mask, claimed is {wanted}")


def _within(item: str, allowed: CpuSet, mask: CpuSet) -> ReadBack:
    if not allowed or mask <= allowed:
        words = f"within {allowed}" if allowed else "and nothing exact is promised"
        return ReadBack(item, Verdict.VERIFIED, f"{item} may run on CPUs {mask} by the kernel's mask, {words}")
    return ReadBack(
        item,
        Verdict.DISAGREES,
        f"{item} may run on CPUs {mask} by the kernel's mask, allowed are {allowed}: {mask - allowed} is too much",
    )


def _pages(
    topology: InstanceNumaTopology | None, before: Mapping[PoolKey, int] | None, after: Mapping[PoolKey, int]
) -> list[ReadBack]:
    results = []
    for (cell, size_kib), count in sorted(pages_claimed(topology).items()):
        item = f"{size_kib} KiB pages on cell {cell}"
        if before is None or (cell, size_kib) not in before or (cell, size_kib) not in after:
            results.append(ReadBack(item, Verdict.NOT_VERIFIABLE, f"{item}: nobody counted them before the move"))
            continue
        taken = before[cell, size_kib] - after[cell, size_kib]
        words = f"{item}: {taken} fewer are free ({before[cell, size_kib]} → {after[cell, size_kib]})"
        if taken == count:
            results.append(ReadBack(item, Verdict.VERIFIED, f"{words}, as claimed"))
        elif taken > count:
            # another guest came at the same time: the surplus is not ours, so ours is not proven either
            words = f"{words}, claimed are {count}: others took pages meanwhile"
            results.append(ReadBack(item, Verdict.NOT_VERIFIABLE, words))
        else:
            results.append(ReadBack(item, Verdict.DISAGREES, f"{words}, claimed are {count}"))
    return results


def _base_memory(topology: InstanceNumaTopology | None) -> list[ReadBack]:
    return [
        ReadBack(
            f"4 KiB memory of guest cell {cell.id}",
            Verdict.NOT_VERIFIABLE,
            f"libvirt does not tell on which cells the {cell.memory_kib // 1024} MiB of guest cell {cell.id} lie",
        )
        for cell in (topology.cells if topology else ())
        if cell.page_size_kib == BASE_PAGE_SIZE_KIB
    ]
