"""`numa_fit_instance_to_host`: exact resources on one host for one request, or the reasons why not.

The question is a bipartite matching over pairwise fits (`pairs`, `matching`), since guest cells take distinct host
cells and host cells share nothing. Devices and networks make the set of host cells matter (`devices`): a small search
over sets that a matching can cover. `docs/fit.md` has the proof sketch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from numaferry.fit import score as scoring
from numaferry.fit.devices import Devices
from numaferry.fit.explain import floating_misfit, misfit
from numaferry.fit.floating import totals_for_floating
from numaferry.fit.question import NO_CPUS, Question, mask_of
from numaferry.fit.threads import bits
from numaferry.model import CpuSet, InstanceCell, InstanceNumaTopology, Placement

if TYPE_CHECKING:
    from numaferry.fit.pairs import Guest
    from numaferry.fit.score import Strategy
    from numaferry.model import HostState, Misfit, NumaRequest

Depth = Literal["best", "first"]


def numa_fit_instance_to_host(
    host: HostState,
    request: NumaRequest,
    *,
    score: Depth = "best",
    strategy: Strategy = "pack",
    explain: bool = True,
) -> Placement | Misfit:
    """Place `request` on `host`: a Placement (true in a condition) or a Misfit (false) that says why not.

    Pure and deterministic; neither argument is changed. `score="best"` gives the best placement by `score.Score`
    (proven for guests of up to four cells, else within a bound that `Placement.score_bound` tells), `"first"` the
    first valid one, for who only asks whether. `explain=False` leaves shortages and suggestions out of a Misfit.
    A request without cells is checked against the host as a whole and gives a Placement without a topology.
    """
    if not request.cells:
        return _fit_floating(host, request, explain=explain)
    question = Question(host, request)
    columns = question.assignment()
    if columns is None:
        return misfit(question, explain=explain)
    rank: tuple[float, ...] = ()
    bound: tuple[float, ...] = ()
    if score == "best":
        columns, rank, bound = _best(question, columns, strategy)
    pci = question.devices.choose(mask_of(columns)) if request.pci_requests else ()
    return Placement(host.name, host.generation, _topology(question, columns), pci, rank, bound)


def _fit_floating(host: HostState, request: NumaRequest, *, explain: bool) -> Placement | Misfit:
    """Check a guest without cells against the host as a whole."""
    devices = Devices(host, request)
    short = [total for total in totals_for_floating(host, request) if total.needed > total.free]
    if short or devices.met(None) < devices.wanted():
        return floating_misfit(host, request, devices, short, explain=explain)
    return Placement(host.name, host.generation, None, devices.choose(None))


def _best(
    question: Question, columns: list[int], strategy: Strategy
) -> tuple[list[int], tuple[float, ...], tuple[float, ...]]:
    """Better an assignment until it is the best by score; returns it with its score and the bound."""
    costs = scoring.PairCosts(question.host, question.pairs, strategy)
    spread = scoring.distances(question.host)
    table = question.table(costs.cost)
    found = question.search(table, spread).run(columns)
    best = found.columns
    if not question.within_base_pages(best):
        # what floats leaves too few base pages for the best: the thriftiest assignment, and among those the best
        best = question.thriftiest(columns, table)
    far, apart = question.devices.far(mask_of(best)) or 0, scoring.apart(spread, best)
    cost = sum(table[row][column] for row, column in enumerate(best))
    return best, scoring.of(far, apart, cost), scoring.of(*found.bound)


def _topology(question: Question, columns: list[int]) -> InstanceNumaTopology:
    """Return the guest's cells on these host cells, CPU by CPU."""
    pairs = question.pairs
    emulator = 0
    cells = []
    for guest, index in zip(pairs.guests, columns, strict=True):
        cells.append(_cell(question, guest, index))
        if guest.emulator:
            emulator = pairs.choose(guest, index).emulator
    owned = CpuSet(emulator) if emulator else NO_CPUS
    return InstanceNumaTopology(tuple(cells), question.request.emulator_threads_policy, owned)


def _cell(question: Question, guest: Guest, index: int) -> InstanceCell:
    """Return one placed guest cell."""
    pairs = question.pairs
    wanted = guest.request
    pinning: tuple[tuple[int, int], ...] = ()
    siblings = NO_CPUS
    if guest.pinned:
        chosen = pairs.choose(guest, index)
        pinning = tuple(zip(bits(wanted.pinned_vcpus.mask & wanted.vcpus.mask), chosen.cpus, strict=True))
        siblings = CpuSet(chosen.siblings) if chosen.siblings else NO_CPUS
    size_kib = pairs.page_size(guest, index)
    room = pairs.rooms[index]
    return InstanceCell(
        wanted.id, wanted.vcpus, wanted.pinned_vcpus, wanted.memory_kib, size_kib, room.id, pinning, siblings
    )
