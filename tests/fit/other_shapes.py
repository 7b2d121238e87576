"""Random cases in the neutral format of other shapes than `make_cases`: a second generator, written apart from it.

Modes legacy, thread-split and shared-only; SMT 4 and cores of unequal width; CPU ids in blocks or interleaved as Linux
numbers them; sparse and unordered cell ids; unknown sockets; base pages of 64 KiB; odd sizes; masks and manual cells in
any order; ratios below one.
"""


def cores_of(rng, plan, threads):
    """Return, for each (cell id, cores) of the plan, its cores as lists of CPUs."""
    total, first, found = sum(count for _, count in plan), 0, {}
    interleaved = rng.random() < 0.3
    for cell_id, count in plan:
        found[cell_id] = []
        for core in range(first, first + count):
            width = threads if rng.random() < 0.93 else rng.randint(1, threads)
            ids = [core + thread * total if interleaved else core * threads + thread for thread in range(width)]
            found[cell_id].append(ids)
        first += count
    return found


def sets_of(rng, mode, siblings):
    """Return (shared, dedicated) CPUs of a cell."""
    cpus = sorted(cpu for core in siblings for cpu in core)
    if mode == "split":
        shared = sorted(rng.sample(cpus, rng.randint(0, len(cpus) // 2)))
        return shared, [cpu for cpu in cpus if cpu not in shared][rng.random() < 0.3 :]
    if mode == "thread-split":
        return sorted(core[0] for core in siblings), sorted(cpu for core in siblings for cpu in core[1:])
    return {"dedicated-only": ([], cpus), "legacy": (cpus, cpus), "shared-only": (cpus, [])}[mode]


def memory_of(rng, base):
    """Return (MiB, MiB used, page pools) of a cell."""
    memory_mb = 0 if rng.random() < 0.06 else rng.choice([256, 333, 1024, 2048, 4100])
    left, huge = memory_mb * 1024, []
    if memory_mb and rng.random() < 0.6:
        total = rng.randint(0, memory_mb // 2)
        used = rng.randint(0, total)
        huge.append({"size_kb": 2048, "total": total, "used": used, "reserved": rng.choice([0, 0, total - used])})
        left -= total * 2048
    if left >= 1 << 20 and rng.random() < 0.5:
        huge.append({"size_kb": 1 << 20, "total": 1, "used": rng.randint(0, 1), "reserved": 0})
        left -= 1 << 20
    total = left // base
    used = rng.choice([0, 0, total // 3, total, rng.randint(0, total)])
    pools = [{"size_kb": base, "total": total, "used": used, "reserved": rng.choice([0, 0, min(total - used, 256)])}]
    pools = pools + huge if memory_mb else rng.choice([[], pools])
    return memory_mb, sum(pool["used"] * pool["size_kb"] for pool in pools) // 1024, pools


def host(rng):
    """Return a host of one to four cells."""
    mode = rng.choice(["split", "split", "dedicated-only", "legacy", "legacy", "shared-only", "thread-split"])
    count, threads, base = rng.choice([1, 2, 2, 3, 3, 4]), rng.choice([1, 2, 2, 4, 4]), rng.choice([4, 4, 4, 64])
    ids = list(range(count)) if rng.random() < 0.5 else rng.sample(range(17), count)
    plan = [(cell_id, 0 if rng.random() < 0.08 else rng.randint(1, max(1, 8 // threads))) for cell_id in ids]
    cells, busy = [], rng.choice([0, 0, 0.1, 0.3])
    for cell_id, siblings in cores_of(rng, plan, threads).items():
        shared, dedicated = sets_of(rng, mode, siblings)
        memory_mb, used_mb, pools = memory_of(rng, base)
        cells.append(
            {
                "id": cell_id,
                "socket": None if not siblings and rng.random() < 0.7 else rng.randint(0, 1),
                "cpus": sorted(cpu for core in siblings for cpu in core),
                "siblings": siblings,
                "shared": shared,
                "dedicated": dedicated,
                "pinned": [cpu for cpu in dedicated if rng.random() < busy],
                "cpu_usage": rng.choice([0, 0, 1, 3, 2 * len(shared)]),
                "memory_mb": memory_mb,
                "memory_used_mb": used_mb,
                "pages": pools,
            }
        )
    devices = [
        {
            "address": f"0000:{slot + 1:02x}:00.0",
            "numa_node": rng.choice([*ids, None]),
            "vendor": vendor,
            "product": product,
            "used": rng.random() < 0.25,
        }
        for slot in range(rng.choice([0, 0, 1, 2, 3, 4]))
        for vendor, product in [rng.choice([("8086", "1572"), ("8086", "154c"), ("8086", "154c"), ("10de", "20b0")])]
    ]
    return {"mode": mode, "cells": cells, "pci": devices}


def wishes(rng, policy, vcpus):
    """Return the extra specs of policies, pages and devices."""
    specs = {"hw:cpu_policy": policy}
    if policy == "mixed":
        chosen = rng.sample(range(vcpus), rng.randint(1, vcpus - 1)) if vcpus > 1 else [0]
        specs["hw:cpu_dedicated_mask"] = ",".join(map(str, chosen))
        if rng.random() < 0.4:
            specs["hw:cpu_dedicated_mask"] = ",".join(f"^{vcpu}" for vcpu in chosen)
    if policy != "shared" and rng.random() < 0.7:
        specs["hw:cpu_thread_policy"] = rng.choice(["prefer", "require", "require", "isolate", "isolate"])
    if policy != "shared" and rng.random() < 0.5:
        specs["hw:emulator_threads_policy"] = rng.choice(["share", "isolate", "isolate"])
    if rng.random() < 0.55:
        specs["hw:mem_page_size"] = rng.choice(["small", "large", "any", "2048", "2MB", "64KB", "4", "1GB"])
    if rng.random() < 0.45:
        names = ["nicA", "nicB", "nicAny", "gpu"]
        parts = [f"{rng.choice(names)}:{rng.choice([1, 1, 2])}" for _ in range(rng.choice([1, 1, 2]))]
        specs["pci_passthrough:alias"] = ",".join(parts)
        if rng.random() < 0.8:
            specs["hw:pci_numa_affinity_policy"] = rng.choice(["required", "legacy", "preferred", "socket", "socket"])
    return specs


def guest(rng):
    """Return a guest of one to three cells, most of them given by hand."""
    count = rng.choice([1, 1, 2, 2, 3])
    sizes = [rng.choice([1, 1, 2, 3, 4]) for _ in range(count)]
    memory = [rng.choice([1, 2, 4, 10, 32, 63, 64]) for _ in range(count)]
    ids = list(range(sum(sizes)))
    if rng.random() < 0.4:
        rng.shuffle(ids)
    specs = wishes(rng, rng.choice(["dedicated", "dedicated", "mixed", "mixed", "shared"]), len(ids))
    specs["hw:numa_nodes"] = str(count)
    if rng.random() < 0.25:
        return {"vcpus": count * sizes[0], "memory_mb": count * memory[0], "extra_specs": specs}
    for cell, (size, mib) in enumerate(zip(sizes, memory, strict=True)):
        specs |= {f"hw:numa_cpus.{cell}": ",".join(map(str, sorted(ids[:size]))), f"hw:numa_mem.{cell}": str(mib)}
        ids = ids[size:]
    return {"vcpus": sum(sizes), "memory_mb": sum(memory), "extra_specs": specs}


def case(rng, number):
    """Return one case."""
    ratios = {
        "cpu_allocation_ratio": rng.choice([0.5, 1.0, 1.5, 2.0, 16.0]),
        "ram_allocation_ratio": rng.choice([0.9, 1.0, 1.5]),
    }
    return {"id": number, "host": host(rng), "limits": rng.choice([None, ratios, ratios, ratios]), "guest": guest(rng)}
