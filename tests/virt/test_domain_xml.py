"""The destination XML: what changes, what must not, and one test for each way in which others got it wrong.

The guest is written by a person and brought into libvirt's own words by its test driver, which parses and formats with
the same code as the QEMU driver (libvirt splits ``<vcpusched>``, moves elements, spells sizes in KiB).
"""

import attrs
import libvirt
import pytest
from lxml import etree

from numaferry.errors import CheckFailed, InvalidInput
from numaferry.model import (
    CpuSet,
    HostConfig,
    HostFacts,
    Instance,
    InstanceNumaTopology,
    MigrationContext,
    Ownership,
    Vif,
    VifKind,
    mutated_migration_context,
)
from numaferry.model.notation import parse_topology
from numaferry.request import adopt, parse_domain
from numaferry.virt.libvirt.domain_xml import (
    changed_paths,
    emulator_cpus,
    get_updated_guest_xml,
    manager_of,
    read_ownership,
)

HOST = parse_topology("2 cells x 4 cores x 2 threads, 1536M, 2M:128")
DEST = HostFacts("lab2", "uuid-2", "qemu+tcp://lab2/system", HOST, 9_000_000, 7_002_000)
SHARED = HostConfig(cpu_dedicated_set=CpuSet.parse("2-7,10-15"), cpu_shared_set=CpuSet.parse("0-1,8-9"))
NO_SHARED = HostConfig(cpu_dedicated_set=CpuSet.parse("0-15"))
MAC = "52:54:00:aa:00:01"

#: 4 vCPUs on CPUs 2,3 (cell 0) and 10,11 (cell 1), huge pages, 3 iothreads of which one is beside vCPU 2
DB1 = f"""
<domain type='test'>
  <name>db1</name>
  <uuid>5d1d2c9c-6a2f-4c0e-9a53-0c8c5a4f4d10</uuid>
  <metadata>
    <numaferry:guest xmlns:numaferry="urn:numaferry:domain:1" ledger="L1" claim="old"/>
    <app:note xmlns:app="urn:example:app">kept</app:note>
  </metadata>
  <memory unit='MiB'>128</memory>
  <memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages><locked/></memoryBacking>
  <vcpu>4</vcpu>
  <iothreads>3</iothreads>
  <cputune>
    <shares>1024</shares>
    <vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/>
    <vcpupin vcpu='2' cpuset='10'/><vcpupin vcpu='3' cpuset='11'/>
    <emulatorpin cpuset='2-3,10-11'/>
    <iothreadpin iothread='1' cpuset='2-3,10-11'/><iothreadpin iothread='2' cpuset='10'/>
    <iothreadpin iothread='3' cpuset='0-1'/>
  </cputune>
  <numatune>
    <memory mode='strict' nodeset='0-1'/>
    <memnode cellid='0' mode='strict' nodeset='0'/><memnode cellid='1' mode='strict' nodeset='1'/>
  </numatune>
  <os><type arch='x86_64'>hvm</type></os>
  <cpu><numa>
    <cell id='0' cpus='0-1' memory='64' unit='MiB'/><cell id='1' cpus='2-3' memory='64' unit='MiB'/>
  </numa></cpu>
  <devices>
    <interface type='direct'>
      <mac address='{MAC}'/><source dev='ens4f0' mode='bridge'/><model type='virtio'/>
    </interface>
    <interface type='network'><mac address='52:54:00:aa:00:02'/><source network='default'/></interface>
    <graphics type='vnc' autoport='yes' passwd='geheim'/>
  </devices>
</domain>
"""

FLOATING = """
<domain type='test'>
  <name>web1</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
</domain>
"""


def libvirt_writes(xml: str) -> str:
    """Return a domain XML as libvirt itself writes it; raises libvirtError for what libvirt does not take."""
    connection = libvirt.open("test:///default")
    try:
        domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        return domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    finally:
        connection.close()


def edited(xml, *changes):
    """Return the XML with literal replacements, each of which must be there."""
    for old, new in changes:
        assert old in xml, old
        xml = xml.replace(old, new)
    return xml


def instance_of(xml, *, flavor=None, dedicated="2-7,10-15"):
    adoption = adopt(parse_domain(xml), CpuSet.parse(dedicated), HOST, flavor)
    assert adoption.promise is not None, adoption.reason
    return Instance(
        "u", "db1", "lab1", adoption.flavor, adoption.request, adoption.numa_topology, promise=adoption.promise
    )


def placed(instance, *, pins, cells=(0, 1), **changes):
    """Return the topology with other pins ({vCPU: CPU}) and host cells, one for each guest cell."""
    topology = instance.numa_topology
    moved = tuple(
        attrs.evolve(
            cell, host_cell=host_cell, cpu_pinning=tuple((vcpu, pins[vcpu]) for vcpu in cell.vcpus if vcpu in pins)
        )
        for cell, host_cell in zip(topology.cells, cells, strict=True)
    )
    return InstanceNumaTopology(moved, topology.emulator_threads_policy, **changes)


def mutated(instance, topology, vifs=()):
    context = MigrationContext(instance.numa_topology, topology, old_vifs=instance.vifs, new_vifs=tuple(vifs))
    return mutated_migration_context(attrs.evolve(instance, migration_context=context))


def moved(xml=DB1, *, pins=None, cells=(1, 0), config=SHARED, vifs=(), ownership=None, flavor=None, facts=DEST):
    """Return (XML as libvirt writes it on the source, destination XML) of a guest that moves to these CPUs."""
    source = libvirt_writes(xml)
    instance = instance_of(source, flavor=flavor)
    pins = {0: 12, 1: 13, 2: 4, 3: 5} if pins is None else pins
    topology = placed(instance, pins=pins, cells=cells) if instance.numa_topology else None
    new = mutated(instance, topology, vifs)
    return source, get_updated_guest_xml(source, new, dest_facts=facts, dest_config=config, ownership=ownership)


def attributes(xml, path, *names):
    """Return the named attributes of every element at the path."""
    return [tuple(element.get(name) for name in names) for element in etree.fromstring(xml).findall(path)]


def pinned(xml):
    return dict(attributes(xml, "cputune/vcpupin", "vcpu", "cpuset"))


def emulator(xml):
    return [cpus for (cpus,) in attributes(xml, "cputune/emulatorpin", "cpuset")]


def iothreads(xml):
    return dict(attributes(xml, "cputune/iothreadpin", "iothread", "cpuset"))


def cpuset(xml):
    return etree.fromstring(xml).find("vcpu").get("cpuset")


def test_every_pin_and_binding_is_the_destinations_and_libvirt_takes_it():
    _, dest = moved()
    assert pinned(dest) == {"0": "12", "1": "13", "2": "4", "3": "5"}
    assert emulator(dest) == ["4-5,12-13"]
    assert attributes(dest, "numatune/memnode", "cellid", "mode", "nodeset") == [
        ("0", "strict", "1"),
        ("1", "strict", "0"),
    ]
    assert attributes(dest, "numatune/memory", "nodeset") == [("0-1",)]
    again = libvirt_writes(dest)
    assert (pinned(again), emulator(again), iothreads(again)) == (pinned(dest), emulator(dest), iothreads(dest))


def test_without_the_mutated_context_the_old_pins_and_devices_would_appear():
    source = libvirt_writes(DB1)
    old_vif, new_vif = Vif(MAC, VifKind.DIRECT, "ens4f0"), Vif(MAC, VifKind.DIRECT, "enp7s0")
    instance = attrs.evolve(instance_of(source), vifs=(old_vif,))
    new = mutated(instance, placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)), [new_vif])
    unmutated = get_updated_guest_xml(source, instance, dest_facts=DEST, dest_config=SHARED)
    assert pinned(unmutated) == pinned(source)
    assert attributes(unmutated, "devices/interface/source", "dev")[0] == ("ens4f0",)
    dest = get_updated_guest_xml(source, new, dest_facts=DEST, dest_config=SHARED)
    assert pinned(dest) == {"0": "12", "1": "13", "2": "4", "3": "5"}
    assert attributes(dest, "devices/interface/source", "dev")[0] == ("enp7s0",)


def test_only_declared_paths_change_and_the_rest_is_equal_when_nothing_moves():
    source, dest = moved(pins={0: 2, 1: 3, 2: 10, 3: 11}, cells=(0, 1))
    assert changed_paths(source, dest) == ("/domain/cputune/iothreadpin[@iothread='3']/@cpuset",), "was on foreign CPUs"


# --- what others got wrong, by Launchpad number -----------------------------------------------------------------


def test_lp_1289064_source_pins_are_never_copied():
    _, dest = moved()
    left = CpuSet.parse("2-3,10-11")
    for cpus in [*pinned(dest).values(), *emulator(dest), *iothreads(dest).values()]:
        assert left.isdisjoint(CpuSet.parse(cpus))


def test_lp_1374902_every_vcpu_gets_its_pin_not_only_the_last():
    source = libvirt_writes(DB1)
    instance = instance_of(source)
    new = mutated(instance, placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)))
    bare = edited(
        source, *((f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>", "") for vcpu, cpu in [(0, 2), (1, 3), (2, 10)])
    )
    dest = get_updated_guest_xml(bare, new, dest_facts=DEST, dest_config=SHARED)
    assert pinned(dest) == {"0": "12", "1": "13", "2": "4", "3": "5"}


def test_a_guest_without_cputune_that_was_given_dedicated_cpus_gets_one():
    """The claim gave it CPUs (a flavor said dedicated); nova's rewriter uses find() of a missing vcpupin unchecked."""
    source = libvirt_writes(FLOATING)
    pinned_twin = edited(
        FLOATING, ("<os>", "<cputune><vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/></cputune><os>")
    )
    instance = instance_of(libvirt_writes(pinned_twin))
    new = mutated(instance, placed(instance, pins={0: 4, 1: 5}, cells=(0,)))
    dest = libvirt_writes(get_updated_guest_xml(source, new, dest_facts=DEST, dest_config=SHARED))
    assert pinned(dest) == {"0": "4", "1": "5"}
    assert emulator(dest) == ["4-5"]
    assert attributes(dest, "numatune/memory", "mode", "nodeset") == [("strict", "0")]


def test_lp_1889257_vcpusched_split_by_libvirt_stays_whole():
    xml = edited(DB1, ("<emulatorpin", "<vcpusched vcpus='1-3,^2' scheduler='rr' priority='7'/><emulatorpin"))
    source, dest = moved(xml)
    scheds = attributes(source, "cputune/vcpusched", "vcpus", "scheduler", "priority")
    assert scheds == [("1", "rr", "7"), ("3", "rr", "7")], "libvirt splits it"
    assert attributes(dest, "cputune/vcpusched", "vcpus", "scheduler", "priority") == scheds
    assert emulator(dest) == ["4,12"], "not on the CPUs 13 and 5 of the realtime vCPUs 1 and 3"


def test_lp_2139351_every_iothreadpin_is_rewritten_not_only_the_first():
    _, dest = moved()
    assert iothreads(dest) == {
        "1": "4-5,12-13",  # with the emulator
        "2": "4",  # beside vCPU 2, as it was
        "3": "4-5,12-13",  # was on CPUs that were not its own
    }


def test_lp_2140537_2152697_missing_iothreadpins_do_not_crash_and_are_added():
    pins = "<iothreadpin iothread='1' cpuset='2-3,10-11'/><iothreadpin iothread='2' cpuset='10'/>"
    xml = edited(DB1, (pins, ""), ("<iothreadpin iothread='3' cpuset='0-1'/>", ""))
    source, dest = moved(xml)
    assert iothreads(source) == {}
    assert iothreads(dest) == dict.fromkeys("123", "4-5,12-13")
    _, none_at_all = moved(edited(xml, ("<iothreads>3</iothreads>", "")))
    assert iothreads(none_at_all) == {}


def test_an_iothreadpin_to_all_of_its_own_cpus_keeps_following_them():
    xml = edited(DB1, ("<iothreadpin iothread='3' cpuset='0-1'/>", "<iothreadpin iothread='3' cpuset='3,11'/>"))
    _, dest = moved(xml)
    assert iothreads(dest)["3"] == "5,13", "vCPUs 1 and 3"


@pytest.mark.parametrize(
    ("on_source", "config", "on_dest"),
    [
        ("<vcpu cpuset='4-5'>2</vcpu>", SHARED, "0-1,8-9"),
        ("<vcpu>2</vcpu>", SHARED, "0-1,8-9"),
        ("<vcpu cpuset='4-5'>2</vcpu>", NO_SHARED, None),
        ("<vcpu>2</vcpu>", NO_SHARED, None),
    ],
)
def test_lp_1869804_floating_guest_gets_the_destinations_shared_set(on_source, config, on_dest):
    source, dest = moved(edited(FLOATING, ("<vcpu>2</vcpu>", on_source)), config=config)
    assert cpuset(dest) == on_dest
    assert set(changed_paths(source, dest)) <= {"/domain/vcpu/@cpuset"}


def test_lp_1869804_an_empty_cpuset_counts_as_none():
    source = edited(FLOATING, ("<vcpu>2</vcpu>", "<vcpu cpuset=''>2</vcpu>"))
    instance = mutated(instance_of(source), None)
    assert cpuset(get_updated_guest_xml(source, instance, dest_facts=DEST, dest_config=SHARED)) == "0-1,8-9"
    assert cpuset(get_updated_guest_xml(source, instance, dest_facts=DEST, dest_config=NO_SHARED)) is None


def test_lp_1461777_floating_guest_is_not_confined_to_the_sources_cells_or_ranges():
    loose = """<cputune><vcpupin vcpu='0' cpuset='2-5'/><vcpupin vcpu='1' cpuset='2-5'/><emulatorpin cpuset='2-5'/>
      </cputune><numatune><memory mode='strict' nodeset='0-1'/></numatune><os>"""
    _, dest = moved(edited(FLOATING, ("<os>", loose)), config=NO_SHARED)
    root = etree.fromstring(dest)
    assert root.find("numatune") is None
    assert root.find("cputune") is None
    _, dest = moved(edited(FLOATING, ("<os>", loose)), config=SHARED)
    assert emulator(dest) == ["0-1,8-9"]
    assert pinned(dest) == {}


def test_lp_1397381_sparse_host_cell_ids_go_into_memnode_as_they_are():
    sparse = attrs.evolve(
        DEST, topology=attrs.evolve(HOST, cells=tuple(attrs.evolve(cell, id=cell.id * 8) for cell in HOST.cells))
    )
    _, dest = moved(cells=(8, 0), facts=sparse)
    assert attributes(dest, "numatune/memnode", "cellid", "nodeset") == [("0", "8"), ("1", "0")]
    assert attributes(dest, "numatune/memory", "nodeset") == [("0,8",)]


def test_lp_1417671_1614054_emulator_is_not_on_all_host_cpus_nor_on_realtime_ones():
    xml = edited(DB1, ("<emulatorpin cpuset='2-3,10-11'/>", ""))
    _, dest = moved(xml)
    assert emulator(dest) == ["4-5,12-13"]


def test_lp_1386162_shared_emulator_threads_go_to_the_destinations_shared_set():
    instance = instance_of(libvirt_writes(DB1))
    topology = attrs.evolve(
        placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)), emulator_threads_policy="share"
    )
    new = mutated(instance, topology)
    both = emulator_cpus(new, dest_facts=DEST, dest_config=SHARED)
    assert str(both.settled) == str(both.at_start) == "0-1,8-9"
    assert str(emulator_cpus(new, dest_facts=DEST, dest_config=NO_SHARED).settled) == "4-5,12-13", "none there: as nova"


def test_an_iothread_that_was_with_the_emulator_goes_with_it_to_the_shared_set():
    source = libvirt_writes(DB1)
    instance = instance_of(source)
    topology = attrs.evolve(
        placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)), emulator_threads_policy="share"
    )
    dest = get_updated_guest_xml(source, mutated(instance, topology), dest_facts=DEST, dest_config=SHARED)
    assert iothreads(dest) == {"1": "0-1,8-9", "2": "4", "3": "0-1,8-9"}


def test_lp_2080531_1447079_mtu_and_access_mode_travel_untouched():
    xml = edited(
        DB1,
        ("<locked/>", "<locked/><access mode='shared'/>"),
        ("<model type='virtio'/>", "<model type='virtio'/><mtu size='9000'/>"),
    )
    _, dest = moved(xml)
    assert attributes(dest, "memoryBacking/access", "mode") == [("shared",)]
    assert attributes(dest, "devices/interface/mtu", "size") == [("9000",)]


def test_lp_1890501_the_persistent_xml_is_made_by_the_same_function():
    persistent = edited(libvirt_writes(DB1), ("vcpu='0' cpuset='2'", "vcpu='0' cpuset='7'"))
    instance = instance_of(libvirt_writes(DB1))
    new = mutated(instance, placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)))
    dest = get_updated_guest_xml(persistent, new, dest_facts=DEST, dest_config=SHARED)
    assert pinned(dest) == {"0": "12", "1": "13", "2": "4", "3": "5"}


# --- the emulator and huge pages (QEMU does not start otherwise) -------------------------------------------------


def isolated(instance, cpu, **more):
    topology = placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0), emulator_pcpus=CpuSet.of([cpu]))
    return mutated(attrs.evolve(instance, **more), attrs.evolve(topology, emulator_threads_policy="isolate"))


def test_isolated_emulator_is_widened_at_start_by_own_cpus_where_huge_pages_lie():
    new = isolated(instance_of(libvirt_writes(DB1)), 14)
    both = emulator_cpus(new, dest_facts=DEST, dest_config=SHARED)
    assert (str(both.settled), str(both.at_start)) == ("14", "4-5,14"), "guest cell 1 is on host cell 0"


def test_isolated_emulator_stays_alone_without_huge_pages():
    xml = edited(DB1, ("<hugepages><page size='2048' unit='KiB'/></hugepages>", ""))
    both = emulator_cpus(isolated(instance_of(libvirt_writes(xml)), 14), dest_facts=DEST, dest_config=SHARED)
    assert str(both.at_start) == str(both.settled) == "14"


def test_while_it_arrives_the_emulator_is_on_the_cpus_for_migrations_and_where_huge_pages_lie():
    source = libvirt_writes(DB1)
    instance = instance_of(source)
    new = mutated(instance, placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)))
    for config, arriving in (
        (SHARED, "0-1,8-9"),
        (attrs.evolve(SHARED, migration_cpu_set=CpuSet.parse("8")), "4-5,8"),
        (NO_SHARED, "4-5,12-13"),
    ):
        both = emulator_cpus(new, dest_facts=DEST, dest_config=config)
        assert (str(both.arriving), str(both.settled)) == (arriving, "4-5,12-13")
        dest = get_updated_guest_xml(source, new, dest_facts=DEST, dest_config=config, arriving=True)
        assert emulator(dest) == [arriving]
        stored = get_updated_guest_xml(source, new, dest_facts=DEST, dest_config=config)
        assert emulator(stored) == ["4-5,12-13"], "its next start is no arrival"


def test_an_emulator_with_a_cpu_of_its_own_is_there_also_while_it_arrives():
    new = isolated(instance_of(libvirt_writes(DB1)), 14)
    both = emulator_cpus(new, dest_facts=DEST, dest_config=SHARED)
    assert both.arriving == both.at_start


def test_a_floating_guest_arrives_on_the_cpus_for_migrations_where_they_are_not_the_shared_ones():
    source = libvirt_writes(FLOATING)
    instance = instance_of(source)
    apart = attrs.evolve(SHARED, migration_cpu_set=CpuSet.parse("9"))
    dest = get_updated_guest_xml(source, instance, dest_facts=DEST, dest_config=apart, arriving=True)
    assert emulator(dest) == ["9"]
    same = get_updated_guest_xml(source, instance, dest_facts=DEST, dest_config=SHARED, arriving=True)
    assert emulator(same) == []


def test_no_cpu_for_the_emulator_on_a_huge_page_cell_is_said_before_qemu_fails():
    instance = instance_of(libvirt_writes(DB1))
    request = attrs.evolve(instance.request, realtime_vcpus=CpuSet.parse("2-3"))
    with pytest.raises(CheckFailed, match="no CPU on host cell 0 of lab2, where guest cell 1 has pages of 2048 KiB"):
        emulator_cpus(isolated(instance, 14, request=request), dest_facts=DEST, dest_config=SHARED)


def test_all_realtime_without_a_shared_set_leaves_no_cpu_for_the_emulator():
    instance = instance_of(libvirt_writes(DB1))
    new = mutated(
        attrs.evolve(instance, request=attrs.evolve(instance.request, realtime_vcpus=CpuSet.parse("0-3"))),
        placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)),
    )
    with pytest.raises(CheckFailed, match="no CPU for its emulator threads"):
        emulator_cpus(new, dest_facts=DEST, dest_config=NO_SHARED)
    assert emulator_cpus(new, dest_facts=DEST, dest_config=SHARED).settled == SHARED.cpu_shared_set


# --- mixed guests, bound memory without pins ---------------------------------------------------------------------


def test_shared_vcpus_of_a_mixed_guest_are_kept_on_shared_cpus_of_their_cell():
    xml = edited(DB1, ("<vcpupin vcpu='1' cpuset='3'/>", ""), ("<vcpupin vcpu='3' cpuset='11'/>", ""))
    xml = edited(xml, ("<emulatorpin cpuset='2-3,10-11'/>", "<emulatorpin cpuset='2,10'/>"))
    _, dest = moved(xml, pins={0: 12, 2: 4})
    assert pinned(dest) == {"0": "12", "1": "8-9", "2": "4", "3": "0-1"}
    assert emulator(dest) == ["4,12"]
    with pytest.raises(CheckFailed, match="has no CPU in cpu_shared_set"):
        moved(xml, pins={0: 12, 2: 4}, config=NO_SHARED)


BOUND = """<cputune><vcpupin vcpu='0' cpuset='0-7'/><vcpupin vcpu='1' cpuset='0-7'/></cputune>
  <numatune><memory mode='strict' nodeset='0'/></numatune><os>"""


def test_bound_memory_follows_the_claim_and_range_pins_become_the_cells_shared_cpus():
    _, dest = moved(edited(FLOATING, ("<os>", BOUND)), pins={}, cells=(1,))
    assert attributes(dest, "numatune/memory", "nodeset") == [("1",)]
    assert pinned(dest) == {"0": "8-9", "1": "8-9"}
    assert cpuset(dest) == "0-1,8-9"


def test_preferred_memory_of_several_cells_names_one_node_as_libvirt_wants():
    xml = edited(DB1, ("<memory mode='strict' nodeset='0-1'/>", "<memory mode='preferred' nodeset='0'/>"))
    _, dest = moved(xml)
    assert attributes(libvirt_writes(dest), "numatune/memory", "mode", "nodeset") == [("preferred", "1")]


def test_guest_cells_without_memnodes_get_them_so_that_each_is_where_it_was_claimed():
    nodes = "<memnode cellid='0' mode='strict' nodeset='0'/><memnode cellid='1' mode='strict' nodeset='1'/>"
    instance = instance_of(libvirt_writes(DB1))
    new = mutated(instance, placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)))
    source = libvirt_writes(edited(DB1, (nodes, "")))
    dest = libvirt_writes(get_updated_guest_xml(source, new, dest_facts=DEST, dest_config=SHARED))
    assert attributes(dest, "numatune/memnode", "cellid", "nodeset") == [("0", "1"), ("1", "0")]


# --- page sizes ----------------------------------------------------------------------------------------------------


def with_pages(*sizes):
    source = libvirt_writes(DB1)
    instance = instance_of(source)
    topology = placed(instance, pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0))
    cells = tuple(attrs.evolve(cell, page_size_kib=size) for cell, size in zip(topology.cells, sizes, strict=True))
    new = mutated(instance, attrs.evolve(topology, cells=cells))
    return source, get_updated_guest_xml(source, new, dest_facts=DEST, dest_config=SHARED)


@pytest.mark.parametrize(
    ("sizes", "pages"),
    [
        ((2048, 2048), [("2048", None)]),
        ((1048576, 1048576), [("1048576", None)]),
        ((2048, 4), [("2048", "0")]),
        ((1048576, 2048), [("2048", "1"), ("1048576", "0")]),
        ((4, 4), []),
    ],
)
def test_page_sizes_are_the_claims(sizes, pages):
    _, dest = with_pages(*sizes)
    again = libvirt_writes(dest)
    assert sorted(attributes(again, "memoryBacking/hugepages/page", "size", "nodeset")) == sorted(pages)
    assert etree.fromstring(again).find("memoryBacking/locked") is not None


def test_huge_pages_without_a_size_are_written_out_since_the_default_is_the_destinations():
    _, dest = moved(edited(DB1, ("<hugepages><page size='2048' unit='KiB'/></hugepages>", "<hugepages/>")))
    assert attributes(dest, "memoryBacking/hugepages/page", "size", "unit") == [("2048", "KiB")]


# --- links ---------------------------------------------------------------------------------------------------------


def test_macvtap_parent_follows_the_physical_network_by_mac_and_the_other_nic_stays():
    source, dest = moved(vifs=[Vif(MAC.upper(), VifKind.DIRECT, "enp7s0")])
    assert attributes(dest, "devices/interface/source", "dev", "mode", "network") == [
        ("enp7s0", "bridge", None),
        (None, None, "default"),
    ]
    assert [path for path in changed_paths(source, dest) if "interface" in path] == [
        f"/domain/devices/interface[mac/@address='{MAC}']/source/@dev"
    ]


def test_a_link_of_another_kind_changes_type_and_source():
    _, dest = moved(vifs=[Vif(MAC, VifKind.BRIDGE, "br-physnet0")])
    assert attributes(dest, "devices/interface", "type")[0] == ("bridge",)
    assert attributes(libvirt_writes(dest), "devices/interface/source", "bridge", "dev")[0] == ("br-physnet0", None)


# --- metadata, errors ----------------------------------------------------------------------------------------------


def test_our_metadata_is_replaced_and_that_of_others_kept():
    ownership = Ownership("L1", "new", "m-7", 3)
    source, dest = moved(ownership=ownership)
    assert read_ownership(source) == Ownership("L1", "old")
    assert read_ownership(dest) == ownership
    assert etree.fromstring(dest).findtext("metadata/{urn:example:app}note") == "kept"
    assert manager_of(dest) == ""


def test_metadata_stays_as_it_is_where_no_ownership_is_given():
    assert read_ownership(moved()[1]) == Ownership("L1", "old")


def test_secrets_travel_in_the_xml_itself():
    assert attributes(moved()[1], "devices/graphics", "passwd") == [("geheim",)]


def test_a_claim_on_a_cpu_that_went_offline_is_said_before_qemu_starts():
    with pytest.raises(CheckFailed, match="CPUs 77 were claimed on lab2, where they are not online"):
        moved(pins={0: 77, 1: 13, 2: 4, 3: 5})


def test_a_claim_on_a_cell_that_is_gone_is_said():
    with pytest.raises(CheckFailed, match="host cell 5 was claimed on lab2"):
        moved(cells=(5, 0))


def test_an_xml_with_other_cells_than_were_adopted_is_refused():
    source = libvirt_writes(DB1)
    new = mutated(instance_of(source), placed(instance_of(source), pins={0: 12, 1: 13, 2: 4, 3: 5}, cells=(1, 0)))
    other = edited(source, ("cpus='0-1'", "cpus='0,2'"), ("cpus='2-3'", "cpus='1,3'"))
    with pytest.raises(CheckFailed, match="the claim has guest cells 0: vCPUs 0-1"):
        get_updated_guest_xml(other, new, dest_facts=DEST, dest_config=SHARED)


def test_malformed_xml_is_an_input_error():
    with pytest.raises(InvalidInput, match="malformed XML"):
        get_updated_guest_xml("<domain>", instance_of(libvirt_writes(DB1)), dest_facts=DEST, dest_config=SHARED)
