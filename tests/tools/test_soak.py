"""A slice of the soak, and that it can fail: with a rule broken it tells the seed, and the command that shows it again.

`make soak` plays on until ten thousand faults have struck.
"""

import pytest

from numaferry.ledger import flip, leases, migrations
from numaferry.migration import move
from numaferry.migration.evidence import Phase, SourceWord
from numaferry.migration.recovery import TABLES, Action
from numaferry.virt.simulated import ACTIONS
from soak.runner import PROCESSES, results, soak
from soak.story import Failure
from soak.tally import Tally
from soak.world import World

SEEDS = range(1, 41)


@pytest.fixture(scope="module")
def played():
    """The outcome of the slice: one tally, and the failures."""
    total, failures = Tally(), []
    for result in results(iter(SEEDS), "sqlite", PROCESSES):
        if isinstance(result, Failure):
            failures.append(result)
        else:
            total.add(result)
    return total, failures


def test_forty_stories_break_no_promise(played):
    total, failures = played
    assert not failures, str(failures[0])
    assert total.seeds == len(SEEDS)
    assert total.struck > 200


def test_what_is_counted_is_what_struck(played):
    """All sorts of faults, in all parts of a migration, and migrations that ended in every way."""
    total, _ = played
    kinds, steps = ({key[axis] for key in total.faults} for axis in (0, 1))
    assert len(kinds) > 25
    assert {"live_migration", "post_live_migration", "rollback_live_migration_at_destination"} <= steps
    assert {f"live-migration: {word}" for word in ("completed", "failed", "cancelled")} <= set(total.outcomes)
    assert total.events["controllers taken over that went on"] > 20
    assert total.events["a person was needed"] > 0
    struck = {kind.rpartition(" in ")[0] for kind in kinds if " in " in kind and not kind.startswith("controller")}
    assert struck & set(ACTIONS)


def test_a_seed_tells_the_same_story_again(monkeypatch):
    stories = []
    close = World.close

    def kept(world):
        stories.append([*world.drawn, *world.fleet.story])
        close(world)

    monkeypatch.setattr(World, "close", kept)
    list(results(iter([7, 7]), "sqlite", 1))
    assert stories[0] == stories[1]
    assert len(stories[0]) > 20


def nothing(*_arguments, **_named):
    """Stand in for a rule that is not kept."""


def no_release(monkeypatch):
    """A roll back, or a flip, that keeps the claim."""
    monkeypatch.setattr(flip, "release_claim", nothing)


def no_token(monkeypatch):
    """A commit that does not ask who holds the lease."""
    for module in (flip, migrations, leases, move):
        monkeypatch.setattr(module, "refuse_stale", nothing)


def no_lease(monkeypatch):
    """Calls to hosts that no lease guards."""
    monkeypatch.setattr(move, "guarded", lambda hypervisor, *_: hypervisor)


def no_patience(monkeypatch):
    """A controller that finds a job running and rolls back under it (nova: Launchpad 1905944)."""
    moving = {**TABLES[Phase.MOVING], SourceWord.JOB: (Action.ROLL_BACK,) * 6}
    monkeypatch.setitem(TABLES, Phase.MOVING, moving)


#: What is broken → a seed from which on it is found soon, and what may be told.
BROKEN = {
    no_release: (1, ["the ledger refused what the solver allowed"]),
    no_token: (1, ["was taken over and changed something"]),
    no_lease: (1, ["after its lease of 6 s", "was taken over and goes on with"]),
    no_patience: (1, ["has no claim", "lost: "]),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_rule_that_is_broken_is_found_and_told_with_the_command_that_shows_it(monkeypatch, broken):
    broken(monkeypatch)
    said, (first, words) = [], BROKEN[broken]
    assert soak(first, 60, "sqlite", 1, said.append) == 1
    story, told, again = "\n".join(said).rsplit("\n", 2)
    seed = int(told.partition(":")[0].removeprefix("seed "))
    assert any(word in told for word in words), told
    assert again == f"to see it again: make soak SEED={seed} N=1"
    assert "the fleet:" in story
    said.clear()
    assert soak(seed, 1, "sqlite", 1, said.append) == 1
    assert said[-1].endswith(again)
