"""Small hosts and requests for hypothesis: few CPUs, few pages, everything that couples."""

from hypothesis import strategies as st

from numaferry.model import (
    EMPTY,
    CellRequest,
    CellState,
    CpuSet,
    HostLimits,
    HostState,
    NumaRequest,
    PageUsage,
    PciAddress,
    PciDevice,
    PciRequest,
)

NIC_A, NIC_B = ("8086", "1572"), ("8086", "154c")
MIB = 1024


@st.composite
def cell_states(draw, cell_id, first_cpu, socket):
    """Return one host cell of at most eight CPUs, SMT 1, 2 or 4, and the first CPU id after it."""
    threads = draw(st.sampled_from([1, 2, 2, 2, 4]))
    cores = draw(st.just(8 // threads) | st.integers(0, 8 // threads))
    cpus = list(range(first_cpu, first_cpu + threads * cores))
    siblings = tuple(CpuSet.of(cpus[core::cores]) for core in range(cores))
    shared = CpuSet.of(draw(st.sets(st.sampled_from(cpus))) if cpus else [])
    mode = draw(st.sampled_from(["split", "dedicated", "legacy"]))
    every = CpuSet.of(cpus)
    dedicated = {"split": every - shared, "dedicated": every, "legacy": every}[mode]
    shared = {"split": shared, "dedicated": EMPTY, "legacy": every}[mode]
    pinned = CpuSet.of(draw(st.sets(st.sampled_from(list(dedicated)), max_size=2)) if dedicated else [])
    pages = draw(st.sampled_from(["none", "base", "base+2M"]))
    huge_total = draw(st.integers(1, 6)) if pages == "base+2M" else 0
    base_total_mib = draw(st.integers(0, 12))
    memory_kib = (base_total_mib + 2 * huge_total) * MIB
    base_used_mib = draw(st.integers(0, base_total_mib) | st.just(0))
    huge_used = draw(st.integers(0, huge_total) | st.just(0))
    pools = []
    if pages != "none":
        pools.append(PageUsage(4, base_total_mib * 256, base_used_mib * 256, draw(st.sampled_from([0, 0, 256]))))
    if pages == "base+2M":
        pools.append(PageUsage(2048, huge_total, huge_used, draw(st.sampled_from([0, 0, 1]))))
    state = CellState(
        id=cell_id,
        cpus=every,
        siblings=siblings,
        dedicated=dedicated,
        shared=shared,
        pinned=pinned,
        shared_vcpus=draw(st.integers(0, 4)),
        memory_kib=memory_kib,
        memory_used_kib=(base_used_mib + 2 * huge_used) * MIB,
        pages=tuple(pools),
        socket=socket,
    )
    return state, first_cpu + len(cpus)


@st.composite
def hosts(draw, max_cells=3):
    """Return a host of one to three cells, ids perhaps sparse, devices, networks, something floating perhaps."""
    ids = draw(st.sampled_from([[0, 1, 2], [0, 1, 2], [1, 4, 8]]))[: draw(st.integers(1, max_cells))]
    cells, first = [], 0
    for number, cell_id in enumerate(ids):
        state, first = draw(cell_states(cell_id, first, number // 2))
        cells.append(state)
    device = st.builds(
        lambda product, node, used: (product, node, used),
        st.sampled_from([NIC_A, NIC_B]),
        st.sampled_from([*ids, None]),
        st.booleans(),
    )
    devices = draw(st.lists(device, max_size=4))
    floats = draw(st.booleans())
    ratios = st.builds(HostLimits, st.sampled_from([1.0, 2.0, 1.5]), st.sampled_from([1.0, 1.5]))
    return HostState(
        name="host",
        cells=tuple(cells),
        limits=draw(st.none() | ratios),
        floating_vcpus=draw(st.integers(0, 6)) if floats else 0,
        floating_memory_kib=draw(st.integers(0, 8)) * MIB if floats else 0,
        pci=tuple(
            PciDevice(PciAddress(0, 1, number, 0), *product, node, used)
            for number, (product, node, used) in enumerate(devices)
        ),
        network_cells=draw(st.sampled_from([(), (), (("physnet", (ids[-1],)),)])),
        emulator_cpu_on_page_cells=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def requests(draw, max_cells=3):
    """Return a request of up to three cells with every kind of wish."""
    count = draw(st.integers(1, max_cells))
    policy = draw(st.sampled_from(["dedicated", "dedicated", "mixed", "shared"]))
    page = draw(st.sampled_from([None, None, 4, 2048, "small", "large", "any"]))
    cells, first = [], 0
    for cell_id in range(count):
        size = draw(st.integers(1, 3))
        vcpus = CpuSet.of(range(first, first + size))
        first += size
        pinned = {"dedicated": vcpus, "shared": EMPTY}.get(policy)
        if pinned is None:
            pinned = CpuSet.of(draw(st.sets(st.sampled_from(list(vcpus)))))
        cells.append(CellRequest(cell_id, vcpus, pinned, draw(st.integers(1, 4)) * MIB, page))
    own = policy != "shared"
    pci = st.builds(
        PciRequest,
        st.just("nic"),
        st.integers(1, 2),
        st.sampled_from([(NIC_A,), (NIC_B,), (NIC_A, NIC_B)]),
        st.sampled_from(["required", "legacy", "preferred", "socket"]),
    )
    return NumaRequest(
        vcpus=first,
        memory_kib=sum(cell.memory_kib for cell in cells),
        cells=tuple(cells),
        cpu_policy=policy,
        thread_policy=draw(st.sampled_from([None, "prefer", "require", "isolate"])) if own else None,
        emulator_threads_policy=draw(st.sampled_from([None, "share", "isolate"])) if own else None,
        realtime_vcpus=draw(st.sampled_from([EMPTY, EMPTY, CpuSet.of(range(1, first)), CpuSet.of(range(first))])),
        pci_requests=tuple(draw(st.lists(pci, max_size=2))) if draw(st.booleans()) else (),
        physical_networks=draw(st.sampled_from([(), (), ("physnet",)])),
    )
