"""From a wish to a claim: checks on the guest and on a shortlist, reads only, then one transaction."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from numaferry.errors import CheckFailed, HostError, NoFit, NumaferryError
from numaferry.migration.checks import (
    check_can_live_migrate_destination,
    check_can_live_migrate_source,
    look_at_dest,
    look_at_source,
    look_at_start,
    refuse,
)
from numaferry.migration.disks import check_disks
from numaferry.migration.images import look_at_disks, look_there
from numaferry.migration.links import dest_vifs
from numaferry.migration.policy_checks import check_policy
from numaferry.migration.prepare import FORCE
from numaferry.scheduler import select_destinations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.ledger import HostRecord
    from numaferry.migration.disks import DisksView
    from numaferry.migration.move import Tools
    from numaferry.migration.outcome import Check
    from numaferry.migration.start_checks import StartAsked
    from numaferry.model import (
        DomainSeen,
        HostFacts,
        Instance,
        InstanceNumaTopology,
        Migration,
        MigrationPolicy,
        Vif,
    )
    from numaferry.virt.port import Hypervisor

#: How many of the best hosts are asked before the claim: each costs a connection, and the claim chooses among those
#: that passed.
SHORTLIST: Final = 5


class Asked(NamedTuple):
    """What a destination has to be able to do: start this guest, with its disks, and what the policy asks for."""

    start: StartAsked
    policy: MigrationPolicy
    disks: DisksView


class Candidate(NamedTuple):
    """What a look at a destination gave: the host, the guest's disks as both hosts have them, and every check."""

    facts: HostFacts
    disks: DisksView
    checks: tuple[Check, ...]


def look_at_guest(source: str, hypervisor: Hypervisor, domain: DomainSeen, policy: MigrationPolicy) -> Asked:
    """Read on the source what every destination of a guest is held against."""
    disks = look_at_disks(source, hypervisor, domain.uuid, domain.xml)
    return Asked(look_at_start(hypervisor, domain.uuid), policy, disks)


def look_at_candidate(
    name: str,
    hypervisor: Hypervisor,
    instance: Instance,
    asked: Asked,
    *,
    source_facts: HostFacts,
    vifs: tuple[Vif, ...],
    topology: InstanceNumaTopology | None = None,
) -> Candidate:
    """Look at one destination and check it; `vifs` name its links, `topology` is the claim's where there is one."""
    view = look_at_dest(name, hypervisor, vifs, asked.start)
    disks = look_there(asked.disks, name, hypervisor)
    checks = (
        *check_can_live_migrate_destination(view, instance, source_facts, asked.start, topology),
        *check_policy(asked.policy, source_facts, view.facts, name),
        *check_disks(disks, asked.policy),
    )
    return Candidate(view.facts, disks, checks)


def choose_and_claim(
    tools: Tools,
    instance: Instance,
    dest: str | None,
    policy: MigrationPolicy,
    *,
    force: bool,
    handed_over: bool = False,
    priority: int = 0,
    avoid: Mapping[str, str] | None = None,
) -> Migration:
    """Return the accepted migration, driven by nobody yet where it is `handed_over` to a controller that runs.

    Raises as `MigrationEngine.start` says, and nothing is claimed then.
    """
    source = tools.ledger.host(instance.host)
    asked = _check_guest(tools, source, instance, policy, force=force)
    candidates = select_destinations(tools.ledger, instance, dest=dest, avoid=avoid)
    if not candidates:
        raise _no_fit(instance, candidates.misfits)
    passed = _shortlist(tools, source, instance, candidates, asked)
    return tools.ledger.live_migration_claim(
        instance.uuid,
        passed,
        vifs=lambda record: _links(instance, source, record),
        policy=policy,
        memo=((FORCE, "1"),) if force else (),
        controller="" if handed_over else tools.controller,
        lease_s=tools.lease.ttl_s,
        priority=priority,
    ).migration


def _check_guest(
    tools: Tools, source: HostRecord, instance: Instance, policy: MigrationPolicy, *, force: bool
) -> Asked:
    """Check the guest where it is; returns what destinations are held against.

    Raises CheckFailed, Conflict, NotManaged, NotFound.
    """
    with closing(tools.connect(source)) as hypervisor:
        view = look_at_source(source.name, hypervisor, instance.uuid)
        checks = check_can_live_migrate_source(view, instance, tools.ledger.ledger_id, force=force)
        refuse(checks, f"{instance.name} can't leave {source.name}")
        if view.domain is None:
            raise AssertionError("a guest that is not there fails the checks")
        return look_at_guest(source.name, hypervisor, view.domain, policy)


def _shortlist(
    tools: Tools, source: HostRecord, instance: Instance, candidates: tuple[str, ...], asked: Asked
) -> tuple[str, ...]:
    """Return those of the best candidates that pass; raises with every reason where none does."""
    passed: list[str] = []
    refused: list[NumaferryError] = []
    for name in candidates:
        try:
            _check_candidate(tools, source, instance, name, asked)
            passed.append(name)
        except CheckFailed as error:
            refused.append(error)
        except HostError as error:
            refused.append(type(error)(f"host {name} can't be asked: {error.message}", hint=error.hint))
        if len(passed) == SHORTLIST:
            break
    if passed:
        return tuple(passed)
    if len(refused) == 1:
        raise refused[0]
    words = "; ".join(error.message for error in refused)
    raise CheckFailed(f"none of {len(refused)} hosts that fit passed the checks: {words}", hint=refused[0].hint)


def _check_candidate(tools: Tools, source: HostRecord, instance: Instance, name: str, asked: Asked) -> None:
    record = tools.ledger.host(name)
    links = _links(instance, source, record)
    with closing(tools.connect(record)) as hypervisor:
        seen = look_at_candidate(name, hypervisor, instance, asked, source_facts=source.facts, vifs=links)
    if seen.facts.booted_since(record.facts):
        # what ran there is gone and what runs there now is not known: nothing is claimed before it was looked at
        tools.audit(name)
    refuse(seen.checks, f"{instance.name} can't go to {name}")


def _links(instance: Instance, source: HostRecord, record: HostRecord) -> tuple[Vif, ...]:
    return dest_vifs(instance.vifs, source.config, record.name, record.config)


def _no_fit(instance: Instance, misfits: tuple[object, ...]) -> NoFit:
    said = "; ".join(f"{getattr(one, 'host', '?')}: {getattr(one, 'reason', '?')}" for one in misfits)
    suggestions = [text for one in misfits for text in getattr(one, "suggestions", ())]
    # only `explain` looks for guests whose leaving would help
    more = f"numaferry explain {instance.name}"
    return NoFit(
        f"{instance.name} does not fit on any other host" + (f" ({said})" if said else ""),
        hint=f"{suggestions[0]}; more: {more}" if suggestions else more,
        misfits=misfits,
    )
