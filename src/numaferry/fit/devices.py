"""Devices and networks: the couplings between host cells, matched exactly.

Which devices a request may have depends on the *set* of host cells that the guest uses, by the affinity policy:

=========== ==============================================================================
required    on a cell of the guest
legacy      on a cell of the guest, or on no known cell
preferred   anywhere, near ones first
socket      on any cell of a socket that the guest is on (a cell of unknown socket is its own)
=========== ==============================================================================

A larger set of cells never allows less, which is what the search in `solver` prunes by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.fit.matching import cover_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numaferry.model import HostState, NumaRequest, PciAddress, PciDevice, PciRequest
    from numaferry.model.instance import PciAffinityPolicy


def matches(request: PciRequest, device: PciDevice) -> bool:
    """Tell whether this free device is one of those that the alias names (and carries the network, if one is asked)."""
    wanted_network = request.physical_network
    return (
        not device.used
        and (device.vendor, device.product) in request.products
        and (wanted_network is None or wanted_network == device.physical_network)
    )


class Devices:
    """The devices of one question. Sets of host cells are masks of their numbers in the host's order."""

    __slots__ = (
        "_known",
        "_near",
        "_nowhere",
        "_policies",
        "_slots",
        "_socket",
        "devices",
        "networks",
        "relevant",
        "trivial",
    )

    def __init__(self, host: HostState, request: NumaRequest) -> None:
        self._known: dict[int, int | None] = {}
        self._slots: list[int] = []
        self._policies: list[PciAffinityPolicy] = []
        self._near: list[int] = []
        self._socket: list[int] = []
        self._nowhere = 0
        self.devices: list[PciDevice] = []
        #: For each network that binds: the host cells near to it.
        self.networks: list[tuple[str, int]] = []
        #: Host cells whose choice can make a difference.
        self.relevant = 0
        if request.pci_requests or request.physical_networks:
            self._look(host, request)
        #: Nothing is asked for: every set of cells does, at no distance.
        self.trivial = not self._slots and not self.networks

    def _look(self, host: HostState, request: NumaRequest) -> None:
        """Work out which devices and cells matter."""
        slots = [pci for pci in request.pci_requests for _ in range(pci.count)]
        self.devices = _distinct(host.pci, request.pci_requests, len(slots))
        self._slots = [
            sum(1 << number for number, device in enumerate(self.devices) if matches(pci, device)) for pci in slots
        ]
        self._policies = [pci.policy for pci in slots]
        self._nowhere = sum(1 << n for n, device in enumerate(self.devices) if device.numa_node is None)
        self._near = [
            sum(1 << n for n, device in enumerate(self.devices) if device.numa_node == cell.id) for cell in host.cells
        ]
        self._socket = [
            sum(near for near, other in zip(self._near, host.cells, strict=True) if other.socket == cell.socket)
            for cell in host.cells
        ]
        index_of = {cell.id: index for index, cell in enumerate(host.cells)}
        declared = dict(host.network_cells)
        self.networks = [
            (name, sum(1 << index_of[cell] for cell in declared[name] if cell in index_of))
            for name in request.physical_networks
            if declared.get(name)
        ]
        reach = self._socket if "socket" in self._policies else self._near
        self.relevant = sum(1 << index for index, near in enumerate(reach) if near)
        for _, cells in self.networks:
            self.relevant |= cells

    def far(self, cells: int) -> int | None:
        """Return how many devices would at least be away from these host cells; None where they can't be had."""
        if self.trivial:
            return 0
        key = cells & self.relevant
        if key not in self._known:
            self._known[key] = self._far(key)
        return self._known[key]

    def _far(self, cells: int) -> int | None:
        if any(not near & cells for _, near in self.networks):
            return None
        holder = self._match(cells)
        if holder is None:
            return None
        near = self.near(cells)
        return sum(1 for number in holder if not near >> number & 1)

    def near(self, cells: int) -> int:
        """Return the devices on these host cells."""
        mask = 0
        for index, near in enumerate(self._near):
            if cells >> index & 1:
                mask |= near
        return mask

    def allowed(self, cells: int | None) -> list[int]:
        """Return, for each device asked for, those that policy and alias allow; None for cells = a floating guest."""
        if cells is None:
            return self._slots
        near = self.near(cells)
        socket = 0
        for index, mask in enumerate(self._socket):
            if cells >> index & 1:
                socket |= mask
        reach = {"required": near, "legacy": near | self._nowhere, "socket": near | socket, "preferred": -1}
        return [slot & reach[policy] for slot, policy in zip(self._slots, self._policies, strict=True)]

    def _match(self, cells: int | None) -> list[int] | None:
        """Give each request a device of its own, as many near ones as possible; None where that is impossible.

        The sets of devices that can be given out together are the independent sets of a matroid, so trying the near
        ones first ends with the most near ones.
        """
        rows = self.allowed(cells)
        near = -1 if cells is None else self.near(cells)
        holder = [-1] * len(rows)
        for wanted in (near, ~near):
            for number in range(len(self.devices)):
                if wanted >> number & 1 and cover_column(rows, holder, number) and -1 not in holder:
                    return holder
        return None if -1 in holder else holder

    def choose(self, cells: int | None) -> tuple[PciAddress, ...]:
        """Return the addresses for these host cells (None: a floating guest), in the order of the requests."""
        holder = self._match(cells)
        if holder is None:
            raise ValueError("devices asked for a set of cells that does not have them")
        return tuple(self.devices[number].address for number in holder)

    def met(self, cells: int | None) -> int:
        """Return how many of the devices asked for can be had at once with these host cells."""
        rows = self.allowed(cells)
        holder = [-1] * len(rows)
        return sum(cover_column(rows, holder, number) for number in range(len(self.devices)))

    def wanted(self) -> int:
        """Return how many devices are asked for."""
        return len(self._slots)


def _distinct(devices: Sequence[PciDevice], requests: Sequence[PciRequest], most: int) -> list[PciDevice]:
    """Return the free devices that a request names, ordered by address, at most `most` of each equal kind."""
    counted: dict[object, int] = {}
    kept: list[PciDevice] = []
    if not requests:
        return kept
    for device in sorted(devices, key=_address_key):
        if not any(matches(request, device) for request in requests):
            continue
        kind = (device.vendor, device.product, device.numa_node, device.physical_network)
        counted[kind] = counted.get(kind, 0) + 1
        if counted[kind] <= most:
            kept.append(device)
    return kept


def _address_key(device: PciDevice) -> tuple[int, int, int, int]:
    address = device.address
    return (address.domain, address.bus, address.slot, address.function)
