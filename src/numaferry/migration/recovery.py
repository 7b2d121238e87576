"""What to do with a migration whose controller lost sight of it: a pure decision over what both hosts say.

`decide()` is asked after every failure past the first side effect and by every controller that takes over; there is no
second set of rules anywhere. Its tables have one row per word of the source, one column per word of the destination,
and a table per phase, so every combination has an answer that can be read here.

Two rules hold in every table, and are tested as laws:

* the guest is resumed on the source only when the destination *was asked* and has nothing;
* nothing is undone while the destination may run the guest, and nothing finished while the source may.

No answer ever stops, pauses or destroys a guest.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

from numaferry.migration.evidence import DestWord, Phase, Sight, SourceWord, dest_word, phase_of, source_word, tell
from numaferry.model import DomainSeen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numaferry.migration.engine import MigrationEngine
    from numaferry.model import JobInfo, Migration


class Action(enum.StrEnum):
    """The answers."""

    #: Go on from post_live_migration: the guest is on the destination.
    FINISH = "finish"
    #: Watch the job that libvirt runs without us, then decide again.
    ADOPT = "adopt"
    #: Set the guest going again on the source, then decide again.
    RESUME = "resume"
    #: Undo the steps, free the destination's claim; the guest runs on the source.
    ROLL_BACK = "roll back"
    #: The guest ended by itself: free the destination's claim, keep the source's.
    CANCELLED = "cancelled"
    #: Touch nothing and ask again later.
    WAIT = "wait"
    #: Touch nothing and say so loudly.
    NEEDS_PERSON = "needs a person"


@attrs.frozen(slots=True)
class Decision:
    """An answer, the sentence for the event, and what it rests on."""

    action: Action
    sentence: str
    evidence: tuple[str, str]
    source: SourceWord
    dest: DestWord
    phase: Phase


_S, _A = SourceWord, Action
Row = tuple[Action, ...]

# Columns, in the order of DestWord:
#                 unreachable    absent           incoming       active            ended             off
_ALL_WAIT: Final[Row] = (_A.WAIT,) * len(DestWord)

#: While another's job runs, ours does not: libvirt has one job for each domain. Unless it goes to the very host that is
#: claimed, the move is given up; the job itself is left alone.
_ANOTHER_S_JOB: Final[Row] = (_A.WAIT, _A.ROLL_BACK, _A.WAIT, _A.WAIT, _A.ROLL_BACK, _A.ROLL_BACK)

_HALF_AND_HALF: Final[Row] = (
    *(_A.WAIT, _A.NEEDS_PERSON, _A.WAIT, _A.WAIT),
    *(_A.NEEDS_PERSON, _A.NEEDS_PERSON),
)

MOVING: Final[Mapping[SourceWord, Row]] = {
    _S.UNREACHABLE: _ALL_WAIT,
    _S.JOB: (_A.ADOPT,) * len(DestWord),
    _S.OTHER_JOB: _ANOTHER_S_JOB,
    # libvirt lets the source run again only after it has given the move up. While the destination still receives, the
    # daemons have not yet agreed on that.
    _S.RUNNING: (_A.WAIT, _A.ROLL_BACK, _A.WAIT, _A.NEEDS_PERSON, _A.ROLL_BACK, _A.ROLL_BACK),
    # A client or daemon died between Perform and Finish.
    _S.PAUSED: (_A.WAIT, _A.RESUME, _A.WAIT, _A.NEEDS_PERSON, _A.NEEDS_PERSON, _A.NEEDS_PERSON),
    # Half of its memory is on either side. libvirt may be about to end the job; if it is not, no rule can.
    _S.POSTCOPY: _HALF_AND_HALF,
    # Somebody else's pause is somebody else's to end: rolled back as it is.
    _S.HELD: (_A.WAIT, _A.ROLL_BACK, _A.WAIT, _A.NEEDS_PERSON, _A.NEEDS_PERSON, _A.ROLL_BACK),
    _S.ENDED: (_A.WAIT, _A.CANCELLED, _A.WAIT, _A.FINISH, _A.NEEDS_PERSON, _A.NEEDS_PERSON),
    # Migrated by libvirt's own word, and nowhere: no evidence of what became of it.
    _S.OFF: (_A.WAIT, _A.NEEDS_PERSON, _A.WAIT, _A.FINISH, _A.FINISH, _A.NEEDS_PERSON),
    # Gone from the source and known to the destination: it went there, and what happened afterwards happened there.
    _S.ABSENT: (_A.WAIT, _A.NEEDS_PERSON, _A.WAIT, _A.FINISH, _A.FINISH, _A.NEEDS_PERSON),
}

BEFORE: Final[Mapping[SourceWord, Row]] = {
    _S.UNREACHABLE: _ALL_WAIT,
    # No job of ours was asked for, whatever the guest bears.
    _S.JOB: _ANOTHER_S_JOB,
    _S.OTHER_JOB: _ANOTHER_S_JOB,
    # We asked for no job, so a destination that can't be asked can't have the guest from us.
    _S.RUNNING: (_A.ROLL_BACK, _A.ROLL_BACK, _A.WAIT, _A.NEEDS_PERSON, _A.ROLL_BACK, _A.ROLL_BACK),
    _S.PAUSED: (_A.WAIT, _A.ROLL_BACK, _A.WAIT, _A.NEEDS_PERSON, _A.ROLL_BACK, _A.ROLL_BACK),
    _S.POSTCOPY: _HALF_AND_HALF,
    _S.HELD: (_A.ROLL_BACK, _A.ROLL_BACK, _A.WAIT, _A.NEEDS_PERSON, _A.ROLL_BACK, _A.ROLL_BACK),
    _S.ENDED: (_A.CANCELLED, _A.CANCELLED, _A.WAIT, _A.FINISH, _A.CANCELLED, _A.CANCELLED),
    _S.OFF: (_A.WAIT, _A.NEEDS_PERSON, _A.WAIT, _A.FINISH, _A.NEEDS_PERSON, _A.NEEDS_PERSON),
    _S.ABSENT: (_A.WAIT, _A.CANCELLED, _A.WAIT, _A.FINISH, _A.NEEDS_PERSON, _A.NEEDS_PERSON),
}

_GONE_SWITCHED: Final[Row] = (_A.WAIT, _A.NEEDS_PERSON, _A.WAIT, _A.FINISH, _A.FINISH, _A.FINISH)
_STILL_THERE: Final[Row] = (_A.WAIT, *(_A.NEEDS_PERSON,) * 5)

SWITCHED: Final[Mapping[SourceWord, Row]] = {
    _S.UNREACHABLE: _ALL_WAIT,
    _S.JOB: _ALL_WAIT,
    _S.OTHER_JOB: _ALL_WAIT,
    _S.RUNNING: _STILL_THERE,
    _S.PAUSED: _STILL_THERE,
    _S.POSTCOPY: _STILL_THERE,
    _S.HELD: _STILL_THERE,
    _S.ENDED: _GONE_SWITCHED,
    _S.OFF: _GONE_SWITCHED,
    _S.ABSENT: _GONE_SWITCHED,
}

# The claim is flipped: what is left to do is on the destination, and a guest that has ended since has ended there.
_GONE_CONFIRMED: Final[Row] = (_A.WAIT, _A.FINISH, _A.WAIT, _A.FINISH, _A.FINISH, _A.FINISH)

CONFIRMED: Final[Mapping[SourceWord, Row]] = {
    **SWITCHED,
    # The source's answer was had before the flip; that it is silent now takes nothing back.
    _S.UNREACHABLE: _GONE_CONFIRMED,
    _S.ENDED: _GONE_CONFIRMED,
    _S.OFF: _GONE_CONFIRMED,
    _S.ABSENT: _GONE_CONFIRMED,
}

TABLES: Final[Mapping[Phase, Mapping[SourceWord, Row]]] = {
    Phase.BEFORE: BEFORE,
    Phase.MOVING: MOVING,
    Phase.SWITCHED: SWITCHED,
    Phase.CONFIRMED: CONFIRMED,
}

_COLUMN: Final[Mapping[DestWord, int]] = {word: at for at, word in enumerate(DestWord)}

_LEAD: Final[Mapping[Action, str]] = {
    Action.FINISH: "finishing: the guest is on the destination",
    Action.ADOPT: "adopted",
    Action.RESUME: "resuming on the source: the move was given up and the destination has nothing",
    Action.ROLL_BACK: "rolling back: the guest is on the source and no job of this migration runs",
    Action.CANCELLED: "cancelled: the guest ended by itself on the source",
    Action.WAIT: "waiting",
    Action.NEEDS_PERSON: "nothing was touched, a person has to look",
}


def decide(
    migration: Migration,
    source_seen: Sight,
    source_job: JobInfo | None,
    dest_seen: Sight,
    *,
    ledger_id: str = "",
) -> Decision:
    """Return what to do with `migration`, given what each host says of its domain and the source of a job.

    Pure and total. A domain on the destination that bears the mark of another migration, or of another ledger than
    `ledger_id`, is never the end of this move: it needs a person.
    """
    source, dest, phase = source_word(source_seen, source_job, migration), dest_word(dest_seen), phase_of(migration)
    action = TABLES[phase][source][_COLUMN[dest]]
    evidence = (
        tell("source", migration.source, source_seen, source_job, source),
        tell("dest", migration.dest, dest_seen),
    )
    lead = _LEAD[action]
    if action is Action.FINISH and (other := _another_s(migration, dest_seen, ledger_id)):
        action = Action.NEEDS_PERSON
        lead = f"nothing was touched, a person has to look: the domain on the destination bears another {other}'s mark"
    return Decision(action, f"{lead}; {'; '.join(evidence)}", evidence, source, dest, phase)


def decisions(sentences: Iterable[str]) -> tuple[str, ...]:
    """Return those sentences of a history that a decision wrote: what was found on both hosts and done about it."""
    leads = tuple(_LEAD.values())
    return tuple(sentence for sentence in sentences if sentence.startswith(leads))


def recover(engine: MigrationEngine, migration_id: int) -> Migration:
    """Take over a migration that nobody drives: ask both hosts, decide, and converge; see `MigrationEngine.recover`."""
    return engine.recover(migration_id)


def _another_s(migration: Migration, dest_seen: Sight, ledger_id: str) -> str:
    """Return "ledger" or "migration" where the destination's domain bears the mark of one that is not this, else ""."""
    if not isinstance(dest_seen, DomainSeen) or dest_seen.ownership is None:
        return ""
    if ledger_id and dest_seen.ownership.ledger_id != ledger_id:
        return "ledger"
    return "" if dest_seen.ownership.migration_uuid in {"", migration.uuid} else "migration"
