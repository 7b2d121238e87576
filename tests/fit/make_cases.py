"""Write tests/fit/cases.jsonl: random cases in the neutral format, verdicts by the oracle.

`python tests/fit/make_cases.py` from the root of the repository; the same file every time.
"""

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
SEED, COUNT = 20260722, 60


def cell(rng, cell_id, first, socket):
    """Return a host cell of at most eight CPUs in the format's words."""
    threads = rng.choice([1, 2, 2, 4])
    cores = rng.choice([0, 8 // threads, 8 // threads, 4 // threads or 1])
    cpus = list(range(first, first + threads * cores))
    shared = cpus[: rng.choice([0, 0, threads, 2 * threads])]
    dedicated = cpus[len(shared) :]
    base, huge = rng.choice([0, 512, 2048]), rng.choice([0, 128, 512])
    pools = [{"size_kb": 4, "total": base * 256, "used": rng.choice([0, base * 128]), "reserved": 0}]
    if huge:
        used = rng.choice([0, huge // 2])
        pools.append({"size_kb": 2048, "total": huge, "used": used, "reserved": rng.choice([0, 16])})
    used_mb = sum(pool["used"] * pool["size_kb"] for pool in pools) // 1024
    return {
        "id": cell_id,
        "socket": socket,
        "cpus": cpus,
        "siblings": [cpus[core * threads : (core + 1) * threads] for core in range(cores)],
        "shared": shared,
        "dedicated": dedicated,
        "pinned": sorted(rng.sample(dedicated, min(len(dedicated), rng.choice([0, 0, 1, 3])))),
        "cpu_usage": rng.randint(0, 3) if shared else 0,
        "memory_mb": base + 2 * huge,
        "memory_used_mb": used_mb,
        "pages": rng.choice([pools, pools, pools, []]),
    }


def specs(rng, vcpus):
    """Return extra specs: one to three guest cells and whatever wishes go with the CPU policy."""
    policy = rng.choice(["dedicated", "dedicated", "mixed", "shared", "exclusive" if rng.random() < 0.1 else "shared"])
    found = {"hw:cpu_policy": policy, "hw:numa_nodes": str(rng.choice([n for n in (1, 2, 3) if vcpus % n == 0]))}
    if policy == "mixed":
        found["hw:cpu_dedicated_mask"] = f"^0-{rng.randrange(vcpus - 1)}" if vcpus > 1 else "0"
    if policy in {"dedicated", "mixed"}:
        found |= rng.choice([{}, {}, {"hw:cpu_thread_policy": rng.choice(["prefer", "require", "isolate"])}])
        found |= rng.choice([{}, {"hw:emulator_threads_policy": rng.choice(["share", "isolate"])}])
    found |= rng.choice([{}, {"hw:mem_page_size": rng.choice(["small", "large", "any", "2MB", "1GB"])}])
    if rng.random() < 0.4:
        found["pci_passthrough:alias"] = rng.choice(["nicA:1", "nicAny:1", "nicAny:1,nicB:1"])
        found["hw:pci_numa_affinity_policy"] = rng.choice(["required", "legacy", "preferred", "socket"])
    return found


def make(rng, number):
    """Return one case without its verdict."""
    ids = rng.choice([[0], [0, 1], [0, 1, 2], [2, 5, 9]])
    cells, first = [], 0
    for place, cell_id in enumerate(ids):
        cells.append(cell(rng, cell_id, first, place // 2))
        first += len(cells[-1]["cpus"])
    vcpus = rng.choice([1, 2, 3, 4, 6])
    ratios = {"cpu_allocation_ratio": rng.choice([1.0, 2.0]), "ram_allocation_ratio": rng.choice([1.0, 1.5])}
    devices = [
        {
            "address": f"0000:01:{slot:02x}.0",
            "numa_node": rng.choice([*ids, None]),
            "vendor": "8086",
            "product": rng.choice(["1572", "154c"]),
            "used": rng.random() < 0.3,
        }
        for slot in range(rng.choice([0, 2, 4]))
    ]
    return {
        "id": number,
        "host": {"mode": "split", "cells": cells, "pci": devices},
        "limits": rng.choice([None, ratios, ratios]),
        "guest": {"vcpus": vcpus, "memory_mb": 64 * vcpus, "extra_specs": specs(rng, vcpus)},
    }


def main():
    """Write the file."""
    sys.path.insert(0, str(HERE))
    import oracle  # noqa: PLC0415  (only found with this folder on the path)

    from numaferry.errors import InvalidRequest  # noqa: PLC0415  (beside its neighbour)
    from numaferry.fit import cases  # noqa: PLC0415
    from numaferry.request import numa_get_constraints  # noqa: PLC0415

    rng = random.Random(SEED)  # noqa: S311  (cases, not secrets)
    kept, fitting = [], 0
    while len(kept) < COUNT:
        case = make(rng, len(kept))
        try:
            request = numa_get_constraints(cases.flavor_of(case), aliases=cases.ALIASES)
        except InvalidRequest as error:
            case["expected"] = {"verdict": "invalid", "error": error.code}
        else:
            fits = bool(request.cells) and oracle.fits(cases.host_of(case), request)
            if request.cells and not fits and len(kept) - fitting > COUNT // 2:
                continue
            fitting += fits
            case["expected"] = {"verdict": ("fits" if fits else "nofit") if request.cells else "no-numa"}
        kept.append(case)
    lines = "".join(json.dumps(case, sort_keys=True) + "\n" for case in kept)
    (HERE / "cases.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
