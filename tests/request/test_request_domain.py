"""Domain XML as libvirt 9.0 writes it, and as people write it, into one value."""

import pytest

from numaferry.errors import InvalidInput
from numaferry.model import CpuSet, Flavor, Vif, VifKind
from numaferry.request import GuestCell, MemoryBinding, VcpuSched, parse_domain

DB1 = """
<domain type='kvm' id='3'>
  <name>db1</name>
  <uuid>5d1d2c9c-6a2f-4c0e-9a53-0c8c5a4f4d10</uuid>
  <title>a database</title>
  <memory unit='KiB'>131072</memory>
  <currentMemory unit='KiB'>131072</currentMemory>
  <memoryBacking>
    <hugepages>
      <page size='2048' unit='KiB' nodeset='0'/>
    </hugepages>
  </memoryBacking>
  <vcpu placement='static' cpuset='0-7' current='3'>4</vcpu>
  <iothreads>3</iothreads>
  <iothreadids>
    <iothread id='1'/>
    <iothread id='4'/>
    <iothread id='5'/>
  </iothreadids>
  <cputune>
    <shares>1024</shares>
    <vcpupin vcpu='0' cpuset='2'/>
    <vcpupin vcpu='1' cpuset='3'/>
    <vcpupin vcpu='2' cpuset='6-7,^7'/>
    <emulatorpin cpuset='0,4'/>
    <iothreadpin iothread='1' cpuset='0'/>
    <vcpusched vcpus='1' scheduler='fifo' priority='1'/>
    <vcpusched vcpus='2' scheduler='fifo' priority='1'/>
    <vcpusched vcpus='3' scheduler='batch'/>
  </cputune>
  <numatune>
    <memory mode='strict' nodeset='0-1'/>
    <memnode cellid='0' mode='strict' nodeset='0'/>
    <memnode cellid='1' mode='preferred' nodeset='1'/>
  </numatune>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
  </os>
  <cpu mode='custom' match='exact' check='full'>
    <numa>
      <cell id='0' cpus='0-1' memory='65536' unit='KiB'/>
      <cell id='1' cpus='2-3' memory='65536' unit='KiB'/>
    </numa>
  </cpu>
  <devices>
    <disk type='file' device='disk'/>
    <disk type='file' device='disk'/>
    <interface type='direct'>
      <mac address='52:54:00:AA:00:01'/>
      <source dev='ens4f0' mode='bridge'/>
      <target dev='macvtap0'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:aa:00:02'/>
      <source bridge='br0'/>
    </interface>
    <interface type='user'>
      <mac address='52:54:00:aa:00:03'/>
    </interface>
    <graphics type='vnc' port='5900' passwd='geheim'/>
  </devices>
</domain>
"""


def test_everything_that_placement_needs_is_read():
    needs = parse_domain(DB1)
    assert (needs.name, needs.title, needs.domain_type, needs.machine) == ("db1", "a database", "kvm", "pc-q35-7.2")
    assert (needs.vcpus, needs.online_vcpus, needs.memory_kib) == (4, 3, 131072)
    assert needs.cells == (
        GuestCell(0, CpuSet.parse("0-1"), 65536, 2048),
        GuestCell(1, CpuSet.parse("2-3"), 65536, None),
    )
    assert needs.vcpupins == tuple((vcpu, CpuSet.of([cpu])) for vcpu, cpu in [(0, 2), (1, 3), (2, 6)])
    assert needs.vcpupin(3) == CpuSet.parse("0-7"), "a vCPU without a pin runs where <vcpu cpuset> says"
    assert needs.emulatorpin == needs.emulator_cpus == CpuSet.parse("0,4")
    assert needs.iothread_ids == (1, 4, 5)
    assert needs.iothreadpins == ((1, CpuSet.parse("0")),)
    assert needs.memory == MemoryBinding("strict", CpuSet.parse("0-1"))
    assert needs.memory_of(1) == MemoryBinding("preferred", CpuSet.parse("1"), 1)
    assert needs.vcpuscheds[2] == VcpuSched(CpuSet.parse("3"), "batch", None)
    assert needs.realtime_vcpus == CpuSet.parse("1-2")
    assert needs.vifs == (
        Vif("52:54:00:aa:00:01", VifKind.DIRECT, "ens4f0"),
        Vif("52:54:00:aa:00:02", VifKind.BRIDGE, "br0"),
        Vif("52:54:00:aa:00:03", VifKind.OTHER, ""),
    )
    assert needs.device_count("disk") == 2
    assert needs.has_secrets
    assert "geheim" not in repr(needs)


def test_a_minimal_domain_has_one_vcpu_and_one_implicit_cell():
    needs = parse_domain("<domain><name>x</name><memory unit='MiB'>64</memory></domain>")
    assert (needs.vcpus, needs.cells, needs.cpuset, needs.memory) == (1, (), None, None)
    assert needs.bound_cells == (GuestCell(0, CpuSet.of([0]), 65536, None),)
    assert not needs.has_secrets


def test_huge_pages_without_a_size_are_the_usual_ones_of_2_mib():
    xml = "<domain><name>x</name><memory>65536</memory><memoryBacking><hugepages/></memoryBacking></domain>"
    assert parse_domain(xml).page_size_kib == 2048


def test_iothreads_without_ids_count_from_one_and_fill_gaps():
    assert parse_domain("<domain><name>x</name><iothreads>2</iothreads></domain>").iothread_ids == (1, 2)
    xml = "<domain><name>x</name><iothreads>3</iothreads><iothreadids><iothread id='2'/></iothreadids></domain>"
    assert parse_domain(xml).iothread_ids == (1, 2, 3)


def test_cells_without_ids_take_their_place_and_empty_cpusets_are_none():
    xml = """<domain><name>x</name><vcpu cpuset=''>2</vcpu><cpu><numa>
      <cell cpus='0' memory='1' unit='GiB'/><cell cpus='1' memory='1' unit='GiB'/></numa></cpu></domain>"""
    needs = parse_domain(xml)
    assert [(cell.id, cell.memory_kib) for cell in needs.cells] == [(0, 1048576), (1, 1048576)]
    assert needs.cpuset is None


def test_a_pin_to_no_cpu_pins_nothing():
    needs = parse_domain("<domain><name>x</name><cputune><vcpupin vcpu='0' cpuset=''/></cputune></domain>")
    assert needs.vcpupins == ()


@pytest.mark.parametrize(
    "xml",
    [
        "<domain/>",
        "<domain><name>x</name><vcpu>many</vcpu></domain>",
        "<domain><name>x</name><memory unit='parsec'>1</memory></domain>",
        "<domain><name>x</name><cputune><vcpupin vcpu='a' cpuset='1'/></cputune></domain>",
        "<domain><name>x</name><cputune><vcpupin vcpu='0' cpuset='one'/></cputune></domain>",
    ],
)
def test_what_cannot_be_read_is_an_input_error(xml):
    with pytest.raises(InvalidInput):
        parse_domain(xml)


NOVA = """<domain><name>instance-1</name><metadata>
  <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
    <nova:flavor name="m1.numa" id="7"><nova:memory>512</nova:memory><nova:vcpus>2</nova:vcpus>{specs}</nova:flavor>
  </nova:instance>{ours}</metadata></domain>"""
SPECS = '<nova:extraSpecs><nova:extraSpec name="hw:cpu_policy">dedicated</nova:extraSpec></nova:extraSpecs>'
OURS = """<f:flavor xmlns:f="urn:numaferry:flavor:1" name="gold" vcpus="2" memory_mb="512">
  <f:spec name="hw:cpu_policy">dedicated</f:spec><f:spec name="hw:cpu_thread_policy">isolate</f:spec></f:flavor>"""


def test_flavor_from_novas_metadata():
    needs = parse_domain(NOVA.format(specs=SPECS, ours=""))
    assert needs.flavor == Flavor("m1.numa", 2, 512, (("hw:cpu_policy", "dedicated"),))
    assert needs.flavor_from == "nova"


def test_flavor_from_our_metadata_goes_before_novas():
    needs = parse_domain(NOVA.format(specs=SPECS, ours=OURS))
    assert needs.flavor_from == "numaferry"
    assert needs.flavor.spec("hw:cpu_thread_policy") == "isolate"


def test_nova_releases_that_write_no_extra_specs_say_nothing_of_wishes():
    assert parse_domain(NOVA.format(specs="", ours="")).flavor is None
