"""Adoption: from a domain's XML to what can be promised to it, by a table of cases.

A case refuses (`REFUSALS`, the first that speaks decides), or else the shape of the pins decides: every vCPU on a CPU
of its own (`one-to-one`), some (`mixed`), none but memory bound to nodes (`bound-memory`), or nothing exact
(`floating`, adopted without promise). `NOTES` are true sentences about what a person should know and that no outcome
hides.

Wishes that no pin shows (thread policy, emulator threads policy `isolate`) come from a flavor, given or found in the
metadata, and are never guessed from pins. That the emulator threads are kept off the dedicated CPUs is shown by their
pin, and is the policy `share`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import InvalidRequest
from numaferry.model import (
    CellRequest,
    CpuSet,
    DomainState,
    Flavor,
    InstanceCell,
    InstanceNumaTopology,
    NumaRequest,
    Promise,
)
from numaferry.request.adoption_rules import NOTES, REFUSALS, Subject
from numaferry.request.constraints import numa_get_constraints
from numaferry.request.flavors import derive_flavor

if TYPE_CHECKING:
    from numaferry.model import HostTopology
    from numaferry.request.needs import DomainNeeds


class Outcome(enum.StrEnum):
    """How an adoption ends."""

    PROMISE = "promise"
    NO_PROMISE = "no-promise"
    REFUSED = "refused"


@attrs.frozen(slots=True)
class Adoption:
    """What adopting a domain would mean. `flavor`, `request`, `numa_topology` are None where it is refused."""

    outcome: Outcome
    #: The row of the table that decided: one-to-one, mixed, bound-memory, floating, or the name of a refusal.
    case: str
    #: One sentence: what is promised, or why not.
    reason: str
    flavor: Flavor | None = None
    request: NumaRequest | None = None
    #: Where the guest really is on this host; None for a floating guest too.
    numa_topology: InstanceNumaTopology | None = None
    notes: tuple[str, ...] = ()
    hint: str = ""

    @property
    def promise(self) -> Promise | None:
        """The model's word for it (a conflict with other claims is the ledger's to find); None: refused."""
        kept = {Outcome.PROMISE: Promise.KEPT, Outcome.NO_PROMISE: Promise.FLOATING}
        return kept.get(self.outcome)


def adopt(
    needs: DomainNeeds,
    dedicated: CpuSet,
    host: HostTopology,
    flavor: Flavor | None = None,
    *,
    persistent_needs: DomainNeeds | None = None,
    state: DomainState = DomainState.RUNNING,
    persistent: bool = True,
    snapshots: int = 0,
) -> Adoption:
    """Say what can be promised to a domain that runs on `host` with this dedicated set.

    `needs` is read from the live XML, `persistent_needs` from the inactive one (None: the same, or transient). A
    `flavor` given must agree with the XML, else the adoption is refused; one in the metadata that does not is passed
    over with a note. Never raises for what a domain looks like.
    """
    subject = Subject(needs, dedicated, host, persistent_needs or needs, state, persistent, snapshots)
    for rule in REFUSALS:
        if reason := rule.check(subject):
            return Adoption(Outcome.REFUSED, rule.name, reason, hint=rule.hint)
    request = _request(subject)
    notes = [note for rule in NOTES if (note := rule.check(subject))]
    chosen, request, refused = _flavor(needs, request, flavor, notes)
    if refused:
        return Adoption(Outcome.REFUSED, "flavor-disagrees", refused, hint="give the flavor that the guest really has")
    topology = _topology(subject, request, notes) if request.cells else None
    case, reason = _case(subject)
    outcome = Outcome.NO_PROMISE if case == "floating" else Outcome.PROMISE
    return Adoption(outcome, case, reason, chosen, request, topology, tuple(notes))


def _case(subject: Subject) -> tuple[str, str]:
    """Return the name of the row and the sentence that says what is promised."""
    count, vcpus = len(subject.own), subject.needs.vcpus
    nodes = CpuSet.of(node for node in subject.nodes.values() if node is not None)
    if subject.floating:
        return "floating", f"no CPU and no page is promised: {subject.why_floating()}"
    if not count:
        return "bound-memory", f"its memory is promised on host cells {nodes}; its {vcpus} vCPUs share CPUs"
    if count < vcpus:
        return "mixed", f"{count} of {vcpus} vCPUs keep CPUs {subject.own_cpus} for themselves, on host cells {nodes}"
    return "one-to-one", f"CPUs {subject.own_cpus} are its own, and its memory on host cells {nodes}"


def _request(subject: Subject) -> NumaRequest:
    """Return what the XML shows that the guest needs."""
    needs = subject.needs
    cells: tuple[CellRequest, ...] = ()
    if not subject.floating:
        pinned = CpuSet.of(subject.own)
        cells = tuple(
            CellRequest(cell.id, cell.vcpus, cell.vcpus & pinned, cell.memory_kib, subject.page_wish(cell))
            for cell in subject.cells
        )
    count = len(subject.own)
    return NumaRequest(
        vcpus=needs.vcpus,
        memory_kib=needs.memory_kib,
        cells=cells,
        cpu_policy="shared" if not count else "dedicated" if count == needs.vcpus else "mixed",
        emulator_threads_policy="share" if count and _emulator_apart(subject) else None,
        realtime_vcpus=needs.realtime_vcpus if cells else CpuSet(),
        physical_networks=tuple(sorted({vif.physical_network for vif in needs.vifs if vif.physical_network})),
    )


def _emulator_apart(subject: Subject) -> bool:
    """Tell whether a pin keeps the emulator threads off all dedicated CPUs, which nova calls policy `share`."""
    where = subject.needs.emulatorpin
    return where is not None and bool(where) and where.isdisjoint(subject.dedicated | subject.own_cpus)


def _flavor(
    needs: DomainNeeds, request: NumaRequest, given: Flavor | None, notes: list[str]
) -> tuple[Flavor, NumaRequest, str]:
    """Return the flavor, the request with the flavor's wishes, and why a given flavor is refused ("" = it is not)."""
    flavor = given or needs.flavor
    if flavor is not None:
        wishes, difference = _wishes(flavor, request)
        if wishes is not None:
            return flavor, wishes, ""
        if given is not None:
            return given, request, difference
        notes.append(f"the flavor in {needs.flavor_from}'s metadata was passed over: {difference}")
    derived, more = derive_flavor(f"adopted-{needs.name}", request)
    notes.extend(more)
    return derived, request, ""


def _wishes(flavor: Flavor, request: NumaRequest) -> tuple[NumaRequest | None, str]:
    """Return the request with the policies of a flavor that agrees with it, or None and the difference.

    The page size of every cell stays what the guest has: in a live move it can't become what the flavor would accept.
    """
    known = {spec[0]: spec[1] for spec in flavor.extra_specs if spec[0] != "pci_passthrough:alias"}
    try:
        asked = numa_get_constraints(attrs.evolve(flavor, extra_specs=tuple(known.items())))
    except InvalidRequest as error:
        return None, f"flavor {flavor.name} is invalid: {error.message}"
    pairs = [
        ("vCPUs", asked.vcpus, request.vcpus),
        ("memory in KiB", asked.memory_kib, request.memory_kib),
        ("CPU policy", asked.cpu_policy, request.cpu_policy),
        ("cells", _shape(asked), _shape(request)),
    ]
    for what, by_flavor, by_domain in pairs:
        if by_flavor != by_domain:
            return None, f"flavor {flavor.name} says {what}: {by_flavor}, the domain's XML says {by_domain}"
    return attrs.evolve(
        request,
        thread_policy=asked.thread_policy,
        emulator_threads_policy=asked.emulator_threads_policy or request.emulator_threads_policy,
        realtime_vcpus=request.realtime_vcpus or asked.realtime_vcpus,
    ), ""


def _shape(request: NumaRequest) -> str:
    """Return the cells in words, as far as flavor and XML must agree."""
    return (
        "; ".join(
            f"{cell.id}: vCPUs {cell.vcpus} (pinned: {cell.pinned_vcpus or 'none'}), {cell.memory_kib} KiB"
            for cell in request.cells
        )
        or "none"
    )


def _topology(subject: Subject, request: NumaRequest, notes: list[str]) -> InstanceNumaTopology:
    """Return where the guest is now: exact pins, page sizes and host cells."""
    cells = tuple(
        InstanceCell(
            id=cell.id,
            vcpus=cell.vcpus,
            pinned_vcpus=CpuSet.of(vcpu for vcpu in cell.vcpus if vcpu in subject.own),
            memory_kib=cell.memory_kib,
            page_size_kib=cell.real_page_size_kib,
            host_cell=subject.node(cell.id),
            cpu_pinning=tuple((vcpu, subject.own[vcpu]) for vcpu in cell.vcpus if vcpu in subject.own),
            siblings=_kept_free(subject, cell.vcpus) if request.thread_policy == "isolate" else CpuSet(),
        )
        for cell in subject.cells
    )
    emulator = CpuSet()
    if request.emulator_threads_policy == "isolate":
        extra = (subject.needs.emulator_cpus or CpuSet()) - subject.own_cpus
        if len(extra) == 1 and extra <= subject.dedicated:
            emulator = extra
        else:
            notes.append(
                f"the flavor isolates its emulator threads, but they run on CPUs "
                f"{subject.needs.emulator_cpus or 'of the whole host'}: the extra CPU is given with the first move"
            )
    return InstanceNumaTopology(cells, request.emulator_threads_policy, emulator)


def _kept_free(subject: Subject, vcpus: CpuSet) -> CpuSet:
    """Return the dedicated siblings of the CPUs of these vCPUs: thread policy isolate owns them."""
    mine = CpuSet.of(subject.own[vcpu] for vcpu in vcpus if vcpu in subject.own)
    kept = CpuSet()
    for cell in subject.host.cells:
        for core in cell.siblings:
            if not core.isdisjoint(mine):
                kept |= core
    return (kept - subject.own_cpus) & subject.dedicated
