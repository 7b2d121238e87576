# ruff: noqa: S608  (no word of these statements comes from outside this module)
"""What the ledger's tables can't say by keys alone, as triggers; one list for both dialects.

A trigger that refuses fails the statement with a stable code as its message; the transaction is rolled back by its
caller. Conditions and statements are SQL that SQLite and PostgreSQL read alike; only what stands around them differs.

Amounts are charged *before* their row comes or goes: of several rows of one statement PostgreSQL shows all to an AFTER
trigger and only the earlier ones to a BEFORE trigger, as SQLite does to both, and two claims of one guest are charged
once only if each sees what the other has been charged. A claim is counted before its rows go for another reason: every
transaction then locks the host first and its pools after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from numaferry.ledger.schema import words
from numaferry.model import IN_PROGRESS, MigrationStatus, MigrationType

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOVING = words(IN_PROGRESS)
_ENDED = words(set(MigrationStatus) - IN_PROGRESS)

#: How many samples of its job a migration keeps, the newest, once it has ended.
SAMPLES_OF_ENDED: Final = 20

#: Code in the trigger's message → the sentence for a person.
REFUSALS: Final = {
    "cpu-not-dedicated": "the CPU is not in the host's confirmed dedicated set",
    "cpu-observed": "another domain is seen running on the CPU",
    "device-unknown": "the host has no such device to promise",
    "capacity-unknown": "the host has no such resource to promise",
    "capacity-exceeded": "the promise would go past what the host has",
    "claim-edited": "rows of a claim are inserted and deleted, never edited",
    "claim-without-migration": "a second claim belongs to a migration of the instance that is in progress",
    "claim-left-behind": "the old claim is released before the new one becomes current",
    "claim-leaked": "a migration can't end while its move claim is held",
    "token-lowered": "a migration's fencing token only ever grows",
    "history-edited": "events are only ever added",
    "migration-deleted": "migrations are kept as history",
}


@attrs.frozen(slots=True)
class Trigger:
    """One trigger for each row: first the statement, then the refusal, which sees what the statement did.

    One that only refuses may do so `at_once`, for all rows that a statement inserted: in PostgreSQL a trigger that is
    called for each of 16 CPUs takes as long as inserting them. There it sees the statement as done; the refusal undoes
    it.
    """

    name: str
    #: "BEFORE INSERT", "AFTER UPDATE OF status", ...
    when: str
    table: str
    #: Keeps a figure right.
    statement: str = ""
    #: Refuses where this holds.
    condition: str = ""
    code: str = ""
    at_once: bool = False


def _never(table: str, event: str, code: str, word: str) -> Trigger:
    """Return the trigger that refuses every `event` ("UPDATE", "DELETE") of a table."""
    return Trigger(f"{table}_never_{word}", f"BEFORE {event}", table, condition="1 = 1", code=code)


def _holder_released(kind: str) -> Trigger:
    """Return the trigger that frees a CPU or device that no claim of its instance holds any longer."""
    same = f"host_id = OLD.host_id AND {kind} = OLD.{kind}"
    return Trigger(
        f"claim_{kind}_released",
        "AFTER DELETE",
        f"claim_{kind}_link",
        statement=f"DELETE FROM claim_{kind} WHERE {same}"
        f" AND NOT EXISTS (SELECT 1 FROM claim_{kind}_link WHERE {same})",
    )


#: A row's pool and, where the host has one, the host's own row of the same resource.
_POOL = "host_id = {row}.host_id AND resource = {row}.resource AND cell IN ({row}.cell, -1)"


def _beside(row: str) -> str:
    """Return what the instance's other claim holds of the same pool: two claims of one guest are charged once."""
    return (
        f"claim_amount AS beside WHERE beside.claim_id <> {row}.claim_id AND beside.instance_uuid = {row}.instance_uuid"
        f" AND beside.host_id = {row}.host_id AND beside.cell = {row}.cell AND beside.resource = {row}.resource"
    )


def _charge(row: str, sign: str) -> str:
    more = f"CASE WHEN {row}.amount > beside.amount THEN {row}.amount - beside.amount ELSE 0 END"
    return (
        f"UPDATE capacity SET used = used {sign} (SELECT coalesce(min({more}), {row}.amount) FROM {_beside(row)})"
        f" WHERE {_POOL.format(row=row)}"
    )


#: On the cell a claim that wants exactly its own is held against `total`, others against `allowed`; on the host row,
#: where both kinds are added up, against the larger of the two. What the guest's other claim holds already, as exactly,
#: is never past the limit. Asked after the charge, which is what makes two transactions wait for each other.
_PAST_THE_LIMIT = f"""EXISTS (
    SELECT 1 FROM capacity WHERE {_POOL.format(row="NEW")} AND used > CASE
        WHEN NOT NEW.exact THEN allowed WHEN cell = NEW.cell OR total > allowed THEN total ELSE allowed END)
    AND NOT EXISTS (
    SELECT 1 FROM {_beside("NEW")} AND (beside.exact OR NOT NEW.exact) AND beside.amount >= NEW.amount)"""

#: Of the claims that an instance has already, none but the one that this migration moves it from.
_STRAY_CLAIM = f"""EXISTS (
    SELECT 1 FROM claim AS other WHERE other.instance_uuid = NEW.instance_uuid AND NOT EXISTS (
        SELECT 1 FROM migration WHERE id = NEW.migration_id AND instance_uuid = NEW.instance_uuid
        AND status IN ({_MOVING})
        AND (migration_type = '{MigrationType.REPIN}') = (other.host_id = NEW.host_id)))"""


def _generation(name: str, when: str, row: str) -> Trigger:
    return Trigger(
        name,
        when,
        "claim",
        statement=f"UPDATE host SET generation = generation + 1 WHERE id = {row}.host_id",
    )


TRIGGERS: Final = (
    *(
        _never(table, "UPDATE", "claim-edited", "edited")
        for table in (
            "claim",
            "claim_cpu",
            "claim_cpu_link",
            "claim_amount",
            "claim_device",
            "claim_device_link",
        )
    ),
    _never("event", "UPDATE", "history-edited", "edited"),
    _never("event", "DELETE", "history-edited", "deleted"),
    _never("migration", "DELETE", "migration-deleted", "deleted"),
    Trigger(
        "claim_cpu_dedicated",
        "BEFORE INSERT",
        "claim_cpu",
        condition="NOT EXISTS (SELECT 1 FROM dedicated_cpu WHERE host_id = NEW.host_id AND cpu = NEW.cpu)",
        code="cpu-not-dedicated",
        at_once=True,
    ),
    Trigger(
        "claim_cpu_unobserved",
        "BEFORE INSERT",
        "claim_cpu",
        condition="EXISTS (SELECT 1 FROM observed_cpu WHERE host_id = NEW.host_id AND cpu = NEW.cpu"
        " AND uuid <> NEW.instance_uuid)",
        code="cpu-observed",
        at_once=True,
    ),
    Trigger(
        "claim_device_known",
        "BEFORE INSERT",
        "claim_device",
        condition="NOT EXISTS (SELECT 1 FROM device WHERE host_id = NEW.host_id AND device = NEW.device)",
        code="device-unknown",
    ),
    Trigger(
        "claim_amount_known",
        "BEFORE INSERT",
        "claim_amount",
        condition="NOT EXISTS (SELECT 1 FROM capacity WHERE host_id = NEW.host_id AND resource = NEW.resource"
        " AND cell = NEW.cell)",
        code="capacity-unknown",
    ),
    Trigger(
        "claim_amount_added",
        "BEFORE INSERT",
        "claim_amount",
        statement=_charge("NEW", "+"),
        condition=_PAST_THE_LIMIT,
        code="capacity-exceeded",
    ),
    Trigger("claim_amount_released", "BEFORE DELETE", "claim_amount", statement=_charge("OLD", "-")),
    _holder_released("cpu"),
    _holder_released("device"),
    _generation("claim_added", "AFTER INSERT", "NEW"),
    _generation("claim_released", "BEFORE DELETE", "OLD"),
    Trigger("claim_second_moves", "BEFORE INSERT", "claim", condition=_STRAY_CLAIM, code="claim-without-migration"),
    Trigger(
        "instance_flip_releases",
        "AFTER UPDATE OF current_claim",
        "instance",
        condition="(SELECT count(*) FROM claim WHERE instance_uuid = NEW.uuid) > 1",
        code="claim-left-behind",
    ),
    Trigger(
        "migration_ends_clean",
        "BEFORE UPDATE OF status",
        "migration",
        condition=f"NEW.status IN ({_ENDED}) AND EXISTS (SELECT 1 FROM claim JOIN instance"
        " ON instance.uuid = claim.instance_uuid WHERE claim.migration_id = NEW.id"
        " AND instance.current_claim <> claim.id)",
        code="claim-leaked",
    ),
    Trigger(
        "migration_token_grows",
        "BEFORE UPDATE OF token",
        "migration",
        condition="NEW.token < OLD.token",
        code="token-lowered",
    ),
    Trigger(
        "migration_end_thins_samples",
        "AFTER UPDATE OF status",
        "migration",
        statement=f"DELETE FROM migration_sample WHERE NEW.status IN ({_ENDED}) AND migration_id = NEW.id"
        " AND id NOT IN (SELECT id FROM migration_sample WHERE migration_id = NEW.id"
        f" ORDER BY id DESC LIMIT {SAMPLES_OF_ENDED})",
    ),
)


def statements(dialect: str) -> Iterator[str]:
    """Yield the SQL that makes every trigger in this dialect ("sqlite", "postgresql")."""
    for trigger in TRIGGERS:
        yield from {"sqlite": _sqlite, "postgresql": _postgresql}[dialect](trigger)


def _sqlite(trigger: Trigger) -> Iterator[str]:
    refusal = f"SELECT RAISE(ABORT, '{trigger.code}') WHERE {trigger.condition};" if trigger.condition else ""
    statement = f"{trigger.statement}; " if trigger.statement else ""
    yield f"CREATE TRIGGER {trigger.name} {trigger.when} ON {trigger.table} BEGIN {statement}{refusal} END"


def _postgresql(trigger: Trigger) -> Iterator[str]:
    when, condition, each = trigger.when, trigger.condition, "FOR EACH ROW"
    if trigger.at_once:
        when = when.replace("BEFORE", "AFTER")
        condition = f"EXISTS (SELECT 1 FROM added WHERE {condition.replace('NEW.', 'added.')})"
        each = "REFERENCING NEW TABLE AS added FOR EACH STATEMENT"
    statement = f"{trigger.statement}; " if trigger.statement else ""
    refusal = ""
    if condition:
        error = f"RAISE EXCEPTION USING MESSAGE = '{trigger.code}', ERRCODE = 'check_violation'"
        refusal = f"IF {condition} THEN {error}; END IF; "
    answer = "NULL" if when.startswith("AFTER") else "OLD" if "DELETE" in when else "NEW"
    yield (
        f"CREATE FUNCTION {trigger.name}() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN {statement}{refusal}RETURN {answer}; END $$"
    )
    yield f"CREATE TRIGGER {trigger.name} {when} ON {trigger.table} {each} EXECUTE FUNCTION {trigger.name}()"
