"""One story: some rounds of moves into faults, then a world that heals, and what has to be true at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from numaferry.errors import NeedsPerson
from numaferry.model import MigrationStatus
from numaferry.virt.simulated import ClientDied
from soak import checks
from soak.controllers import Broken
from soak.troubles import draw_fleet_fault
from soak.world import World

if TYPE_CHECKING:
    from numaferry.ledger import Ledger
    from numaferry.model import Migration
    from soak.tally import Tally

#: How often a migration is recovered in a whole world until it has to have ended.
TRIES = 6


@attrs.frozen
class Failure:
    """What was broken, and how to see it again."""

    seed: int
    what: str
    story: str

    def __str__(self) -> str:
        return f"{self.story}\n\nseed {self.seed}: {self.what}\nto see it again: make soak SEED={self.seed} N=1"


def play(seed: int, ledger: Ledger) -> Tally | Failure:
    """Play the story of a seed on an empty ledger."""
    world = World(seed, ledger)
    try:
        rounds(world)
        heal(world)
        world.tally.seeds = 1
    except Broken as broken:
        return Failure(seed, str(broken), _told(world))
    except (Exception, ClientDied) as error:  # noqa: BLE001  (what nobody foresaw is a failure with its seed)
        return Failure(seed, f"{type(error).__name__}: {error}", _told(world))
    finally:
        world.close()
    return world.tally


def rounds(world: World) -> None:
    """Move guests into faults, a few times over; what is left behind is recovered in a later round, or at the end."""
    rng = world.rng
    for _ in range(rng.randint(5, 9)):
        for _ in range(rng.choice([0, 1, 1, 2])):
            fault = draw_fleet_fault(rng)
            world.drawn.append(f"fleet: {fault}")
            world.fleet.inject(**fault)  # type: ignore[arg-type]
        left = world.in_progress()
        free = sorted(
            {one.uuid for one in world.ledger.instances()} - {move.instance_uuid for move in left}, key=world.name_of
        )
        if left and (not free or rng.random() < 0.4):
            world.recover(rng.choice(left).id, most=4)
        elif free:
            (world.repin if rng.random() < 0.2 else world.move)(rng.choice(free), most=5)
        world.check()
        if rng.random() < 0.5:
            world.mend()


def heal(world: World) -> None:
    """Let the world heal, recover everything, and look whether all is as it was promised."""
    world.fleet.forget_faults()
    world.mend()
    for move in world.in_progress():
        bring_to_an_end(world, move.id)
        world.check()
    world.undefine_leftovers()
    wrong = list(checks.ended(world.fleet, world.ledger, set(world.exceptions)))
    wrong += _found(world)
    if wrong:
        raise Broken("; ".join(wrong))
    for move in world.ledger.migrations():
        world.tally.outcomes[f"{move.migration_type}: {move.status}"] += 1
    world.tally.exceptions.update(world.exceptions.values())


def _found(world: World) -> list[str]:
    """Return what an audit of every host finds and should not: where no guest is outside the promise, nothing.

    What could only be tidied up, and was refused again and again, was told to be left to the audit, which then has it.
    """
    findings = world.audit(world.fleet.hosts)
    if world.exceptions or any(host.ignores_pins for host in world.fleet.hosts.values()):
        return []
    left = sum("is left to the audit" in event.sentence for event in world.ledger.events())
    marks = [finding for finding in findings if finding.kind == "stale-mark"]
    world.tally.events["marks left to the audit, and found"] += len(marks)
    expected = marks if left else []
    return [f"audit of {one.host}: {one.sentence}" for one in findings if one not in expected]


def bring_to_an_end(world: World, number: int) -> None:
    """Recover a migration, and let a person answer where one has to, until it has ended; raises Broken."""
    for _ in range(TRIES):
        error = world.recover(number)
        now = world.ledger.migration(number)
        if not now.in_progress:
            return
        if isinstance(error, NeedsPerson):
            _has_evidence(now, error)
            world.person(now)
    raise Broken(f"migration {number} does not end in a whole world: {error!r}")


def _has_evidence(move: Migration, error: NeedsPerson) -> None:
    """Raise Broken where a person is called without being told what both hosts say."""
    told = f"{move.reason} {error.message}"
    if move.status is not MigrationStatus.ERROR or move.source not in told or move.dest not in told:
        raise Broken(f"migration {move.id} ({move.status}) calls a person without evidence: {told}")


def _told(world: World) -> str:
    """Return what was drawn and what happened."""
    events = [f"{one.id:5} {one.sentence}" for one in world.ledger.events()]
    return "\n".join(
        ["drawn:", *world.drawn, "", "the ledger's events:", *events, "", "the fleet:", *world.fleet.story]
    )
