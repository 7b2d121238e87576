"""What would make it fit, said only after it was tried: every sentence stands for a fit that was run.

First what may be given back on the host (other guests leaving), cheapest first, chained where one is not enough;
only where nothing of that helps, what the guest would have to do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.fit.devices import Devices
from numaferry.fit.floating import totals_for_floating
from numaferry.fit.question import Question
from numaferry.fit.relief import Relief, relief
from numaferry.fit.words import counted, kib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numaferry.model import HostState, NumaRequest, PciRequest

#: No more sentences than a person reads, and no more trials than a scheduler can wait for.
MOST = 3
_TRIALS = 6


@attrs.frozen(slots=True)
class Change:
    """One true sentence, and the host and the request for which it was tried."""

    sentence: str
    host: HostState
    request: NumaRequest


def changes(question: Question) -> tuple[Change, ...]:
    """Return what would make a question that has no answer have one; cheapest first, at most MOST."""
    found: list[Change] = []
    for first in sorted(_reliefs(question), key=lambda one: one.cost)[:_TRIALS]:
        chain = _chain(question, first)
        if chain is not None and all(chain.sentence != other.sentence for other in found):
            found.append(chain)
        if len(found) == MOST:
            break
    return tuple(found or _without_wishes(question.host, question.request))


def suggestions(question: Question) -> tuple[str, ...]:
    """Return the sentences of `changes`."""
    return tuple(change.sentence for change in changes(question))


def if_it_leaves(request: NumaRequest, without: Mapping[str, HostState]) -> tuple[str, ...]:
    """Return a sentence for each instance without which the request fits.

    `without` gives, for each name, the state of the host as it would be without that instance; who is on a host is
    the ledger's knowledge, not the fit's.
    """
    return tuple(f"fits if instance {name} leaves" for name, host in without.items() if _fits(host, request))


def _fits(host: HostState, request: NumaRequest) -> bool:
    if request.cells:
        return Question(host, request).assignment() is not None
    devices = Devices(host, request)
    totals = totals_for_floating(host, request)
    return all(total.needed <= total.free for total in totals) and devices.met(None) == devices.wanted()


def _chain(question: Question, first: Relief) -> Change | None:
    """Add to `first` the cheapest next relief, again and again, until it fits; None where that comes to nothing."""
    words = [first.words]
    host = first.host
    for _ in range(len(question.pairs.guests) + question.devices.wanted() + 2):
        again = Question(host, question.request)
        if again.assignment() is not None:
            return Change(f"fits if {' and '.join(words)}", host, question.request)
        further = min(_reliefs(again), key=lambda one: one.cost, default=None)
        if further is None:
            return None
        words.append(further.words)
        host = further.host
    return None


def _reliefs(question: Question) -> Iterator[Relief]:
    """Yield what may bring this question nearer to an answer, by what it failed at."""
    if question.hall is not None:
        yield from _reliefs_of_cells(question)
    elif question.totals or question.base_missing_kib:
        yield from _reliefs_of_floating(question)
    else:
        yield from _reliefs_of_devices(question.host, question.request)


def _reliefs_of_cells(question: Question) -> Iterator[Relief]:
    """Yield, for the guest cells that share too few host cells, what opens another host cell to one of them."""
    if question.hall is None or len(question.pairs.guests) > len(question.pairs.rooms):
        return
    seen = set()
    for row in question.hall.rows:
        guest = question.pairs.guests[row]
        for index in range(len(question.pairs.rooms)):
            if index in question.hall.columns or (guest.key, index) in seen:
                continue
            seen.add((guest.key, index))
            found = relief(question.pairs, question.host, guest, index)
            if found is not None:
                yield found


def _reliefs_of_floating(question: Question) -> Iterator[Relief]:
    """Yield what floating guests would have to give back."""
    host, base = question.host, question.base_missing_kib
    if base and base <= host.floating_memory_kib:
        after = attrs.evolve(host, floating_memory_kib=host.floating_memory_kib - base)
        yield Relief(f"floating guests with {kib(base)} leave", after, (1, 0, base))
    for total in question.totals:
        missing = total.needed - total.free
        if total.resource == "shared-cpus" and missing <= host.floating_vcpus:
            after = attrs.evolve(host, floating_vcpus=host.floating_vcpus - missing)
            yield Relief(f"floating guests with {counted(missing, 'vCPU')} leave", after, (1, missing, 0))
        if total.resource == "memory" and missing <= host.floating_memory_kib:
            after = attrs.evolve(host, floating_memory_kib=host.floating_memory_kib - missing)
            yield Relief(f"floating guests with {kib(missing)} leave", after, (1, 0, missing))


def _reliefs_of_devices(host: HostState, request: NumaRequest) -> Iterator[Relief]:
    """Yield each used device that an alias names."""
    for number, device in enumerate(host.pci):
        free = attrs.evolve(device, used=False)
        if device.used and any(_names(pci, device.vendor, device.product) for pci in request.pci_requests):
            after = attrs.evolve(host, pci=(*host.pci[:number], free, *host.pci[number + 1 :]))
            yield Relief(f"device {device.address} is freed", after, (1, number, 0))


def _names(pci: PciRequest, vendor: str, product: str) -> bool:
    return (vendor, product) in pci.products


def _without_wishes(host: HostState, request: NumaRequest) -> list[Change]:
    """Return what the guest would have to do without, one wish at a time."""
    trials: list[tuple[str, NumaRequest]] = []
    if request.thread_policy in {"require", "isolate"}:
        words = f"thread policy {request.thread_policy} became prefer"
        trials.append((words, attrs.evolve(request, thread_policy="prefer")))
    if request.emulator_threads_policy == "isolate":
        words = "the emulator threads had no CPU of their own"
        trials.append((words, attrs.evolve(request, emulator_threads_policy=None)))
    if any(cell.page_size not in (None, "any") for cell in request.cells):
        cells = tuple(attrs.evolve(cell, page_size="any") for cell in request.cells)
        trials.append(("any page size would do", attrs.evolve(request, cells=cells)))
    if any(pci.policy != "preferred" for pci in request.pci_requests):
        relaxed = tuple(attrs.evolve(pci, policy="preferred") for pci in request.pci_requests)
        trials.append(("its devices might be far from it", attrs.evolve(request, pci_requests=relaxed)))
    return [Change(f"would fit if {words}", host, asked) for words, asked in trials if _fits(host, asked)]


# -- guests without cells ------------------------------------------------------------------------------------------


def floating_changes(host: HostState, request: NumaRequest) -> tuple[Change, ...]:
    """Return what would make room for a guest that is charged to the host as a whole."""
    after, words = host, []
    for resource in ("shared-cpus", "memory"):
        totals = [total for total in totals_for_floating(after, request) if total.resource == resource]
        missing = max(total.needed - total.free for total in totals)
        if missing > 0:
            after = _unload(after, resource, missing)
            words.append(kib(missing) + " of memory" if resource == "memory" else counted(missing, "shared vCPU"))
    if words and _fits(after, request):
        return (Change(f"fits if guests with {' and '.join(words)} leave the host", after, request),)
    found = []
    for one in _reliefs_of_devices(host, request):
        if _fits(one.host, request):
            found.append(Change(f"fits if {one.words}", one.host, request))
        if len(found) == MOST:
            break
    return tuple(found)


def floating_suggestions(host: HostState, request: NumaRequest) -> tuple[str, ...]:
    """Return the sentences of `floating_changes`."""
    return tuple(change.sentence for change in floating_changes(host, request))


def _unload(host: HostState, resource: str, amount: int) -> HostState:
    """Return the host without this much load: first what floats, then cell by cell."""
    if resource == "shared-cpus":
        gone = min(amount, host.floating_vcpus)
        host, rest = attrs.evolve(host, floating_vcpus=host.floating_vcpus - gone), amount - gone
    else:
        gone = min(amount, host.floating_memory_kib)
        host, rest = attrs.evolve(host, floating_memory_kib=host.floating_memory_kib - gone), amount - gone
    cells = []
    for cell in host.cells:
        if resource == "shared-cpus":
            gone = min(rest, cell.shared_vcpus)
            cells.append(attrs.evolve(cell, shared_vcpus=cell.shared_vcpus - gone))
        else:
            base = cell.pages[0] if cell.pages else None
            gone = min(rest, base.used * base.size_kib if base else cell.memory_used_kib)
            gone -= gone % base.size_kib if base else 0
            pages = cell.pages
            if base is not None:
                pages = (attrs.evolve(base, used=base.used - gone // base.size_kib), *cell.pages[1:])
            cells.append(attrs.evolve(cell, memory_used_kib=cell.memory_used_kib - gone, pages=pages))
        rest -= gone
    return attrs.evolve(host, cells=tuple(cells))
