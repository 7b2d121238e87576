# ruff: noqa: S608  (no word of these statements comes from outside this module)
"""What the ledger's tables can't say by keys alone, as SQLite triggers; every message is a stable code of this module.

A trigger that refuses does so with ``RAISE(ABORT)``: the statement fails, the transaction is rolled back by its caller.
"""

from __future__ import annotations

from numaferry.model import IN_PROGRESS, MigrationStatus

_MOVING = ", ".join(f"'{status}'" for status in sorted(IN_PROGRESS))
_ENDED = ", ".join(f"'{status}'" for status in sorted(set(MigrationStatus) - IN_PROGRESS))

#: Code in the trigger's message → the sentence for a person.
REFUSALS = {
    "cpu-not-dedicated": "the CPU is not in the host's confirmed dedicated set",
    "cpu-observed": "another domain is seen running on the CPU",
    "capacity-unknown": "the host has no such resource to promise",
    "capacity-exceeded": "the promise would go past what the host has",
    "claim-edited": "rows of a claim are inserted and deleted, never edited",
    "claim-without-migration": "a second claim belongs to a migration of the instance that is in progress",
    "claim-left-behind": "the old claim is released before the new one becomes current",
    "claim-leaked": "a migration can't end while its move claim is held",
    "history-edited": "events are only ever added",
    "migration-deleted": "migrations are kept as history",
}


def _refuse(name: str, when: str, code: str, condition: str = "") -> str:
    """Return a trigger `name` that refuses with `code`."""
    clause = f"WHEN {condition} " if condition else ""
    return f"CREATE TRIGGER {name} {when} {clause}BEGIN SELECT RAISE(ABORT, '{code}'); END"


def _keep(name_and_when: str, statement: str) -> str:
    """Return a trigger that keeps a figure right."""
    return f"CREATE TRIGGER {name_and_when} BEGIN {statement}; END"


_SAME_POOL = "host_id = {row}.host_id AND resource = {row}.resource AND cell IN ({row}.cell, -1)"

#: On the cell a claim that wants exactly its own is held against `total`, others against `allowed`; on the host row,
#: where both kinds are added up, against the larger of the two.
_PAST_THE_LIMIT = f"""EXISTS (
    SELECT 1 FROM capacity WHERE {_SAME_POOL.format(row="NEW")} AND used + NEW.amount > CASE
        WHEN NOT NEW.exact THEN allowed WHEN cell = NEW.cell THEN total ELSE max(total, allowed) END)"""

_NEVER_EDITED = tuple(
    _refuse(f"{table}_never_edited", f"BEFORE UPDATE ON {table}", "claim-edited")
    for table in ("claim", "claim_cpu", "claim_cpu_link", "claim_amount")
)

TRIGGERS = (
    *_NEVER_EDITED,
    _refuse("event_never_edited", "BEFORE UPDATE ON event", "history-edited"),
    _refuse("event_never_deleted", "BEFORE DELETE ON event", "history-edited"),
    _refuse("migration_never_deleted", "BEFORE DELETE ON migration", "migration-deleted"),
    _refuse(
        "claim_cpu_dedicated",
        "BEFORE INSERT ON claim_cpu",
        "cpu-not-dedicated",
        "NOT EXISTS (SELECT 1 FROM dedicated_cpu WHERE host_id = NEW.host_id AND cpu = NEW.cpu)",
    ),
    _refuse(
        "claim_cpu_unobserved",
        "BEFORE INSERT ON claim_cpu",
        "cpu-observed",
        "EXISTS (SELECT 1 FROM observed_cpu WHERE host_id = NEW.host_id AND cpu = NEW.cpu"
        " AND uuid <> NEW.instance_uuid)",
    ),
    _refuse(
        "claim_amount_known",
        "BEFORE INSERT ON claim_amount",
        "capacity-unknown",
        "NOT EXISTS (SELECT 1 FROM capacity WHERE host_id = NEW.host_id AND resource = NEW.resource"
        " AND cell = NEW.cell)",
    ),
    _refuse("claim_amount_limit", "BEFORE INSERT ON claim_amount", "capacity-exceeded", _PAST_THE_LIMIT),
    _keep(
        "claim_amount_added AFTER INSERT ON claim_amount",
        f"UPDATE capacity SET used = used + NEW.amount WHERE {_SAME_POOL.format(row='NEW')}",
    ),
    _keep(
        "claim_amount_released AFTER DELETE ON claim_amount",
        f"UPDATE capacity SET used = used - OLD.amount WHERE {_SAME_POOL.format(row='OLD')}",
    ),
    # A CPU that no claim of its instance holds any longer is free.
    _keep(
        "claim_cpu_released AFTER DELETE ON claim_cpu_link",
        "DELETE FROM claim_cpu WHERE host_id = OLD.host_id AND cpu = OLD.cpu AND NOT EXISTS"
        " (SELECT 1 FROM claim_cpu_link WHERE host_id = OLD.host_id AND cpu = OLD.cpu)",
    ),
    _keep("claim_added AFTER INSERT ON claim", "UPDATE host SET generation = generation + 1 WHERE id = NEW.host_id"),
    _keep("claim_released AFTER DELETE ON claim", "UPDATE host SET generation = generation + 1 WHERE id = OLD.host_id"),
    _refuse(
        "claim_second_moves",
        "BEFORE INSERT ON claim",
        "claim-without-migration",
        "EXISTS (SELECT 1 FROM claim WHERE instance_uuid = NEW.instance_uuid) AND NOT EXISTS"
        " (SELECT 1 FROM migration WHERE id = NEW.migration_id AND instance_uuid = NEW.instance_uuid"
        f" AND status IN ({_MOVING}))",
    ),
    _refuse(
        "instance_flip_releases",
        "AFTER UPDATE OF current_claim ON instance",
        "claim-left-behind",
        "(SELECT count(*) FROM claim WHERE instance_uuid = NEW.uuid) > 1",
    ),
    _refuse(
        "migration_ends_clean",
        "BEFORE UPDATE OF status ON migration",
        "claim-leaked",
        f"NEW.status IN ({_ENDED}) AND EXISTS (SELECT 1 FROM claim JOIN instance"
        " ON instance.uuid = claim.instance_uuid WHERE claim.migration_id = NEW.id"
        " AND instance.current_claim <> claim.id)",
    ),
)
