"""What a host is, read from its libvirtd: identity, topology with free pages, links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numaferry.model import CpuSet, HostFacts
from numaferry.request.xml import parse_xml
from numaferry.virt.libvirt.capabilities import FreePages, parse_capabilities, with_free_pages
from numaferry.virt.libvirt.connection import libvirt

if TYPE_CHECKING:
    from numaferry.model import HostTopology


def online_cpus(connection: libvirt.virConnect) -> CpuSet:
    """Return the host's online CPUs (virNodeGetCPUMap)."""
    _, online, _ = connection.getCPUMap()
    return CpuSet.of(cpu for cpu, is_online in enumerate(online) if is_online)


def read_free_pages(connection: libvirt.virConnect, topology: HostTopology) -> FreePages:
    """Return free pages per cell and size (virNodeGetFreePages).

    Asked cell by cell, since cell ids may be sparse and libvirt refuses a range with a hole.
    """
    free: FreePages = {}
    for cell in topology.cells:
        sizes = [pool.size_kib for pool in cell.pages]
        answer = connection.getFreePages(sizes, cell.id, 1) if sizes else {}
        free[cell.id] = dict(answer.get(cell.id, {}))
    return free


def read_all_free_pages(connection: libvirt.virConnect) -> FreePages:
    """Return free pages of every cell that the host has now."""
    found = parse_capabilities(connection.getCapabilities(), online_cpus(connection))
    return read_free_pages(connection, found.topology)


def read_facts(connection: libvirt.virConnect, uri: str) -> HostFacts:
    """Read everything that `HostFacts` holds; nothing is kept between calls, CPUs and pages come and go."""
    online = online_cpus(connection)
    found = parse_capabilities(connection.getCapabilities(), online)
    links = read_links(connection)
    return HostFacts(
        hostname=connection.getHostname(),
        uuid=found.uuid,
        uri=uri,
        topology=with_free_pages(found.topology, read_free_pages(connection, found.topology)),
        libvirt_version=connection.getLibVersion(),
        hypervisor_version=connection.getVersion(),
        links=None if links is None else tuple(sorted(links)),
        domain_types=found.domain_types,
        unplaced_cpus=online - found.topology.cpus,
        uptime_s=read_uptime_s(connection, len(online)),
    )


def read_uptime_s(connection: libvirt.virConnect, cpus: int) -> int:
    """Return how long the host has been up by its CPUs' time counters, in seconds per CPU; 0 where it does not say."""
    try:
        spent_ns = connection.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS)
    except libvirt.libvirtError as error:
        if _unsupported(connection, error):
            return 0
        raise
    return sum(int(value) for value in spent_ns.values()) // (max(1, cpus) * 1_000_000_000)


def read_links(connection: libvirt.virConnect) -> dict[str, bool] | None:
    """Return the host's net devices and bridges: name → up; None where this daemon has no driver that lists them.

    Two drivers may know: interfaces (udev or netcf back end) and node devices of capability net. What either sees is
    there; it is up if either says so.
    """
    known = [answer for answer in (_interfaces(connection), _node_devices(connection)) if answer is not None]
    if not known:
        return None
    names = {name for answer in known for name in answer}
    return {name: any(answer.get(name, False) for answer in known) for name in names}


def _interfaces(connection: libvirt.virConnect) -> dict[str, bool] | None:
    try:
        return {interface.name(): bool(interface.isActive()) for interface in connection.listAllInterfaces()}
    except libvirt.libvirtError as error:
        if _unsupported(connection, error):
            return None
        raise


def _node_devices(connection: libvirt.virConnect) -> dict[str, bool] | None:
    try:
        devices = connection.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET)
        return dict(_net_device(device.XMLDesc()) for device in devices)
    except libvirt.libvirtError as error:
        if _unsupported(connection, error):
            return None
        raise


def _net_device(xml: str) -> tuple[str, bool]:
    """Return name and state of a node device; one that tells no link state (a bridge, a dummy) counts as up."""
    root = parse_xml(xml, "device")
    link = root.find("capability/link")
    return root.findtext("capability/interface") or "", link is None or link.get("state", "up") in {"up", "unknown"}


def _unsupported(connection: libvirt.virConnect, error: libvirt.libvirtError) -> bool:
    """Tell whether the driver is not there: said so, or its daemon or udev can't be asked."""
    return bool(connection.isAlive()) and error.get_error_code() in {
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_INTERNAL_ERROR,
    }
