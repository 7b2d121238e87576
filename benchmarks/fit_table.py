"""The cases that are timed, in the neutral format, with the goal for each as `docs/fit.md` states it."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

CORES, THREADS = 16, 2
MEMORY_MB = 65536


class Row(NamedTuple):
    """One line of the table: hosts to answer for (most rows: one), the guest, and the goal."""

    name: str
    hosts: list[dict[str, Any]]
    guest: dict[str, Any]
    fits: bool
    #: At least this many times faster than nova, or at most so many milliseconds.
    faster: float | None = None
    at_most_ms: float | None = None


def cell(number: int, busy: int, *, cores: int = CORES) -> dict[str, Any]:
    """Return a host cell with `busy` of its cores pinned, every CPU dedicated."""
    first = number * cores * THREADS
    siblings = [[first + core, first + core + cores] for core in range(cores)]
    cpus = sorted(cpu for core in siblings for cpu in core)
    return {
        "id": number,
        "socket": 0,
        "cpus": cpus,
        "siblings": siblings,
        "shared": [],
        "dedicated": cpus,
        "pinned": sorted(cpu for core in siblings[:busy] for cpu in core),
        "cpu_usage": 0,
        "memory_mb": MEMORY_MB,
        "memory_used_mb": 0,
        "pages": [{"size_kb": 4, "total": MEMORY_MB * 256, "used": 0, "reserved": 0}],
    }


def host(busy: list[int], *, vf_node: int | None = -1, cores: int = CORES) -> dict[str, Any]:
    """Return a host of one cell for each number of busy cores; one VF where `vf_node` is not -1."""
    vf = {"address": "0000:01:00.0", "numa_node": vf_node, "vendor": "8086", "product": "154c", "used": False}
    return {
        "mode": "dedicated-only",
        "cells": [cell(number, count, cores=cores) for number, count in enumerate(busy)],
        "pci": [] if vf_node == -1 else [vf],
    }


def guest(cells: int, vcpus: int, *, vf: bool = False) -> dict[str, Any]:
    """Return a dedicated guest of so many cells and vCPUs in all; one VF with affinity `required` if asked."""
    specs = {"hw:numa_nodes": str(cells), "hw:cpu_policy": "dedicated"}
    if vf:
        specs |= {"pci_passthrough:alias": "nicB:1", "hw:pci_numa_affinity_policy": "required"}
    return {"vcpus": vcpus, "memory_mb": 1024 * cells, "extra_specs": specs}


def fleet(count: int) -> list[dict[str, Any]]:
    """Return so many hosts of two cells, each cell with a random part of its cores busy."""
    rng = random.Random(20260722)  # noqa: S311  (the same fleet every time)
    return [host([rng.randrange(CORES + 1), rng.randrange(CORES + 1)]) for _ in range(count)]


def rows() -> list[Row]:
    """Return the table."""
    full, l3 = CORES, 4
    return [
        Row("2-cell host half pinned, 1-cell 8-vCPU guest: fits", [host([8, 8])], guest(1, 8), fits=True, faster=5),
        Row("8-cell host, 8-cell guest: fits", [host([8] * 8)], guest(8, 32), fits=True, faster=5),
        Row(
            "8-cell host, 8-cell guest: 7 cells have room",
            [host([8] * 7 + [full])],
            guest(8, 32),
            fits=False,
            faster=500,
        ),
        Row(
            "16-cell host (L3 as NUMA), 6-cell guest: no fit",
            [host([0] * 5 + [l3] * 11, cores=l3)],
            guest(6, 12),
            fits=False,
            at_most_ms=2,
        ),
        Row(
            "16-cell host (L3 as NUMA), 8-cell guest: no fit",
            [host([0] * 7 + [l3] * 9, cores=l3)],
            guest(8, 16),
            fits=False,
            at_most_ms=3,
        ),
        Row(
            "8-cell host, 4-cell guest, VF required: no fit",
            [host([8] * 8, vf_node=None)],
            guest(4, 16, vf=True),
            fits=False,
            at_most_ms=3,
        ),
        Row(
            "8-cell host, 8-cell guest, VF required: no fit",
            [host([8] * 8, vf_node=None)],
            guest(8, 32, vf=True),
            fits=False,
            at_most_ms=5,
        ),
        Row("4-cell host, 2-cell guest: fits", [host([8, 4, 12, 6])], guest(2, 8), fits=True),
        Row("16-cell host, 4-cell guest: fits", [host([8, 4, 12, 6] * 4)], guest(4, 16), fits=True),
        Row("1000 hosts answered one by one, 2-cell 16-vCPU guest", fleet(1000), guest(2, 16), fits=True),
    ]
