"""`check_can_live_migrate_source` and `check_can_live_migrate_destination`: every reason at once, and nothing touched.

What is looked at is gathered first (`look_at_source`, `look_at_dest`: reads only) into a value, and the decision over
it is pure. They run on the shortlist before the claim, and again on the claimed host, where the destination's free
pages can be held against the very cells of the claim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from numaferry.errors import CheckFailed, Conflict, NotManaged
from numaferry.migration.devices import check_devices
from numaferry.migration.known_bad import check_versions
from numaferry.migration.outcome import Check, Outcome
from numaferry.migration.pages import pages_claimed
from numaferry.migration.start_checks import StartAsked, check_start
from numaferry.model import (
    NOT_ASKED,
    CpuSet,
    DomainSeen,
    DomainState,
    GuestSupport,
    HostFacts,
    InstanceNumaTopology,
    JobInfo,
    XmlKind,
    version_text,
)
from numaferry.request import start_needs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numaferry.model import Instance, Vif
    from numaferry.virt.port import Hypervisor

#: Their failure means that somebody else owns the guest, which is another error than a check.
OWNERSHIP = "ownership"
MANAGER = "manager"


#: libvirt keeps these to itself until the job starts (qemuMigrationSrcIsAllowed); `start_errors` knows its words then.
AT_START: Final = Check(
    "at-start",
    Outcome.UNKNOWN,
    "told only when the job starts: whether the guest ends with the client that started it (auto-destroy), blockers of "
    "QEMU's own, block jobs that its XML does not show",
)


@attrs.frozen(slots=True)
class SourceView:
    """What was read from the source for the checks."""

    host: str
    domain: DomainSeen | None
    job: JobInfo | None


@attrs.frozen(slots=True)
class DestView:
    """What was read from a destination for the checks."""

    host: str
    facts: HostFacts
    domains: tuple[DomainSeen, ...]
    free_pages: Mapping[int, Mapping[int, int]]
    #: What `check_vifs` says of the links that the guest would use here.
    missing_links: tuple[str, ...]
    #: What its libvirt says of the guest's start.
    support: GuestSupport = NOT_ASKED


def look_at_source(host: str, hypervisor: Hypervisor, uuid: str) -> SourceView:
    """Read what the source's checks need."""
    return SourceView(host, hypervisor.domain(uuid), hypervisor.job(uuid))


def look_at_start(hypervisor: Hypervisor, uuid: str) -> StartAsked:
    """Read on the source what the guest's start asks of a libvirt, and what this one says of it. Raises NotFound.

    From the migratable XML, in which the CPU is expanded as it would be sent; its secrets are not kept.
    """
    needs = start_needs(hypervisor.domain_xml(uuid, XmlKind.MIGRATABLE))
    return StartAsked(needs, hypervisor.guest_support(needs))


def look_at_dest(host: str, hypervisor: Hypervisor, vifs: Sequence[Vif], asked: StartAsked) -> DestView:
    """Read what the destination's checks need; `vifs` name links of the destination."""
    return DestView(
        host,
        hypervisor.facts(),
        hypervisor.domains(),
        hypervisor.free_pages(),
        hypervisor.check_vifs(vifs),
        hypervisor.guest_support(asked.needs),
    )


def check_can_live_migrate_source(
    view: SourceView, instance: Instance, ledger_id: str, *, force: bool = False
) -> tuple[Check, ...]:
    """Return every check of the source for this instance; with `force`, another manager's mark is only noted."""
    domain = view.domain
    if domain is None:
        return (Check("running", Outcome.FAILS, f"host {view.host} has no domain {instance.name} ({instance.uuid})"),)
    return (
        _running(view.host, domain),
        _no_job(view),
        _manager(domain, force=force),
        _ownership(domain, ledger_id),
        *check_devices(domain.xml),
        _snapshots(domain),
        AT_START,
    )


def check_can_live_migrate_destination(
    view: DestView,
    instance: Instance,
    source_facts: HostFacts,
    asked: StartAsked,
    topology: InstanceNumaTopology | None = None,
) -> tuple[Check, ...]:
    """Return every check of a destination; `topology` is the claim's, None on the shortlist or for a floating guest."""
    return (
        _another_host(view, source_facts),
        _not_there(view, instance),
        _version("libvirt", view, source_facts.libvirt_version, view.facts.libvirt_version),
        _version("QEMU", view, source_facts.hypervisor_version, view.facts.hypervisor_version),
        *check_versions(asked.needs, source_facts, view.facts),
        _domain_type(view, asked.needs.domain_type),
        *check_start(asked, view.support, view.host, source_qemu=source_facts.hypervisor_version),
        _links(view),
        *_claimed(view, topology),
    )


def failures(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks that refuse the move."""
    return tuple(check for check in checks if check.outcome is Outcome.FAILS)


def refuse(checks: Iterable[Check], what: str) -> None:
    """Raise for failed checks, all reasons in one message: Conflict, NotManaged or CheckFailed. Nothing failed: return.

    Another ledger's mark is a Conflict, another manager's NotManaged; either wins over the rest, since no change of
    the guest helps there.
    """
    failed = failures(checks)
    if not failed:
        return
    message = f"{what}: " + "; ".join(check.reason for check in failed)
    names = {check.name for check in failed}
    if OWNERSHIP in names:
        raise Conflict(message, hint="use that ledger, or take the guest over from it", code="foreign-ledger")
    if MANAGER in names:
        raise NotManaged(message, hint="move it with its own cloud, or force it: the cloud would not know")
    hints = [check.hint for check in failed if check.hint]
    raise CheckFailed(message, hint=hints[0] if hints else "mend what is named, then try again; nothing was touched")


def _running(host: str, domain: DomainSeen) -> Check:
    if domain.state is DomainState.RUNNING:
        return Check("running", Outcome.OK, f"{domain.name} runs on {host}")
    words = f"{domain.name} on {host} is {domain.state} ({domain.state_reason or 'no reason given'}), not running"
    return Check("running", Outcome.FAILS, words)


def _snapshots(domain: DomainSeen) -> Check:
    """Refuse what libvirt refuses: "cannot migrate domain with N snapshots" (qemuMigrationSrcIsAllowed)."""
    if domain.snapshots is None:
        return Check("snapshots", Outcome.UNKNOWN, "the host can't tell if it has snapshots; libvirt refuses then")
    if not domain.snapshots:
        return Check("snapshots", Outcome.OK, "it has no snapshots")
    words = f"{domain.name} has {domain.snapshots} snapshots, and libvirt refuses to move a domain that has any"
    return Check("snapshots", Outcome.FAILS, words)


def _no_job(view: SourceView) -> Check:
    if view.job is None or view.job.completed:
        return Check("job", Outcome.OK, "no job runs on it")
    return Check("job", Outcome.FAILS, f"host {view.host} already runs a job on it, {view.job.time_elapsed_ms} ms old")


def _manager(domain: DomainSeen, *, force: bool) -> Check:
    if not domain.manager:
        return Check(MANAGER, Outcome.OK, "no other manager's mark")
    words = f"{domain.name} is managed by {domain.manager}, which would not know of the move"
    return Check(MANAGER, Outcome.UNKNOWN if force else Outcome.FAILS, words + (" (forced)" if force else ""))


def _ownership(domain: DomainSeen, ledger_id: str) -> Check:
    mark = domain.ownership
    if mark is None or mark.ledger_id == ledger_id:
        return Check(OWNERSHIP, Outcome.OK, "no other ledger's mark")
    words = f"{domain.name} belongs to ledger {mark.ledger_id} (claim {mark.claim_id}), this one is {ledger_id}"
    return Check(OWNERSHIP, Outcome.FAILS, words)


def _another_host(view: DestView, source_facts: HostFacts) -> Check:
    if view.facts.uuid and view.facts.uuid == source_facts.uuid:
        words = f"host {view.host} has the same UUID {view.facts.uuid} as the source: they are one machine"
        return Check("another-host", Outcome.FAILS, words)
    return Check("another-host", Outcome.OK, f"host {view.host} is another machine than the source")


def _not_there(view: DestView, instance: Instance) -> Check:
    for domain in view.domains:
        if domain.uuid == instance.uuid:
            words = f"host {view.host} already has a domain of UUID {instance.uuid} ({domain.name}, {domain.state})"
            return Check("not-there", Outcome.FAILS, words)
        if domain.name == instance.name:
            words = f"host {view.host} already has a domain named {instance.name} (UUID {domain.uuid}, {domain.state})"
            return Check("not-there", Outcome.FAILS, words)
    return Check("not-there", Outcome.OK, f"no domain of that name or UUID on {view.host}")


def _version(what: str, view: DestView, source_version: int, dest_version: int) -> Check:
    name = f"version-{what.lower()}"
    words = f"{what} {version_text(source_version)} on the source, {version_text(dest_version)} on {view.host}"
    if dest_version < source_version:
        return Check(name, Outcome.FAILS, f"{words}: a guest does not move to an older one")
    return Check(name, Outcome.OK, words)


def _domain_type(view: DestView, domain_type: str) -> Check:
    if domain_type in view.facts.domain_types:
        return Check("domain-type", Outcome.OK, f"host {view.host} runs {domain_type} guests")
    can = ", ".join(view.facts.domain_types) or "none"
    return Check("domain-type", Outcome.FAILS, f"host {view.host} can't run {domain_type} guests (it can: {can})")


def _links(view: DestView) -> Check:
    if view.missing_links:
        return Check("links", Outcome.FAILS, f"host {view.host}: " + "; ".join(view.missing_links))
    return Check("links", Outcome.OK, "every link is there")


def _claimed(view: DestView, topology: InstanceNumaTopology | None) -> tuple[Check, ...]:
    """Hold the claim against the host as it is now: cells, CPUs, and pages as libvirt counts them."""
    if topology is None:
        return ()
    host = view.facts.topology
    wanted_cpus = CpuSet.of(cpu for _, cpu in topology.cpu_pinning) | topology.emulator_pcpus
    absent_cells = sorted({cell.host_cell for cell in topology.cells if host.cell(cell.host_cell) is None})
    absent_cpus = wanted_cpus - host.cpus
    checks = []
    if absent_cells or absent_cpus:
        lacks = f"cells {absent_cells or 'none'} and CPUs {absent_cpus or 'none'}"
        words = f"host {view.host} now lacks {lacks} of the claim"
        checks.append(Check("topology", Outcome.FAILS, words))
    else:
        checks.append(Check("topology", Outcome.OK, f"cells and CPUs {wanted_cpus or 'none'} of the claim are there"))
    for (cell, size_kib), count in sorted(pages_claimed(topology).items()):
        free = view.free_pages.get(cell, {}).get(size_kib, 0)
        words = f"cell {cell} of {view.host} has {free} free pages of {size_kib} KiB, the claim needs {count}"
        checks.append(Check("pages", Outcome.OK if free >= count else Outcome.FAILS, words))
    return tuple(checks)
