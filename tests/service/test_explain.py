"""What `explain` says of hosts and of who would have to leave, held against a ledger in which they do."""

import itertools
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numaferry.errors import HostUnreachable
from numaferry.ledger import ObservedUse, open_ledger
from numaferry.model import (
    CellRequest,
    CpuSet,
    Flavor,
    HostConfig,
    HostFacts,
    Instance,
    InstanceCell,
    InstanceNumaTopology,
    NumaRequest,
)
from numaferry.model.notation import parse_topology
from numaferry.service import reports
from numaferry.service.plans import scratch_copy

NOTATION = "2 cells x 2 cores x 2 threads, 1536M, 2M:64"
MIB = 1024
NUMBERS = itertools.count(1)


def uuid():
    return f"00000000-0000-4000-8000-{next(NUMBERS):012d}"


def nobody_answers(_uri):
    raise HostUnreachable("the host is judged as the ledger knows it", hint="none")


def add_host(ledger, name):
    facts = HostFacts(name, f"uuid-{name}", f"test:///{name}", parse_topology(NOTATION), 9_000_000, 7_002_000)
    config = HostConfig(cpu_dedicated_set=CpuSet.parse("1-3,5-7"), cpu_shared_set=CpuSet.parse("0,4"))
    ledger.add_host(name, facts, config, confirmed=True)


def guest(name, host, cpus, memory_mib):
    """A dedicated guest of one cell on these CPUs, all of one host cell."""
    every = CpuSet.of(range(len(cpus)))
    request = NumaRequest(
        len(cpus), memory_mib * MIB, (CellRequest(0, every, every, memory_mib * MIB, 2048),), "dedicated"
    )
    placed = InstanceCell(
        0, every, every, memory_mib * MIB, 2048, host_cell=min(cpus) // 4, cpu_pinning=tuple(enumerate(sorted(cpus)))
    )
    flavor = Flavor(f"of-{name}", len(cpus), memory_mib)
    return Instance(uuid(), name, host, flavor, request, InstanceNumaTopology((placed,)))


def answer(ledger, host="B"):
    (told,) = reports.explain(ledger, nobody_answers, "mover", host)
    return told


in_cell = st.sampled_from([{1, 2, 3}, {5, 6, 7}]).flatmap(
    lambda cpus: st.sets(st.sampled_from(sorted(cpus)), min_size=1)
)
residents = st.lists(st.tuples(in_cell, st.integers(1, 40).map(lambda pages: 2 * pages)), max_size=5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(residents, st.integers(1, 3), st.integers(1, 60).map(lambda pages: 2 * pages), st.lists(in_cell, max_size=1))
def test_who_is_said_to_make_room_by_leaving_does_and_nobody_else(there, vcpus, memory_mib, seen):
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(str(Path(folder) / "ledger.sqlite"))
        add_host(ledger, "A")
        add_host(ledger, "B")
        ledger.claim_instance(guest("mover", "A", set(range(1, vcpus + 1)), memory_mib))
        for number, (cpus, size_mib) in enumerate(there):
            ledger.claim_instance(guest(f"g{number}", "B", cpus, size_mib))
        uses = tuple(
            ObservedUse(uuid(), f"stranger{number}", CpuSet.of(cpus), floating=False, vcpus=1, memory_kib=0, pages=())
            for number, cpus in enumerate(seen)
        )
        ledger.set_observed("B", uses)
        told = answer(ledger)
        names = {f"g{number}" for number in range(len(there))} | {use.name for use in uses}
        said = (
            set()
            if told.fits
            else {name for name in names if f"fits if instance {name} leaves" in told.misfit.suggestions}
        )
        helps = {name for name in names if not told.fits and _fits_without(ledger, name)}
        ledger.close()
        assert said == helps


def _fits_without(ledger, name):
    """Let one go in a copy of the ledger, and ask again."""
    with scratch_copy(ledger) as copy:
        if name.startswith("stranger"):
            copy.set_observed("B", ())
        else:
            copy.forget_instance(copy.instance(name).uuid)
        return answer(copy).fits


def test_hosts_that_fit_come_first_then_the_nearest_misses(tmp_path):
    ledger = open_ledger(str(tmp_path / "ledger.sqlite"))
    for name in ("A", "full", "nearly", "roomy", "unknown"):
        add_host(ledger, name)
    ledger.claim_instance(guest("mover", "A", {1, 2, 3}, 64))
    for host, cpus in (("full", {1, 2, 3}), ("full", {5, 6, 7}), ("nearly", {1}), ("nearly", {5})):
        ledger.claim_instance(guest(f"g{min(cpus)}-{host}", host, cpus, 2))
    ledger.claim_instance(guest("big", "roomy", {1, 2}, 2))
    told = reports.explain(ledger, nobody_answers, "mover")
    ledger.close()
    assert [one.host for one in told] == ["roomy", "unknown", "nearly", "full"]
    assert [one.fits for one in told] == [True, True, False, False]
