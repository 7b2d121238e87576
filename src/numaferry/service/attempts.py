"""Trying the next best host after a migration that failed before the switch: when, how often, after what pause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from numaferry.migration.convergence import Action
from numaferry.model import MigrationStatus

if TYPE_CHECKING:
    from numaferry.ledger import Ledger
    from numaferry.model import Migration

#: Seconds before each further attempt; as many attempts as pauses, and one.
PAUSES_S: Final = (1.0, 4.0)
ATTEMPTS: Final = len(PAUSES_S) + 1

#: How libvirt tells that a job was aborted by a client (qemu_migration.c).
_BY_A_CLIENT: Final = "canceled by client"


def worth_another_host(ledger: Ledger, ended: Migration) -> bool:
    """Tell whether another host may do what this one could not.

    So it is where it was rolled back: a check on the claimed host, its start or preparation, or the job failed, and the
    guest runs on the source. Not so where a person gave it up (`cancelled`), be it by `virsh domjobabort`, or where its
    policy did: the guest dirties memory no slower on the way to another host.
    """
    if ended.status is not MigrationStatus.FAILED or ended.abort_requested or _BY_A_CLIENT in ended.reason:
        return False
    by_policy = f": {Action.ABORT}: "
    return not any(by_policy in event.sentence for event in ledger.events(migration=ended.id))


def note_attempt(ledger: Ledger, migration: Migration, number: int, before: Migration) -> str:
    """Write into a migration's history that it is a further attempt, and return the sentence."""
    sentence = f"attempt {number} of {ATTEMPTS}: migration {before.id} to {before.dest} failed: {before.reason}"
    ledger.set_migration(migration.id, sentence=sentence)
    return sentence
