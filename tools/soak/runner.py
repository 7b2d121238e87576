"""Stories by the thousand on several processes, and the tables at the end."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import time
from typing import TYPE_CHECKING

from numaferry.ledger import store
from soak import databases
from soak.story import Failure, play
from soak.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numaferry.ledger import Ledger

PROCESSES = 2
FAULTS = 10_000
#: Seeds between two lines of progress.
EVERY = 50

#: Of a process of the pool: what it has set up, and its function that returns an empty ledger.
_kept = contextlib.ExitStack()
_empty: list[Callable[[], Ledger]] = []


def _begin(kind: str, where: Path) -> None:
    """Set up a process; what it keeps is in a directory that is removed when all have ended."""
    mine = where / str(os.getpid())
    mine.mkdir()
    _kept.enter_context(_no_pauses())
    _empty.append(_kept.enter_context(databases.KINDS[kind](mine)))


@contextlib.contextmanager
def _no_pauses() -> Iterator[None]:
    """Begin transactions again without a pause: the story's clock is not this one."""
    before, store.PAUSE_S = store.PAUSE_S, 0.0  # type: ignore[misc]
    try:
        yield
    finally:
        store.PAUSE_S = before  # type: ignore[misc]


def _play(seed: int) -> Tally | Failure:
    return play(seed, _empty[0]())


def results(seeds: Iterator[int], kind: str, processes: int) -> Iterator[Tally | Failure]:
    """Yield the outcome of each seed, in no order."""
    with databases.directory() as where:
        if processes == 1:
            with _no_pauses(), databases.KINDS[kind](where) as empty:
                yield from (play(seed, empty()) for seed in seeds)
            return
        pool = multiprocessing.get_context("spawn").Pool(processes, _begin, (kind, where))
        with pool:
            # a pool reads all that it is given at once, and there may be no end of seeds
            while batch := list(itertools.islice(seeds, EVERY)):
                yield from pool.imap_unordered(_play, batch)


def soak(first: int, count: int | None, kind: str, processes: int, say: Callable[[str], None]) -> int:
    """Play `count` seeds, or as many as it takes for FAULTS faults; returns the exit code."""
    total, began = Tally(), time.monotonic()
    seeds = itertools.count(first) if count is None else iter(range(first, first + count))
    for result in results(seeds, kind, processes):
        if isinstance(result, Failure):
            say(str(result))
            return 1
        total.add(result)
        minutes = (time.monotonic() - began) / 60
        if total.seeds % EVERY == 0:
            say(f"{total.seeds} seeds, {total.struck} faults struck, {minutes:.1f} min")
        if count is None and total.struck >= FAULTS:
            break
    say("")
    for line in total.lines():
        say(line)
    say(f"{total.struck} faults struck in {total.seeds} seeds from {first} on, {minutes:.1f} min, ledger in {kind}:")
    say("0 leaked claims, 0 double promises, 0 guests lost or run twice outside the named exceptions")
    return 0
