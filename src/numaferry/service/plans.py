"""What `migrate` would do, without doing it: `--dry-run` and `--as-virsh`.

The plan is made on a throw-away copy of the ledger: there the hosts' observations are refreshed and the very claim of
a migration is taken, so that what is shown is what the same code would do. The ledger and the hosts stay as they are.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from numaferry.errors import CheckFailed, Conflict, HostError, NoFit, NotManaged
from numaferry.ledger import Ledger, open_ledger
from numaferry.ledger.hosts import UNREACHABLE
from numaferry.migration import checks as reads
from numaferry.migration.disks import Verdict, judge
from numaferry.migration.emulator import place_threads, steal_on_arrival
from numaferry.migration.links import dest_vifs
from numaferry.migration.shortlist import Asked, look_at_candidate, look_at_guest
from numaferry.model import (
    EMPTY,
    IN_PROGRESS,
    CopyStorage,
    PolicyWish,
    PostCopy,
    XmlKind,
    mutated_migration_context,
)
from numaferry.request import parse_domain
from numaferry.scheduler import select_destinations
from numaferry.service.discovery import look
from numaferry.service.hosts import refresh
from numaferry.service.policies import resolve
from numaferry.service.views import CheckLine, Plan
from numaferry.virt.libvirt.domain_xml import emulator_cpus, get_updated_guest_xml, strip_secrets, xml_difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numaferry.ledger import HostRecord, MoveClaim
    from numaferry.migration.disks import DisksView
    from numaferry.migration.emulator import Placing
    from numaferry.migration.outcome import Check
    from numaferry.model import DomainSeen, Instance, MigrationPolicy, Misfit, Vif
    from numaferry.service.discovery import Reach
    from numaferry.virt.port import Hypervisor


@contextlib.contextmanager
def scratch_copy(ledger: Ledger) -> Iterator[Ledger]:
    """Open a copy of the ledger that is removed at the end; the ledger itself is only read."""
    with tempfile.TemporaryDirectory(prefix="numaferry-plan-") as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger.copy_to(path)
        opened = open_ledger(str(path))
        try:
            yield opened
        finally:
            opened.close()


def plan(
    ledger: Ledger, reach: Reach, ref: str, dest: str | None, *, policy: PolicyWish | None = None, force: bool = False
) -> Plan:
    """Return what a migration would claim, check and send; touches nothing.

    Raises NoFit with the misfits, NotFound, Ambiguous, Conflict (destination = source, a migration in progress),
    NotConfirmed, NotManaged (off), and HostUnreachable for the source or the destination that is named.
    """
    instance = ledger.instance(ref)
    refuse_moving(ledger, instance)
    with scratch_copy(ledger) as copy:
        if dest is not None:
            select_destinations(copy, instance, dest=dest)
        source = copy.host(instance.host)
        hypervisor = reach(source.uri)
        domain = refuse_absent(hypervisor, instance)
        notes = _refresh_all(copy, reach, instance, dest)
        chosen = select_destinations(copy, instance, dest=dest)
        if not chosen:
            raise _nowhere(instance, dest, chosen.misfits)
        asked = look_at_guest(source.name, hypervisor, domain, resolve(copy, instance, policy or PolicyWish()))
        passed = _passing(copy, reach, instance, chosen, asked)
        claim = copy.live_migration_claim(
            instance.uuid,
            passed or chosen[:1],
            vifs=lambda record: _links(instance, source, record),
            policy=asked.policy,
        )
        return _planned(copy, reach, claim, asked, tuple(notes), force=force)


def _links(instance: Instance, source: HostRecord, record: HostRecord) -> tuple[Vif, ...]:
    """Return the guest's NICs with the links that they would have on a host."""
    return dest_vifs(instance.vifs, source.config, record.name, record.config)


def _passing(copy: Ledger, reach: Reach, instance: Instance, chosen: tuple[str, ...], asked: Asked) -> tuple[str, ...]:
    """Return the candidates that pass the destination's checks, as the engine's shortlist does."""
    source = copy.host(instance.host)
    passed = []
    for name in chosen:
        record = copy.host(name)
        try:
            links = _links(instance, source, record)
            seen = look_at_candidate(name, reach(record.uri), instance, asked, source_facts=source.facts, vifs=links)
        except (HostError, CheckFailed):
            continue
        if not reads.failures(seen.checks):
            passed.append(name)
    return tuple(passed)


def refuse_moving(ledger: Ledger, instance: Instance) -> None:
    """Raise Conflict while the instance is being moved."""
    for move in ledger.migrations(instance=instance.uuid, status=IN_PROGRESS):
        raise Conflict(
            f"{instance.name} is being moved to {move.dest} by migration {move.id} ({move.status})",
            hint=f"wait for it, or: numaferry migration abort {move.id}",
        )


def refuse_absent(hypervisor: Hypervisor, instance: Instance) -> DomainSeen:
    """Return the instance's domain; raises NotManaged where it does not run on its host: nothing is to move live."""
    domain = hypervisor.domain(instance.uuid)
    if domain is None:
        raise NotManaged(
            f"{instance.name} is not on {instance.host}: the ledger says so, libvirt knows no such domain",
            hint=f"look for what happened: numaferry audit {instance.host}",
        )
    if not domain.state.active:
        raise NotManaged(
            f"{instance.name} on {instance.host} is {domain.state}: only a running guest can be moved live",
            hint=f"start it first: virsh -c {hypervisor.uri} start {instance.name}",
        )
    return domain


def _refresh_all(copy: Ledger, reach: Reach, instance: Instance, dest: str | None) -> list[str]:
    """Look at the hosts that matter and note what is seen in the copy; return what could not be seen."""
    notes = []
    for record in copy.hosts():
        if dest is not None and record.name not in {dest, instance.host}:
            continue
        try:
            refresh(copy, record.name, look(reach(record.uri)))
        except HostError as error:
            if record.name == dest:
                raise
            copy.set_host_state(record.name, UNREACHABLE, error.message)
            notes.append(f"host {record.name} can't be asked: {error.message}")
    return notes


def _nowhere(instance: Instance, dest: str | None, misfits: tuple[Misfit, ...]) -> NoFit:
    """Return the error for a guest that no host takes."""
    reasons = "; ".join(f"{one.host}: {one.reason}" for one in misfits) or "there is no other confirmed host"
    where = "does not fit" if dest else "fits on no host"
    return NoFit(
        f"{instance.name} {where}: {reasons}",
        hint=f"numaferry explain {instance.name} {dest or ''}".rstrip(),
        misfits=misfits,
    )


def _planned(
    copy: Ledger, reach: Reach, claim: MoveClaim, asked: Asked, notes: tuple[str, ...], *, force: bool
) -> Plan:
    """Return the plan of a claim that was taken on the copy."""
    source, dest = copy.host(claim.migration.source), copy.host(claim.migration.dest)
    from_host, to_host = reach(source.uri), reach(dest.uri)
    mutated = mutated_migration_context(claim.instance)
    live = strip_secrets(from_host.domain_xml(claim.instance.uuid, XmlKind.MIGRATABLE))
    inactive = None
    if claim.instance.persistent:
        inactive = strip_secrets(from_host.domain_xml(claim.instance.uuid, XmlKind.INACTIVE))
    dest_xml = _updated(live, mutated, dest, arriving=True)
    persistent_xml = None if inactive is None else _updated(inactive, mutated, dest, arriving=False)
    policy = claim.migration.policy
    placing = place_threads(
        parse_domain(live),
        claim.instance.numa_topology,
        policy,
        host=source.name,
        config=source.config,
        online=source.facts.topology.cpus,
    )
    arrival = steal_on_arrival(mutated, policy, host=dest.name, facts=dest.facts, config=dest.config)
    here = reads.look_at_source(source.name, from_host, claim.instance.uuid)
    there = look_at_candidate(
        dest.name,
        to_host,
        claim.instance,
        asked,
        source_facts=source.facts,
        vifs=mutated.vifs,
        topology=mutated.numa_topology,
    )
    of_source = reads.check_can_live_migrate_source(here, claim.instance, copy.ledger_id, force=force)
    return Plan(
        instance=claim.instance.name,
        instance_uuid=claim.instance.uuid,
        source=source.name,
        dest=dest.name,
        placement=claim.placement,
        checks=tuple(map(_line, (*of_source, *there.checks))),
        xml_difference=xml_difference(live, dest_xml),
        dest_xml=dest_xml,
        persistent_xml=persistent_xml,
        virsh=virsh_command(source, dest, claim, _disk_words(there.disks, policy)),
        virsh_pins=_pin_commands(placing, mutated, source, dest),
        notes=(*notes, *filter(None, (placing.sentence, arrival))),
    )


def _line(check: Check) -> CheckLine:
    """Return a check as it is shown, with what helps against a failure."""
    return CheckLine(check.name, str(check.outcome), "; ".join(filter(None, (check.reason, check.hint))))


def _updated(xml: str, mutated: Instance, dest: HostRecord, *, arriving: bool) -> str:
    """Return the XML with which the guest would start on the destination."""
    return get_updated_guest_xml(xml, mutated, dest_facts=dest.facts, dest_config=dest.config, arriving=arriving)


def _pin_commands(
    placing: Placing, mutated: Instance, source: HostRecord, dest: HostRecord
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (when, virsh command) for each time that the emulator's CPUs have to be set around the move."""
    cpus = emulator_cpus(mutated, dest_facts=dest.facts, dest_config=dest.config)
    settled = cpus.settled if cpus.arriving != cpus.settled else EMPTY
    pins = (("before", source, placing.pin), ("after", dest, settled), ("if it fails", source, placing.now))
    return tuple(
        (when, ("virsh", "-c", record.uri, "emulatorpin", mutated.name, str(pin), "--live"))
        for when, record, pin in pins
        if pin and (record is dest or placing.pin)
    )


def policy_words(policy: MigrationPolicy) -> list[str]:
    """Return the options of `virsh migrate` for a policy; what numaferry does while the job runs has none."""
    values = {
        "--bandwidth": policy.bandwidth_mib_s,
        "--postcopy-bandwidth": policy.bandwidth_postcopy_mib_s,
        "--parallel-connections": policy.parallel_connections,
        "--comp-methods": policy.compression,
        "--auto-converge-initial": policy.auto_converge and policy.auto_converge_initial,
        "--auto-converge-increment": policy.auto_converge and policy.auto_converge_increment,
    }
    flags = {
        "--auto-converge": policy.auto_converge,
        "--postcopy": policy.post_copy is not PostCopy.NEVER,
        "--parallel": policy.parallel_connections > 0,
        "--compressed": bool(policy.compression),
        "--tls": policy.tls,
    }
    said = [word for name, value in values.items() if value for word in (name, str(value))]
    return [*(name for name, on in flags.items() if on), *said]


def _disk_words(disks: DisksView, policy: MigrationPolicy) -> list[str]:
    """Return the options of `virsh migrate` for what becomes of the disks; their images have to be made before."""
    judged = judge(disks, policy)
    copied = [one.target for one in judged if one.verdict is Verdict.COPY]
    said = any(one.verdict is Verdict.SAID for one in judged)
    how = "--copy-storage-inc" if policy.copy_storage is CopyStorage.INCREMENTAL else "--copy-storage-all"
    return [*([how, "--migrate-disks", ",".join(copied)] if copied else []), *(["--unsafe"] if said else [])]


def virsh_command(source: HostRecord, dest: HostRecord, claim: MoveClaim, more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the words of the `virsh migrate` command that asks libvirt for the same move; `more` are options."""
    name = claim.instance.name
    words = ["virsh", "-c", source.uri, "migrate", "--live", "--p2p", "--xml", f"{name}-dest.xml"]
    if claim.instance.persistent:
        words += ["--persistent", "--undefinesource", "--persistent-xml", f"{name}-persistent.xml"]
    words += [*policy_words(claim.migration.policy), *more]
    if dest.config.listen_address:
        words += ["--listen-address", dest.config.listen_address]
    words += [name, dest.config.peer_uri or dest.uri]
    if dest.config.migrate_uri:
        words.append(dest.config.migrate_uri)
    return tuple(words)
