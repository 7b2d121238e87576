"""NUMA-aware live migration for libvirt/KVM: the destination's exact resources are claimed before a guest moves."""

__version__ = "0.1.0"
