"""Every extra spec of nova's NUMA code, every error under nova's name with the value at fault, and the way back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numaferry.errors import InvalidRequest
from numaferry.model import CellRequest, CpuSet, Flavor, NumaRequest, PciRequest
from numaferry.request import derive_flavor, numa_get_constraints

#: Time limits say nothing of a law where the machine is shared.
on_a_busy_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ALIASES = {"nic": (("8086", "1572"), ("8086", "154c")), "gpu": (("10de", "20b0"),)}


def ask(specs, image=None, vcpus=4, memory_mb=4096):
    return numa_get_constraints(Flavor("m1", vcpus, memory_mb, tuple(specs.items())), image or {}, aliases=ALIASES)


def cells(request):
    return [(str(cell.vcpus), str(cell.pinned_vcpus), cell.memory_kib, cell.page_size) for cell in request.cells]


def test_no_numa_wish_gives_no_cells_but_still_says_how_much():
    assert ask({}) == NumaRequest(vcpus=4, memory_kib=4096 * 1024)
    assert ask({"hw:cpu_policy": "shared"}).cells == ()


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ({"hw:numa_nodes": "2"}, [("0-1", "", 2097152, None), ("2-3", "", 2097152, None)]),
        ({"hw:cpu_policy": "dedicated"}, [("0-3", "0-3", 4194304, None)]),
        ({"hw:mem_page_size": "2MB"}, [("0-3", "", 4194304, 2048)]),
        ({"hw:mem_page_size": "1GB"}, [("0-3", "", 4194304, 1048576)]),
        ({"hw:mem_page_size": "2048"}, [("0-3", "", 4194304, 2048)]),
        ({"hw:mem_page_size": "large"}, [("0-3", "", 4194304, "large")]),
        ({"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "^0-1"}, [("0-3", "2-3", 4194304, None)]),
        ({"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "0,3"}, [("0-3", "0,3", 4194304, None)]),
        ({"resources:PCPU": "4"}, [("0-3", "0-3", 4194304, None)]),
        (
            {
                "hw:numa_nodes": "2",
                "hw:numa_cpus.0": "0-3,^1",
                "hw:numa_mem.0": "1024",
                "hw:numa_cpus.1": "1",
                "hw:numa_mem.1": "3072",
            },
            [("0,2-3", "", 1048576, None), ("1", "", 3145728, None)],
        ),
    ],
)
def test_cells(specs, expected):
    assert cells(ask(specs)) == expected


def test_policies_and_realtime_are_read():
    request = ask(
        {
            "hw:cpu_policy": "dedicated",
            "hw:cpu_thread_policy": "isolate",
            "hw:emulator_threads_policy": "isolate",
            "hw:cpu_realtime": "Yes",
            "hw:cpu_realtime_mask": "^0",
        }
    )
    assert (request.cpu_policy, request.thread_policy, request.emulator_threads_policy) == (
        "dedicated",
        "isolate",
        "isolate",
    )
    assert request.realtime_vcpus == CpuSet.parse("1-3")


def test_mixed_with_realtime_pins_the_realtime_vcpus():
    request = ask({"hw:cpu_policy": "mixed", "hw:cpu_realtime": "true", "hw:cpu_realtime_mask": "2-3"})
    assert cells(request) == [("0-3", "2-3", 4194304, None)]


def test_the_images_realtime_mask_goes_before_the_flavors():
    specs = {"hw:cpu_policy": "dedicated", "hw:cpu_realtime": "yes", "hw:cpu_realtime_mask": "^0"}
    assert ask(specs, {"hw_cpu_realtime_mask": "^0-1"}).realtime_vcpus == CpuSet.parse("2-3")


def test_isolated_emulator_threads_need_one_more_pcpu_of_placement():
    specs = {"hw:emulator_threads_policy": "isolate", "resources:PCPU": "5"}
    assert ask(specs).cpu_policy == "dedicated"
    with pytest.raises(InvalidRequest, match="resources:PCPU=4 for 4 vCPUs and one CPU for isolated"):
        ask(specs | {"resources:PCPU": "4"})


def test_hyperthreading_trait_is_a_thread_policy():
    specs = {"hw:cpu_policy": "dedicated", "trait:HW_CPU_HYPERTHREADING": "forbidden"}
    assert ask(specs).thread_policy == "isolate"
    specs["trait:HW_CPU_HYPERTHREADING"] = "required"
    assert ask(specs).thread_policy == "require"


def test_pci_aliases_become_requests_with_the_affinity_policy():
    specs = {"pci_passthrough:alias": "nic:2, gpu:1", "hw:pci_numa_affinity_policy": "required"}
    assert ask(specs).pci_requests == (
        PciRequest("nic", 2, ALIASES["nic"], "required"),
        PciRequest("gpu", 1, ALIASES["gpu"], "required"),
    )
    assert ask({"pci_passthrough:alias": "gpu:1"}).pci_requests[0].policy == "legacy"


def test_image_fills_in_what_the_flavor_leaves_open():
    request = ask(
        {"hw:mem_page_size": "any"},
        {
            "hw_numa_nodes": "2",
            "hw_cpu_policy": "dedicated",
            "hw_cpu_thread_policy": "require",
            "hw_mem_page_size": "4KB",
        },
    )
    assert cells(request) == [("0-1", "0-1", 2097152, 4), ("2-3", "2-3", 2097152, 4)]
    assert request.thread_policy == "require"


DEDICATED = {"hw:cpu_policy": "dedicated"}
CELLS_2 = {"hw:numa_nodes": "2", "hw:numa_mem.0": "2048", "hw:numa_mem.1": "2048"}

#: nova's exception name, extra specs, image properties, what the message quotes
INVALID = [
    ("InvalidNUMANodesNumber", {"hw:numa_nodes": "0"}, {}, "'0'"),
    ("InvalidNUMANodesNumber", {"hw:numa_nodes": "two"}, {}, "'two'"),
    ("InvalidNUMANodesNumber", {}, {"hw_numa_nodes": "-1"}, "'-1'"),
    ("InvalidNUMANodesNumber", {"hw:numa_nodes": " 2"}, {}, "' 2'"),
    ("ImageNUMATopologyForbidden", {"hw:numa_nodes": "2"}, {"hw_numa_nodes": "1"}, "hw_numa_nodes='1'"),
    (
        "ImageNUMATopologyForbidden",
        CELLS_2 | {"hw:numa_cpus.0": "0-1", "hw:numa_cpus.1": "2-3"},
        {"hw_numa_cpus.0": "0-3"},
        "0-3",
    ),
    ("ImageNUMATopologyForbidden", CELLS_2, {"hw_numa_mem.0": "4096"}, "4096"),
    (
        "Invalid",
        CELLS_2 | {"hw:numa_cpus.0": "0-1", "hw:numa_cpus.1": "2-3", "hw:numa_mem.0": "4096", "hw:numa_mem.1": "0"},
        {},
        "hw:numa_mem.1='0'",
    ),
    ("ImageNUMATopologyAsymmetric", {"hw:numa_nodes": "3"}, {}, "4 vCPUs and 4096 MiB"),
    ("ImageNUMATopologyIncomplete", CELLS_2, {}, "hw:numa_cpus for 0"),
    ("ImageNUMATopologyIncomplete", CELLS_2 | {"hw:numa_cpus.0": "0-3"}, {}, "hw:numa_cpus for 1"),
    (
        "ImageNUMATopologyCPUOutOfRange",
        CELLS_2 | {"hw:numa_cpus.0": "0-1", "hw:numa_cpus.1": "2-7"},
        {},
        "vCPUs 4-7",
    ),
    ("ImageNUMATopologyCPUDuplicates", CELLS_2 | {"hw:numa_cpus.0": "0-2", "hw:numa_cpus.1": "2-3"}, {}, "vCPUs 2 "),
    ("ImageNUMATopologyCPUsUnassigned", CELLS_2 | {"hw:numa_cpus.0": "0", "hw:numa_cpus.1": "2"}, {}, "vCPUs 1,3"),
    (
        "ImageNUMATopologyMemoryOutOfRange",
        CELLS_2 | {"hw:numa_cpus.0": "0-1", "hw:numa_cpus.1": "2-3", "hw:numa_mem.1": "100"},
        {},
        "2148 MiB",
    ),
    ("InvalidCPUAllocationPolicy", {"hw:cpu_policy": "exclusive"}, {}, "'exclusive'"),
    ("InvalidCPUAllocationPolicy", {}, {"hw_cpu_policy": "mine"}, "'mine'"),
    ("ImageCPUPinningForbidden", {"hw:cpu_policy": "shared"}, {"hw_cpu_policy": "dedicated"}, "'dedicated'"),
    ("ImageCPUPinningForbidden", {"hw:cpu_policy": "shared"}, {"hw_cpu_policy": "mixed"}, "'mixed'"),
    (
        "ImageCPUPinningForbidden",
        {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "0"},
        {"hw_cpu_policy": "dedicated"},
        "'dedicated'",
    ),
    ("InvalidCPUThreadAllocationPolicy", DEDICATED | {"hw:cpu_thread_policy": "avoid"}, {}, "'avoid'"),
    (
        "ImageCPUThreadPolicyForbidden",
        DEDICATED | {"hw:cpu_thread_policy": "isolate"},
        {"hw_cpu_thread_policy": "require"},
        "'require'",
    ),
    ("CPUThreadPolicyConfigurationInvalid", {"hw:cpu_thread_policy": "prefer"}, {}, "'prefer'"),
    ("InvalidEmulatorThreadsPolicy", DEDICATED | {"hw:emulator_threads_policy": "yes"}, {}, "'yes'"),
    ("BadRequirementEmulatorThreadsPolicy", {"hw:emulator_threads_policy": "isolate"}, {}, "'isolate'"),
    ("RealtimeConfigurationInvalid", {"hw:cpu_realtime": "yes", "hw:cpu_realtime_mask": "^0"}, {}, "vCPUs 1-3"),
    ("RealtimeMaskNotFoundOrInvalid", DEDICATED | {"hw:cpu_realtime": "yes"}, {}, "every vCPU"),
    (
        "RealtimeMaskNotFoundOrInvalid",
        DEDICATED | {"hw:cpu_realtime": "yes", "hw:cpu_realtime_mask": "^0-3"},
        {},
        "'^0-3'",
    ),
    (
        "RealtimeMaskNotFoundOrInvalid",
        DEDICATED | {"hw:cpu_realtime": "yes", "hw:cpu_realtime_mask": "2-5"},
        {},
        "vCPUs 4-5",
    ),
    (
        "InvalidEmulatorThreadsPolicy",  # told first, as nova does
        {"hw:emulator_threads_policy": "yes", "hw:cpu_realtime": "yes", "hw:cpu_realtime_mask": "1,7"},
        {},
        "'yes'",
    ),
    ("RequiredMixedInstancePolicy", DEDICATED | {"hw:cpu_dedicated_mask": "0"}, {}, "'0'"),
    ("RequiredMixedInstancePolicy", {"hw:cpu_dedicated_mask": "0"}, {}, "'shared'"),
    ("RequiredMixedOrRealtimeCPUMask", {"hw:cpu_policy": "mixed"}, {}, "neither"),
    (
        "RequiredMixedOrRealtimeCPUMask",
        {
            "hw:cpu_policy": "mixed",
            "hw:cpu_dedicated_mask": "0",
            "hw:cpu_realtime": "yes",
            "hw:cpu_realtime_mask": "^0",
        },
        {},
        "both",
    ),
    ("InvalidMixedInstanceDedicatedMask", {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "0-3"}, {}, "'0-3'"),
    ("InvalidMixedInstanceDedicatedMask", {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "2-6"}, {}, "vCPUs 4-6"),
    ("InvalidMixedInstanceDedicatedMask", {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "^0-3"}, {}, "'^0-3'"),
    ("Invalid", {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "3-1"}, {}, "'3-1'"),
    ("MemoryPageSizeInvalid", {"hw:mem_page_size": "big"}, {}, "'big'"),
    ("MemoryPageSizeInvalid", {"hw:mem_page_size": "0"}, {}, "'0'"),
    ("MemoryPageSizeForbidden", {}, {"hw_mem_page_size": "2048"}, "'2048'"),
    ("MemoryPageSizeForbidden", {"hw:mem_page_size": "4"}, {"hw_mem_page_size": "2048"}, "'2048'"),
    ("LockMemoryForbidden", {"hw:locked_memory": "true"}, {}, "'true'"),
    (
        "FlavorImageLockedMemoryConflict",
        {"hw:mem_page_size": "2048", "hw:locked_memory": "true"},
        {"hw_locked_memory": "false"},
        "'false'",
    ),
    ("InvalidPCINUMAAffinity", {"hw:pci_numa_affinity_policy": "near"}, {}, "'near'"),
    (
        "ImagePCINUMAPolicyForbidden",
        {"hw:pci_numa_affinity_policy": "socket"},
        {"hw_pci_numa_affinity_policy": "legacy"},
        "'legacy'",
    ),
    ("PciRequestAliasNotDefined", {"pci_passthrough:alias": "fpga:1"}, {}, "'fpga'"),
    ("PciInvalidAlias", {"pci_passthrough:alias": "nic"}, {}, "'nic'"),
    ("InvalidRequest", DEDICATED | {"resources:PCPU": "4"}, {}, "resources:PCPU=4"),
    ("InvalidRequest", {"resources:PCPU": "3"}, {}, "resources:PCPU=3"),
    ("InvalidRequest", {"resources:PCPU": "4", "resources1:VCPU": "1"}, {}, "resources:VCPU=1"),
    (
        "InvalidRequest",
        DEDICATED | {"hw:cpu_thread_policy": "require", "trait:HW_CPU_HYPERTHREADING": "required"},
        {},
        "'require'",
    ),
]


@pytest.mark.parametrize(("code", "specs", "image", "quoted"), INVALID)
def test_invalid_request_has_novas_name_and_quotes_the_value(code, specs, image, quoted):
    with pytest.raises(InvalidRequest) as caught:
        ask(specs, image)
    assert caught.value.code == code
    assert quoted in caught.value.message
    assert caught.value.hint


def test_flavor_without_vcpus_is_invalid():
    with pytest.raises(InvalidRequest, match="0 vCPUs"):
        ask({}, vcpus=0)


@st.composite
def derivable(draw):
    """A request as adoption makes them: 1..4 cells of any shape, pages of one size, any policy with its wishes."""
    order = draw(st.permutations(range(draw(st.integers(1, 12)))))
    count = draw(st.integers(1, min(4, len(order))))
    cuts = (
        sorted(draw(st.sets(st.integers(1, len(order) - 1), min_size=count - 1, max_size=count - 1)))
        if count > 1
        else []
    )
    groups = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    page_size = draw(st.sampled_from([None, 2048, 1048576]))
    policy = draw(st.sampled_from(["shared", "dedicated", "mixed"] if len(order) > 1 else ["shared", "dedicated"]))
    pinned = {"shared": frozenset(), "dedicated": frozenset(order)}.get(policy) or frozenset()
    if policy == "mixed":
        pinned = draw(st.sets(st.sampled_from(order), min_size=1, max_size=len(order) - 1))
    requests = tuple(
        CellRequest(
            number,
            CpuSet.of(group),
            CpuSet.of(vcpu for vcpu in group if vcpu in pinned),
            draw(st.integers(1, 4096)) * 1024,
            page_size,
        )
        for number, group in enumerate(groups)
    )
    realtime = frozenset()
    if policy == "dedicated" and len(order) > 1:
        realtime = draw(st.sets(st.sampled_from(order), max_size=len(order) - 1))
    return NumaRequest(
        vcpus=len(order),
        memory_kib=sum(cell.memory_kib for cell in requests),
        cells=requests,
        cpu_policy=policy,
        thread_policy=draw(st.sampled_from([None, "prefer", "require", "isolate"])) if policy != "shared" else None,
        emulator_threads_policy=draw(
            st.sampled_from([None, "share", "isolate"] if policy != "shared" else [None, "share"])
        ),
        realtime_vcpus=CpuSet.of(realtime),
    )


@on_a_busy_machine
@given(derivable())
def test_law_a_derived_flavor_asks_for_exactly_the_request_it_came_from(request):
    made, notes = derive_flavor("adopted-x", request)
    assert notes == ()
    assert numa_get_constraints(made) == request


def test_a_flavor_has_no_words_for_pages_of_two_sizes_and_says_so():
    cells_of_two = tuple(
        CellRequest(i, CpuSet.of([i]), CpuSet.of([i]), 1048576, size) for i, size in enumerate([2048, None])
    )
    request = NumaRequest(2, 2097152, cells_of_two, "dedicated")
    made, notes = derive_flavor("adopted-x", request)
    assert made.spec("hw:mem_page_size") is None
    assert "cell 0: 2048, cell 1: base" in notes[0]


def test_a_flavor_says_odd_memory_rounded_up_and_says_so():
    made, notes = derive_flavor("adopted-x", NumaRequest(1, 1025))
    assert made.memory_mb == 2
    assert "MiB" in notes[0]
