"""Instances: adopting what runs, listing, showing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import attrs

from numaferry.errors import Ambiguous, Conflict, HostError, NotFound, NotManaged, NumaferryError
from numaferry.ledger.hosts import refuse_unconfirmed
from numaferry.migration.evidence import RECEIVING_REASONS
from numaferry.model import EMPTY, CpuSet, DomainState, Instance, Ownership, XmlKind
from numaferry.request import adopt as judge_adoption
from numaferry.request import parse_domain
from numaferry.service.discovery import Look, SeenGuest, look, with_networks
from numaferry.service.hosts import refresh
from numaferry.service.views import AdoptLine, InstanceLine, InstanceShow, MigrationLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.ledger import HostRecord, Ledger
    from numaferry.model import HostConfig, Migration
    from numaferry.request import DomainNeeds
    from numaferry.service.discovery import Reach


@attrs.frozen
class _Candidate:
    """A domain on a host that adoption looks at."""

    record: HostRecord
    look: Look
    guest: SeenGuest


def adopt(
    ledger: Ledger,
    reach: Reach,
    names: Sequence[str],
    *,
    host: str | None = None,
    everything: bool = False,
    dry_run: bool = False,
    force: bool = False,
) -> tuple[AdoptLine, ...]:
    """Adopt domains by name or UUID, or all that run on the confirmed hosts; one line for each.

    What a guest has it is promised, as far as nobody else has it. One that is adopted already gets its mark where that
    is missing; a mark that can't be written is told as `not marked`, and raises nothing. A domain named on its own
    that can't be adopted raises NotFound, Ambiguous, NotManaged (off, nova's without `force`) or Conflict (another
    ledger's); with `everything` it is skipped with the reason. With `dry_run` nothing is written to the ledger or to
    a guest.
    """
    records = [ledger.host(host)] if host else list(ledger.hosts())
    if host:
        refuse_unconfirmed(records[0])
    elif not any(record.confirmed for record in records):
        for record in records:
            refuse_unconfirmed(record)
        raise NotFound("the ledger has no host", hint="add one: numaferry host add URI")
    looks = [(record, look(reach(record.uri))) for record in records if record.confirmed]
    found = [_Candidate(record, seen, guest) for record, seen in looks for guest in seen.guests]
    chosen = found if everything else [_choose(found, name) for name in names]
    for one in () if everything else chosen:
        _refuse(ledger, one, force=force)
    if not dry_run:
        for record, seen in looks:
            refresh(ledger, record.name, seen)
    if everything:
        return tuple(_adopt_or_skip(ledger, reach, one, dry_run=dry_run, force=force) for one in found)
    return tuple(_adopt(ledger, reach, one, dry_run=dry_run) for one in chosen)


def _choose(found: Sequence[_Candidate], ref: str) -> _Candidate:
    """Return the domain of this name or UUID; raises NotFound, Ambiguous."""
    fits = [one for one in found if ref in {one.guest.domain.name, one.guest.domain.uuid}]
    fits = [one for one in fits if one.guest.domain.state.active] or fits
    if not fits:
        hosts = ", ".join(sorted({one.record.name for one in found})) or "any host"
        raise NotFound(f"no domain {ref!r} on {hosts}", hint="numaferry scan URI shows what runs where")
    if len(fits) > 1:
        where = ", ".join(f"{one.guest.domain.uuid} on {one.record.name}" for one in fits)
        raise Ambiguous(
            f"{ref!r} fits {len(fits)} domains: {where}", hint="name the host with --host, or give the UUID"
        )
    return fits[0]


def _refuse(ledger: Ledger, one: _Candidate, *, force: bool) -> None:
    """Raise where this domain is not to be adopted."""
    domain, where = one.guest.domain, one.record.name
    if not domain.state.active:
        raise NotManaged(
            f"{domain.name} on {where} is {domain.state}: only a running guest can be adopted",
            hint=f"start it first: virsh -c {one.record.uri} start {domain.name}",
        )
    if domain.state is DomainState.PAUSED and domain.state_reason in RECEIVING_REASONS:
        raise NotManaged(
            f"{domain.name} on {where} is paused ({domain.state_reason}): it is on its way, and may yet run elsewhere",
            hint="adopt it where it runs, once that migration has ended",
        )
    if domain.ownership is not None and domain.ownership.ledger_id != ledger.ledger_id and not force:
        raise Conflict(
            f"{domain.name} on {where} belongs to another ledger, {domain.ownership.ledger_id}",
            hint="use that ledger (--db), or take the guest over with --force if it is gone for good",
            code="foreign-ledger",
        )
    if domain.manager and not force:
        raise NotManaged(
            f"{domain.name} on {where} is managed by {domain.manager}, which would not know",
            hint="leave it to its cloud, or add --force",
        )
    if one.guest.needs is None:
        raise NotManaged(f"{domain.name} on {where}: {one.guest.fault}", hint="its XML must be readable to adopt it")


def _adopt_or_skip(ledger: Ledger, reach: Reach, one: _Candidate, *, dry_run: bool, force: bool) -> AdoptLine:
    """Adopt a domain, or tell why it is left alone."""
    try:
        _refuse(ledger, one, force=force)
        return _adopt(ledger, reach, one, dry_run=dry_run)
    except NumaferryError as error:
        domain = one.guest.domain
        return AdoptLine(domain.uuid, domain.name, one.record.name, "skipped", None, EMPTY, error.message)


def _adopt(ledger: Ledger, reach: Reach, one: _Candidate, *, dry_run: bool) -> AdoptLine:
    """Judge, claim and mark one domain."""
    domain, record = one.guest.domain, one.record
    known = ledger.instance_by_uuid(domain.uuid)
    if known is not None:
        return _adopt_again(ledger, reach, one, known, dry_run=dry_run)
    instance, reason = _instance(one, record.config, _inactive(reach, one))
    if dry_run:
        return AdoptLine(
            domain.uuid, domain.name, record.name, "would be adopted", instance.promise, _cpus(instance), reason
        )
    claim = ledger.claim_instance(instance)
    reason = "; ".join(claim.conflicts) or reason
    fault = _mark(reach, one, Ownership(ledger.ledger_id, claim.id))
    return AdoptLine(
        domain.uuid,
        domain.name,
        record.name,
        "not marked" if fault else "adopted",
        claim.instance.promise,
        _cpus(claim.instance),
        fault or reason,
    )


def _adopt_again(ledger: Ledger, reach: Reach, one: _Candidate, known: Instance, *, dry_run: bool) -> AdoptLine:
    """Tell that a domain is in the ledger, and write its mark where that is missing or of a claim that is no more.

    A guest that is being moved bears what its migration wrote; that is left alone.
    """
    domain, record = one.guest.domain, one.record
    held = [claim for claim in ledger.view(record.name).holdings if claim.instance_uuid == domain.uuid]
    moving = any(move.in_progress for move in ledger.migrations(instance=domain.uuid))
    reason, fault = f"in the ledger on host {known.host}", ""
    if known.host == record.name and held and not moving:
        mark = Ownership(ledger.ledger_id, held[0].claim_id)
        if domain.ownership != mark and dry_run:
            reason += "; its mark is missing and would be written"
        elif domain.ownership != mark:
            fault = _mark(reach, one, mark)
            reason += "; its mark was missing and is written now"
    outcome: Literal["not marked", "already adopted"] = "not marked" if fault else "already adopted"
    return AdoptLine(domain.uuid, domain.name, record.name, outcome, known.promise, _cpus(known), fault or reason)


def _mark(reach: Reach, one: _Candidate, mark: Ownership) -> str:
    """Write a guest's mark; return "", or why it could not be written and what to do then."""
    try:
        reach(one.record.uri).set_ownership(one.guest.domain.uuid, mark)
    except (HostError, NotFound) as error:
        return f"its claim is held and its mark could not be written, adopt it again: {error.message}"
    return ""


def _inactive(reach: Reach, one: _Candidate) -> DomainNeeds | None:
    """Read the persistent configuration of a domain; None for a transient one. Its secrets are dropped here."""
    if not one.guest.domain.persistent:
        return None
    return parse_domain(reach(one.record.uri).domain_xml(one.guest.domain.uuid, XmlKind.INACTIVE))


def _instance(one: _Candidate, config: HostConfig, inactive: DomainNeeds | None) -> tuple[Instance, str]:
    """Return the instance that a running domain becomes, and the sentence why; raises NotManaged if it can't be one."""
    domain, needs = one.guest.domain, one.guest.needs
    if needs is None:
        raise NotManaged(f"{domain.name}: {one.guest.fault}", hint="its XML must be readable to adopt it")
    needs = with_networks(needs, config)
    adoption = judge_adoption(
        needs,
        config.cpu_dedicated_set,
        one.look.facts.topology,
        persistent_needs=inactive,
        state=domain.state,
        persistent=domain.persistent,
        snapshots=domain.snapshots or 0,
    )
    if adoption.promise is None or adoption.flavor is None or adoption.request is None:
        raise NotManaged(
            f"{domain.name} on {one.record.name} can't be adopted: {adoption.reason}",
            hint=adoption.hint or "change the guest, then adopt it",
        )
    instance = Instance(
        uuid=domain.uuid,
        name=domain.name,
        host=one.record.name,
        flavor=adoption.flavor,
        request=adoption.request,
        numa_topology=adoption.numa_topology,
        vifs=needs.vifs,
        promise=adoption.promise,
        persistent=domain.persistent,
    )
    return instance, "; ".join((adoption.reason, *adoption.notes))


def _cpus(instance: Instance) -> CpuSet:
    return instance.numa_topology.owned_cpus if instance.numa_topology else EMPTY


def forget(ledger: Ledger, reach: Reach, ref: str) -> str:
    """Release all that an instance holds, and take our mark off its domain if it can be reached; returns its name.

    The guest runs on as it is. Raises NotFound, Ambiguous, Conflict while it is being moved.
    """
    one = ledger.instance(ref)
    ledger.forget_instance(one.uuid)
    with contextlib.suppress(HostError, NotFound):
        hypervisor = reach(ledger.host(one.host).uri)
        seen = hypervisor.domain(one.uuid)
        if seen is not None and seen.ownership is not None and seen.ownership.ledger_id == ledger.ledger_id:
            hypervisor.set_ownership(one.uuid, None)
    return one.name


def lines(ledger: Ledger, host: str | None = None) -> tuple[InstanceLine, ...]:
    """Return a row per instance; raises NotFound for an unknown host."""
    if host is not None:
        ledger.host(host)
    moving = {move.instance_uuid: move.id for move in ledger.migrations() if move.in_progress}
    return tuple(
        InstanceLine(
            uuid=one.uuid,
            name=one.name,
            host=one.host,
            promise=one.promise,
            vcpus=one.request.vcpus,
            memory_kib=one.request.memory_kib,
            cpus=_cpus(one),
            host_cells=tuple(cell.host_cell for cell in one.numa_topology.cells) if one.numa_topology else (),
            moving=moving.get(one.uuid),
        )
        for one in ledger.instances(host=host)
    )


def show(ledger: Ledger, ref: str) -> InstanceShow:
    """Return one instance by name, UUID or beginning of a UUID; raises NotFound, Ambiguous."""
    one = ledger.instance(ref)
    moves = [move for move in ledger.migrations(instance=one.uuid) if move.in_progress]
    return InstanceShow(
        uuid=one.uuid,
        name=one.name,
        host=one.host,
        promise=one.promise,
        persistent=one.persistent,
        flavor=one.flavor,
        request=one.request,
        numa_topology=one.numa_topology,
        pci_devices=one.pci_devices,
        vifs=one.vifs,
        migration=migration_line(moves[0], one.name) if moves else None,
    )


def migration_line(move: Migration, name: str) -> MigrationLine:
    """Return a migration as lists show it; `name` is the instance's."""
    return MigrationLine(
        id=move.id,
        uuid=move.uuid,
        instance=name,
        instance_uuid=move.instance_uuid,
        source=move.source,
        dest=move.dest,
        status=str(move.status),
        step=move.step,
        reason=move.reason,
        created_at=move.created_at,
        updated_at=move.updated_at,
        controller=move.controller,
        abort_requested=move.abort_requested,
        policy=move.policy,
    )
