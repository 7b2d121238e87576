"""Pins set, and the kernel's masks read back.

The masks come from virDomainGetVcpus and virDomainGetIOThreadInfo, for which libvirt asks the kernel
(sched_getaffinity of each thread). virDomainGetVcpuPinInfo and the XML only echo what was asked for, so nothing that is
reported comes from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.errors import HypervisorError
from numaferry.model import CpuSet, ThreadMasks
from numaferry.virt.libvirt.connection import libvirt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def _mask(flags: Sequence[bool]) -> CpuSet:
    return CpuSet.of(cpu for cpu, allowed in enumerate(flags) if allowed)


def read_masks(domain: libvirt.virDomain) -> ThreadMasks:
    """Return the kernel's masks of vCPU and IO threads; raises libvirt's error for a domain that is off."""
    infos, maps = domain.vcpus()
    return ThreadMasks(
        vcpus=tuple((info[0], _mask(flags)) for info, flags in zip(infos, maps, strict=True)),
        iothreads=tuple(
            sorted((number, _mask(flags)) for number, flags in domain.ioThreadInfo(libvirt.VIR_DOMAIN_AFFECT_LIVE))
        ),
    )


def write_pins(
    connection: libvirt.virConnect,
    domain: libvirt.virDomain,
    vcpus: Mapping[int, CpuSet],
    emulator: CpuSet | None,
    *,
    persistent: bool,
) -> None:
    """Pin vCPUs and the emulator: live if the domain is active, in its configuration if `persistent`.

    Raises HypervisorError for a CPU beyond the host's, before anything is set: libvirt would cut it off silently.
    """
    total, _, _ = connection.getCPUMap()
    wanted = [*vcpus.values(), *([] if emulator is None else [emulator])]
    beyond = [cpus for cpus in wanted if cpus.mask >> total]
    if beyond:
        raise HypervisorError(
            f"can't pin to CPUs {beyond[0]}: the host has {total}, 0-{total - 1}", hint="was the host changed?"
        )
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
    flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG if persistent else 0
    if not flags:
        return
    for vcpu, cpus in sorted(vcpus.items()):
        domain.pinVcpuFlags(vcpu, _flags(cpus, total), flags)
    if emulator is not None:
        domain.pinEmulator(_flags(emulator, total), flags)


def _flags(cpus: CpuSet, total: int) -> tuple[bool, ...]:
    return tuple(cpu in cpus for cpu in range(total))
