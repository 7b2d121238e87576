"""What the topology picture shows of one host: its cells with what is taken, and who owns each CPU. Pure values."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from numaferry.model import EMPTY, CpuSet, HostState, union

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numaferry.model import Instance, Migration, ObservedUse


class Tenure(enum.StrEnum):
    """By what right a guest is on its CPUs."""

    CLAIMED = "claimed"
    #: It runs elsewhere; these CPUs are held for its arrival.
    INCOMING = "incoming"
    #: It runs here until its migration is through.
    OUTGOING = "outgoing"
    #: Seen by discovery, promised by nobody.
    SEEN = "seen, not managed"


class CpuRole(enum.StrEnum):
    """What a CPU is for, by the operator's sets."""

    DEDICATED = "dedicated"
    SHARED = "shared"
    HOST = "host"


@attrs.frozen(slots=True)
class MapGuest:
    """One guest on the map: the CPUs it is on, and those kept free beside them (thread policy isolate)."""

    uuid: str
    name: str
    cpus: CpuSet
    tenure: Tenure
    kept_free: CpuSet = EMPTY
    #: Its threads may run on any CPU of the host.
    floating: bool = False


@attrs.frozen(slots=True)
class HostMap:
    """One host as a picture's subject; `guests` are ordered by name, so that letters are stable."""

    host: str
    state: HostState
    guests: tuple[MapGuest, ...]
    #: Of the whole host; cells show what of it is for guests.
    memory_kib: int = 0
    confirmed: bool = True
    #: Said under the picture: "as last seen, the host can't be reached".
    note: str = ""

    def role(self, cpu: int) -> CpuRole:
        """Return what this CPU is for."""
        if any(cpu in cell.dedicated for cell in self.state.cells):
            return CpuRole.DEDICATED
        if any(cpu in cell.shared for cell in self.state.cells):
            return CpuRole.SHARED
        return CpuRole.HOST

    def owners(self, cpu: int) -> tuple[MapGuest, ...]:
        """Return the guests on this CPU; more than one is a broken promise."""
        return tuple(guest for guest in self.guests if cpu in guest.cpus)


def build(
    state: HostState,
    instances: Iterable[Instance],
    observed: Iterable[ObservedUse],
    moves: Iterable[Migration] = (),
    *,
    memory_kib: int = 0,
    confirmed: bool = True,
    note: str = "",
) -> HostMap:
    """Draw together what the ledger promises on this host, what is arriving, and what is merely seen.

    `instances` are those of the host and those of `moves`; `moves` the migrations in progress from or to the host.
    """
    here = state.name
    arriving = {move.instance_uuid: move for move in moves if move.dest == here}
    leaving = {move.instance_uuid for move in moves if move.source == here}
    guests = []
    known = set()
    for instance in instances:
        move = arriving.get(instance.uuid)
        if instance.host != here and move is None:
            continue
        topology, tenure = instance.numa_topology, Tenure.CLAIMED
        if instance.uuid in leaving:
            tenure = Tenure.OUTGOING
        if move is not None and instance.host != here:
            topology = move.context.new_numa_topology if move.context else None
            tenure = Tenure.INCOMING
        known.add(instance.uuid)
        pinned = CpuSet.of(cpu for _, cpu in topology.cpu_pinning) if topology else EMPTY
        owned = topology.owned_cpus if topology else EMPTY
        cpus = pinned | (topology.emulator_pcpus if topology else EMPTY)
        guests.append(MapGuest(instance.uuid, instance.name, cpus, tenure, owned - cpus, floating=not owned))
    # Threads that share the shared set own nothing of it.
    shared = union(cell.shared for cell in state.cells) if confirmed else EMPTY
    guests += [
        MapGuest(use.uuid, use.name, use.pinned_cpus - shared, Tenure.SEEN, floating=use.floating)
        for use in observed
        if use.uuid not in known
    ]
    ordered = tuple(sorted(guests, key=lambda guest: (guest.name, guest.uuid)))
    return HostMap(host=here, state=state, guests=ordered, memory_kib=memory_kib, confirmed=confirmed, note=note)
