"""A judge of neutral cases that reads the JSON itself: nothing of the project is used, not even its reading of flavors.

Brute force over the homes of guest cells. Within a host cell the choices are counts of CPUs per core, since the free
threads of one core are alike. Only for requests that are valid.
"""

from fractions import Fraction
from itertools import combinations, permutations

PRODUCTS = {
    "nicA": {("8086", "1572")},
    "nicB": {("8086", "154c")},
    "nicAny": {("8086", "1572"), ("8086", "154c")},
    "gpu": {("10de", "20b0")},
}
SIZES = {"2048": 2048, "2MB": 2048, "64KB": 64, "4": 4, "1GB": 1 << 20}


def mask(text, vcpus):
    """Read a list of vCPUs; one that begins with ^ takes away from all."""
    into, out = set(range(vcpus)) if text.startswith("^") else set(), set()
    for part in text.split(","):
        (out if part.startswith("^") else into).add(int(part.lstrip("^")))
    return into - out


class Guest:
    """What the flavor asks for: (vCPUs, those with a CPU of their own, KiB) of each cell, and the policies."""

    def __init__(self, guest):
        specs, vcpus = guest["extra_specs"], guest["vcpus"]
        count, self.policy = int(specs["hw:numa_nodes"]), specs["hw:cpu_policy"]
        if "hw:numa_cpus.0" in specs:
            cpus = [mask(specs[f"hw:numa_cpus.{cell}"], vcpus) for cell in range(count)]
            memory = [int(specs[f"hw:numa_mem.{cell}"]) for cell in range(count)]
        else:
            cpus = [set(range(cell * vcpus // count, (cell + 1) * vcpus // count)) for cell in range(count)]
            memory = [guest["memory_mb"] // count] * count
        own = {"dedicated": set(range(vcpus)), "shared": set()}.get(self.policy)
        own = mask(specs["hw:cpu_dedicated_mask"], vcpus) if own is None else own
        self.cells = [(mine, mine & own, mib * 1024) for mine, mib in zip(cpus, memory, strict=True)]
        self.threads = specs.get("hw:cpu_thread_policy")
        self.isolated = specs.get("hw:emulator_threads_policy") == "isolate"
        self.pages = SIZES.get(specs.get("hw:mem_page_size"), specs.get("hw:mem_page_size"))
        self.affinity = specs.get("hw:pci_numa_affinity_policy", "legacy")
        parts = [part.split(":") for part in specs.get("pci_passthrough:alias", "").split(",") if part]
        self.devices = [PRODUCTS[name] for name, number in parts for _ in range(int(number))]


def cpus_valid(cell, pinned, extra, threads):
    """Tell whether these CPUs for vCPUs and for the emulator keep the thread policy."""
    free = set(cell["dedicated"]) - set(cell["pinned"])
    cores = [(set(core), len(set(core) & pinned)) for core in cell["siblings"]]
    if not pinned | extra <= free or pinned & extra:
        return False
    if threads == "require":
        wide = all(len(core & free) > 1 for core, on in cores if on)
        return wide and sum(on == 1 for _, on in cores) < 2
    if threads == "isolate":
        return all(on == 1 and core <= free and not core & extra for core, on in cores if on)
    return True


def cpus_found(cell, count, threads, emulator):
    """Tell whether so many CPUs and so many for the emulator can be had."""
    free = sorted(set(cell["dedicated"]) - set(cell["pinned"]))
    by_core = [[cpu for cpu in core if cpu in free] for core in cell["siblings"]]

    def more(core, pinned):
        if len(pinned) == count:
            rest = [cpu for cpu in free if cpu not in pinned]
            return any(cpus_valid(cell, pinned, set(extra), threads) for extra in combinations(rest, emulator))
        if core == len(by_core):
            return False
        most = min(len(by_core[core]), count - len(pinned))
        return any(more(core + 1, pinned | set(by_core[core][:on])) for on in range(most, -1, -1))

    return more(0, set())


def pages_allowed(cell, kib, guest, limits):
    """Return the page sizes that this memory can have here."""
    pools = {pool["size_kb"]: pool for pool in cell["pages"]}
    base = min(pools, default=4)
    free = {size: (pool["total"] - pool["used"] - pool["reserved"]) * size for size, pool in pools.items()}
    whole = cell["memory_mb"] * 1024
    used = cell["memory_used_mb"] * 1024
    if guest.pages is None and guest.policy != "shared":
        return [base] if kib <= free.get(base, whole - used) else []
    if guest.pages is None:
        room = pools[base]["total"] * base if pools else whole
        over = limits and used + kib > Fraction(str(limits["ram_allocation_ratio"])) * whole
        return [] if kib > room or over else [base]
    wanted = {"any": set(pools), "small": {base}, "large": set(pools) - {base}}.get(guest.pages, {guest.pages})
    return sorted(size for size in wanted & set(pools) if kib % size == 0 and kib <= free[size])


def shared_fit(cell, count, limits):
    """Tell whether so many shared vCPUs have room."""
    if not count:
        return True
    cpus = len(cell["shared"])
    return count <= cpus and (
        not limits or cell["cpu_usage"] + count <= Fraction(str(limits["cpu_allocation_ratio"])) * cpus
    )


def device_suits(case, guest, products, device, homes):
    """Tell whether a free device may be given for these products to a guest on these cells."""
    node = device["numa_node"]
    if device["used"] or (device["vendor"], device["product"]) not in products:
        return False
    sockets = {cell["id"]: cell["socket"] for cell in case["host"]["cells"]}
    beside = node in sockets and sockets[node] is not None and sockets[node] in {sockets[home] for home in homes}
    allowed = {"required": False, "preferred": True, "legacy": node is None, "socket": beside}
    return node in homes or allowed[guest.affinity]


def devices_found(case, guest, homes, wanted, taken=frozenset()):
    """Tell whether every device wanted can be had."""
    return not wanted or any(
        device_suits(case, guest, wanted[0], device, homes)
        and devices_found(case, guest, homes, wanted[1:], taken | {number})
        for number, device in enumerate(case["host"]["pci"])
        if number not in taken
    )


def verdict(case):
    """Return fits or nofit."""
    guest, cells, limits = Guest(case["guest"]), case["host"]["cells"], case["limits"]
    fits = [
        {
            number
            for number, cell in enumerate(cells)
            if shared_fit(cell, len(cpus - own), limits)
            and pages_allowed(cell, kib, guest, limits)
            and cpus_found(cell, len(own), guest.threads, int(guest.isolated and not place))
        }
        for place, (cpus, own, kib) in enumerate(guest.cells)
    ]
    for homes in permutations(range(len(cells)), len(guest.cells)):
        if all(home in fits[place] for place, home in enumerate(homes)) and devices_found(
            case, guest, {cells[home]["id"] for home in homes}, guest.devices
        ):
            return "fits"
    return "nofit"


def faults(case, answer):
    """Return what is wrong with an answer that says it fits."""
    guest, limits = Guest(case["guest"]), case["limits"]
    cells = {cell["id"]: cell for cell in case["host"]["cells"]}
    placed = {one["guest_cell"]: one for one in answer["cells"]}
    homes = [one["host_cell"] for one in answer["cells"]]
    wrong = [] if sorted(placed) == list(range(len(guest.cells))) else ["guest cells"]
    wrong += [] if len(set(homes)) == len(homes) else ["one host cell twice"]
    for place, one in placed.items():
        cpus, own, kib = guest.cells[place]
        cell, pinned, extra = cells[one["host_cell"]], set(one["pins"].values()), set(one["emulator_pcpus"])
        counts = (len(own), len(own), int(guest.isolated and place == 0))
        if {int(vcpu) for vcpu in one["pins"]} != own or (len(pinned), len(one["pins"]), len(extra)) != counts:
            wrong.append(f"CPUs of guest cell {place}")
        if not cpus_valid(cell, pinned, extra, guest.threads) or not shared_fit(cell, len(cpus - own), limits):
            wrong.append(f"policy of guest cell {place}")
        if one["page_kb"] not in pages_allowed(cell, kib, guest, limits):
            wrong.append(f"memory of guest cell {place}")
    known = {device["address"]: device for device in case["host"]["pci"]}
    dealt = any(
        all(
            device_suits(case, guest, wanted, known[one], homes)
            for wanted, one in zip(guest.devices, order, strict=True)
        )
        for order in permutations(answer["pci"])
        if len(order) == len(guest.devices)
    )
    return wrong if dealt and len(set(answer["pci"])) == len(answer["pci"]) else [*wrong, "devices"]
