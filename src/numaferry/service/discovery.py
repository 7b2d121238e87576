"""One look at one host: its facts, its domains and what they use. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.errors import NumaferryError
from numaferry.request import DomainNeeds, charge, parse_domain
from numaferry.service.judge import tenant

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.model import DomainSeen, HostConfig, HostFacts, ObservedUse
    from numaferry.service.propose import Tenant
    from numaferry.virt.port import Hypervisor


@attrs.frozen(slots=True)
class SeenGuest:
    """A domain with what its XML says; `needs` None where it can't be read, with `fault` saying why."""

    domain: DomainSeen
    needs: DomainNeeds | None
    fault: str = ""


@attrs.frozen(slots=True)
class Look:
    """What one look at a host saw, at one moment."""

    facts: HostFacts
    guests: tuple[SeenGuest, ...]

    @property
    def running(self) -> tuple[DomainNeeds, ...]:
        """The needs of every domain that has a QEMU process."""
        return tuple(guest.needs for guest in self.guests if guest.domain.state.active and guest.needs)

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        """Where the vCPUs of every running guest may run."""
        return tuple(tenant(guest, self.facts.topology.cpus) for guest in self.running)

    def other_ledgers(self, ledger_id: str) -> frozenset[str]:
        """Return the ids of other ledgers whose guests are here."""
        owners = (guest.domain.ownership for guest in self.guests)
        return frozenset(owner.ledger_id for owner in owners if owner is not None and owner.ledger_id != ledger_id)

    def observed(self, ledger_id: str = "") -> tuple[ObservedUse, ...]:
        """Charge every active domain; those that this ledger owns are marked as managed."""
        online = self.facts.topology.cpus
        uses = []
        for guest in self.guests:
            if guest.domain.state.active and guest.needs:
                owner = guest.domain.ownership
                mine = bool(ledger_id) and owner is not None and owner.ledger_id == ledger_id
                uses.append(charge(guest.needs, online, managed=mine))
        return tuple(uses)


def look(hypervisor: Hypervisor) -> Look:
    """Read a host; raises HostUnreachable or HypervisorError. A domain whose XML can't be read is kept, with why."""
    return Look(hypervisor.facts(), tuple(_guest(domain) for domain in hypervisor.domains()))


def _guest(domain: DomainSeen) -> SeenGuest:
    try:
        return SeenGuest(domain, parse_domain(domain.xml))
    except NumaferryError as error:
        return SeenGuest(domain, None, error.message)


def with_networks(needs: DomainNeeds, config: HostConfig) -> DomainNeeds:
    """Return the needs with the physical network of each NIC, as the host's configuration names it."""
    vifs = tuple(
        attrs.evolve(vif, physical_network=vif.physical_network or config.physical_network_of(vif.source_dev))
        for vif in needs.vifs
    )
    return attrs.evolve(needs, vifs=vifs)


class Reach:
    """Connections to hosts by URI, opened when first needed and kept until `close`."""

    def __init__(self, connect: Callable[[str], Hypervisor]) -> None:
        self._connect = connect
        self._open: dict[str, Hypervisor] = {}

    def __call__(self, uri: str) -> Hypervisor:
        """Return the connection to this URI; raises HostUnreachable, InvalidInput, TooOld, EnvironmentLacking."""
        if uri not in self._open:
            self._open[uri] = self._connect(uri)
        return self._open[uri]

    def fresh(self, uri: str) -> Hypervisor:
        """Open a connection of the caller's own, which closes it."""
        return self._connect(uri)

    def close(self) -> None:
        """Close all connections; safe to repeat."""
        while self._open:
            self._open.popitem()[1].close()
