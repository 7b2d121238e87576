"""What both hosts say of one guest, reduced to words that a table can be written over. Pure.

A host that can't be asked is `Unreachable`, which is not the same as having no domain (None): nothing is ever concluded
from silence.
"""

from __future__ import annotations

import enum

import attrs

from numaferry.migration.progress import mib
from numaferry.model import DomainSeen, DomainState, JobInfo, Migration, MigrationStatus


@attrs.frozen(slots=True)
class Unreachable:
    """The host could not be asked; `reason` is the error's sentence."""

    reason: str


#: A domain as it was seen, None where the host has none of that UUID, or Unreachable.
Sight = DomainSeen | Unreachable | None


class SourceWord(enum.StrEnum):
    """What the source says."""

    UNREACHABLE = "unreachable"
    #: This migration's job is running on the guest, whichever of its controllers asked for it.
    JOB = "running job"
    #: A job is running on a guest that does not bear this migration's mark, which is written before our job is asked
    #: for: another client's, or another migration's.
    OTHER_JOB = "another's job"
    RUNNING = "running"
    #: Paused by a migration that is no longer there.
    PAUSED = "paused by the migration"
    #: Given over to the destination in post-copy, and no job brings the rest of its memory any more.
    POSTCOPY = "left in post-copy"
    #: Paused by somebody or something else: a person, an I/O error, a watchdog.
    HELD = "paused by another cause"
    #: Off, and its own doing or a person's: shut down, crashed, destroyed, saved.
    ENDED = "ended by itself"
    #: Off because it migrated, or for a reason that says nothing.
    OFF = "off"
    ABSENT = "absent"


class DestWord(enum.StrEnum):
    """What the destination says; the order is that of the columns in the tables of `recovery`."""

    UNREACHABLE = "unreachable"
    ABSENT = "absent"
    #: Paused while it receives: QEMU exists, the guest does not run there.
    INCOMING = "incoming"
    #: The guest runs there (or somebody paused it there after it had arrived).
    ACTIVE = "active"
    ENDED = "ended by itself"
    OFF = "off"


class Phase(enum.StrEnum):
    """How far the ledger says that the migration had come."""

    #: No job was asked for yet.
    BEFORE = "before the job"
    #: The job's intent is committed: it may run, have failed, or have switched.
    MOVING = "moving"
    #: The switch was seen; the claim may or may not be flipped.
    SWITCHED = "switched"
    #: The claim is flipped.
    CONFIRMED = "confirmed"


#: libvirt's shut-off reasons (virDomainShutoffReason, virDomainCrashedReason) that mean: nobody migrated it away.
ENDED_REASONS = frozenset({"shutdown", "crashed", "destroyed", "saved", "panicked"})
#: Paused reasons that a pre-copy migration leaves; every other one is somebody else's.
MIGRATION_REASONS = frozenset({"migration"})
#: Paused reasons of a source whose guest runs on the destination, its memory partly here: it is never run again here.
POSTCOPY_REASONS = frozenset({"postcopy", "postcopy-failed"})
#: Paused reasons of a destination that does not run the guest. libvirt says "starting-up" from the start of QEMU until
#: it listens (qemuProcessInit), which takes minutes where many huge pages are cleared, and "migration" from then on.
RECEIVING_REASONS = MIGRATION_REASONS | {"starting-up"}
_BEFORE = frozenset({MigrationStatus.ACCEPTED, MigrationStatus.QUEUED, MigrationStatus.PREPARING})
#: Steps whose intent is committed only after `confirm_migration`.
AFTER_CONFIRM = frozenset({"post_live_migration_at_destination", "update_available_resource"})


def source_word(seen: Sight, job: JobInfo | None, migration: Migration) -> SourceWord:
    """Return the word for the source's side; a running job says more than the state beside it."""
    if isinstance(seen, Unreachable):
        return SourceWord.UNREACHABLE
    if seen is None:
        return SourceWord.ABSENT
    if not seen.state.active:
        return SourceWord.ENDED if _ended(seen) else SourceWord.OFF
    if job is not None and not job.completed:
        return SourceWord.JOB if bears_mark(seen, migration) else SourceWord.OTHER_JOB
    return _paused_word(seen.state_reason) if seen.state is DomainState.PAUSED else SourceWord.RUNNING


def _paused_word(reason: str) -> SourceWord:
    """Return the word for a source that is paused for this reason."""
    if reason in POSTCOPY_REASONS:
        return SourceWord.POSTCOPY
    return SourceWord.PAUSED if reason in MIGRATION_REASONS else SourceWord.HELD


def bears_mark(seen: DomainSeen, migration: Migration) -> bool:
    """Tell whether a domain bears the mark of this migration, by the controller that holds its lease or one before."""
    mark = seen.ownership
    return mark is not None and mark.migration_uuid == migration.uuid and mark.token <= migration.token


def dest_word(seen: Sight) -> DestWord:
    """Return the word for the destination's side."""
    if isinstance(seen, Unreachable):
        return DestWord.UNREACHABLE
    if seen is None:
        return DestWord.ABSENT
    if not seen.state.active:
        return DestWord.ENDED if _ended(seen) else DestWord.OFF
    if seen.state is DomainState.PAUSED and seen.state_reason in RECEIVING_REASONS:
        return DestWord.INCOMING
    return DestWord.ACTIVE


def phase_of(migration: Migration) -> Phase:
    """Return how far the ledger says that the migration had come; `error` counts as moving: anything may be true."""
    if migration.status in _BEFORE:
        return Phase.BEFORE
    if migration.step in AFTER_CONFIRM:
        return Phase.CONFIRMED
    if migration.status is MigrationStatus.POST_MIGRATING or migration.step == "post_live_migration":
        return Phase.SWITCHED
    return Phase.MOVING


def tell(where: str, host: str, seen: Sight, job: JobInfo | None = None, word: SourceWord | None = None) -> str:
    """Return one sentence of evidence about one side, e.g. "source alpha: running (booted), a job runs, ..."."""
    if isinstance(seen, Unreachable):
        return f"{where} {host}: can't be asked ({seen.reason})"
    if seen is None:
        return f"{where} {host}: has no such domain"
    words = f"{where} {host}: {seen.state} ({seen.state_reason or 'no reason given'})"
    if job is not None and not job.completed:
        whose = " that is not this migration's" if word is SourceWord.OTHER_JOB else ""
        words += f", reports a running job{whose}, {progress(job)}"
    return words


def progress(job: JobInfo) -> str:
    """Return "43 of 512 MiB left" for a job."""
    return f"{mib(job.memory_remaining_bytes)} of {mib(job.memory_total_bytes)} MiB left"


def _ended(seen: DomainSeen) -> bool:
    """Tell whether the domain is off by its own or a person's doing."""
    return seen.state is DomainState.CRASHED or seen.state_reason in ENDED_REASONS
