"""Hosts: adding, importing, confirming, refreshing, listing. What a face may ask about hosts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from numaferry.errors import Conflict, HostError, InvalidInput
from numaferry.ledger.hosts import UNREACHABLE, check_config, refuse_quarantined
from numaferry.ledger.states import host_state_of
from numaferry.model import CpuSet, HostConfig, version_text
from numaferry.service import hostmap
from numaferry.service.discovery import look
from numaferry.service.propose import Proposal, propose
from numaferry.service.views import HostLine, HostShow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numaferry.ledger import HostRecord, Ledger
    from numaferry.model import HostState, ObservedUse
    from numaferry.service.config import HostEntry
    from numaferry.service.discovery import Look, Reach

#: How long a transient guest may be missing from its host before what it held is free.
GONE_GRACE_S = 300.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def add(
    ledger: Ledger,
    reach: Reach,
    name: str,
    uri: str,
    *,
    config: HostConfig | None = None,
    isolated: CpuSet | None = None,
    take_over: bool = False,
) -> HostShow:
    """Look at a host and add it. With a config that names CPU sets it is confirmed; else sets are proposed.

    `name` may be empty: then it is the host's own. Raises Conflict for a host that is there already or whose guests
    another ledger owns (unless `take_over`), HostUnreachable, TooOld, InvalidInput for sets that can't be.
    """
    seen = look(reach(uri))
    name = name or short_name(seen.facts.hostname, uri)
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name for a host", hint="letters, digits, dot, dash, underscore")
    refuse_foreign(ledger, name, seen, take_over=take_over)
    said = config is not None and bool(config.cpu_dedicated_set or config.cpu_shared_set)
    observed = seen.observed(ledger.ledger_id)
    proposal = None if said else propose(seen.facts.topology, seen.tenants, isolated, unplaced=seen.facts.unplaced_cpus)
    ledger.add_host(name, seen.facts, _with_sets(config, proposal), confirmed=said, observed=observed)
    if take_over:
        ledger.note_ledgers(name, seen.other_ledgers(ledger.ledger_id), accept=True)
    return show(ledger, name, proposal)


def short_name(hostname: str, uri: str) -> str:
    """Return the name that a host gets when nobody gives one: its own without the domain."""
    return hostname.split(".", maxsplit=1)[0] or (urlsplit(uri).hostname or "").split(".")[0]


def _with_sets(config: HostConfig | None, proposal: Proposal | None) -> HostConfig:
    """Return the config to store: with the proposed sets where the operator named none."""
    base = config or HostConfig()
    if proposal is None:
        return base
    return attrs.evolve(
        base,
        cpu_dedicated_set=proposal.cpu_dedicated_set - base.migration_cpu_set,
        cpu_shared_set=proposal.cpu_shared_set,
    )


def refuse_foreign(ledger: Ledger, name: str, seen: Look, *, take_over: bool) -> None:
    """Raise Conflict where guests of this host carry another ledger's mark."""
    owners: dict[str, list[str]] = {}
    for guest in seen.guests:
        owner = guest.domain.ownership
        if owner is not None and owner.ledger_id != ledger.ledger_id:
            owners.setdefault(owner.ledger_id, []).append(guest.domain.name)
    if owners and not take_over:
        other, guests = next(iter(owners.items()))
        raise Conflict(
            f"{len(guests)} guests of {name} ({', '.join(guests[:3])}) belong to another ledger, {other}",
            hint="use that ledger (--db), or add --take-over if it is gone for good",
            code="foreign-ledger",
        )


def import_entries(
    ledger: Ledger, reach: Reach, entries: Iterable[HostEntry], *, take_over: bool = False
) -> tuple[HostShow, ...]:
    """Add or update every host of a file, in order; all hosts are looked at before anything is stored.

    A host that is known already gets the file's configuration. Raises as `add` does, and NotConfirmed for a known host
    that is not the machine that was confirmed: a file written for that one does not accept another. No configuration is
    stored then, but of known hosts what was seen.
    """
    entries = tuple(entries)
    seen = []
    for entry in entries:
        if not entry.uri:
            raise InvalidInput(f"host {entry.name or '(no name)'} has no uri", hint='add uri = "qemu+tls://.../system"')
        found = look(reach(entry.uri))
        name = entry.name or short_name(found.facts.hostname, entry.uri)
        refuse_foreign(ledger, name, found, take_over=take_over)
        seen.append((name, entry, found))
    records = {record.name: record for record in ledger.hosts()}
    known = {record.name: record.uuid for record in records.values()}
    _refuse_twins(known, seen)
    for name, entry, found in seen:
        if name in known:
            _refuse_elsewhere(records[name], entry, found)
            refresh(ledger, name, found)
            refuse_quarantined(ledger.host(name))
    for _, entry, found in seen:
        check_config(found.facts, entry.config)
    shown = []
    for name, entry, _ in seen:
        if name not in known:
            shown.append(add(ledger, reach, name, entry.uri, config=entry.config, take_over=take_over))
            continue
        if entry.config.cpu_dedicated_set or entry.config.cpu_shared_set:
            ledger.confirm_host(name, entry.config)
        shown.append(show(ledger, name))
    return tuple(shown)


def _refuse_elsewhere(record: HostRecord, entry: HostEntry, found: Look) -> None:
    """Raise Conflict where a new URI leads to another machine than the one confirmed: nothing of it is stored."""
    if record.confirmed and entry.uri != record.uri and found.facts.uuid != record.uuid:
        raise Conflict(
            f"{entry.uri} leads to machine {found.facts.uuid}, and host {record.name} is machine {record.uuid}",
            hint=f"correct the uri, give the machine another name, or first: numaferry host remove {record.name}",
        )


def _refuse_twins(known: Mapping[str, str], seen: Sequence[tuple[str, HostEntry, Look]]) -> None:
    """Raise Conflict where one machine (host UUID) would be in the ledger under two names."""
    machines = {uuid: name for name, uuid in known.items() if uuid}
    for name, _, found in seen:
        other = machines.setdefault(found.facts.uuid, name) if found.facts.uuid else name
        if other != name:
            raise Conflict(f"host {name} is the machine known as {other}", hint=f"numaferry host show {other}")


def confirm(
    ledger: Ledger,
    reach: Reach,
    name: str,
    *,
    dedicated: CpuSet | None = None,
    shared: CpuSet | None = None,
    migration: CpuSet | None = None,
) -> HostShow:
    """Open a host for claims with the stored sets, or with those given; raises InvalidInput for sets that can't be.

    A CPU named as dedicated or shared leaves the other of the two; one of `migration` has to have left the dedicated
    set by itself. A host that was not reachable and itself is looked at then.
    """
    record = ledger.host(name)
    config = record.config
    if dedicated is not None:
        config = attrs.evolve(config, cpu_dedicated_set=dedicated, cpu_shared_set=config.cpu_shared_set - dedicated)
    if shared is not None:
        kept = config.cpu_dedicated_set if dedicated is not None else config.cpu_dedicated_set - shared
        config = attrs.evolve(config, cpu_shared_set=shared, cpu_dedicated_set=kept)
    if migration is not None:
        config = attrs.evolve(config, migration_cpu_set=migration)
    if not config.cpu_dedicated_set and not config.cpu_shared_set:
        raise InvalidInput(f"host {name} would have no CPUs to give", hint="name them with --dedicated and --shared")
    confirmed = ledger.confirm_host(name, config)
    if confirmed.state == UNREACHABLE:
        try_refresh(ledger, reach, confirmed)
    return show(ledger, name)


def refresh(ledger: Ledger, name: str, seen: Look, *, looked_at: float | None = None) -> None:
    """Store what a look at a host saw; a transient guest that has been gone for the grace time is released.

    `looked_at` is when the look began, by the database's clock; one that was overtaken by another says nothing.
    """
    present = {guest.domain.uuid for guest in seen.guests}
    ledger.update_host(name, seen.facts, looked_at)
    ledger.note_ledgers(name, seen.other_ledgers(ledger.ledger_id))
    ledger.note_present(name, present, GONE_GRACE_S, looked_at)
    ledger.set_observed(name, seen.observed(ledger.ledger_id), looked_at)


def try_refresh(ledger: Ledger, reach: Reach, record: HostRecord) -> str:
    """Look at a host and store it; return "", or why the host can't be asked."""
    began = ledger.now()
    try:
        seen = look(reach(record.uri))
    except HostError as error:
        ledger.set_host_state(record.name, UNREACHABLE, error.message)
        return error.message
    refresh(ledger, record.name, seen, looked_at=began)
    return ""


def show(ledger: Ledger, name: str, proposal: Proposal | None = None) -> HostShow:
    """Return a host as the ledger has it, with the proposal that its sets came from if it is given; raises NotFound."""
    record = ledger.host(name)
    facts = record.facts
    return HostShow(
        name=record.name,
        uri=record.uri,
        uuid=record.uuid,
        state=state_words(record),
        confirmed=record.confirmed,
        generation=record.generation,
        libvirt_version=version_text(facts.libvirt_version),
        hypervisor_version=version_text(facts.hypervisor_version),
        topology=facts.topology,
        config=record.config,
        proposal=proposal,
    )


def explained(ledger: Ledger, reach: Reach, name: str) -> HostShow:
    """Return a host; while its sets are not confirmed with a proposal made anew, from what is seen now if it can be."""
    record = ledger.host(name)
    if record.confirmed:
        return show(ledger, name)
    try:
        tenants = look(reach(record.uri)).tenants
    except HostError:
        tenants = ()
    return show(ledger, name, propose(record.facts.topology, tenants, unplaced=record.facts.unplaced_cpus))


def state_words(record: HostRecord) -> str:
    """Return `reachable`, or the state and why."""
    return f"{record.state}: {record.state_reason}" if record.state_reason else record.state


def lines(ledger: Ledger) -> tuple[HostLine, ...]:
    """Return a row per host."""
    return tuple(_line(ledger, record) for record in ledger.hosts())


def _line(ledger: Ledger, record: HostRecord) -> HostLine:
    state = ledger.host_state(record.name)
    return HostLine(
        name=record.name,
        uri=record.uri,
        state=state_words(record),
        confirmed=record.confirmed,
        cells=len(state.cells),
        cpus=sum(len(cell.cpus) for cell in state.cells),
        cpu_dedicated_set=record.config.cpu_dedicated_set,
        cpu_shared_set=record.config.cpu_shared_set,
        free_dedicated=sum(len(cell.free_dedicated) for cell in state.cells),
        instances=len(ledger.instances(host=record.name)),
    )


def host_map(ledger: Ledger, name: str, *, note: str = "") -> hostmap.HostMap:
    """Return the picture's subject: promises, arrivals and what is merely seen; while not confirmed, the proposed sets.

    Raises NotFound.
    """
    record = ledger.host(name)
    observed = ledger.observed(name)
    moves = [move for move in ledger.migrations() if move.in_progress and name in {move.source, move.dest}]
    moving = {move.instance_uuid for move in moves}
    state = ledger.host_state(name) if record.confirmed else as_if_confirmed(record, observed)
    return hostmap.build(
        state,
        [one for one in ledger.instances() if one.host == name or one.uuid in moving],
        observed,
        moves,
        memory_kib=sum(cell.memory_kib for cell in record.facts.topology.cells),
        confirmed=record.confirmed,
        note=note,
    )


def as_if_confirmed(record: HostRecord, observed: tuple[ObservedUse, ...]) -> HostState:
    """Return the state that a host would have with its (proposed) sets confirmed and nothing claimed."""
    return host_state_of(attrs.evolve(record, confirmed=True), (), observed)
