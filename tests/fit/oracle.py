"""Does a request fit? Brute force from first principles, for small hosts only; knows nothing of the solver.

Every injective map of guest cells to host cells, every choice of CPUs, page size and devices is tried against
`checker`. Pairs are tried one by one first, since no rule couples the CPUs of two host cells.
"""

from itertools import combinations, permutations, product

from checker import base_memory_violations, base_room_kib, base_used_kib, cell_violations, device_suits


def fits(host, request):
    """Tell whether any placement at all is valid."""
    if not request.cells:
        return floating_fits(host, request)
    for homes in permutations(host.cells, len(request.cells)):
        options = [
            pair_options(host, request, wanted, state) for wanted, state in zip(request.cells, homes, strict=False)
        ]
        if not all(options):
            continue
        cells = {state.id for state in homes}
        if not networks_met(host, request, cells) or not devices_met(host, request, cells):
            continue
        if any(
            not base_memory_violations(
                host, request, {wanted.id: got for wanted, got in zip(request.cells, choice, strict=False)}
            )
            for choice in product(*options)
        ):
            return True
    return False


def pair_options(host, request, wanted, state):
    """Return the valid ways of this guest cell on this host cell, one for each page size."""
    emulator = request.emulator_threads_policy == "isolate" and wanted.id == min(cell.id for cell in request.cells)
    own = sorted(set(wanted.vcpus) & set(wanted.pinned_vcpus))
    free = sorted(set(state.dedicated) - set(state.pinned))
    sizes = [pool.size_kib for pool in state.pages] or [4]
    found = []
    for size in sizes:
        for cpus in combinations(free, len(own)):
            for extra in combinations([cpu for cpu in free if cpu not in cpus], int(emulator)):
                got = {
                    "host_cell": state.id,
                    "pins": dict(zip(own, cpus, strict=False)),
                    "emulator_pcpus": list(extra),
                    "page_kb": size,
                }
                if not cell_violations(host, request, wanted, state, got, emulator=emulator):
                    found.append(got)
                    break
            else:
                continue
            break
    return found


def networks_met(host, request, cells):
    """Tell whether each network that binds is near to one of the cells."""
    near = dict(host.network_cells)
    return all(set(near[name]) & cells for name in request.physical_networks if near.get(name))


def devices_met(host, request, cells):
    """Tell whether the devices can be dealt out, by trying every order."""
    wanted = [pci for pci in request.pci_requests for _ in range(pci.count)]
    free = [device for device in host.pci if not device.used]
    return any(
        all(device_suits(host, pci, device, cells) for pci, device in zip(wanted, chosen, strict=False))
        for chosen in permutations(free, len(wanted))
    )


def floating_fits(host, request):
    """Tell whether a guest without cells fits on the host as a whole; devices from anywhere."""
    cpus = sum(len(cell.shared) for cell in host.cells)
    memory = sum(cell.memory_kib for cell in host.cells)
    if request.vcpus > cpus or request.memory_kib > memory:
        return False
    if not devices_met_anywhere(host, request):
        return False
    if host.limits is None:
        return True
    vcpus = sum(cell.shared_vcpus for cell in host.cells) + host.floating_vcpus + request.vcpus
    memory_kib = base_used_kib(host) + host.floating_memory_kib + request.memory_kib
    return vcpus <= cpus * host.limits.cpu_allocation_ratio and memory_kib <= base_room_kib(host)


def devices_met_anywhere(host, request):
    """Tell whether aliases alone can be met; a floating guest has no cells to be near to."""
    wanted = [pci for pci in request.pci_requests for _ in range(pci.count)]
    free = [device for device in host.pci if not device.used]
    return any(
        all(
            (device.vendor, device.product) in pci.products and pci.physical_network in (None, device.physical_network)
            for pci, device in zip(wanted, chosen, strict=False)
        )
        for chosen in permutations(free, len(wanted))
    )
