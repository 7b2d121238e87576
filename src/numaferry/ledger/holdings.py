"""What is held on a host, claim by claim, as values: host state, usage and explanations are computed from it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from numaferry.ledger.amounts import Amount, Key, roll_up
from numaferry.model import CpuSet

if TYPE_CHECKING:
    from collections.abc import Iterable


@attrs.frozen(slots=True)
class Holding:
    """One claim on one host with everything it holds there."""

    claim_id: str
    instance_uuid: str
    instance_name: str
    #: The instance runs here by the ledger; False for the move claim of a migration that comes in.
    current: bool
    migration_id: int | None
    #: Why it was claimed, in one sentence.
    cause: str
    promise: str
    #: (host CPU, role), ordered.
    cpus: tuple[tuple[int, str], ...] = ()
    amounts: tuple[Amount, ...] = ()

    @property
    def cpu_set(self) -> CpuSet:
        """Every CPU it holds."""
        return CpuSet.of(cpu for cpu, _ in self.cpus)

    @property
    def taken(self) -> dict[Key, int]:
        """What it takes, the host's own figures included."""
        return roll_up({(one.cell, one.resource): one.amount for one in self.amounts})


def by_instance(holdings: Iterable[Holding]) -> dict[str, Holding]:
    """Return instance UUID → all that it holds here: two claims of one guest (a re-pin) are one holding.

    What both take of a pool counts once, as the larger of the two, as the schema charges it.
    """
    found: dict[str, Holding] = {}
    for one in holdings:
        other = found.get(one.instance_uuid)
        found[one.instance_uuid] = one if other is None else _merged(other, one)
    return found


def _merged(one: Holding, other: Holding) -> Holding:
    larger: dict[Key, Amount] = {}
    for amount in (*one.amounts, *other.amounts):
        key = (amount.cell, amount.resource)
        if key not in larger or larger[key].amount < amount.amount:
            larger[key] = amount
    base = one if one.current else other
    cpus = tuple(sorted({**dict(other.cpus), **dict(one.cpus)}.items()))
    return attrs.evolve(base, cpus=cpus, amounts=tuple(larger[key] for key in sorted(larger)))


def beyond(one: Holding, other: Holding) -> Holding:
    """Return what one claim of a guest adds to its other one on the same host."""
    held = other.cpu_set
    taken = {(amount.cell, amount.resource): amount.amount for amount in other.amounts}
    more = [
        attrs.evolve(amount, amount=amount.amount - taken.get((amount.cell, amount.resource), 0))
        for amount in one.amounts
    ]
    return attrs.evolve(
        one,
        cpus=tuple((cpu, role) for cpu, role in one.cpus if cpu not in held),
        amounts=tuple(amount for amount in more if amount.amount > 0),
    )


def without_overlap(holdings: tuple[Holding, ...]) -> tuple[Holding, ...]:
    """Return the holdings with what two claims of one guest have in common left to its current one."""
    current = {one.instance_uuid: one for one in holdings if one.current}
    return tuple(
        beyond(one, own) if (own := current.get(one.instance_uuid, one)) is not one else one for one in holdings
    )


def taken_by(holdings: tuple[Holding, ...]) -> dict[Key, int]:
    """Add up what several claims take, the host's own figures included."""
    total: Counter[Key] = Counter()
    for holding in by_instance(holdings).values():
        total.update(holding.taken)
    return dict(total)
