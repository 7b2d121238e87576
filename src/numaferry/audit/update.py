"""`update_available_resource`: read a host, refresh what the ledger knows of it, and record where the two disagree.

Reads from the host, writes facts, observations and findings to the ledger; never a claim, and never to the host.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from numaferry.audit.decisions import find
from numaferry.audit.views import GuestSeen, HostSeen, LedgerView, Promised, Side
from numaferry.errors import HypervisorError, InvalidInput, NotFound
from numaferry.ledger.hosts import QUARANTINED
from numaferry.model import IN_PROGRESS, XmlKind
from numaferry.request import parse_domain

if TYPE_CHECKING:
    from numaferry.audit.findings import Finding
    from numaferry.ledger import HostRecord, HostView, Ledger
    from numaferry.model import DomainSeen, ThreadMasks
    from numaferry.request import DomainNeeds
    from numaferry.virt.port import Hypervisor


@attrs.frozen(slots=True)
class AuditResult:
    """What one audit of one host found, the worst first, and how long it took in milliseconds."""

    host: str
    findings: tuple[Finding, ...]
    cost_ms: float


def update_available_resource(ledger: Ledger, host: str, hypervisor: Hypervisor) -> AuditResult:
    """Audit one host: facts and observed use are refreshed, findings replace the last audit's.

    Safe at any moment, also in the middle of a migration. Raises NotFound, HostUnreachable, HypervisorError; then
    nothing was written but what was read before.
    """
    began = time.perf_counter()
    looked_at = ledger.now()
    record = ledger.update_host(host, hypervisor.facts(), looked_at)
    seen, unreadable = look(record, hypervisor)
    # read after the host was, so that a claim made meanwhile is known, and not taken for a stranger's use
    view = attrs.evolve(promises(ledger, record), unreadable=unreadable)
    mine = {one.uuid for one in view.promised}
    ledger.note_ledgers(host, seen.other_ledgers(ledger.ledger_id))
    ledger.set_observed(host, [guest.use(seen.online, managed=guest.uuid in mine) for guest in seen.active], looked_at)
    findings = find(view, seen)
    ledger.record_findings(host, findings)
    return AuditResult(host, findings, (time.perf_counter() - began) * 1000)


def look(record: HostRecord, hypervisor: Hypervisor) -> tuple[HostSeen, tuple[tuple[str, str], ...]]:
    """Read what the rules need from a host, and (name, error) of the domains that can't be read."""
    guests: list[GuestSeen] = []
    unreadable: list[tuple[str, str]] = []
    for domain in hypervisor.domains():
        try:
            guests.append(_guest(hypervisor, domain))
        except InvalidInput as error:
            unreadable.append((domain.name, error.message))
    return HostSeen(record.facts, hypervisor.free_pages(), tuple(guests)), tuple(unreadable)


def promises(ledger: Ledger, record: HostRecord) -> LedgerView:
    """Return what the ledger says of a host, with every migration in progress anywhere."""
    view = ledger.view(record.name)
    here = ledger.instances(record.name)
    claims = {one.instance_uuid: one.claim_id for one in view.holdings if one.current}
    current = tuple(
        Promised(one.uuid, one.name, Side.CURRENT, one.numa_topology, claims.get(one.uuid, "")) for one in here
    )
    return LedgerView(
        host=record.name,
        uri=record.uri,
        ledger_id=ledger.ledger_id,
        config=record.config,
        promised=(*current, *_incoming(view, {one.uuid for one in here})),
        moving=_moving(ledger),
        elsewhere=tuple(
            (use.uuid, other.name)
            for other in ledger.hosts()
            if other.name != record.name
            for use in ledger.observed(other.name)
        ),
        quarantine=record.state_reason if record.state == QUARANTINED else "",
        overfull=tuple(
            f"{record.name}, {'the host' if row.cell is None else f'cell {row.cell}'}: {row.used} {row.resource} are "
            f"promised, {row.allowed} are there"
            for row in view.overfull
        ),
    )


def _moving(ledger: Ledger) -> frozenset[str]:
    """Return the guests on their way. After the flip a guest has arrived: its claim can be held against reality."""
    moves = ledger.migrations(status=IN_PROGRESS)
    instances = ((move, ledger.instance_by_uuid(move.instance_uuid)) for move in moves)
    return frozenset(
        move.instance_uuid for move, instance in instances if instance is None or instance.host != move.dest
    )


def _incoming(view: HostView, settled: set[str]) -> tuple[Promised, ...]:
    """Return the guests whose move claim is on this host and not yet flipped."""
    claimed = {one.migration_id: one for one in view.holdings if not one.current}
    return tuple(
        Promised(
            move.instance_uuid,
            claimed[move.id].instance_name,
            Side.INCOMING,
            move.context.new_numa_topology if move.context else None,
            claimed[move.id].claim_id,
        )
        for move in view.moves
        if move.id in claimed and move.instance_uuid not in settled
    )


def _guest(hypervisor: Hypervisor, domain: DomainSeen) -> GuestSeen:
    """Return one domain with its kernel masks and its persistent XML, where it has them."""
    return GuestSeen(domain, parse_domain(domain.xml), _masks(hypervisor, domain), _inactive(hypervisor, domain))


def _masks(hypervisor: Hypervisor, domain: DomainSeen) -> ThreadMasks | None:
    if not domain.state.active:
        return None
    try:
        return hypervisor.thread_masks(domain.uuid)
    except (NotFound, HypervisorError):
        # it ended while it was read, or is only just starting: the XML is all there is to go by
        return None


def _inactive(hypervisor: Hypervisor, domain: DomainSeen) -> DomainNeeds | None:
    if not domain.persistent:
        return None
    try:
        return parse_domain(hypervisor.domain_xml(domain.uuid, XmlKind.INACTIVE))
    except (NotFound, HypervisorError):
        return None
