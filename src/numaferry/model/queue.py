"""How many migrations may be under way at once, and whose turn it is: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from numaferry.model.migration import MigrationStatus, MigrationType

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numaferry.model.migration import Migration

#: Statuses in which a migration takes one of the places: a host is being prepared, or memory is being copied.
UNDER_WAY: Final = frozenset({MigrationStatus.PREPARING, MigrationStatus.RUNNING})
#: Statuses in which it has a claim and waits for a place.
WAITING: Final = frozenset({MigrationStatus.ACCEPTED, MigrationStatus.QUEUED})
#: libvirt takes one port for each incoming migration: 49152 to 49215 as it is configured by default.
MOST_INCOMING: Final = 64
#: Priorities go from its negative to this.
HIGHEST_PRIORITY: Final = 100


@attrs.frozen(slots=True)
class Limits:
    """Migrations that may be under way at once; 0: no limit. nova's default is one per source host."""

    per_source: int = 0
    per_dest: int = 0
    fleet: int = 0

    def __bool__(self) -> bool:
        """Tell whether anything is limited."""
        return any((self.per_source, self.per_dest, self.fleet))


@attrs.frozen(slots=True)
class Wait:
    """Why a migration has to wait, and where it stands among those that wait in the whole fleet, from 1."""

    reason: str
    position: int
    waiting: int

    @property
    def sentence(self) -> str:
        """Return what a person is told."""
        return f"queued, {self.position} of {self.waiting}: {self.reason}"


class _Limit(NamedTuple):
    """One limit: how many, whose place it is, and what is said when there is none; `{host}` is filled in."""

    most: Callable[[Limits], int]
    host: Callable[[Migration], str]
    words: str


_LIMITS: Final = (
    _Limit(lambda limits: limits.per_source, lambda move: move.source, "{host} sends {count} already (limit {most})"),
    _Limit(lambda limits: limits.per_dest, lambda move: move.dest, "{host} receives {count} already (limit {most})"),
    _Limit(lambda limits: limits.fleet, lambda _move: "", "{count} are under way in the fleet already (limit {most})"),
)


def order(move: Migration) -> tuple[int, int]:
    """Return the place of a migration in the queue, as a key: the higher priority first, then the older one."""
    return -move.priority, move.id


def wait_of(
    limits: Limits, move: Migration, others: Collection[Migration], now_s: float, driven: Collection[int] = ()
) -> Wait | None:
    """Return why a migration can't begin now, or None; one that has begun, or that is a re-pin, waits for nobody.

    A re-pin copies nothing and takes no place. `others` are those in progress. One that waits and stands before it
    takes its place in advance if it could begin itself and somebody keeps it going: its lease holds at `now_s`, seconds
    by the ledger's clock, or who asks is about to take it (`driven`, ids). So the queue is in order, a migration whose
    driver died is in nobody's way, and a full host keeps only those waiting that concern it.
    """
    if move.status not in WAITING or not _copies(move):
        return None
    others = [one for one in others if one.id != move.id and _copies(one)]
    busy = [one for one in others if one.status in UNDER_WAY]
    waiting = [one for one in others if one.status in WAITING]
    before = [one for one in waiting if order(one) < order(move)]
    alive = [one for one in before if one.lease_until > now_s or one.id in driven]
    served = [one for one in alive if _full(limits, one, busy) is None]
    reason = _full(limits, move, [*busy, *served])
    return Wait(reason, len(before) + 1, len(waiting) + 1) if reason else None


def _copies(move: Migration) -> bool:
    return move.migration_type is MigrationType.LIVE_MIGRATION


def _full(limits: Limits, move: Migration, taken: Collection[Migration]) -> str | None:
    """Return which limit is reached for a migration, or None."""
    for limit in _LIMITS:
        most, host = limit.most(limits), limit.host(move)
        count = sum(limit.host(one) == host for one in taken)
        if most and count >= most:
            return limit.words.format(host=host, count=count, most=most)
    return None
