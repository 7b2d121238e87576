"""The hypervisor port on real NUMA: cells, cores and page pools as the host was made, and pages that follow a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt
import pytest
from lxml import etree

from numaferry import virt
from numaferry.lab.guests import GuestCell, GuestSpec, MacvtapNic, domain_xml, put_in_share
from numaferry.model import CpuSet, DomainState, MigrateCall, XmlKind
from numaferry.model.notation import parse_topology

if TYPE_CHECKING:
    from numaferry.lab.model import Lab

pytestmark = pytest.mark.hosts

#: The guest's place on alpha and on beta: vCPU → CPU, and guest cell → host cell, the cells swapped.
ON_ALPHA = {"vcpu": {0: "0", 1: "4"}, "cell": {0: "0", 1: "1"}, "emulator": "0,4"}
ON_BETA = {"vcpu": {0: "6", 1: "2"}, "cell": {0: "1", 1: "0"}, "emulator": "2,6"}


def moved_to_beta(xml: str, link: str) -> str:
    """Put the guest on its place on beta."""
    root = etree.fromstring(xml)
    for vcpu, cpu in ON_BETA["vcpu"].items():
        root.find(f"cputune/vcpupin[@vcpu='{vcpu}']").set("cpuset", cpu)
    for cell, node in ON_BETA["cell"].items():
        root.find(f"numatune/memnode[@cellid='{cell}']").set("nodeset", node)
    root.find("cputune/emulatorpin").set("cpuset", ON_BETA["emulator"])
    root.find("devices/interface/source").set("dev", link)
    return etree.tostring(root, encoding="unicode")


def test_discovery_tells_each_host_as_it_was_made(hosts_lab: Lab) -> None:
    for host in hosts_lab.hosts:
        with virt.connect(host.uri) as hypervisor:
            facts = hypervisor.facts()
        made = parse_topology(host.notation)
        assert (facts.hostname, facts.unplaced_cpus) == (host.name, CpuSet())
        for cell, wanted in zip(facts.topology.cells, made.cells, strict=True):
            assert (cell.id, cell.cpus, cell.siblings) == (wanted.id, wanted.cpus, wanted.siblings)
            assert (cell.socket, cell.distances) == (wanted.socket, wanted.distances)
            assert cell.pool(2048) == wanted.pool(2048), "all huge pages are there and free"
            assert 0.8 < cell.memory_kib / wanted.memory_kib <= 1, "the kernel keeps some for itself"


def test_a_cpu_that_is_offline_is_in_no_cell(hosts_lab: Lab) -> None:
    """Beta's libvirtd has looked before, so it goes on telling the CPU, as a core of its own."""
    host = hosts_lab.host("beta")
    with virt.connect(host.uri) as hypervisor:
        before = hypervisor.facts().topology
        host.exec("echo 0 > /sys/devices/system/cpu/cpu7/online")
        try:
            during = hypervisor.facts().topology
        finally:
            host.exec("echo 1 > /sys/devices/system/cpu/cpu7/online")
        assert during.cpus == before.cpus - CpuSet.parse("7")
        assert all(7 not in core for cell in during.cells for core in cell.siblings)
        assert hypervisor.facts().topology.cpus == before.cpus


def test_a_guest_takes_its_pages_from_the_cells_it_is_given_on_both_hosts(hosts_lab: Lab) -> None:
    alpha, beta = hosts_lab.hosts
    spec = GuestSpec(
        name="ported",
        image=put_in_share(hosts_lab, "tiny"),
        serial=alpha.share / "ported.serial",
        vcpus=2,
        cells=(GuestCell("0", 32, ON_ALPHA["cell"][0]), GuestCell("1", 16, ON_ALPHA["cell"][1])),
        vcpu_pins=ON_ALPHA["vcpu"],
        emulator_pin=ON_ALPHA["emulator"],
        hugepages=True,
        nics=(MacvtapNic(alpha.data_links[0], "52:54:00:00:09:01"),),
    )
    connection = libvirt.open(alpha.uri)
    uuid = connection.createXML(domain_xml(spec)).UUIDString()
    connection.close()
    with virt.connect(alpha.uri) as source, virt.connect(beta.uri) as dest:
        try:
            assert [source.free_pages()[cell][2048] for cell in (0, 1)] == [128 - 16, 128 - 8]
            assert dict(source.thread_masks(uuid).vcpus) == {0: CpuSet.parse("0"), 1: CpuSet.parse("4")}
            before = dest.free_pages()
            xml = moved_to_beta(source.domain_xml(uuid, XmlKind.MIGRATABLE), beta.data_links[0])
            source.live_migration(MigrateCall(uuid, beta.uri, f"tcp://{beta.ip}", xml))
            assert dest.domain(uuid).state is DomainState.RUNNING
            assert dict(dest.thread_masks(uuid).vcpus) == {0: CpuSet.parse("6"), 1: CpuSet.parse("2")}
            assert [before[cell][2048] - dest.free_pages()[cell][2048] for cell in (0, 1)] == [8, 16]
            assert [source.free_pages()[cell][2048] for cell in (0, 1)] == [128, 128]
        finally:
            for host in hosts_lab.hosts:
                connection = libvirt.open(host.uri)
                for domain in connection.listAllDomains():
                    if domain.UUIDString() == uuid:
                        domain.destroy()
                connection.close()
