"""Laws of the fit, by property: equal to brute force, safe, monotonic, blind to names, pure, true in what it says."""

import itertools

import attrs
import oracle
from checker import violations
from fit_strategies import hosts, requests
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from numaferry.fit import cases, numa_fit_instance_to_host, score
from numaferry.fit.devices import Devices
from numaferry.fit.question import Question, mask_of
from numaferry.fit.suggest import changes, floating_changes
from numaferry.model import EMPTY, CpuSet, NumaRequest, Placement

law = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@law
@given(hosts(), requests())
def test_the_verdict_is_that_of_brute_force(host, request_):
    assert bool(numa_fit_instance_to_host(host, request_)) == oracle.fits(host, request_)


@law
@given(hosts(), requests(), st.sampled_from(["best", "first"]), st.sampled_from(["pack", "spread"]))
def test_safety_every_placement_passes_the_independent_checker(host, request_, how, strategy):
    placement = numa_fit_instance_to_host(host, request_, score=how, strategy=strategy)
    if placement:
        assert violations(host, request_, cases.answer_of({"id": 0}, placement)) == []
        assert placement.host == host.name
        assert placement.generation == host.generation


@law
@given(hosts(), requests())
def test_owned_siblings_are_exactly_the_rest_of_the_cores_of_an_isolated_guest(host, request_):
    placement = numa_fit_instance_to_host(host, request_)
    assume(placement)
    for cell in placement.numa_topology.cells:
        cores = [core for core in host.cell(cell.host_cell).siblings if not core.isdisjoint(cell.pinned_cpus)]
        rest = CpuSet.of(cpu for core in cores for cpu in core) - cell.pinned_cpus
        assert cell.siblings == (rest if request_.thread_policy == "isolate" else EMPTY)


@law
@given(hosts(), requests(), st.data())
def test_monotonic_freeing_resources_never_makes_a_fit_fail(host, request_, data):
    assume(numa_fit_instance_to_host(host, request_, score="first"))
    number = data.draw(st.integers(0, len(host.cells) - 1))
    cell = host.cells[number]
    pools = tuple(attrs.evolve(pool, used=data.draw(st.integers(0, pool.used))) for pool in cell.pages)
    freed_kib = sum((old.used - new.used) * old.size_kib for old, new in zip(cell.pages, pools, strict=True))
    freer = attrs.evolve(
        cell,
        pinned=CpuSet.of(cpu for cpu in cell.pinned if data.draw(st.booleans())),
        shared_vcpus=data.draw(st.integers(0, cell.shared_vcpus)),
        pages=pools,
        memory_used_kib=max(0, cell.memory_used_kib - freed_kib),
    )
    cells = (*host.cells[:number], freer, *host.cells[number + 1 :])
    devices = tuple(attrs.evolve(device, used=device.used and data.draw(st.booleans())) for device in host.pci)
    assert numa_fit_instance_to_host(attrs.evolve(host, cells=cells, pci=devices), request_, score="first")


@law
@given(hosts(), requests(), st.data())
def test_permuting_cells_and_their_ids_permutes_the_answer(host, request_, data):
    ids = [cell.id for cell in host.cells]
    new_id = dict(zip(ids, data.draw(st.permutations([3, 5, 9])), strict=False))
    renamed = [attrs.evolve(cell, id=new_id[cell.id]) for cell in host.cells]
    other = attrs.evolve(
        host,
        cells=tuple(sorted(renamed, key=lambda cell: cell.id)),
        pci=tuple(attrs.evolve(device, numa_node=new_id.get(device.numa_node)) for device in host.pci),
        network_cells=tuple((net, tuple(new_id[cell] for cell in cells)) for net, cells in host.network_cells),
    )
    one, two = numa_fit_instance_to_host(host, request_), numa_fit_instance_to_host(other, request_)
    assert bool(one) == bool(two)
    if one:
        assert one.score == two.score


@law
@given(hosts(), requests())
def test_the_same_input_gives_the_same_answer_and_is_not_changed(host, request_):
    before = repr((host, request_))
    first = numa_fit_instance_to_host(host, request_)
    assert repr((host, request_)) == before
    assert numa_fit_instance_to_host(host, request_) == first


@law
@given(hosts(), requests())
def test_claiming_twice_never_gives_a_cpu_or_a_device_twice(host, request_):
    first = numa_fit_instance_to_host(host, request_)
    assume(first)
    owned = first.numa_topology.owned_cpus
    cells = tuple(attrs.evolve(cell, pinned=cell.pinned | (owned & cell.dedicated)) for cell in host.cells)
    devices = tuple(attrs.evolve(device, used=device.used or device.address in first.pci) for device in host.pci)
    second = numa_fit_instance_to_host(attrs.evolve(host, cells=cells, pci=devices), request_)
    if second:
        assert second.numa_topology.owned_cpus.isdisjoint(owned)
        assert not set(second.pci) & set(first.pci)


@law
@given(hosts(), requests())
def test_whatever_it_says_would_make_it_fit_does(host, request_):
    question = Question(host, request_)
    assume(question.assignment() is None)
    misfit = numa_fit_instance_to_host(host, request_)
    said = changes(question)
    assert misfit.suggestions == tuple(change.sentence for change in said)
    for change in said:
        assert oracle.fits(change.host, change.request), change.sentence


@law
@given(hosts(), requests())
def test_every_shortage_is_short_and_has_its_numbers_in_words(host, request_):
    misfit = numa_fit_instance_to_host(host, request_)
    assume(not misfit)
    assert misfit.reason
    assert misfit.shortages
    for shortage in misfit.shortages:
        assert shortage.missing > 0
        assert shortage.free >= 0
        assert shortage.sentence


@law
@given(hosts(), st.integers(1, 12), st.integers(1, 24), requests())
def test_floating_guests_are_charged_to_the_host_as_brute_force_does(host, vcpus, memory_mib, other):
    request_ = NumaRequest(vcpus, memory_mib * 1024, pci_requests=other.pci_requests)
    answer = numa_fit_instance_to_host(host, request_)
    assert bool(answer) == oracle.fits(host, request_)
    if not answer:
        for change in floating_changes(host, request_):
            assert oracle.fits(change.host, change.request), change.sentence


def every_rank(host, request_, strategy):
    """Return the score of every valid assignment: all injective maps, one by one."""
    question = Question(host, request_)
    question.assignment()
    costs = score.PairCosts(host, question.pairs, strategy)
    spread = score.distances(host)
    devices = Devices(host, request_)
    ranks = []
    for columns in itertools.permutations(range(len(host.cells)), len(request_.cells)):
        if any(not row >> column & 1 for row, column in zip(question.rows, columns, strict=True)):
            continue
        far = devices.far(mask_of(columns))
        if far is None or not question.within_base_pages(list(columns)):
            continue
        cost = sum(costs.cost(guest, column) for guest, column in zip(question.pairs.guests, columns, strict=True))
        ranks.append(score.of(far, score.apart(spread, list(columns)), cost))
    return ranks


@law
@given(hosts(max_cells=3), requests(), st.data(), st.sampled_from(["pack", "spread"]))
def test_the_best_is_the_best_of_all_assignments(host, request_, data, strategy):
    # twice the cells with other ids, so that there is something to choose
    doubled = [attrs.evolve(cell, id=cell.id + 20) for cell in host.cells]
    cells = [
        attrs.evolve(
            cell, distances=tuple((other.id, data.draw(st.sampled_from([12, 20, 32]))) for other in host.cells)
        )
        for cell in (*host.cells, *doubled)
    ]
    bigger = attrs.evolve(host, cells=tuple(cells))
    placement = numa_fit_instance_to_host(bigger, request_, strategy=strategy)
    assume(isinstance(placement, Placement))
    ranks = every_rank(bigger, request_, strategy)
    assert placement.score_bound <= min(ranks)
    if not host.floating_memory_kib:
        assert placement.score == min(ranks) == placement.score_bound
