"""Runs in nova's environment: reads one case per line from standard input, answers with nova's verdict and CPU time.

Only the fit is timed: objects are built before, and copied before each call since nova's fit changes its input.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

import nova.conf  # noqa: E402
from nova import objects  # noqa: E402
from nova.objects.numa import NUMACell, NUMAPagesTopology, NUMATopology, NUMATopologyLimits  # noqa: E402
from nova.pci import stats  # noqa: E402
from nova.virt import hardware  # noqa: E402

ALIASES = {"nicA": ["1572"], "nicB": ["154c"], "nicAny": ["1572", "154c"]}


def host_topology(host: dict[str, Any]) -> NUMATopology:
    """Return nova's topology of a host."""
    return NUMATopology(
        cells=[
            NUMACell(
                id=cell["id"],
                socket=cell["socket"],
                cpuset=set(cell["shared"]),
                pcpuset=set(cell["dedicated"]),
                siblings=[set(core) for core in cell["siblings"]],
                pinned_cpus=set(cell["pinned"]),
                cpu_usage=cell["cpu_usage"],
                memory=cell["memory_mb"],
                memory_usage=cell["memory_used_mb"],
                mempages=[NUMAPagesTopology(**pool) for pool in cell["pages"]],
            )
            for cell in host["cells"]
        ]
    )


def pci_stats(host: dict[str, Any], topology: NUMATopology) -> stats.PciDeviceStats | None:
    """Return nova's pools of a host's free devices."""
    if not host["pci"]:
        return None
    found = stats.PciDeviceStats(topology)
    found.pools = [
        {
            "vendor_id": device["vendor"],
            "product_id": device["product"],
            "numa_node": device["numa_node"],
            "count": 1,
            "dev_type": "type-VF",
        }
        for device in host["pci"]
    ]
    return found


def pci_requests(specs: dict[str, str]) -> objects.InstancePCIRequests | None:
    """Return nova's device requests of a flavor."""
    alias = specs.get("pci_passthrough:alias")
    if not alias:
        return None
    name, count = alias.split(":")
    wanted = objects.InstancePCIRequest(
        count=int(count),
        alias_name=name,
        spec=[{"vendor_id": "8086", "product_id": product} for product in ALIASES[name]],
        numa_policy=specs["hw:pci_numa_affinity_policy"],
        request_id="00000000-0000-0000-0000-000000000001",
        requester_id=None,
    )
    return objects.InstancePCIRequests(requests=[wanted])


class Case:
    """One guest and its hosts, built; `run` answers for all of them in turn."""

    def __init__(self, job: dict[str, Any]) -> None:
        guest = job["guest"]
        flavor = objects.Flavor(
            name="bench", vcpus=guest["vcpus"], memory_mb=guest["memory_mb"], extra_specs=guest["extra_specs"]
        )
        self.wanted = hardware.numa_get_constraints(flavor, objects.ImageMeta.from_dict({"properties": {}}))
        requests = pci_requests(guest["extra_specs"])
        self.requests = requests.requests if requests else []
        self.hosts = [(topology := host_topology(host), pci_stats(host, topology)) for host in job["hosts"]]
        self.limits = NUMATopologyLimits(cpu_allocation_ratio=16.0, ram_allocation_ratio=1.0)

    def run(self) -> tuple[int, float]:
        """Return how many hosts fit and the CPU time in milliseconds."""
        fits, spent = 0, 0.0
        for topology, pools in self.hosts:
            wanted = copy.deepcopy(self.wanted)
            start = time.process_time()
            answer = hardware.numa_fit_instance_to_host(
                topology, wanted, {}, limits=self.limits, pci_requests=self.requests, pci_stats=pools
            )
            spent += time.process_time() - start
            fits += answer is not None
        return fits, spent * 1000


def main() -> None:
    """Answer jobs until standard input ends."""
    logging.disable(logging.CRITICAL)
    nova.conf.CONF([], project="nova", default_config_files=[])
    objects.register_all()
    case: Case | None = None
    for line in sys.stdin:
        job = json.loads(line)
        if "guest" in job:
            case = Case(job)
        if case is None:
            raise ValueError("the first job names no case")
        answers = [case.run() for _ in range(job["repeats"])]
        print(json.dumps({"fits": answers[0][0], "ms": [spent for _, spent in answers]}), flush=True)


if __name__ == "__main__":
    main()
