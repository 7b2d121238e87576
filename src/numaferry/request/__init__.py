"""What a guest needs: from flavor and image, or from a running domain's XML. Pure: no I/O, values in, values out."""

from numaferry.request.adoption import Adoption, Outcome, adopt
from numaferry.request.charge import charge
from numaferry.request.constraints import numa_get_constraints
from numaferry.request.cpu_topology import CpuTopology, get_best_cpu_topology
from numaferry.request.disks import guest_disks
from numaferry.request.domain import parse_domain
from numaferry.request.flavors import derive_flavor
from numaferry.request.needs import DomainNeeds, GuestCell, MemoryBinding, VcpuSched
from numaferry.request.start_needs import start_needs

__all__ = [
    "Adoption",
    "CpuTopology",
    "DomainNeeds",
    "GuestCell",
    "MemoryBinding",
    "Outcome",
    "VcpuSched",
    "adopt",
    "charge",
    "derive_flavor",
    "get_best_cpu_topology",
    "guest_disks",
    "numa_get_constraints",
    "parse_domain",
    "start_needs",
]
