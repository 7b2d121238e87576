"""What the Ferry answers with: values for faces to render, and what `-f json` prints field by field (docs/cli.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.ledger.explain import Holder, PoolExplanation
    from numaferry.migration.progress import Progress
    from numaferry.model import (
        CpuSet,
        Flavor,
        HostConfig,
        HostTopology,
        InstanceNumaTopology,
        MigrationPolicy,
        Misfit,
        NumaRequest,
        PciDevice,
        Placement,
        Promise,
        Vif,
    )
    from numaferry.service.hostmap import HostMap
    from numaferry.service.propose import Proposal


@attrs.frozen(slots=True)
class ScannedGuest:
    """A domain that a scan saw; `pages` are (host cell, page size in KiB, pages) where its memory is bound."""

    uuid: str
    name: str
    state: str
    vcpus: int
    memory_kib: int
    pinned_cpus: CpuSet
    floating: bool
    pages: tuple[tuple[int, int, int], ...]
    #: "nova", a ledger's id ("numaferry ID"), or "".
    manager: str
    #: promise, no-promise, refused, or off
    outcome: str
    reason: str


@attrs.frozen(slots=True)
class ScanFinding:
    """Something wrong that a scan saw; `guests` are names."""

    kind: str
    host: str
    guests: tuple[str, ...]
    sentence: str


@attrs.frozen(slots=True)
class MoveOption:
    """Whether a guest would fit on another scanned host, with that host's proposed sets."""

    guest: str
    source: str
    dest: str
    fits: bool
    #: Where it would go, or why not.
    reason: str


@attrs.frozen(slots=True)
class ScannedHost:
    """One host as a scan saw it."""

    name: str
    uri: str
    libvirt_version: str
    hypervisor_version: str
    topology: HostTopology
    proposal: Proposal
    guests: tuple[ScannedGuest, ...]
    map: HostMap


@attrs.frozen(slots=True)
class ScanReport:
    """The answer of `scan`."""

    hosts: tuple[ScannedHost, ...]
    findings: tuple[ScanFinding, ...]
    moves: tuple[MoveOption, ...]


@attrs.frozen(slots=True)
class HostLine:
    """A row of `host list`."""

    name: str
    uri: str
    state: str
    confirmed: bool
    cells: int
    cpus: int
    cpu_dedicated_set: CpuSet
    cpu_shared_set: CpuSet
    free_dedicated: int
    instances: int


@attrs.frozen(slots=True)
class HostShow:
    """A host as the ledger has it; `proposal` only while its sets are not confirmed."""

    name: str
    uri: str
    uuid: str
    state: str
    confirmed: bool
    generation: int
    libvirt_version: str
    hypervisor_version: str
    topology: HostTopology
    config: HostConfig
    proposal: Proposal | None = None


@attrs.frozen(slots=True)
class AdoptLine:
    """What became, or would become, of one domain at `instance adopt`."""

    uuid: str
    name: str
    host: str
    #: "not marked": it is in the ledger, and its mark could not be written; adopting it again does.
    outcome: Literal["adopted", "would be adopted", "already adopted", "not marked", "skipped"]
    promise: Promise | None
    cpus: CpuSet
    reason: str


@attrs.frozen(slots=True)
class InstanceLine:
    """A row of `instance list`; `moving` is the id of its migration in progress."""

    uuid: str
    name: str
    host: str
    promise: Promise
    vcpus: int
    memory_kib: int
    cpus: CpuSet
    host_cells: tuple[int, ...]
    moving: int | None = None


@attrs.frozen(slots=True)
class InstanceShow:
    """An instance as the ledger has it."""

    uuid: str
    name: str
    host: str
    promise: Promise
    persistent: bool
    flavor: Flavor
    request: NumaRequest
    numa_topology: InstanceNumaTopology | None
    pci_devices: tuple[PciDevice, ...]
    vifs: tuple[Vif, ...]
    migration: MigrationLine | None = None


@attrs.frozen(slots=True)
class MigrationLine:
    """A migration as `migration list` shows it; times in seconds since the epoch, by the ledger's clock."""

    id: int
    uuid: str
    instance: str
    instance_uuid: str
    source: str
    dest: str
    status: str
    step: str
    reason: str
    created_at: float
    updated_at: float
    controller: str
    abort_requested: bool
    policy: MigrationPolicy


@attrs.frozen(slots=True)
class ForceForecast:
    """How the end of a migration would be forced, and the pause that is expected, in one sentence."""

    how: str
    sentence: str


@attrs.frozen(slots=True)
class EventLine:
    """One sentence of the ledger's history."""

    at: float
    kind: str
    sentence: str


@attrs.frozen(slots=True)
class WatchLine:
    """What `migration watch` tells at each change: how a migration is now, and what has happened since."""

    #: The migration's id.
    migration: int
    instance: str
    source: str
    dest: str
    status: str
    step: str
    reason: str
    #: Who drives it; "" for nobody.
    controller: str
    #: The last figures of its job; None before there are some.
    progress: Progress | None
    #: New since the line before.
    events: tuple[EventLine, ...]
    #: What a person should know, e.g. that nobody drives it.
    note: str


@attrs.frozen(slots=True)
class MigrationShow:
    """A migration, both sides of its context, its job's last figures, and what happened, sentence by sentence."""

    migration: MigrationLine
    old_numa_topology: InstanceNumaTopology | None
    new_numa_topology: InstanceNumaTopology | None
    old_vifs: tuple[Vif, ...]
    new_vifs: tuple[Vif, ...]
    #: None where its job was never seen.
    progress: Progress | None
    events: tuple[EventLine, ...]


@attrs.frozen(slots=True)
class CheckLine:
    """A read-only check: outcome ok, fails or unknown."""

    name: str
    outcome: str
    reason: str


@attrs.frozen(slots=True)
class Plan:
    """What `migrate` would do.

    `dest_xml` and `xml_difference` are without secrets; `persistent_xml` is None for a transient domain.
    """

    instance: str
    instance_uuid: str
    source: str
    dest: str
    placement: Placement
    checks: tuple[CheckLine, ...]
    xml_difference: str
    dest_xml: str
    persistent_xml: str | None
    virsh: tuple[str, ...]
    #: (when, command) for each time that the emulator's CPUs are set: "before", "after", "if it fails".
    virsh_pins: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: What a person must know: the ledger's view is so many seconds old, secrets were removed.
    notes: tuple[str, ...] = ()

    @property
    def would_start(self) -> bool:
        """Tell whether a migration would get past its checks."""
        return all(check.outcome != "fails" for check in self.checks)


@attrs.frozen(slots=True)
class EstimateShow:
    """How a migration is expected to go; nothing was touched. What can't be known is None, and `notes` say why."""

    instance: str
    instance_uuid: str
    source: str
    #: "" where the way to any host is meant.
    dest: str
    memory_kib: int
    to_send_bytes: int
    #: What the guest dirties per second as long as it is other memory, and how much it keeps writing to.
    dirty_bps: int
    hot_bytes: int
    #: (seconds, bytes dirtied within them) as measured.
    samples: tuple[tuple[float, int], ...]
    bandwidth_bps: int | None
    bandwidth_basis: str
    converges: bool | None
    #: switched, post-copy, paused at the timeout, aborted at the timeout, never; "" where nothing can be said.
    ending: str
    duration_s: float | None
    downtime_ms: int
    passes: int
    #: Percent of its CPU time that auto-converge takes from the guest in the end.
    throttle: int
    #: What dividing memory by bandwidth says.
    naive_s: float | None
    #: The verdict in one sentence.
    sentence: str
    #: What would make it end, where it does not: options of `migrate`.
    remedies: tuple[str, ...]
    notes: tuple[str, ...]


@attrs.frozen(slots=True)
class Recovered:
    """What became of one migration at `migration recover`."""

    migration: MigrationLine
    #: recovered, waiting (for a host), left alone (another controller drives it), needs a person
    outcome: str
    sentence: str


@attrs.frozen(slots=True)
class Explanation:
    """Whether an instance fits on a host now, and if not, why, constraint by constraint."""

    instance: str
    host: str
    fits: bool
    placement: Placement | None
    misfit: Misfit | None
    note: str = ""


@attrs.frozen(slots=True)
class LedgerCpu:
    """One CPU of `ledger explain`: its use, the instance that a claim gives it to, and everyone on it with why."""

    cpu: int
    cell: int
    #: dedicated, shared or host
    use: str
    #: "" where no claim holds it.
    instance: str
    holders: tuple[Holder, ...]


@attrs.frozen(slots=True)
class LedgerExplanation:
    """The answer of `ledger explain`."""

    host: str
    generation: int
    confirmed: bool
    cpus: tuple[LedgerCpu, ...]
    pools: tuple[PoolExplanation, ...]


@attrs.frozen(slots=True)
class AuditLine:
    """One finding of an audit."""

    host: str
    kind: str
    severity: str
    subject: str
    sentence: str
    remedy: str


@attrs.frozen(slots=True)
class AuditReport:
    """Findings of all audited hosts, what each audit cost in ms, and the hosts that could not be asked with why."""

    findings: tuple[AuditLine, ...]
    cost_ms: Mapping[str, float]
    unreachable: Mapping[str, str]
