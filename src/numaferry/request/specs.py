"""Flavor extra specs and image properties side by side: who may say what, and what happens when both speak.

Behaviour of nova 34 (`nova/virt/hardware.py`); every error's code is the name of nova's exception for it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

import attrs

from numaferry.model import CpuSet
from numaferry.request.words import (
    invalid,
    parse_bool,
    parse_cpu_spec,
    parse_int,
    parse_page_size,
    parse_vcpu_mask,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.errors import InvalidRequest
    from numaferry.model import Flavor
    from numaferry.model.instance import (
        CpuPolicy,
        EmulatorThreadsPolicy,
        PageSizeWish,
        PciAffinityPolicy,
        ThreadPolicy,
    )

CPU_POLICIES: Final = ("shared", "dedicated", "mixed")
THREAD_POLICIES: Final = ("prefer", "require", "isolate")
EMULATOR_POLICIES: Final = ("share", "isolate")
PCI_POLICIES: Final = ("required", "legacy", "preferred", "socket")

#: No guest has more NUMA cells in nova (ImageMetaProps.NUMA_NODES_MAX).
MAX_CELLS: Final = 128


@attrs.frozen(slots=True)
class Specs:
    """A flavor with the image it is used with; extra spec ``hw:x`` and image property ``hw_x`` say the same thing."""

    flavor: Flavor
    extra: Mapping[str, str]
    image: Mapping[str, str]

    def both(self, key: str) -> tuple[str | None, str | None]:
        """Return (``hw:KEY`` of the flavor, ``hw_KEY`` of the image); what is empty is None."""
        return self.extra.get(f"hw:{key}") or None, self.image.get(f"hw_{key}") or None

    def listed(self, key: str) -> tuple[list[str] | None, list[str] | None]:
        """Return ``hw:KEY.0``, ``hw:KEY.1``, … up to the first gap, of flavor and image; None for none."""
        return _listed(self.extra, f"hw:{key}"), _listed(self.image, f"hw_{key}")


def _listed(values: Mapping[str, str], prefix: str) -> list[str] | None:
    found: list[str] = []
    while len(found) < MAX_CELLS and f"{prefix}.{len(found)}" in values:
        found.append(values[f"{prefix}.{len(found)}"])
    return found or None


def _forbidden(code: str, key: str, flavor: str | None, image: str | None) -> InvalidRequest:
    """Return the error for an image that contradicts its flavor."""
    return invalid(
        code,
        f"image property hw_{key}={image!r} may not override hw:{key}={flavor!r} of the flavor",
        f"remove hw_{key} from the image or hw:{key} from the flavor",
    )


def _one_of(code: str, specs: Specs, key: str, allowed: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Return both values of a key, each of which must be an allowed word."""
    flavor, image = specs.both(key)
    for name, value in ((f"hw:{key}", flavor), (f"hw_{key}", image)):
        if value and value not in allowed:
            raise invalid(code, f"{name}={value!r} is not one of {', '.join(allowed)}", f"set {name} to one of them")
    return flavor, image


def cpu_policy(specs: Specs) -> CpuPolicy | None:
    """Return hw:cpu_policy; the image may fill in, but not pin a guest whose flavor says it shares."""
    flavor, image = _one_of("InvalidCPUAllocationPolicy", specs, "cpu_policy", CPU_POLICIES)
    refused = {"mixed": ("dedicated",), "shared": ("mixed", "dedicated")}
    if image in refused.get(flavor or "", ()):
        raise _forbidden("ImageCPUPinningForbidden", "cpu_policy", flavor, image)
    return cast("CpuPolicy | None", flavor or image)


def thread_policy(specs: Specs) -> ThreadPolicy | None:
    """Return hw:cpu_thread_policy; the image may make `prefer` stricter, and change nothing else."""
    flavor, image = _one_of("InvalidCPUThreadAllocationPolicy", specs, "cpu_thread_policy", THREAD_POLICIES)
    if flavor not in {None, "prefer"} and image and image != flavor:
        raise _forbidden("ImageCPUThreadPolicyForbidden", "cpu_thread_policy", flavor, image)
    return cast("ThreadPolicy | None", flavor or image)


def emulator_threads_policy(specs: Specs) -> EmulatorThreadsPolicy | None:
    """Return hw:emulator_threads_policy, which only a flavor may set."""
    value = specs.extra.get("hw:emulator_threads_policy") or None
    if value and value not in EMULATOR_POLICIES:
        raise invalid(
            "InvalidEmulatorThreadsPolicy",
            f"hw:emulator_threads_policy={value!r} is not one of {', '.join(EMULATOR_POLICIES)}",
            "set it to share or isolate, or remove it",
        )
    return cast("EmulatorThreadsPolicy | None", value)


def realtime_vcpus(specs: Specs) -> CpuSet:
    """Return the realtime vCPUs: all but those the mask takes away; empty where hw:cpu_realtime is not on.

    The emulator threads need a CPU that no realtime vCPU blocks: a vCPU that is not realtime, or an emulator threads
    policy.
    """
    code = "RealtimeMaskNotFoundOrInvalid"
    if not parse_bool(specs.extra.get("hw:cpu_realtime")):
        return CpuSet()
    flavor, image = specs.both("cpu_realtime_mask")
    mask, vcpus = image or flavor, specs.flavor.vcpus
    every = CpuSet.of(range(vcpus))
    realtime = parse_vcpu_mask(mask, vcpus, spec="hw:cpu_realtime_mask") if mask else every
    on = f"hw:cpu_realtime={specs.extra.get('hw:cpu_realtime')!r}"
    shown = f"{on}, hw:cpu_realtime_mask={mask!r} of {vcpus} vCPUs" if mask else f"{on} without hw:cpu_realtime_mask"
    if not realtime:
        raise invalid(code, f"{shown} leaves no realtime vCPU", "name at least one vCPU")
    emulator = emulator_threads_policy(specs)
    if realtime == every and not emulator:
        raise invalid(
            code,
            f"{shown} makes every vCPU a realtime one",
            "leave one vCPU out (like ^0), or set hw:emulator_threads_policy",
        )
    if not realtime <= every:
        raise invalid(code, f"{shown} names vCPUs {realtime - every}", f"the guest has vCPUs 0-{vcpus - 1}")
    return realtime


def dedicated_vcpus(specs: Specs) -> CpuSet:
    """Return the vCPUs of hw:cpu_dedicated_mask (mixed guests); empty where it is not set."""
    mask, vcpus = specs.extra.get("hw:cpu_dedicated_mask"), specs.flavor.vcpus
    if not mask:
        return CpuSet()
    every = CpuSet.of(range(vcpus))
    pinned = parse_vcpu_mask(mask, vcpus, spec="hw:cpu_dedicated_mask")
    if not pinned or every <= pinned or not pinned <= every:
        raise invalid(
            "InvalidMixedInstanceDedicatedMask",
            f"hw:cpu_dedicated_mask={mask!r} of {vcpus} vCPUs gives {len(pinned & every)} of them a CPU of their own"
            + ("" if pinned <= every else f" and names vCPUs {pinned - every}, which the guest has not"),
            f"name at least one and not all of vCPUs 0-{vcpus - 1}",
        )
    return pinned


def cell_count(specs: Specs) -> int | None:
    """Return hw:numa_nodes, from one of flavor and image."""
    flavor, image = specs.both("numa_nodes")
    if flavor and image:
        raise _forbidden("ImageNUMATopologyForbidden", "numa_nodes", flavor, image)
    if not (flavor or image):
        return None
    nodes = parse_int(flavor or image or "")
    if nodes is None or nodes < 1:
        raise invalid(
            "InvalidNUMANodesNumber", f"hw:numa_nodes={flavor or image!r} is no number above 0", "use 1, 2, 3, …"
        )
    return nodes


def page_size(specs: Specs) -> PageSizeWish:
    """Return hw:mem_page_size in KiB or as a word; an image may choose only where the flavor says large or any."""
    flavor, image = specs.both("mem_page_size")
    if flavor is None and image is None:
        return None
    if flavor is None:
        raise _forbidden("MemoryPageSizeForbidden", "mem_page_size", None, image)
    wish = parse_page_size(flavor, spec="hw:mem_page_size")
    if image is None:
        return wish
    if wish not in {"any", "large"}:
        raise _forbidden("MemoryPageSizeForbidden", "mem_page_size", flavor, image)
    return parse_page_size(image, spec="hw_mem_page_size")


def check_locked_memory(specs: Specs) -> bool:
    """Tell whether memory is locked (hw:locked_memory), which needs a page size; flavor and image must agree."""
    flavor, image = specs.both("locked_memory")
    if flavor and image and parse_bool(flavor) != parse_bool(image):
        raise _forbidden("FlavorImageLockedMemoryConflict", "locked_memory", flavor, image)
    locked = parse_bool(flavor or image)
    if locked and not any(specs.both("mem_page_size")):
        raise invalid(
            "LockMemoryForbidden",
            f"hw:locked_memory={flavor or image!r} without hw:mem_page_size",
            "set hw:mem_page_size, so that the memory is accounted per cell",
        )
    return locked


def pci_policy(specs: Specs) -> PciAffinityPolicy | None:
    """Return hw:pci_numa_affinity_policy; flavor and image must agree. None: the alias's own, which is legacy."""
    flavor, image = specs.both("pci_numa_affinity_policy")
    if flavor and image and flavor != image:
        raise _forbidden("ImagePCINUMAPolicyForbidden", "pci_numa_affinity_policy", flavor, image)
    _one_of("InvalidPCINUMAAffinity", specs, "pci_numa_affinity_policy", PCI_POLICIES)
    return cast("PciAffinityPolicy | None", flavor or image)


def cell_cpus(specs: Specs) -> list[CpuSet] | None:
    """Return hw:numa_cpus.N, from one of flavor and image."""
    flavor, image = specs.listed("numa_cpus")
    if flavor is not None and image is not None:
        raise _forbidden("ImageNUMATopologyForbidden", "numa_cpus", ";".join(flavor), ";".join(image))
    found = flavor if flavor is not None else image
    if found is None:
        return None
    return [parse_cpu_spec(value, spec=f"hw:numa_cpus.{cell}") for cell, value in enumerate(found)]


def cell_memory_mb(specs: Specs) -> list[int] | None:
    """Return hw:numa_mem.N in MiB, from one of flavor and image; what is no number is ``Invalid``."""
    flavor, image = specs.listed("numa_mem")
    if flavor is not None and image is not None:
        raise _forbidden("ImageNUMATopologyForbidden", "numa_mem", ";".join(flavor), ";".join(image))
    found = flavor if flavor is not None else image
    if found is None:
        return None
    sizes = []
    for cell, value in enumerate(found):
        if not re.fullmatch(r"-?\d{1,12}", value.strip()):
            raise invalid("Invalid", f"hw:numa_mem.{cell}={value!r} is no memory size", "MiB, a number above 0")
        sizes.append(int(value))
    return sizes


def placement_resources(specs: Specs) -> tuple[int, int]:
    """Return how many VCPU and PCPU the flavor asks of placement (``resources:VCPU``, ``resources1:PCPU``, …)."""
    totals = {"VCPU": 0, "PCPU": 0}
    for key, value in specs.extra.items():
        found = re.match(r"resources([1-9][0-9]*)?:(VCPU|PCPU)", key)
        if found and value.strip().isdigit():
            totals[found[2]] += int(value)
    return totals["VCPU"], totals["PCPU"]


def hyperthreading_trait(specs: Specs) -> str | None:
    """Return "required" or "forbidden" where a HW_CPU_HYPERTHREADING trait is asked for, else None."""
    for key, value in specs.extra.items():
        if re.match(r"trait([1-9][0-9]*)?:HW_CPU_HYPERTHREADING", key):
            return value
    return "required" if specs.image.get("trait:HW_CPU_HYPERTHREADING") == "required" else None
