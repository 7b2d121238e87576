"""What may befall a controller and the fleet; drawn before it begins, so that a seed tells the same again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from numaferry.migration.steps import STEPS
from numaferry.virt.simulated import SCENARIOS

if TYPE_CHECKING:
    import random

BEFORE_READ, BEFORE_WRITE, AFTER_WRITE = "before a read", "before a write", "after a write"
BEFORE_CALL, AFTER_CALL = "before a call", "after a call"

DIES, STOPPED = "controller dies", "controller is stopped"
LOCKED, FULL, CONFLICT, LOST, AWAY = (
    *("ledger is locked", "ledger's disk is full", "another transaction is in the way", "a COMMIT's answer is lost"),
    "ledger is away for some seconds",
)
FAILS, TWICE = "step fails", "step runs twice"
#: No faults, and not counted as such: somebody else does something at that moment.
MEANWHILE, SLOW = "meanwhile", "slow"

#: Weight of each step: what strikes early keeps a story from getting to what may strike late.
DEPTH: Final = dict(zip((step.name for step in STEPS), (1, 1, 2, 4, 7, 7, 7), strict=True))
#: (place, after how many passings at most, what happens there) → weight
TROUBLES: Final = {
    **{(AFTER_WRITE, 60, what): 5 for what in (DIES, STOPPED, LOST, MEANWHILE, SLOW)},
    **{(BEFORE_WRITE, 60, what): 4 for what in (STOPPED, LOCKED, FULL, CONFLICT, AWAY)},
    (BEFORE_READ, 90, LOCKED): 4,
    **{(place, 70, what): 5 for place in (BEFORE_CALL, AFTER_CALL) for what in (DIES, STOPPED)},
    **{
        (f"{edge} {name}", 1, what): weight
        for name, weight in DEPTH.items()
        for edge, what in (("before", DIES), ("after", DIES), ("before", STOPPED), ("after", STOPPED), ("after", TWICE))
    },
    **{(f"{edge} {name}", 1, FAILS): weight for name, weight in DEPTH.items() for edge in ("before", "after")},
}
#: Calls of the port → weight: what is asked first, before anything is claimed, is not to end every story there.
CALLS: Final = {
    **dict.fromkeys(
        ("facts", "free_pages", "domains", "domain", "domain_xml", "check_vifs", "guest_support", "plug_vifs"), 1
    ),
    **dict.fromkeys(("set_ownership", "live_migration", "job"), 6),
    **dict.fromkeys(("thread_masks", "completed_job", "unplug_vifs", "set_pins"), 9),
}
CALL_ACTIONS: Final = ("refuse", "client-dies", "cut-controller-host")


@attrs.define
class Trouble:
    """One thing that happens at the n-th passing of a place."""

    place: str
    left: int
    what: str

    def __str__(self) -> str:
        return f"{self.what} at passing {self.left} of {self.place!r}"


def draw(rng: random.Random, most: int) -> list[Trouble]:
    """Draw up to so many troubles for one controller."""
    drawn = rng.choices(list(TROUBLES), list(TROUBLES.values()), k=rng.randint(0, most))
    return [Trouble(place, rng.randint(1, late), what) for place, late, what in drawn]


def draw_fleet_fault(rng: random.Random) -> dict[str, object]:
    """Draw the arguments of `Fleet.inject`."""
    if rng.random() < 0.7:
        point, action = SCENARIOS[rng.choice(sorted(SCENARIOS))]
        return {"point": point, "action": action, "after_bytes": rng.choice([0, 20 << 20, 100 << 20])}
    point = f"{rng.choice(['call', 'return'])}.{rng.choices(list(CALLS), list(CALLS.values()))[0]}"
    return {"point": point, "action": rng.choice(CALL_ACTIONS), "times": rng.choice([1, 1, 1, 2])}
