"""The steps of a migration, in order: what is done, how it is undone, and why it stands where it stands.

The names are nova's. Before a step's forward action its name is committed in the ledger with a sentence, so after a
crash the ledger says what may have been done, and libvirt what was. Every action can run twice.

The claim is not in the table: it exists before the first step and `drop_move_claim` comes after the last undo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from numaferry.migration import finish, job, prepare, rollback
from numaferry.migration.states import Event
from numaferry.model import MigrationStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from numaferry.migration.move import Move


@attrs.frozen(slots=True)
class Step:
    """One row. `undo` None: nothing was done, or nothing may be undone."""

    name: str
    #: The status in which it runs, and the event that leads there if the migration is not in it yet.
    status: MigrationStatus
    event: Event
    forward: Callable[[Move], None]
    undo: Callable[[Move], None] | None
    #: After this step has done its work the guest is on the destination: from here on only forward.
    point_of_no_return: bool
    #: The sentence of the intent; `{name}`, `{source}`, `{dest}` are filled in.
    intent: str
    #: Why this order.
    why: str


STEPS: Final[tuple[Step, ...]] = (
    Step(
        name="check_can_live_migrate_destination",
        status=MigrationStatus.PREPARING,
        event=Event.PREPARE,
        forward=prepare.check_destination,
        undo=None,
        point_of_no_return=False,
        intent="checking {dest} against the claim",
        why="The shortlist was checked before the claim, when nobody knew its cells; only now can free "
        "pages be held against the very cells. First, since it is the host that may have changed most.",
    ),
    Step(
        name="check_can_live_migrate_source",
        status=MigrationStatus.PREPARING,
        event=Event.PREPARE,
        forward=prepare.check_source,
        undo=None,
        point_of_no_return=False,
        intent="checking {name} on {source}",
        why="A queued migration may have waited: the guest may be paused, off, or under another job since. After the "
        "destination's, so that as little time as possible lies between it and the job.",
    ),
    Step(
        name="pre_live_migration",
        status=MigrationStatus.PREPARING,
        event=Event.PREPARE,
        forward=prepare.pre_live_migration,
        undo=rollback.rollback_live_migration_at_destination,
        point_of_no_return=False,
        intent="preparing {dest}: links by plug_vifs, and a trial of the destination XML",
        why="The first step that touches a host, and it touches the destination only: until the job the guest knows "
        "nothing. What rollback and read-back will need is noted in the ledger before anything changes it.",
    ),
    Step(
        name="live_migration",
        status=MigrationStatus.RUNNING,
        event=Event.START,
        forward=job.live_migration,
        undo=rollback.rollback_live_migration,
        point_of_no_return=True,
        intent="moving {name} from {source} to {dest}",
        why="The intent is committed before the call, so a job that is found later is known to be ours. Right before "
        "it, since libvirt refuses changes during a job, the emulator threads are pinned off dedicated CPUs, the old "
        "mask noted. When the call fails nothing is undone before both hosts were asked: the job outlives the caller.",
    ),
    Step(
        name="post_live_migration",
        status=MigrationStatus.POST_MIGRATING,
        event=Event.SWITCH,
        forward=finish.post_live_migration,
        undo=None,
        point_of_no_return=False,
        intent="{name} should be on {dest}: verifying on both hosts, then flipping the claim",
        why='The flip comes before anything that may fail on the destination: the ledger must not say "source" for a '
        "guest that runs elsewhere (nova: Launchpad 1628606).",
    ),
    Step(
        name="post_live_migration_at_destination",
        status=MigrationStatus.POST_MIGRATING,
        event=Event.SWITCH,
        forward=finish.post_live_migration_at_destination,
        undo=None,
        point_of_no_return=False,
        intent="marking {name} on {dest} and reading back what it has there",
        why="After the flip, since pins that disagree are set to the claim, and the claim that counts is now this one.",
    ),
    Step(
        name="update_available_resource",
        status=MigrationStatus.POST_MIGRATING,
        event=Event.SWITCH,
        forward=finish.update_available_resource,
        undo=None,
        point_of_no_return=False,
        intent="auditing {source} and {dest}",
        why="Last, and before `completed`: the thread's race was a window until the next audit; here there is none, "
        "and the audit is the proof.",
    ),
)


def first_after(steps: tuple[Step, ...]) -> int:
    """Return the place of the first step after the point of no return."""
    return next(at + 1 for at, step in enumerate(steps) if step.point_of_no_return)


def place_of(steps: tuple[Step, ...], name: str) -> int:
    """Return the place of the step of this name, or 0: the names of undoing stand for no progress."""
    return next((at for at, step in enumerate(steps) if step.name == name), 0)
