"""The adoption table: one row, one test. Host: 2 cells x 2 cores x 2 threads, CPUs 0-3 and 4-7; dedicated 1-3,5-7."""

import attrs
import pytest

from numaferry.model import CpuSet, DomainState, Flavor, Promise, Vif, VifKind
from numaferry.model.notation import parse_topology
from numaferry.request import Outcome, adopt, numa_get_constraints, parse_domain
from numaferry.request.adoption_rules import NOTES, REFUSALS, Subject

HOST = parse_topology("2 cells x 2 cores x 2 threads, 1536M, 2M:128")
DEDICATED = CpuSet.parse("1-3,5-7")

TWO_CELLS = """<cpu><numa><cell id='0' cpus='0' memory='64' unit='MiB'/>
  <cell id='1' cpus='1' memory='64' unit='MiB'/></numa></cpu>"""
HUGE = "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>"


def pins(*cpus):
    return "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>" for vcpu, cpu in enumerate(cpus) if cpu is not None)


def emulator(cpus):
    return f"<emulatorpin cpuset='{cpus}'/>"


def bound(memory, *memnodes, mode="strict"):
    nodes = "".join(f"<memnode cellid='{c}' mode='{mode}' nodeset='{n}'/>" for c, n in enumerate(memnodes))
    return f"<numatune><memory mode='strict' nodeset='{memory}'/>{nodes}</numatune>"


def guest(cputune="", rest="", vcpu="<vcpu>2</vcpu>", memory="128", metadata=""):
    return parse_domain(f"""<domain type='kvm'><name>db1</name><uuid>u</uuid><metadata>{metadata}</metadata>
      <memory unit='MiB'>{memory}</memory>{vcpu}<cputune>{cputune}</cputune>{rest}</domain>""")


def adopted(needs, **more):
    return adopt(needs, DEDICATED, HOST, **more)


PLAIN = guest(pins(1, 5) + emulator("1,5"), TWO_CELLS + bound("0-1", 0, 1))

#: name of the row → the guest, how it ends, the deciding case, words that the reason or a note must have
TABLE = {
    "one-to-one pins inside the dedicated set": (PLAIN, "promise", "one-to-one", "CPUs 1,5 are its own"),
    "one-to-one pins outside the dedicated set": (
        guest(pins(0, 4), TWO_CELLS + bound("0-1", 0, 1)),
        "refused",
        "outside-dedicated",
        "vCPUs 0-1 are pinned to CPUs 0,4, outside the dedicated set 1-3,5-7",
    ),
    "one pin of two outside the dedicated set": (
        guest(pins(1, 4), TWO_CELLS + bound("0-1", 0, 1)),
        "refused",
        "outside-dedicated",
        "vCPUs 1 are pinned to CPUs 4",
    ),
    "pins to ranges": (guest(pins("0-1", "0-1")), "no-promise", "floating", "vCPUs 0-1 are pinned to ranges"),
    "pins to ranges, memory bound": (
        guest(pins("0-3", "4-7"), TWO_CELLS + bound("0-1", 0, 1)),
        "promise",
        "bound-memory",
        "memory is promised on host cells 0-1",
    ),
    "two vCPUs on one pCPU": (
        guest(pins(1, 1), bound(0)),
        "refused",
        "two-vcpus-one-cpu",
        "vCPUs 0-1 on CPU 1",
    ),
    "some vCPUs unpinned": (
        guest(pins(1, None) + emulator("1"), bound(0)),
        "promise",
        "mixed",
        "vCPUs 1 have no CPU of their own and may run on dedicated CPUs",
    ),
    "some vCPUs kept on shared CPUs": (
        guest(pins(1, "0,4") + emulator("1"), bound(0)),
        "promise",
        "mixed",
        "1 of 2 vCPUs keep CPUs 1 for themselves",
    ),
    "two guest cells on one host node": (
        guest(pins(1, 2), TWO_CELLS + bound("0", 0, 0)),
        "promise",
        "one-to-one",
        "guest cells 0-1 on host cell 0: a move spreads them over 2 host cells",
    ),
    "one guest cell over several nodes": (
        guest(pins(1, 5), bound("0-1")),
        "refused",
        "cell-over-nodes",
        "its memory is bound to host cells 0-1",
    ),
    "one guest cell over several nodes, memory unbound": (
        guest(pins(1, 5)),
        "refused",
        "cell-over-nodes",
        "is not bound, its vCPUs are on cells 0-1",
    ),
    "memnode preferred": (
        guest(pins(1, 5), TWO_CELLS + bound("0-1", 0, 1, mode="preferred")),
        "promise",
        "one-to-one",
        "memory of guest cells 0-1 is only preferred",
    ),
    "memnode interleave over both nodes": (
        guest(pins(1, 5), TWO_CELLS + bound("0-1", "0-1", "0-1", mode="interleave")),
        "refused",
        "cell-over-nodes",
        "bound to host cells 0-1",
    ),
    "strict nodeset without guest cells": (
        guest(pins(5, 6) + emulator("5"), bound(1)),
        "promise",
        "one-to-one",
        "its memory on host cells 1",
    ),
    "strict nodeset without guest cells and without pins": (
        guest("", bound(1)),
        "promise",
        "bound-memory",
        "2 vCPUs share CPUs",
    ),
    "vCPUs pinned to another node than their memory": (
        guest(pins(1, 2), bound(1)),
        "promise",
        "one-to-one",
        "guest cell 0: vCPUs on host cells 0, memory on 1",
    ),
    "pins without any memory binding": (
        guest(pins(1, 2)),
        "promise",
        "one-to-one",
        "its memory is bound to no host cell",
    ),
    "emulatorpin on foreign dedicated CPUs": (
        guest(pins(1, 2) + emulator("1,6-7"), bound(0)),
        "promise",
        "one-to-one",
        "dedicated CPUs 6-7, which are not its own",
    ),
    "emulator threads anywhere": (
        guest(pins(1, 2), bound(0)),
        "promise",
        "one-to-one",
        "emulator threads may run on every CPU",
    ),
    "nothing pinned and nothing bound": (guest(), "no-promise", "floating", "its vCPUs and its memory float"),
    "placement by numad": (
        guest(vcpu="<vcpu placement='auto'>2</vcpu>"),
        "no-promise",
        "floating",
        "numad",
    ),
    "unpinned, memory bound to several nodes": (
        guest("", bound("0-1")),
        "no-promise",
        "floating",
        "bound to several nodes",
    ),
    "floating with huge pages": (guest("", HUGE), "refused", "unbound-pages", "131072 KiB in pages of 2048 KiB"),
    "pins to CPUs that are not online": (guest(pins(1, 77), bound(0)), "refused", "unknown-cpus", "CPUs 77"),
    "memory on a node that is not there": (guest(pins(1, 2), bound(3)), "refused", "unknown-nodes", "host cells 3"),
    "cells that leave a vCPU out": (
        guest(pins(1, 5), TWO_CELLS + bound("0-1", 0, 1), vcpu="<vcpu>3</vcpu>"),
        "refused",
        "cells-incomplete",
        "its cells hold vCPUs 0-1, it has 3",
    ),
    "a passed-through device": (
        guest(pins(1, 2), bound(0) + "<devices><hostdev mode='subsystem' type='pci'/></devices>"),
        "refused",
        "passthrough-devices",
        "1 passed-through",
    ),
    "plugged memory": (
        guest(pins(1, 2), bound(0) + "<devices><memory model='dimm'/></devices>"),
        "refused",
        "memory-devices",
        "1 memory devices",
    ),
    "cache allocation": (
        guest(pins(1, 2) + "<cachetune vcpus='0'><cache id='0' level='3' type='both' size='3'/></cachetune>", bound(0)),
        "promise",
        "one-to-one",
        "its cache allocation names caches of this host",
    ),
    "some vCPUs offline": (
        guest(pins(1, 2), bound(0), vcpu="<vcpu current='1'>2</vcpu>"),
        "promise",
        "one-to-one",
        "1 of its 2 vCPUs are online",
    ),
}


@pytest.mark.parametrize("row", TABLE)
def test_row(row):
    needs, outcome, case, words = TABLE[row]
    adoption = adopted(needs)
    assert (adoption.outcome, adoption.case) == (outcome, case)
    assert words in " | ".join([adoption.reason, *adoption.notes])


@pytest.mark.parametrize("row", [row for row in TABLE if TABLE[row][1] == "refused"])
def test_a_refusal_says_what_to_do_and_promises_nothing(row):
    adoption = adopted(TABLE[row][0])
    assert adoption.hint
    assert (adoption.promise, adoption.flavor, adoption.request, adoption.numa_topology) == (None, None, None, None)


@pytest.mark.parametrize("row", [row for row in TABLE if TABLE[row][1] != "refused"])
def test_the_derived_flavor_asks_for_the_adopted_request(row):
    adoption = adopted(TABLE[row][0])
    assert numa_get_constraints(adoption.flavor) == adoption.request
    assert (adoption.numa_topology is None) == (adoption.promise is Promise.FLOATING) == (not adoption.request.cells)


OTHER_PINS = guest(pins(1, 6) + emulator("1,5"), TWO_CELLS + bound("0-1", 0, 1))

#: rows that need more than one XML: how adopt() is called, the outcome, words
MORE_ROWS = {
    "live XML differs from persistent": ({"persistent_needs": OTHER_PINS}, "promise", "differs in vCPU pins"),
    "paused": ({"state": DomainState.PAUSED}, "promise", "it is paused"),
    "off": ({"state": DomainState.SHUTOFF}, "refused", "the domain is shutoff"),
    "transient": ({"persistent": False}, "promise", "it is transient"),
    "with snapshots": ({"snapshots": 2}, "promise", "it has 2 snapshots"),
}


@pytest.mark.parametrize("row", MORE_ROWS)
def test_row_of_state(row):
    call, outcome, words = MORE_ROWS[row]
    adoption = adopted(PLAIN, **call)
    assert adoption.outcome == outcome
    assert words in " | ".join([adoption.reason, *adoption.notes])


def test_the_plain_guest_has_nothing_to_note():
    assert adopted(PLAIN).notes == ()


def test_emulator_threads_on_cpus_that_nobody_can_be_promised_are_nothing_to_note():
    assert adopted(guest(pins(1, 2) + emulator("0,4"), bound(0))).notes == ()


def test_every_rule_has_a_row():
    spoken = [
        rule.name
        for needs, call in [
            *((row[0], {}) for row in TABLE.values()),
            *((PLAIN, row[0]) for row in MORE_ROWS.values()),
        ]
        for rule in (*REFUSALS, *NOTES)
        if _says(rule, needs, call)
    ]
    assert {rule.name for rule in (*REFUSALS, *NOTES)} == set(spoken)


def _says(rule, needs, call):
    adoption = adopted(needs, **call)
    if rule in REFUSALS:
        return adoption.case == rule.name
    subject = Subject(
        needs,
        DEDICATED,
        HOST,
        call.get("persistent_needs", needs),
        call.get("state", DomainState.RUNNING),
        call.get("persistent", True),
        call.get("snapshots", 0),
    )
    return adoption.outcome is not Outcome.REFUSED and rule.check(subject) in adoption.notes


def test_current_topology_is_where_the_guest_really_is():
    topology = adopted(guest(pins(1, 5) + emulator("1,5"), HUGE + TWO_CELLS + bound("0-1", 0, 1))).numa_topology
    assert topology.cpu_pinning == ((0, 1), (1, 5))
    assert [(cell.host_cell, cell.page_size_kib, cell.memory_kib) for cell in topology.cells] == [
        (0, 2048, 65536),
        (1, 2048, 65536),
    ]
    assert topology.owned_cpus == CpuSet.parse("1,5")


def test_misplaced_guest_claims_the_cpus_and_the_pages_it_really_has():
    topology = adopted(TABLE["vCPUs pinned to another node than their memory"][0]).numa_topology
    assert topology.cells[0].host_cell == 1
    assert topology.cells[0].pinned_cpus == CpuSet.parse("1-2")


GOLD = Flavor("gold", 2, 128, (("hw:cpu_policy", "dedicated"), ("hw:cpu_thread_policy", "isolate")))
ONE_CELL = guest(pins(2, 1) + emulator("1-2"), bound(0))


def test_isolate_is_never_guessed_but_taken_from_a_flavor_and_owns_the_siblings():
    assert adopted(ONE_CELL).request.thread_policy is None
    adoption = adopted(ONE_CELL, flavor=GOLD)
    assert (adoption.flavor, adoption.request.thread_policy) == (GOLD, "isolate")
    # CPU 2's sibling is 3; CPU 1's is 0, which is not dedicated and can't be owned
    assert adoption.numa_topology.cells[0].siblings == CpuSet.parse("3")


def test_isolated_emulator_cpu_is_owned_where_a_flavor_says_so():
    flavor = attrs.evolve(GOLD, extra_specs=(("hw:cpu_policy", "dedicated"), ("hw:emulator_threads_policy", "isolate")))
    there = adopted(guest(pins(1, 2) + emulator("3"), bound(0)), flavor=flavor)
    assert there.numa_topology.emulator_pcpus == CpuSet.parse("3")
    missing = adopted(guest(pins(1, 2) + emulator("1-2"), bound(0)), flavor=flavor)
    assert missing.numa_topology.emulator_pcpus == CpuSet()
    assert "the extra CPU is given with the first move" in missing.notes[-1]


def test_an_emulator_that_was_kept_off_the_dedicated_cpus_was_put_on_the_guests_own_by_a_move():
    """Its pin said that it was to share CPUs with others; adoption forgot it, and it took time from the vCPUs."""
    apart = adopted(guest(pins(1, 2) + emulator("0"), bound(0)))
    assert apart.request.emulator_threads_policy == apart.numa_topology.emulator_threads_policy == "share"
    assert dict(apart.flavor.extra_specs)["hw:emulator_threads_policy"] == "share"
    for where in ("1-2", "0-2", "3"):
        assert adopted(guest(pins(1, 2) + emulator(where), bound(0))).request.emulator_threads_policy is None, where
    assert adopted(guest(emulator("0"), bound(0))).request.emulator_threads_policy is None, "none is its own"
    flavor = attrs.evolve(GOLD, extra_specs=(("hw:cpu_policy", "dedicated"),))
    silent = adopted(guest(pins(1, 2) + emulator("0"), bound(0)), flavor=flavor)
    assert silent.request.emulator_threads_policy == "share", "a flavor that says nothing takes nothing away"


def test_page_size_stays_what_the_guest_has_whatever_the_flavor_would_accept():
    flavor = attrs.evolve(GOLD, extra_specs=(("hw:cpu_policy", "dedicated"), ("hw:mem_page_size", "large")))
    adoption = adopted(guest(pins(1, 2) + emulator("1-2"), HUGE + bound(0)), flavor=flavor)
    assert [cell.page_size for cell in adoption.request.cells] == [2048]


@pytest.mark.parametrize(
    ("flavor", "words"),
    [
        (attrs.evolve(GOLD, vcpus=3), "says vCPUs: 3, the domain's XML says 2"),
        (attrs.evolve(GOLD, memory_mb=64), "says memory in KiB: 65536"),
        (attrs.evolve(GOLD, extra_specs=()), "says CPU policy: shared"),
        (attrs.evolve(GOLD, extra_specs=(*GOLD.extra_specs, ("hw:numa_nodes", "2"))), "says cells: 0: vCPUs 0 "),
        (attrs.evolve(GOLD, extra_specs=(("hw:cpu_policy", "own"),)), "is invalid: hw:cpu_policy='own'"),
    ],
)
def test_a_given_flavor_that_disagrees_is_refused(flavor, words):
    adoption = adopted(ONE_CELL, flavor=flavor)
    assert (adoption.outcome, adoption.case) == (Outcome.REFUSED, "flavor-disagrees")
    assert words in adoption.reason


FLAVOR_XML = """<f:flavor xmlns:f="urn:numaferry:flavor:1" name="gold" vcpus="{vcpus}" memory_mb="128">
  <f:spec name="hw:cpu_policy">dedicated</f:spec><f:spec name="hw:cpu_thread_policy">require</f:spec></f:flavor>"""


def test_flavor_from_our_metadata():
    needs = guest(pins(1, 2) + emulator("1-2"), bound(0), metadata=FLAVOR_XML.format(vcpus=2))
    adoption = adopted(needs)
    assert (adoption.flavor.name, adoption.request.thread_policy, adoption.notes) == ("gold", "require", ())


NOVA_XML = """<n:instance xmlns:n="http://openstack.org/xmlns/libvirt/nova/1.1"><n:flavor name="m1.pinned">
  <n:memory>128</n:memory><n:vcpus>2</n:vcpus><n:extraSpecs><n:extraSpec name="hw:cpu_policy">dedicated</n:extraSpec>
  <n:extraSpec name="hw:cpu_thread_policy">isolate</n:extraSpec></n:extraSpecs></n:flavor></n:instance>"""


def test_flavor_from_novas_metadata():
    adoption = adopted(guest(pins(2, 6) + emulator("2,6"), TWO_CELLS + bound("0-1", 0, 1), metadata=NOVA_XML))
    assert (adoption.outcome, adoption.flavor.name) == (Outcome.PROMISE, "adopted-db1")
    assert "nova's metadata was passed over: flavor m1.pinned says cells" in adoption.notes[0]
    two = NOVA_XML.replace("</n:extraSpecs>", '<n:extraSpec name="hw:numa_nodes">2</n:extraSpec></n:extraSpecs>')
    adoption = adopted(guest(pins(2, 6) + emulator("2,6"), TWO_CELLS + bound("0-1", 0, 1), metadata=two))
    assert (adoption.flavor.name, adoption.request.thread_policy, adoption.notes) == ("m1.pinned", "isolate", ())


def test_networks_that_the_host_names_are_part_of_the_request():
    vifs = (
        Vif("52:54:00:00:00:01", VifKind.DIRECT, "ens4", "physnet1"),
        Vif("52:54:00:00:00:02", VifKind.DIRECT, "ens5", "physnet0"),
        Vif("52:54:00:00:00:03", VifKind.DIRECT, "ens6"),
    )
    assert adopted(attrs.evolve(PLAIN, vifs=vifs)).request.physical_networks == ("physnet0", "physnet1")


def test_flavor_in_the_metadata_that_disagrees_is_passed_over_and_said():
    needs = guest(pins(1, 2) + emulator("1-2"), bound(0), metadata=FLAVOR_XML.format(vcpus=4))
    adoption = adopted(needs)
    assert (adoption.outcome, adoption.flavor.name) == (Outcome.PROMISE, "adopted-db1")
    assert "numaferry's metadata was passed over: flavor gold says vCPUs: 4" in adoption.notes[0]


def test_realtime_vcpus_are_read_from_vcpusched():
    sched = "<vcpusched vcpus='1' scheduler='fifo' priority='1'/>"
    adoption = adopted(guest(pins(1, 2) + emulator("1") + sched, bound(0)))
    assert adoption.request.realtime_vcpus == CpuSet.parse("1")
    assert numa_get_constraints(adoption.flavor) == adoption.request


def test_cells_with_different_pages_stay_in_the_request_and_are_said():
    mixed = "<memoryBacking><hugepages><page size='2048' unit='KiB' nodeset='1'/></hugepages></memoryBacking>"
    adoption = adopted(guest(pins(1, 5) + emulator("1,5"), mixed + TWO_CELLS + bound("0-1", 0, 1)))
    assert [cell.page_size for cell in adoption.request.cells] == [None, 2048]
    assert adoption.flavor.spec("hw:mem_page_size") is None
    assert "pages of different sizes" in adoption.notes[0]


def test_adopting_changes_nothing_it_was_given():
    before = attrs.evolve(PLAIN)
    adopted(PLAIN)
    assert before == PLAIN
