"""The neutral case format for NUMA fits: one JSON object per line, a host, its limits and a guest's flavor.

Sizes in the format are MB of memory and KB of page size as nova writes them (both powers of two); counts for pages.
`host.mode` and `placed` are information only: the figures of the cells count. What a flavor's extra specs mean is not
read here (see `numaferry.service.cases`, which runs whole files).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numaferry.model import (
    CellState,
    CpuSet,
    Flavor,
    HostLimits,
    HostState,
    PageUsage,
    PciAddress,
    PciDevice,
    Placement,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numaferry.model import Misfit

#: The aliases that the format names: alias → (vendor, product) pairs.
ALIASES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "nicA": (("8086", "1572"),),
    "nicB": (("8086", "154c"),),
    "nicAny": (("8086", "1572"), ("8086", "154c")),
    "gpu": (("10de", "20b0"),),
}


def host_of(case: Mapping[str, Any]) -> HostState:
    """Return the host of a case; raises KeyError or ValueError for an object of another shape."""
    limits = case.get("limits")
    host = case["host"]
    return HostState(
        name=f"case-{case['id']}",
        cells=tuple(_cell(cell) for cell in host["cells"]),
        limits=HostLimits(limits["cpu_allocation_ratio"], limits["ram_allocation_ratio"]) if limits else None,
        pci=tuple(_device(device) for device in host.get("pci", ())),
    )


def flavor_of(case: Mapping[str, Any]) -> Flavor:
    """Return the guest of a case as a flavor."""
    guest = case["guest"]
    specs = tuple(sorted((key, str(value)) for key, value in guest["extra_specs"].items()))
    return Flavor(f"case-{case['id']}", guest["vcpus"], guest["memory_mb"], specs)


def _cell(cell: Mapping[str, Any]) -> CellState:
    socket = cell.get("socket")
    pages = sorted(cell.get("pages") or (), key=lambda pool: int(pool["size_kb"]))
    return CellState(
        id=cell["id"],
        cpus=CpuSet.of(cell["cpus"]),
        siblings=tuple(CpuSet.of(core) for core in cell["siblings"]),
        dedicated=CpuSet.of(cell["dedicated"]),
        shared=CpuSet.of(cell["shared"]),
        pinned=CpuSet.of(cell["pinned"]),
        shared_vcpus=cell["cpu_usage"],
        memory_kib=cell["memory_mb"] * 1024,
        memory_used_kib=cell["memory_used_mb"] * 1024,
        pages=tuple(PageUsage(pool["size_kb"], pool["total"], pool["used"], pool["reserved"]) for pool in pages),
        # a cell of unknown socket is alone on one of its own
        socket=-1 - cell["id"] if socket is None else socket,
    )


def _device(device: Mapping[str, Any]) -> PciDevice:
    return PciDevice(
        PciAddress.parse(device["address"]),
        device["vendor"],
        device["product"],
        device["numa_node"],
        used=bool(device["used"]),
    )


def answer_of(case: Mapping[str, Any], result: Placement | Misfit) -> dict[str, Any]:
    """Return the line of output for a fit that was tried: id, verdict, cells, pci, reasons."""
    if isinstance(result, Placement):
        return {**_empty(case, "fits"), "cells": _cells(result), "pci": [str(address) for address in result.pci]}
    sentences = [result.reason, *(short.sentence for short in result.shortages), *result.suggestions]
    return {**_empty(case, "nofit"), "reasons": list(dict.fromkeys(sentences))}


def no_numa(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line for a request that has no NUMA wish: there is nothing to fit."""
    return {**_empty(case, "no-numa"), "reasons": ["the request has no NUMA wish"]}


def invalid(case: Mapping[str, Any], code: str, message: str) -> dict[str, Any]:
    """Return the line for a request that contradicts itself; `code` is the name of nova's exception."""
    return {**_empty(case, "invalid"), "error": code, "reasons": [message]}


def _empty(case: Mapping[str, Any], verdict: str) -> dict[str, Any]:
    return {"id": case["id"], "verdict": verdict, "cells": [], "pci": [], "reasons": []}


def _cells(placement: Placement) -> list[dict[str, Any]]:
    topology = placement.numa_topology
    if topology is None:
        return []
    first = min(cell.id for cell in topology.cells)
    return [
        {
            "guest_cell": cell.id,
            "host_cell": cell.host_cell,
            "pins": {str(vcpu): cpu for vcpu, cpu in cell.cpu_pinning},
            "emulator_pcpus": list(topology.emulator_pcpus) if cell.id == first else [],
            "page_kb": cell.page_size_kib,
        }
        for cell in topology.cells
    ]
