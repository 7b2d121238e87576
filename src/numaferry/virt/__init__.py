"""Hosts: the hypervisor port, its libvirt side and its simulated side."""

from numaferry.virt.port import Hypervisor
from numaferry.virt.registry import connect

__all__ = ["Hypervisor", "connect"]
