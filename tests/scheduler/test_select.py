"""The shortlist: by rule, by fit, by weight; every other host says why it is not on it."""

from __future__ import annotations

import attrs
import pytest

from numaferry.errors import Conflict, NoFit, NotConfirmed, NotFound
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
    Placement,
)
from numaferry.model.notation import parse_topology
from numaferry.scheduler import Destinations, select_destinations

NOTATION = "2 cells x 2 cores x 2 threads, 1536M, 2M:128"
TWO = CpuSet.parse("0-1")


def add(ledger, name, *, notation=NOTATION, dedicated="2-7", confirmed=True):
    facts = HostFacts(name, f"uuid-{name}", f"test:///{name}", parse_topology(notation), 9_000_000, 7_002_000)
    ledger.add_host(name, facts, HostConfig(CpuSet.parse(dedicated), TWO), confirmed)


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(str(tmp_path / "ledger.sqlite"))
    for name in ("A", "B", "C"):
        add(opened, name)
    yield opened
    opened.close()


@pytest.fixture
def guest(ledger):
    """A guest on A with two dedicated CPUs and 32 pages of 2 MiB."""
    request = NumaRequest(2, 65536, (CellRequest(0, TWO, TWO, 65536, 2048),), "dedicated")
    placed = InstanceCell(0, TWO, TWO, 65536, 2048, 1, ((0, 4), (1, 5)))
    flavor = Flavor("f", 2, 64)
    instance = Instance("uuid-of-db1", "db1", "A", flavor, request, InstanceNumaTopology((placed,)))
    return ledger.claim_instance(instance).instance


def stray(ledger, host, cpus):
    ledger.set_observed(host, (ObservedUse(f"stray-{host}", "stray", CpuSet.parse(cpus), False, 1, 0),))  # noqa: FBT003


def test_every_host_but_the_source_that_fits_is_a_candidate(ledger, guest):
    chosen = select_destinations(ledger, guest)
    assert chosen == ("B", "C")
    assert chosen.misfits == ()


def test_the_others_say_why(ledger, guest):
    add(ledger, "D", confirmed=False)
    ledger.set_host_state("C", "unreachable", "no route")
    stray(ledger, "B", "2-7")
    chosen = select_destinations(ledger, guest)
    assert chosen == ()
    assert [misfit.host for misfit in chosen.misfits] == ["B", "C", "D"]
    assert [bool(misfit.reason) for misfit in chosen.misfits] == [True] * 3
    assert "unreachable: no route" in chosen.misfits[1].reason
    assert "not confirmed" in chosen.misfits[2].reason


def test_of_equal_placements_the_host_with_more_free_cpus_comes_first(ledger, guest):
    add(ledger, "D", notation="2 cells x 4 cores x 2 threads, 1536M, 2M:128", dedicated="2-15")
    flat = select_destinations(ledger, guest, fit=lambda host, _request: _anywhere(host))
    assert flat == ("D", "B", "C")
    stray(ledger, "B", "2")
    assert select_destinations(ledger, guest, fit=lambda host, _request: _anywhere(host)) == ("D", "C", "B")


def _anywhere(host):
    return Placement(host.name, host.generation, None)


def test_the_fit_score_comes_before_free_cpus(ledger, guest):
    def scored(host, _request):
        return attrs.evolve(_anywhere(host), score=(0.0,) if host.name == "C" else (1.0,))

    stray(ledger, "C", "2-3")
    assert select_destinations(ledger, guest, fit=scored) == ("C", "B")


def test_a_named_destination_is_the_only_candidate(ledger, guest):
    assert select_destinations(ledger, guest, dest="C") == ("C",)
    stray(ledger, "C", "2-7")
    chosen = select_destinations(ledger, guest, dest="C")
    assert chosen == ()
    assert [misfit.host for misfit in chosen.misfits] == ["C"]


def test_a_named_destination_that_can_not_be_is_said_at_once(ledger, guest):
    add(ledger, "D", confirmed=False)
    with pytest.raises(NotFound):
        select_destinations(ledger, guest, dest="Z")
    with pytest.raises(Conflict, match="runs on A already"):
        select_destinations(ledger, guest, dest="A")
    with pytest.raises(NotConfirmed):
        select_destinations(ledger, guest, dest="D")


def test_the_shortlist_is_for_the_claim_which_looks_again(ledger, guest):
    """Between shortlist and claim the first candidate was taken: the claim goes to the second."""
    chosen = select_destinations(ledger, guest)
    stray(ledger, "B", "2-7")
    assert ledger.live_migration_claim(guest.uuid, chosen).migration.dest == "C"
    with pytest.raises(NoFit):
        ledger.live_migration_claim(_second(ledger).uuid, Destinations())


def _second(ledger):
    floating = Instance("uuid-of-web1", "web1", "A", Flavor("f", 1, 64), NumaRequest(1, 65536))
    return ledger.claim_instance(floating).instance


def test_a_floating_guest_goes_where_shared_cpus_are_left(ledger):
    add(ledger, "D", notation="1 cell x 2 cores x 2 threads, 1536M", dedicated="2-3")
    web = _second(ledger)
    assert set(select_destinations(ledger, web)) == {"B", "C", "D"}


def test_choosing_changes_nothing(ledger, guest):
    before = (ledger.hosts(), ledger.events(), ledger.instances())
    select_destinations(ledger, guest)
    assert (ledger.hosts(), ledger.events(), ledger.instances()) == before
