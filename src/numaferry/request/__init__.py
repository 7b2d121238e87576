"""What a guest needs: from flavor and image, or from a running domain's XML. Pure: no I/O, values in, values out."""

from numaferry.request.constraints import numa_get_constraints
from numaferry.request.domain import parse_domain
from numaferry.request.needs import DomainNeeds, GuestCell, MemoryBinding, VcpuSched

__all__ = ["DomainNeeds", "GuestCell", "MemoryBinding", "VcpuSched", "numa_get_constraints", "parse_domain"]
