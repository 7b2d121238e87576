"""Who stands where on the map: promises, arrivals, departures, and what is merely seen."""

import attrs

from numaferry.ledger import HostRecord
from numaferry.ledger.states import host_state_of
from numaferry.model import (
    CpuSet,
    Flavor,
    HostConfig,
    HostFacts,
    Instance,
    InstanceCell,
    InstanceNumaTopology,
    Migration,
    MigrationContext,
    MigrationStatus,
    NumaRequest,
    ObservedUse,
)
from numaferry.model.notation import parse_topology
from numaferry.service.hostmap import CpuRole, Tenure, build

FACTS = HostFacts("a", "u-a", "sim://t/a", parse_topology("2 cells x 2 cores x 2 threads, 1G"), 9000000, 7002000)
CONFIG = HostConfig(cpu_dedicated_set=CpuSet.parse("2-6"), cpu_shared_set=CpuSet.parse("0-1"))
STATE = host_state_of(HostRecord(1, "a", FACTS, CONFIG, confirmed=True, generation=1, state="reachable"), (), ())


def on(cpu, kept=""):
    cell = InstanceCell(0, CpuSet.of([0]), CpuSet.of([0]), 65536, 4, cpu // 4, ((0, cpu),), CpuSet.parse(kept))
    return InstanceNumaTopology((cell,))


def instance(name, host, topology):
    return Instance(name, name, host, Flavor(name, 1, 64), NumaRequest(1, 65536), topology)


def move(name, source, dest, new):
    context = MigrationContext(None, new)
    return Migration(1, "m", name, source, dest, MigrationStatus.RUNNING, context=context)


def test_roles_are_the_operators_sets():
    shown = build(STATE, (), ())
    assert [shown.role(cpu) for cpu in (0, 2, 7)] == [CpuRole.SHARED, CpuRole.DEDICATED, CpuRole.HOST]


def test_a_guest_that_moves_is_outgoing_here_and_incoming_there():
    guest = instance("db1", "a", on(2))
    (leaving,) = build(STATE, [guest], (), [move("db1", "a", "b", on(3))]).guests
    assert (leaving.tenure, leaving.cpus) == (Tenure.OUTGOING, CpuSet.parse("2"))
    there = attrs.evolve(STATE, name="b")
    (coming,) = build(there, [guest], (), [move("db1", "a", "b", on(3, kept="2"))]).guests
    assert (coming.tenure, coming.cpus, coming.kept_free) == (Tenure.INCOMING, CpuSet.parse("3"), CpuSet.parse("2"))


def test_what_is_seen_of_a_managed_guest_is_not_drawn_twice_and_the_shared_set_belongs_to_nobody():
    seen = [
        ObservedUse("db1", "db1", CpuSet.parse("0-2"), floating=False, vcpus=1, memory_kib=1),
        ObservedUse("x", "x", CpuSet.parse("0-1,5"), floating=False, vcpus=1, memory_kib=1),
        ObservedUse("web", "web", CpuSet(), floating=True, vcpus=1, memory_kib=1),
    ]
    shown = build(STATE, [instance("db1", "a", on(2))], seen)
    assert [(one.name, str(one.cpus), one.tenure) for one in shown.guests] == [
        ("db1", "2", Tenure.CLAIMED),
        ("web", "", Tenure.SEEN),
        ("x", "5", Tenure.SEEN),
    ]
    assert [guest.name for guest in shown.owners(5)] == ["x"]


def test_guests_of_other_hosts_are_not_drawn():
    assert build(STATE, [instance("db1", "b", on(2))], ()).guests == ()
