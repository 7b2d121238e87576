"""A deterministic simulated fleet: the other side of the hypervisor port, for tests, planning and scale."""

from numaferry.virt.simulated.faults import ACTIONS, CONTROLLER, POINTS, SCENARIOS, ClientDied, Fault
from numaferry.virt.simulated.fleet import Fleet
from numaferry.virt.simulated.hypervisor import SimulatedHypervisor

__all__ = ["ACTIONS", "CONTROLLER", "POINTS", "SCENARIOS", "ClientDied", "Fault", "Fleet", "SimulatedHypervisor"]
