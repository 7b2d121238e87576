"""What is told of the ledger: usage, who holds what, why a guest does not fit, and the audit's findings."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import HostError
from numaferry.fit import nearness, numa_fit_instance_to_host
from numaferry.fit.suggest import if_it_leaves
from numaferry.ledger import move_request
from numaferry.ledger.usage import host_usage
from numaferry.model import Misfit, Placement
from numaferry.service import hosts
from numaferry.service.views import (
    AuditLine,
    AuditReport,
    Explanation,
    LedgerCpu,
    LedgerExplanation,
)

if TYPE_CHECKING:
    from numaferry.ledger import HostRecord, Ledger
    from numaferry.ledger.usage import HostUsage
    from numaferry.model import HostState, Instance
    from numaferry.service.discovery import Reach


def usage(ledger: Ledger, name: str) -> HostUsage:
    """Return own, incoming and outgoing use of a host, per cell; raises NotFound."""
    return host_usage(ledger, name)


def ledger_explain(ledger: Ledger, name: str) -> LedgerExplanation:
    """Say of every CPU and pool of a host who holds it, by which claim and why; raises NotFound."""
    explained = ledger.explain_host(name)
    cpus = []
    for row in explained.cpus:
        claimed = next((holder for holder in row.holders if holder.claim_id), None)
        cpus.append(LedgerCpu(row.cpu, row.cell, row.use, claimed.name if claimed else "", row.holders))
    return LedgerExplanation(
        explained.host, explained.generation, explained.confirmed, tuple(cpus), tuple(explained.pools)
    )


def explain(ledger: Ledger, reach: Reach, ref: str, host: str | None = None) -> tuple[Explanation, ...]:
    """Say of one host, or of all but the instance's own, whether it fits there now, and if not, why.

    Hosts where it fits come first, then near misses, then the rest. Hosts are looked at first; one that can't be asked
    is judged as last seen, and that is said. Raises NotFound, Ambiguous.
    """
    instance = ledger.instance(ref)
    records = [ledger.host(host)] if host else [one for one in ledger.hosts() if one.name != instance.host]
    return tuple(sorted((_explain(ledger, reach, instance, record) for record in records), key=_nearness))


def _nearness(one: Explanation) -> tuple[float, ...]:
    """Order hosts: those that fit, then by how near they are; one that nothing is known to help comes late."""
    if one.misfit is None:
        return (0,)
    helped = any(sentence.startswith("fits if") for sentence in one.misfit.suggestions)
    return (1 if helped else 2, *nearness(one.misfit))


def _explain(ledger: Ledger, reach: Reach, instance: Instance, record: HostRecord) -> Explanation:
    """Fit one instance on one host and explain the answer."""
    trouble = hosts.try_refresh(ledger, reach, record)
    note = f"as last seen; the host can't be asked now: {trouble}" if trouble else ""
    if record.name == instance.host:
        note = "it runs here; judged as if it were not there"
    if not record.confirmed:
        misfit = Misfit(
            record.name,
            f"the CPU sets of host {record.name} are not confirmed: nothing is claimable there",
            suggestions=(f"fits perhaps once they are: numaferry host confirm {record.name}",),
        )
        return Explanation(instance.name, record.name, fits=False, placement=None, misfit=misfit, note=note)
    request = move_request(instance)
    answer = numa_fit_instance_to_host(ledger.host_state(record.name, ignore_instance=instance.uuid), request)
    if isinstance(answer, Placement):
        return Explanation(instance.name, record.name, fits=True, placement=answer, misfit=None, note=note)
    leaving = if_it_leaves(request, _without(ledger, instance, record.name))
    more = tuple(one for one in answer.suggestions if one not in leaving)
    misfit = attrs.evolve(answer, suggestions=(*leaving, *more))
    return Explanation(instance.name, record.name, fits=False, placement=None, misfit=misfit, note=note)


def _without(ledger: Ledger, instance: Instance, host: str) -> dict[str, HostState]:
    """Return the host's state with each guest gone in turn that is on it or is only seen there, by the guest's name.

    Names of several guests are left out, since nobody could say which one is meant.
    """
    guests = {other.uuid: other.name for other in ledger.instances(host=host)}
    guests |= {use.uuid: use.name for use in ledger.observed(host) if use.uuid not in guests}
    names = Counter(guests.values())
    return {
        name: ledger.host_state(host, ignore_instance=uuid)
        for uuid, name in guests.items()
        if uuid != instance.uuid and names[name] == 1
    }


def audit(ledger: Ledger, reach: Reach, host: str | None = None) -> AuditReport:
    """Hold the ledger against reality on one host (raises HostUnreachable) or on all that can be asked."""
    from numaferry.audit import update_available_resource  # noqa: PLC0415  (imported by who audits)

    records = [ledger.host(host)] if host else list(ledger.hosts())
    findings: list[AuditLine] = []
    cost_ms: dict[str, float] = {}
    unreachable: dict[str, str] = {}
    for record in records:
        try:
            result = update_available_resource(ledger, record.name, reach(record.uri))
        except HostError as error:
            if host:
                raise
            unreachable[record.name] = error.message
            continue
        cost_ms[record.name] = result.cost_ms
        findings += [
            AuditLine(record.name, str(one.kind), str(one.severity), one.subject, one.sentence, one.remedy)
            for one in result.findings
        ]
    return AuditReport(tuple(findings), cost_ms, unreachable)
