"""The two sides that an audit compares, as values: what the ledger promises on one host, and what was seen there."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from numaferry.migration.pages import flatten
from numaferry.model import BASE_PAGE_SIZE_KIB, EMPTY, CpuSet, union
from numaferry.request.charge import charge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.migration.pages import PoolKey
    from numaferry.model import (
        DomainSeen,
        HostConfig,
        HostFacts,
        InstanceNumaTopology,
        ObservedUse,
        ThreadMasks,
    )
    from numaferry.request import DomainNeeds


class Side(enum.StrEnum):
    """Why a guest has a claim on this host."""

    #: It runs here by the ledger.
    CURRENT = "current"
    #: It is being moved here.
    INCOMING = "incoming"


@attrs.frozen(slots=True)
class Promised:
    """One guest that has a claim on this host, and the topology that it was promised here."""

    uuid: str
    name: str
    side: Side
    topology: InstanceNumaTopology | None
    claim_id: str = ""

    @property
    def cpus(self) -> CpuSet:
        """Every CPU that is promised to it here."""
        return self.topology.owned_cpus if self.topology else EMPTY


@attrs.frozen(slots=True)
class LedgerView:
    """What the ledger says of one host at one moment."""

    host: str
    uri: str
    ledger_id: str
    config: HostConfig
    promised: tuple[Promised, ...]
    #: UUIDs of guests with a migration in progress, on whichever hosts.
    moving: frozenset[str] = frozenset()
    #: (UUID, other host) for every domain that another host was seen to run at its last audit.
    elsewhere: tuple[tuple[str, str], ...] = ()
    #: Why it is not the machine that was confirmed; "" where it is.
    quarantine: str = ""
    #: Sentences about capacity that is promised beyond what is there (now).
    overfull: tuple[str, ...] = ()
    #: (name, error) of domains whose XML can't be read.
    unreadable: tuple[tuple[str, str], ...] = ()

    def promise_of(self, uuid: str) -> Promised | None:
        """Return the claim of this guest on this host, or None."""
        return next((one for one in self.promised if one.uuid == uuid), None)


@attrs.frozen(slots=True)
class GuestSeen:
    """One domain as it was seen; `needs` is its live XML read, `inactive` its persistent one where there is one."""

    domain: DomainSeen
    needs: DomainNeeds
    masks: ThreadMasks | None = None
    inactive: DomainNeeds | None = None

    @property
    def uuid(self) -> str:
        """The domain's UUID."""
        return self.domain.uuid

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.domain.name

    @property
    def active(self) -> bool:
        """Tell whether a QEMU process exists."""
        return self.domain.state.active

    def cpus_of_vcpus(self, online: CpuSet) -> tuple[CpuSet, ...]:
        """Return where each vCPU may run: the kernel's masks where they were read, else what the XML says."""
        if self.masks is not None:
            return tuple(mask & online for _, mask in self.masks.vcpus)
        pins = (self.needs.vcpupin(vcpu) for vcpu in range(self.needs.online_vcpus))
        return tuple(online if cpus is None else cpus & online for cpus in pins)

    def confined(self, online: CpuSet) -> CpuSet:
        """Return the CPUs of the vCPUs that are held to fewer than all online CPUs."""
        return union(cpus for cpus in self.cpus_of_vcpus(online) if cpus != online)

    def floats(self, online: CpuSet) -> bool:
        """Tell whether any vCPU may run anywhere."""
        return any(cpus == online for cpus in self.cpus_of_vcpus(online))

    def use(self, online: CpuSet, *, managed: bool) -> ObservedUse:
        """Return what it is charged as reality."""
        return charge(self.needs, online, managed=managed)

    def pages_known(self, size_kib: int, use: ObservedUse) -> bool:
        """Tell whether all its pages of this size are on cells that its XML names."""
        wanted_kib = sum(cell.memory_kib for cell in self.needs.bound_cells if cell.real_page_size_kib == size_kib)
        return wanted_kib <= sum(size * count for _, size, count in use.pages if size == size_kib)


@attrs.frozen(slots=True)
class HostSeen:
    """What one host told: facts, free pages (cell → size in KiB → count), domains."""

    facts: HostFacts
    free_pages: Mapping[int, Mapping[int, int]]
    guests: tuple[GuestSeen, ...]

    @property
    def online(self) -> CpuSet:
        """The host's online CPUs."""
        return self.facts.topology.cpus

    @property
    def active(self) -> tuple[GuestSeen, ...]:
        """The domains that have a process."""
        return tuple(guest for guest in self.guests if guest.active)

    def other_ledgers(self, ledger_id: str) -> frozenset[str]:
        """Return the ids of other ledgers whose guests are here."""
        owners = (guest.domain.ownership for guest in self.guests)
        return frozenset(owner.ledger_id for owner in owners if owner is not None and owner.ledger_id != ledger_id)

    def guest(self, uuid: str) -> GuestSeen | None:
        """Return the domain of this UUID, or None."""
        return next((guest for guest in self.guests if guest.uuid == uuid), None)

    def pools(self) -> dict[PoolKey, tuple[int, int]]:
        """Return (cell, size in KiB) → (total, free) of every pool of huge pages."""
        free = flatten(self.free_pages)
        return {
            (cell.id, pool.size_kib): (pool.total, free[cell.id, pool.size_kib])
            for cell in self.facts.topology.cells
            for pool in cell.pages
            if pool.size_kib != BASE_PAGE_SIZE_KIB and (cell.id, pool.size_kib) in free
        }
