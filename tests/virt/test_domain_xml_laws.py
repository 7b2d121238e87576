"""Laws of the destination XML, over guests of all shapes."""

import attrs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lxml import etree

from numaferry.model import (
    CpuSet,
    Flavor,
    HostConfig,
    HostFacts,
    Instance,
    InstanceCell,
    InstanceNumaTopology,
    NumaRequest,
    Ownership,
    Vif,
    VifKind,
)
from numaferry.model.notation import parse_topology
from numaferry.virt.libvirt.domain_xml import CHANGED_PATHS, changed_paths, get_updated_guest_xml, read_ownership

#: Time limits say nothing of a law where the machine is shared.
on_a_busy_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOST = parse_topology("4 cells x 4 cores x 2 threads, 1536M, 2M:128")
DEST = HostFacts("lab2", "uuid-2", "qemu+tcp://lab2/system", HOST, 9_000_000, 7_002_000)
SHARED = CpuSet.parse("0,8,16,24")
CONFIG = HostConfig(cpu_dedicated_set=HOST.cpus - SHARED, cpu_shared_set=SHARED)
MAC = "52:54:00:aa:00:01"

#: What no move may touch, in every corner of the document.
UNTOUCHED = """<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><!-- a remark --><features><acpi/></features>
  <clock offset='utc'><timer name='hpet' present='no'/></clock>"""


@st.composite
def guests(draw):
    """(XML on the source, cells as (guest cell, vCPUs, pages), the pins on the source), with any part left out."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    pages = draw(st.sampled_from([4, 2048]))
    cells, first = [], 0
    for number, size in enumerate(sizes):
        cells.append((number, CpuSet.of(range(first, first + size)), pages))
        first += size
    cpus = [cpu for number in range(len(sizes)) for cpu in list(HOST.cells[number].cpus - SHARED)[: sizes[number]]]
    tune = []
    for vcpu, cpu in enumerate(cpus):
        if draw(st.booleans()):
            tune.append(f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>")
    tune += draw(st.sampled_from([[], [f"<emulatorpin cpuset='{CpuSet.of(cpus)}'/>"]]))
    iothreads = draw(st.integers(0, 3))
    for iothread in range(1, iothreads + 1):
        cpuset = draw(st.sampled_from([None, str(CpuSet.of(cpus)), str(cpus[0])]))
        tune += [f"<iothreadpin iothread='{iothread}' cpuset='{cpuset}'/>"] if cpuset else []
    tune += draw(st.sampled_from([[], ["<shares>1024</shares>", "<vcpusched vcpus='0' scheduler='batch'/>"]]))
    memnodes = [f"<memnode cellid='{number}' mode='strict' nodeset='{number}'/>" for number, _, _ in cells]
    numatune = draw(
        st.sampled_from(
            [
                [],
                [f"<memory mode='strict' nodeset='{CpuSet.of(range(len(cells)))}'/>"],
                ["<memory nodeset='0'/>", *memnodes],
            ]
        )
    )
    hugepages = "<hugepages><page size='2048' unit='KiB'/></hugepages>" if pages == 2048 else ""
    cpuset = draw(st.sampled_from(["", " cpuset='1-2'", " cpuset=''"]))
    blank = draw(st.sampled_from(["", "\n  "]))
    numa = "".join(f"<cell id='{number}' cpus='{vcpus}' memory='65536' unit='KiB'/>" for number, vcpus, _ in cells)
    parts = [
        "<name>db1</name>",
        draw(st.sampled_from(["", "<metadata><a:n xmlns:a='urn:a'>kept</a:n></metadata>"])),
        f"<memory unit='KiB'>{65536 * len(cells)}</memory>",
        f"<memoryBacking>{hugepages}<nosharepages/></memoryBacking>",
        f"<vcpu placement='static'{cpuset}>{first}</vcpu>",
        f"<iothreads>{iothreads}</iothreads>" if iothreads else "",
        f"<cputune>{''.join(tune)}</cputune>" if tune or draw(st.booleans()) else "",
        f"<numatune>{''.join(numatune)}</numatune>" if numatune else "",
        UNTOUCHED,
        f"<cpu><numa>{numa}</numa></cpu>",
        f"<devices><interface type='direct'><mac address='{MAC}'/><source dev='ens4f0' mode='bridge'/></interface>",
        "<disk type='file'><source file='/a &amp; b'/></disk></devices>",
    ]
    return f"<domain type='kvm'>{blank}{blank.join(filter(None, parts))}{blank}</domain>", cells, cpus


@st.composite
def placements(draw, cells):
    """Any topology for these guest cells: distinct host cells, distinct dedicated CPUs of theirs."""
    host_cells = draw(st.permutations(HOST.cells))[: len(cells)]
    made = []
    for (number, vcpus, pages), host_cell in zip(cells, host_cells, strict=True):
        free = draw(st.permutations(list(host_cell.cpus - SHARED)))
        pinning = tuple(zip(vcpus, free, strict=False))
        made.append(InstanceCell(number, vcpus, vcpus, 65536, pages, host_cell.id, pinning))
    return InstanceNumaTopology(tuple(made))


@st.composite
def moves(draw):
    """(guest, dest topology or None for a floating guest)."""
    guest = draw(guests())
    return guest, draw(st.one_of(st.none(), placements(guest[1])))


def instance(topology, link="enp7s0"):
    request = NumaRequest(1, 65536, cpu_policy="dedicated" if topology else "shared")
    vif = Vif(MAC, VifKind.DIRECT, link)
    return Instance("u", "db1", "lab1", Flavor("f", 1, 64), request, topology, vifs=(vif,))


def updated(xml, topology, link="enp7s0", **more):
    return get_updated_guest_xml(xml, instance(topology, link), dest_facts=DEST, dest_config=CONFIG, **more)


def canonical_rest(xml):
    """Return the canonical XML without the declared paths, and without white space between elements."""
    root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    for path in CHANGED_PATHS:
        for found in root.xpath(path):
            if isinstance(found, str):
                del found.getparent().attrib[found.attrname]
            else:
                found.getparent().remove(found)
    for path in ("cputune", "metadata"):
        for found in root.findall(path):
            if len(found) == 0:
                root.remove(found)
    return etree.tostring(root, method="c14n")


@on_a_busy_machine
@given(moves())
def test_law_outside_the_declared_paths_the_xml_is_the_sources(move):
    (xml, _, _), topology = move
    assert canonical_rest(updated(xml, topology)) == canonical_rest(xml)
    assert canonical_rest(updated(xml, topology, ownership=Ownership("L", "c"))) == canonical_rest(xml)


@on_a_busy_machine
@given(moves())
def test_law_no_thread_is_left_on_a_cpu_that_was_not_given(move):
    (xml, _, _), topology = move
    dest = etree.fromstring(updated(xml, topology))
    given_cpus = (topology.owned_cpus if topology else CpuSet()) | SHARED
    for pin in dest.xpath("cputune/*[@cpuset] | vcpu[@cpuset]"):
        assert CpuSet.parse(pin.get("cpuset")) <= given_cpus, etree.tostring(pin)


@on_a_busy_machine
@given(moves())
def test_law_each_vcpu_has_exactly_the_pin_of_the_claim_and_each_cell_its_node(move):
    (xml, cells, _), topology = move
    assume(topology is not None)
    dest = etree.fromstring(updated(xml, topology))
    pins = [(int(pin.get("vcpu")), int(pin.get("cpuset"))) for pin in dest.findall("cputune/vcpupin")]
    assert sorted(pins) == list(topology.cpu_pinning)
    nodes = {int(node.get("cellid")): int(node.get("nodeset")) for node in dest.findall("numatune/memnode")}
    if nodes or len(cells) > 1:
        assert nodes == {cell.id: cell.host_cell for cell in topology.cells}
    memory = CpuSet.parse(dest.find("numatune/memory").get("nodeset"))
    assert memory == CpuSet.of(cell.host_cell for cell in topology.cells)


@on_a_busy_machine
@given(moves())
def test_law_the_emulator_has_a_cpu_on_every_cell_with_huge_pages(move):
    (xml, _, _), topology = move
    assume(topology is not None)
    emulator = CpuSet.parse(etree.fromstring(updated(xml, topology)).find("cputune/emulatorpin").get("cpuset"))
    assert emulator <= topology.owned_cpus
    for cell in topology.cells:
        if cell.page_size_kib > 4:
            assert not emulator.isdisjoint(HOST.cell(cell.host_cell).cpus)


@on_a_busy_machine
@given(moves())
def test_law_doing_it_twice_is_doing_it_once(move):
    (xml, _, _), topology = move
    once = updated(xml, topology)
    assert updated(once, topology) == once
    assert changed_paths(once, updated(once, topology)) == ()


@on_a_busy_machine
@given(moves(), st.data())
def test_law_a_second_move_gives_what_a_direct_one_would(move, data):
    (xml, cells, _), topology = move
    assume(topology is not None)
    other = data.draw(placements(cells))
    once_pinned = updated(xml, topology)
    by_way = updated(updated(once_pinned, other, "eth9"), topology)
    assert changed_paths(once_pinned, by_way) == ()


@on_a_busy_machine
@given(moves())
def test_law_the_input_decides_everything(move):
    (xml, _, _), topology = move
    before = attrs.evolve(instance(topology))
    assert updated(xml, topology) == updated(xml, topology)
    assert instance(topology) == before


@on_a_busy_machine
@given(guests(), st.uuids())
def test_law_ownership_written_is_ownership_read(guest, claim):
    ownership = Ownership("ledger", str(claim))
    assert read_ownership(updated(guest[0], None, ownership=ownership)) == ownership
