"""Is a placement valid? Judged from the rules alone, with plain sets; knows nothing of the solver.

It takes the neutral answer (`fit.cases.answer_of`): cells with pins, emulator CPUs and page sizes, and devices.
"""

from collections import Counter
from itertools import combinations


def violations(host, request, answer):
    """Return a sentence for every rule that the placement breaks; an empty list means that it is valid."""
    placed = {cell["guest_cell"]: cell for cell in answer["cells"]}
    wrong = []
    if sorted(placed) != sorted(cell.id for cell in request.cells):
        return [f"guest cells {sorted(placed)} were placed, {sorted(cell.id for cell in request.cells)} asked for"]
    used = Counter(cell["host_cell"] for cell in answer["cells"])
    wrong += [f"host cell {cell} is used {count} times" for cell, count in used.items() if count > 1]
    for wanted in request.cells:
        got = placed[wanted.id]
        state = host.cell(got["host_cell"])
        if state is None:
            wrong.append(f"there is no host cell {got['host_cell']}")
            continue
        emulator = request.emulator_threads_policy == "isolate" and wanted.id == min(placed)
        wrong += cell_violations(host, request, wanted, state, got, emulator=emulator)
    return wrong + base_memory_violations(host, request, placed) + device_violations(host, request, answer)


def cell_violations(host, request, wanted, state, got, *, emulator):
    """Return what is wrong with one guest cell on one host cell."""
    pins = {int(vcpu): cpu for vcpu, cpu in got["pins"].items()}
    extra = list(got["emulator_pcpus"])
    own = set(wanted.vcpus) & set(wanted.pinned_vcpus)
    wrong = []
    if set(pins) != own:
        wrong.append(f"vCPUs {sorted(pins)} are pinned, {sorted(own)} want a CPU of their own")
    taken = [*pins.values(), *extra]
    if len(set(taken)) < len(taken):
        wrong.append(f"a CPU is given twice: {taken}")
    free = set(state.dedicated) - set(state.pinned)
    if not set(taken) <= free:
        wrong.append(f"CPUs {sorted(set(taken) - free)} are not dedicated and free")
    if len(extra) != int(emulator):
        wrong.append(f"{len(extra)} emulator CPUs, {int(emulator)} wanted")
    wrong += thread_violations(request.thread_policy, state, free, list(pins.values()), extra)
    wrong += shared_violations(host, state, len(set(wanted.vcpus) - own))
    wrong += memory_violations(host, request, wanted, state, got["page_kb"])
    starts = extra or set(wanted.vcpus) - set(request.realtime_vcpus)
    if huge(state, got["page_kb"]) and host.emulator_cpu_on_page_cells and not starts:
        wrong.append("no CPU of its own for the emulator threads at start")
    return wrong


def cores_of(state):
    """Return every core of a cell as a set; a CPU that no core names is one by itself."""
    cores = [set(core) for core in state.siblings]
    named = set().union(*cores) if cores else set()
    return cores + [{cpu} for cpu in set(state.cpus) - named]


def thread_violations(policy, state, free, pinned, extra):
    """Return what a thread policy forbids."""
    wrong = []
    per_core = [(core, [cpu for cpu in pinned if cpu in core]) for core in cores_of(state)]
    if policy == "require":
        wrong += [
            f"core {sorted(core)} has no two free threads" for core, on in per_core if on and len(core & free) < 2
        ]
        if sum(1 for _, on in per_core if len(on) == 1) > 1:
            wrong.append("more than one vCPU is alone on its core")
    if policy == "isolate":
        dedicated = set(state.dedicated)
        for core, on in per_core:
            if len(on) > 1:
                wrong.append(f"{len(on)} vCPUs on core {sorted(core)}")
            if on and not core <= free:
                wrong.append(f"core {sorted(core)} is not wholly free and dedicated ({sorted(dedicated)})")
            if on and core & set(extra):
                wrong.append(f"the emulator's CPU is on core {sorted(core)} of a vCPU")
    return wrong


def shared_violations(host, state, shared):
    """Return what is wrong with shared vCPUs."""
    wrong = []
    if shared > len(state.shared):
        wrong.append(f"{shared} shared vCPUs on {len(state.shared)} shared CPUs")
    if shared and host.limits and state.shared_vcpus + shared > len(state.shared) * host.limits.cpu_allocation_ratio:
        wrong.append("shared vCPUs beyond the ratio")
    return wrong


def memory_violations(host, request, wanted, state, page_kb):
    """Return what is wrong with a guest cell's memory."""
    sizes = {pool.size_kib: pool for pool in state.pages}
    if wanted.page_size is None:
        return plain_memory_violations(host, request, wanted, state, page_kb)
    if page_kb not in sizes:
        return [f"host cell {state.id} has no pages of {page_kb} KiB"]
    pool, wrong = sizes[page_kb], []
    allowed = {
        "small": page_kb == min(sizes),
        "large": page_kb > min(sizes),
        "any": True,
    }.get(wanted.page_size, page_kb == wanted.page_size)
    if not allowed:
        wrong.append(f"pages of {page_kb} KiB for a wish of {wanted.page_size}")
    if wanted.memory_kib % page_kb:
        wrong.append("memory is no multiple of the page size")
    if wanted.memory_kib > (pool.total - pool.used - pool.reserved) * page_kb:
        wrong.append(f"too few free pages of {page_kb} KiB")
    return wrong


def plain_memory_violations(host, request, wanted, state, page_kb):
    """Return what is wrong with memory that wished for no page size."""
    base = state.pages[0] if state.pages else None
    if base and page_kb != base.size_kib:
        return [f"pages of {page_kb} KiB where none were asked for"]
    total = base.total * base.size_kib if base else state.memory_kib
    free = (base.total - base.used - base.reserved) * base.size_kib if base else total - state.memory_used_kib
    if request.cpu_policy != "shared":
        return ["not enough free memory"] if wanted.memory_kib > free else []
    wrong = ["larger than the host cell"] if wanted.memory_kib > total else []
    ratio = host.limits.ram_allocation_ratio if host.limits else None
    if ratio is not None and state.memory_used_kib + wanted.memory_kib > state.memory_kib * ratio:
        wrong.append("memory beyond the ratio")
    return wrong


def huge(state, page_kb):
    """Tell whether this is not the base page size of the cell."""
    return bool(state.pages) and page_kb > state.pages[0].size_kib


def base_memory_violations(host, request, placed):
    """Return what bound guests may not take from floating ones."""
    wrong = []
    if host.limits is None:
        return wrong
    shared = sum(len(set(cell.vcpus) - set(cell.pinned_vcpus)) for cell in request.cells)
    vcpus = shared + host.floating_vcpus + sum(cell.shared_vcpus for cell in host.cells)
    carried = sum(len(cell.shared) for cell in host.cells) * host.limits.cpu_allocation_ratio
    if host.floating_vcpus and shared and vcpus > carried:
        wrong.append("bound and floating vCPUs beyond the host's capacity")
    if not host.floating_memory_kib:
        return wrong
    new = sum(
        cell.memory_kib
        for cell in request.cells
        if not huge(host.cell(placed[cell.id]["host_cell"]), placed[cell.id]["page_kb"])
    )
    if new and base_used_kib(host) + new + host.floating_memory_kib > base_room_kib(host):
        wrong.append("base pages beyond what floating guests leave")
    return wrong


def base_used_kib(host):
    """Return the memory in base pages that bound guests have; all of it where a cell tells no pools."""
    return sum(
        cell.pages[0].used * cell.pages[0].size_kib if cell.pages else cell.memory_used_kib for cell in host.cells
    )


def base_room_kib(host):
    """Return the memory in base pages that the host may promise."""
    totals = [
        (cell.pages[0].total - cell.pages[0].reserved) * cell.pages[0].size_kib if cell.pages else cell.memory_kib
        for cell in host.cells
    ]
    return int(sum(totals) * host.limits.ram_allocation_ratio)


def device_violations(host, request, answer):
    """Return what is wrong with the devices and networks."""
    cells = {cell["host_cell"] for cell in answer["cells"]}
    chosen = [next((d for d in host.pci if str(d.address) == address), None) for address in answer["pci"]]
    wanted = [pci for pci in request.pci_requests for _ in range(pci.count)]
    wrong = []
    if None in chosen or len(set(answer["pci"])) < len(chosen) or any(device.used for device in chosen):
        return [f"devices {answer['pci']} are unknown, used, or given twice"]
    if len(chosen) != len(wanted) or not assignable(host, wanted, chosen, cells):
        wrong.append(f"devices {answer['pci']} do not meet the requests from cells {sorted(cells)}")
    near = dict(host.network_cells)
    return wrong + [
        f"no cell of the guest is near network {name}"
        for name in request.physical_networks
        if near.get(name) and not set(near[name]) & cells
    ]


def assignable(host, wanted, devices, cells):
    """Tell whether the devices can be dealt out so that each request gets one that suits it (Hall's condition)."""
    suits = [
        {number for number, device in enumerate(devices) if device_suits(host, pci, device, cells)} for pci in wanted
    ]
    return all(
        len(set().union(*group)) >= size for size in range(1, len(suits) + 1) for group in combinations(suits, size)
    )


def device_suits(host, pci, device, cells):
    """Tell whether alias and affinity policy allow this device to a guest on these host cells."""
    if (device.vendor, device.product) not in pci.products:
        return False
    if pci.physical_network not in (None, device.physical_network):
        return False
    near = device.numa_node in cells
    sockets = {host.cell(cell).socket for cell in cells}
    home = host.cell(device.numa_node) if device.numa_node is not None else None
    return {
        "required": near,
        "legacy": near or device.numa_node is None,
        "socket": near or (home is not None and home.socket in sockets),
        "preferred": True,
    }[pci.policy]
