"""The exact NUMA fit: pure, deterministic, and it explains itself. Start at `numa_fit_instance_to_host`."""

from numaferry.fit import cases
from numaferry.fit.explain import nearness
from numaferry.fit.score import Score
from numaferry.fit.solver import numa_fit_instance_to_host

__all__ = ["Score", "cases", "nearness", "numa_fit_instance_to_host"]
