"""A read-only look at hosts, without a ledger: what is wrong today, and what could move where."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from numaferry.errors import InvalidInput, NumaferryError
from numaferry.fit import numa_fit_instance_to_host
from numaferry.ledger import HostRecord
from numaferry.ledger.hosts import REACHABLE
from numaferry.ledger.states import host_state_of
from numaferry.model import EMPTY, HostConfig, Placement, version_text
from numaferry.request import adopt
from numaferry.service import hostmap
from numaferry.service.discovery import Look, SeenGuest, look, with_networks
from numaferry.service.hosts import short_name
from numaferry.service.judge import exclusive_cpus, judge, name_cpus
from numaferry.service.propose import propose
from numaferry.service.views import MoveOption, ScannedGuest, ScannedHost, ScanReport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numaferry.model import HostState, NumaRequest, ObservedUse
    from numaferry.service.discovery import Reach
    from numaferry.service.propose import Proposal


@attrs.frozen
class _Seen:
    """A host of the scan with what was computed of it."""

    name: str
    uri: str
    look: Look
    proposal: Proposal
    config: HostConfig
    observed: tuple[ObservedUse, ...]


def scan(reach: Reach, uris: Sequence[str], configs: Mapping[str, HostConfig] | None = None) -> ScanReport:
    """Look at hosts and judge them; nothing is written anywhere.

    Sets are proposed from what is seen, or taken from `configs` (by host name). Raises HostUnreachable and the like,
    InvalidInput for one URI given twice or two hosts of one name.
    """
    if len(set(uris)) < len(uris):
        twice = next(uri for uri in uris if uris.count(uri) > 1)
        raise InvalidInput(f"{twice} is given twice", hint="name each host once")
    seen = [_see(reach, uri, configs or {}) for uri in uris]
    findings = tuple(found for one in seen for found in judge(one.name, one.look.facts.topology, one.look.running))
    return ScanReport(
        hosts=tuple(_host(one) for one in seen),
        findings=findings,
        moves=tuple(_moves(seen)),
    )


def _see(reach: Reach, uri: str, configs: Mapping[str, HostConfig]) -> _Seen:
    """Look at one host and choose its sets."""
    found = look(reach(uri))
    name = short_name(found.facts.hostname, uri)
    observed = found.observed()
    proposal = propose(found.facts.topology, found.tenants, unplaced=found.facts.unplaced_cpus)
    proposed = HostConfig(cpu_dedicated_set=proposal.cpu_dedicated_set, cpu_shared_set=proposal.cpu_shared_set)
    return _Seen(name, uri, found, proposal, configs.get(name, proposed), observed)


def _state(seen: _Seen) -> HostState:
    """Return what the fit would see of this host if its sets were confirmed."""
    record = HostRecord(0, seen.name, seen.look.facts, seen.config, confirmed=True, generation=0, state=REACHABLE)
    return host_state_of(record, (), seen.observed)


def _host(seen: _Seen) -> ScannedHost:
    facts = seen.look.facts
    # Drawn are the CPUs of vCPUs: emulator threads beside them would read as a second owner.
    pins = {guest.uuid: exclusive_cpus(guest, facts.topology.cpus) for guest in seen.look.running}
    drawn = [attrs.evolve(use, pinned_cpus=pins[use.uuid]) for use in seen.observed]
    return ScannedHost(
        name=seen.name,
        uri=seen.uri,
        libvirt_version=version_text(facts.libvirt_version),
        hypervisor_version=version_text(facts.hypervisor_version),
        topology=facts.topology,
        proposal=seen.proposal,
        guests=tuple(_guest(seen, guest) for guest in seen.look.guests),
        map=hostmap.build(
            _state(seen), (), drawn, memory_kib=sum(cell.memory_kib for cell in facts.topology.cells), confirmed=False
        ),
    )


def _guest(seen: _Seen, guest: SeenGuest) -> ScannedGuest:
    """Return what is told of one domain."""
    domain, needs = guest.domain, guest.needs
    use = next((one for one in seen.observed if one.uuid == domain.uuid), None)
    pins = exclusive_cpus(needs, seen.look.facts.topology.cpus) if needs and use else EMPTY
    outcome, reason, _ = _judged(seen, guest)
    owner = f"numaferry {domain.ownership.ledger_id}" if domain.ownership else ""
    return ScannedGuest(
        uuid=domain.uuid,
        name=domain.name,
        state=str(domain.state),
        vcpus=needs.vcpus if needs else 0,
        memory_kib=needs.memory_kib if needs else 0,
        pinned_cpus=pins,
        floating=use.floating if use else False,
        pages=use.pages if use else (),
        manager=domain.manager or owner,
        outcome=outcome,
        reason=reason,
    )


def _judged(seen: _Seen, guest: SeenGuest) -> tuple[str, str, NumaRequest | None]:
    """Return whether a guest could be adopted, why, and what it asks for."""
    if not guest.domain.state.active:
        return "off", f"the domain is {guest.domain.state}", None
    if guest.needs is None:
        return "refused", guest.fault, None
    with contextlib.suppress(NumaferryError):
        # What a guest was given shows on which CPUs it counts on being alone: its own pins are dedicated to it here.
        mine = exclusive_cpus(guest.needs, seen.look.facts.topology.cpus)
        needs = with_networks(guest.needs, seen.config)
        adoption = adopt(needs, seen.config.cpu_dedicated_set | mine, seen.look.facts.topology)
        return str(adoption.outcome), adoption.reason, adoption.request
    return "refused", "its XML can't be turned into a request", None


def _moves(seen: Sequence[_Seen]) -> list[MoveOption]:
    """Fit every guest that could be adopted on every other host of the scan."""
    options = []
    states = {one.name: _state(one) for one in seen}
    for source in seen:
        for guest in source.look.guests:
            request = _judged(source, guest)[2]
            if request is None:
                continue
            options += [
                _option(guest.domain.name, request, source.name, dest.name, states[dest.name])
                for dest in seen
                if dest is not source
            ]
    return options


def _option(guest: str, request: NumaRequest, source: str, dest: str, state: HostState) -> MoveOption:
    answer = numa_fit_instance_to_host(state, request)
    if isinstance(answer, Placement):
        return MoveOption(guest, source, dest, fits=True, reason=where(answer))
    return MoveOption(guest, source, dest, fits=False, reason=answer.reason)


def where(placement: Placement) -> str:
    """Return `CPUs 4-7 of cell 1` and the like for a placement."""
    topology = placement.numa_topology
    if topology is None:
        return "floats on the shared CPUs"
    parts = []
    for cell in topology.cells:
        cpus = cell.pinned_cpus
        parts.append(f"{name_cpus(cpus)} of cell {cell.host_cell}" if cpus else f"cell {cell.host_cell}")
    return ", ".join(dict.fromkeys(parts))
