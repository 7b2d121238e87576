"""`migrate --estimate`: how a migration would go, from a measurement of the guest and from earlier migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from numaferry.errors import CheckFailed, Conflict, HypervisorError
from numaferry.migration.dirtying import HotSet, hot_set
from numaferry.migration.estimate import Ending, Forecast, Way, forecast, naive_s
from numaferry.migration.progress import mib, rate, span
from numaferry.model import BASE_PAGE_SIZE_KIB, OnNoConvergence, PolicyWish, PostCopy
from numaferry.service.plans import refuse_absent, refuse_moving
from numaferry.service.policies import resolve
from numaferry.service.views import EstimateShow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numaferry.ledger import Ledger
    from numaferry.model import Instance, MemoryLook, MigrationPolicy
    from numaferry.service.discovery import Reach
    from numaferry.service.driving import Watch

#: Seconds of each measurement: short ones show the rate, longer ones how much memory it goes round in.
PERIODS_S: Final = (1, 1, 2, 4)
#: QEMU samples no block of memory that is smaller (MIN_RAMBLOCK_SIZE, in MiB).
_LEAST_BLOCK_KIB: Final = 128 << 10
_MIB: Final = 1 << 20
#: The downtime limit and the bandwidth that would do are looked for up to this.
_MOST_DOWNTIME_MS: Final = 60_000
_MOST_TIMES: Final = 64


def estimate(
    ledger: Ledger, reach: Reach, ref: str, dest: str | None = None, *, policy: PolicyWish | None = None
) -> EstimateShow:
    """Measure the guest for some seconds and return how its migration would go; nothing is touched.

    Raises NotFound, Ambiguous, Conflict while it is being moved or another job runs on it, NotManaged where it is off,
    HostUnreachable and HypervisorError of the source.
    """
    instance = ledger.instance(ref)
    if dest is not None:
        dest = ledger.host(dest).name
    refuse_moving(ledger, instance)
    return estimated(ledger, reach, instance, dest, resolve(ledger, instance, policy or PolicyWish()))


def estimated(
    ledger: Ledger, reach: Reach, instance: Instance, dest: str | None, policy: MigrationPolicy
) -> EstimateShow:
    """Return the same for an instance that is not being moved, under a complete policy."""
    hypervisor = reach(ledger.host(instance.host).uri)
    refuse_absent(hypervisor, instance)
    job = hypervisor.job(instance.uuid)
    if job is not None and not job.completed:
        # it would measure the job as well, and slow it down (KubeVirt 17504)
        raise Conflict(
            f"a job runs on {instance.name} on {instance.host}, so its writing is not measured",
            hint="wait for its end: virsh domjobinfo shows it",
        )
    look = hypervisor.look_at_memory(instance.uuid, PERIODS_S)
    return judge(instance, dest or "", policy, look, ledger.observed_bps(instance.host, dest or "", policy))


def refuse_endless(
    ledger: Ledger,
    reach: Reach,
    instance: Instance,
    dest: str | None,
    *,
    policy: MigrationPolicy,
    watch: Watch | None = None,
) -> None:
    """Estimate if the policy says so; tell `watch` of a migration that would not end by itself, or refuse it.

    What can't be known is told and never refused. Raises CheckFailed, and as `estimated` does.
    """
    if policy.on_no_convergence is OnNoConvergence.IGNORE:
        return
    try:
        shown = estimated(ledger, reach, instance, dest, policy)
    except HypervisorError as error:
        # a libvirt before 7.2, or a host too busy to answer: nothing is known, which refuses nothing
        if watch is not None:
            watch.warned(f"whether the move of {instance.name} ends by itself can't be known: {error.message}")
        return
    if shown.converges is False and policy.on_no_convergence is OnNoConvergence.REFUSE:
        raise CheckFailed(
            f"{shown.instance} is not moved (on_no_convergence = refuse): {shown.sentence}",
            hint="; ".join(shown.remedies) or "move it when it is less busy",
        )
    if not shown.converges and watch is not None:
        watch.warned("; ".join((shown.sentence, *shown.remedies)))


def judge(instance: Instance, dest: str, policy: MigrationPolicy, look: MemoryLook, observed_bps: int) -> EstimateShow:
    """Return what follows from a look at the guest and from what an earlier migration reached; pure."""
    memory_kib = instance.request.memory_kib
    to_send = _to_send(instance, look)
    hot = hot_set(look.samples, memory_kib << 10)
    bandwidth, basis = _bandwidth(policy, observed_bps, instance.host, dest)
    notes = list(_doubts(instance))
    blind = bool(notes) and not any(one.dirtied_bytes for one in look.samples)
    way = Way(to_send, bandwidth, policy.bandwidth_postcopy_mib_s * _MIB) if bandwidth else None
    found = None if way is None or blind else forecast(way, hot, policy, memory_kib)
    return EstimateShow(
        instance=instance.name,
        instance_uuid=instance.uuid,
        source=instance.host,
        dest=dest,
        memory_kib=memory_kib,
        to_send_bytes=to_send,
        dirty_bps=round(hot.rate_bps),
        hot_bytes=round(hot.size_bytes),
        samples=tuple((one.period_s, one.dirtied_bytes) for one in look.samples),
        bandwidth_bps=round(bandwidth) or None,
        bandwidth_basis=basis,
        converges=None if found is None else found.converges,
        ending="" if found is None else str(found.ending),
        duration_s=None if found is None else found.duration_s,
        downtime_ms=0 if found is None else found.downtime_ms,
        passes=0 if found is None else found.passes,
        throttle=0 if found is None else found.throttle,
        naive_s=None if way is None else naive_s(way),
        sentence=_sentence(instance.name, hot, way, found, blind=blind),
        remedies=()
        if way is None or found is None or found.converges
        else tuple(_remedies(way, hot, policy, memory_kib)),
        notes=tuple(notes),
    )


def _to_send(instance: Instance, look: MemoryLook) -> int:
    """Return the bytes of the first pass: what is resident. Pages of hugetlbfs are not counted there, but all exist."""
    cells = instance.numa_topology.cells if instance.numa_topology else ()
    large = sum(cell.memory_kib for cell in cells if cell.page_size_kib > BASE_PAGE_SIZE_KIB) << 10
    memory = instance.request.memory_kib << 10
    return min(memory, large + look.resident_bytes) if look.resident_bytes else memory


def _bandwidth(policy: MigrationPolicy, observed_bps: int, source: str, dest: str) -> tuple[float, str]:
    """Return bytes per second that memory will be sent with and on what that rests; 0 where nothing tells."""
    limit, way = float(policy.bandwidth_mib_s * _MIB), f"from {source} to {dest or 'any host'}"
    if limit and (not observed_bps or limit <= observed_bps):
        return limit, "the policy's limit" + (
            "" if observed_bps else f"; whether the way {way} carries it is not known"
        )
    if observed_bps:
        return float(observed_bps), f"what earlier migrations {way} reached"
    return 0.0, f"no limit in the policy and no earlier migration {way}"


def _doubts(instance: Instance) -> Iterator[str]:
    """Yield why the measurement may say less than there is."""
    cells = [cell.memory_kib for cell in instance.request.cells] or [instance.request.memory_kib]
    small = [size for size in cells if size < _LEAST_BLOCK_KIB]
    if small:
        yield (
            f"{len(small)} of {len(cells)} blocks of its memory are smaller than {_LEAST_BLOCK_KIB >> 10} MiB: QEMU"
            " does not measure what is written there"
        )


def _sentence(name: str, hot: HotSet, way: Way | None, found: Forecast | None, *, blind: bool) -> str:
    """Return the verdict."""
    if blind:
        return f"how {name} would move can't be known: QEMU does not measure memory in blocks this small"
    if way is None or found is None:
        needs = (
            f"faster than {rate(round(hot.rate_bps))} it ends in any case" if hot.rate_bps else "it writes to nothing"
        )
        return f"how long {name} would take can't be known without a bandwidth; {needs}"
    sent = f"{found.passes} passes, {mib(found.sent_bytes)} MiB sent"
    lasts = span(found.duration_s) if found.duration_s is not None else ""
    throttled = f", throttled by {found.throttle} % in the end" if found.throttle else ""
    about = f"{name} would move in about {lasts} ({sent}{throttled})"
    writes = (
        f"it writes {rate(round(hot.rate_bps))} over {mib(round(hot.size_bytes))} MiB and is sent"
        f" {rate(round(way.bandwidth_bps))}"
    )
    return {
        Ending.SWITCHED: f"{about}, paused for {found.downtime_ms} ms at most",
        Ending.POST_COPY: f"{about}, by post-copy in the end: {writes}",
        Ending.PAUSED: f"{about}, paused for {found.downtime_ms} ms in the end: {writes}",
        Ending.ABORTED: f"{name} would not move: given up after {lasts} ({sent}), since {writes}",
        Ending.NEVER: f"{name} would never arrive: {writes}",
    }[found.ending]


def _remedies(way: Way, hot: HotSet, policy: MigrationPolicy, memory_kib: int) -> Iterator[str]:
    """Yield options under which it would end by itself, the gentlest first, each as the model says."""

    def ends(to: Way = way, under: MigrationPolicy = policy) -> Forecast | None:
        found = forecast(to, hot, under, memory_kib)
        return found if found.converges else None

    for times in (2**power for power in range(1, _MOST_TIMES.bit_length())):
        if ends(attrs.evolve(way, bandwidth_bps=way.bandwidth_bps * times)):
            yield f"with {rate(round(way.bandwidth_bps * times))} it would end by itself"
            break
    pause_ms = round(hot.size_bytes / way.bandwidth_bps * 1000) + 100
    if policy.downtime_ms < pause_ms <= _MOST_DOWNTIME_MS and ends(under=attrs.evolve(policy, downtime_ms=pause_ms)):
        yield f"--downtime {pause_ms} would let it pause for so many ms"
    if not policy.auto_converge and (slowed := ends(under=attrs.evolve(policy, auto_converge=True))):
        yield f"--auto-converge would slow the guest by up to {slowed.throttle} %"
    if policy.post_copy is PostCopy.NEVER:
        yield "--post-copy automatic would end it, but the guest is lost then with either host"
