"""Proposed CPU sets: a draft for a person, explained CPU by CPU."""

from hypothesis import given
from hypothesis import strategies as st

from numaferry.model import CpuSet
from numaferry.model.notation import parse_topology
from numaferry.service.hostmap import CpuRole
from numaferry.service.propose import Tenant, propose

HOST = parse_topology("2 cells x 2 cores x 2 threads, 1G")
cpu_sets = st.frozensets(st.integers(0, 7)).map(CpuSet.of)
tenants = st.lists(
    st.builds(
        Tenant, name=st.sampled_from(["a", "b", "c"]), pinned=cpu_sets, confined=cpu_sets, floating=st.booleans()
    ),
    max_size=3,
)


@given(tenants, st.none() | cpu_sets)
def test_cpu_0s_core_is_never_dedicated_and_every_cpu_is_explained(seen, isolated):
    proposal = propose(HOST, seen, isolated)
    assert proposal.cpu_dedicated_set.isdisjoint(CpuSet.parse("0-1"))
    assert proposal.cpu_dedicated_set.isdisjoint(proposal.cpu_shared_set)
    assert proposal.cpu_dedicated_set | proposal.cpu_shared_set == HOST.cpus
    assert [verdict.cpu for verdict in proposal.verdicts] == list(HOST.cpus)
    assert all(verdict.why for verdict in proposal.verdicts)


@given(tenants, cpu_sets)
def test_where_isolated_cpus_are_known_nothing_else_is_dedicated(seen, isolated):
    assert propose(HOST, seen, isolated).cpu_dedicated_set <= isolated


def test_pins_are_dedicated_and_sets_that_guests_are_confined_to_are_shared():
    seen = [Tenant("db1", pinned=CpuSet.parse("4-5")), Tenant("web", confined=CpuSet.parse("2-3"))]
    proposal = propose(HOST, seen)
    assert proposal.cpu_dedicated_set == CpuSet.parse("4-7")
    roles = {verdict.cpu: (verdict.role, verdict.why) for verdict in proposal.verdicts}
    assert roles[4] == (CpuRole.DEDICATED, "db1 is pinned here")
    assert roles[2] == (CpuRole.SHARED, "web is confined to a set of CPUs with this one")


def test_what_a_person_must_look_at_is_noted():
    notes = propose(HOST, [Tenant("web", floating=True), Tenant("db1", pinned=CpuSet.parse("1,4"))]).notes
    assert any(note.startswith("web may run on any CPU") for note in notes)
    assert "db1 is pinned to CPU 1, which is proposed as shared" in notes
    assert any("isolated CPUs are not known" in note for note in notes)
    assert any("CPU 9 came online" in note for note in propose(HOST, [], unplaced=CpuSet.of([9])).notes)
    assert any("not online" in note for note in propose(HOST, [], CpuSet.parse("6-9")).notes)
