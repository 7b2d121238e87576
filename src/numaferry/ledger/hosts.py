"""Hosts: facts from discovery and configuration from a person."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from numaferry.errors import Conflict, InvalidInput, NotConfirmed, NotFound
from numaferry.ledger import schema
from numaferry.ledger.amounts import capacities
from numaferry.ledger.events import write_event, written
from numaferry.ledger.observations import replace_observed
from numaferry.ledger.rows import config_of, facts_of
from numaferry.ledger.store import Store, lock, writes
from numaferry.model import IN_PROGRESS, HostConfig, HostFacts, ObservedUse
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from types import SimpleNamespace

    from sqlalchemy import Connection, Select

    from numaferry.ledger.rows import AnyRow

_BY_NAME = select(schema.host).where(schema.host.c.name == bindparam("name"))
#: SQLite has one writer, and no such words.
_BY_NAME_LOCKED = _BY_NAME.with_for_update()
_GENERATION_LOCKED = select(schema.host.c.generation).where(schema.host.c.id == bindparam("id")).with_for_update()
REACHABLE = "reachable"
UNREACHABLE = "unreachable"
QUARANTINED = "quarantined"


@attrs.frozen(slots=True)
class HostRecord:
    """A host as the ledger has it; `generation` grows with every claim, release, observation and change of config."""

    id: int
    name: str
    facts: HostFacts
    config: HostConfig
    #: Nothing is claimable before an operator confirmed the CPU sets.
    confirmed: bool
    generation: int
    #: "reachable", "unreachable", or "quarantined": it is not the machine that was confirmed.
    state: str
    state_reason: str = ""
    #: When discovery last told what runs there (database's clock); None: never.
    observed_at: float | None = None
    #: The host UUID of the machine that was accepted; `facts.uuid` is what answered last, another one in quarantine.
    uuid: str = ""
    #: Other ledgers whose guests were seen there last, and those that an operator accepted.
    ledgers_seen: tuple[str, ...] = ()
    ledgers_accepted: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """The URI by which the controller reaches the host's libvirtd."""
        return self.facts.uri

    @property
    def is_itself(self) -> bool:
        """Tell whether what answered last is the machine that was accepted."""
        return self.facts.uuid == self.uuid

    def is_newer_than(self, looked_at: float | None) -> bool:
        """Tell whether what runs here is known from a look that began after this time."""
        return looked_at is not None and self.observed_at is not None and looked_at < self.observed_at

    @property
    def claimable(self) -> bool:
        """Tell whether a claim may be made here at all."""
        return self.confirmed and self.state == REACHABLE


def record_of(row: AnyRow | SimpleNamespace) -> HostRecord:
    """Build a host from its row."""
    return HostRecord(
        id=row.id,
        name=row.name,
        facts=facts_of(row.facts_json),
        config=config_of(row.config_json),
        confirmed=row.confirmed,
        generation=row.generation,
        state=row.state,
        state_reason=row.state_reason,
        observed_at=row.observed_at,
        uuid=row.uuid,
        ledgers_seen=tuple(json.loads(row.ledgers_seen_json)),
        ledgers_accepted=tuple(json.loads(row.ledgers_accepted_json)),
    )


def load_host(connection: Connection, name: str) -> HostRecord:
    """Return the host of this name; raises NotFound that lists the known ones."""
    return _found(connection, name, _BY_NAME)


def load_locked_host(connection: Connection, name: str) -> HostRecord:
    """Return a host that nobody else changes before this transaction ends; raises NotFound."""
    return _found(connection, name, _BY_NAME_LOCKED)


def locked_generation(connection: Connection, host_id: int) -> int | None:
    """Return the generation of a host that nobody else changes before this transaction ends; None: it is gone."""
    return connection.execute(_GENERATION_LOCKED, {"id": host_id}).scalar_one_or_none()


def _found(connection: Connection, name: str, query: Select[Any]) -> HostRecord:
    row = connection.execute(query, {"name": name}).one_or_none()
    if row is None:
        raise unknown_host(connection, name)
    return record_of(row)


def unknown_host(connection: Connection, name: str) -> NotFound:
    """Return the error for a name that no host has; it lists the known ones."""
    known = connection.execute(select(schema.host.c.name).order_by(schema.host.c.name)).scalars().all()
    return NotFound(
        f"no host {name!r} in the ledger",
        hint=f"known hosts: {', '.join(known)}" if known else "add one: numaferry host add URI",
    )


def refuse_quarantined(record: HostRecord) -> None:
    """Raise NotConfirmed for a host that is not the machine that was confirmed: `host confirm` alone accepts it."""
    if record.state == QUARANTINED:
        raise NotConfirmed(
            f"host {record.name} is quarantined: {record.state_reason}",
            hint=f"numaferry host confirm {record.name} accepts it as it is now",
        )


def refuse_unconfirmed(record: HostRecord) -> None:
    """Raise NotConfirmed for a host whose sets nobody confirmed, or that is not the machine that was confirmed."""
    if not record.confirmed:
        raise NotConfirmed(
            f"host {record.name} is not confirmed: nothing is claimable there",
            hint=f"look at its proposed CPU sets and confirm them: numaferry host confirm {record.name}",
        )
    refuse_quarantined(record)


def check_config(facts: HostFacts, config: HostConfig) -> None:
    """Refuse what no host could keep: unknown CPUs or cells, CPUs both dedicated and shared; raises InvalidInput."""
    online = facts.topology.cpus
    for word, cpus in (
        ("cpu_dedicated_set", config.cpu_dedicated_set),
        ("cpu_shared_set", config.cpu_shared_set),
        ("migration_cpu_set", config.migration_cpu_set),
    ):
        if unknown := cpus - online:
            raise InvalidInput(
                f"{word} {cpus}: CPU {unknown} does not exist on {facts.hostname}",
                hint=f"its online CPUs are {online}",
            )
    if both := config.cpu_dedicated_set & config.cpu_shared_set:
        raise InvalidInput(
            f"CPU {both} of {facts.hostname} is in cpu_dedicated_set and in cpu_shared_set",
            hint="a CPU is given away alone or shared, not both",
        )
    if both := config.cpu_dedicated_set & config.migration_cpu_set:
        raise InvalidInput(
            f"CPU {both} of {facts.hostname} is in cpu_dedicated_set and in migration_cpu_set",
            hint="migrations take nothing from CPUs that are given away alone: name others, or none for the shared set",
        )
    for reserved in config.reserved_huge_pages:
        cell = facts.topology.cell(reserved.cell)
        if cell is None or cell.pool(reserved.size_kib) is None:
            raise InvalidInput(
                f"reserved_huge_pages: {facts.hostname} has no {reserved.size_kib} KiB pages on cell {reserved.cell}",
                hint="numaferry topology HOST shows cells and page sizes",
            )
    known = {cell.id for cell in facts.topology.cells}
    for network, cells in config.physical_network_cells:
        if missing := sorted(set(cells) - known):
            raise InvalidInput(
                f"physical_network_cells: {facts.hostname} has no cell {missing[0]} for {network}",
                hint=f"its cells are {', '.join(map(str, sorted(known)))}",
            )


def sync_capacity(connection: Connection, record: HostRecord) -> None:
    """Bring dedicated CPUs and capacity rows in line with facts and config; never fails for what is promised already.

    A pool that is gone while something of it is promised keeps its row with nothing to give: over-full.
    """
    dedicated = record.config.cpu_dedicated_set if record.confirmed else ()
    connection.execute(delete(schema.dedicated_cpu).where(schema.dedicated_cpu.c.host_id == record.id))
    if dedicated:
        connection.execute(insert(schema.dedicated_cpu), [{"host_id": record.id, "cpu": cpu} for cpu in dedicated])
    wanted = capacities(record.facts.topology, record.config) if record.confirmed else {}
    table = schema.capacity
    mine = table.c.host_id == record.id
    connection.execute(delete(table).where(mine, table.c.used == 0))
    for row in connection.execute(select(table.c.cell, table.c.resource).where(mine)).all():
        now = wanted.pop((row.cell, row.resource), None)
        limits = {"total": now.total, "allowed": now.allowed} if now else {"total": 0, "allowed": 0}
        this = mine & (table.c.cell == row.cell) & (table.c.resource == row.resource)
        connection.execute(update(table).where(this).values(limits))
    if wanted:
        rows = [
            {"host_id": record.id, "cell": cell, "resource": resource, "total": has.total, "allowed": has.allowed}
            for (cell, resource), has in wanted.items()
        ]
        connection.execute(insert(table), rows)


def _machine_change(uuid: str, old: HostFacts, new: HostFacts) -> str:
    """Return "" or how the machine differs from the one that was confirmed: `uuid`, cells, CPU numbering."""
    if uuid != new.uuid:
        return f"its host UUID was {uuid} and is {new.uuid}"
    for cell_id in sorted({cell.id for cell in (*old.topology.cells, *new.topology.cells)}):
        before, after = old.topology.cell(cell_id), new.topology.cell(cell_id)
        if before is None or after is None:
            return f"cell {cell_id} {'is gone' if after is None else 'is new'}"
        if before.cpus != after.cpus:
            return f"the CPUs of cell {cell_id} were {before.cpus} and are {after.cpus}"
        if set(before.siblings) != set(after.siblings):
            return f"the hardware threads of cell {cell_id} are numbered in another way"
    return ""


class HostStore(Store):
    """Hosts in the ledger."""

    def hosts(self) -> tuple[HostRecord, ...]:
        """Return all hosts, ordered by name."""
        with self._read() as connection:
            return tuple(map(record_of, connection.execute(select(schema.host).order_by(schema.host.c.name))))

    def host(self, name: str) -> HostRecord:
        """Return one host; raises NotFound."""
        with self._read() as connection:
            return load_host(connection, name)

    def add_host(
        self,
        name: str,
        facts: HostFacts,
        config: HostConfig | None = None,
        confirmed: bool = False,  # noqa: FBT001, FBT002  (the room's agreed signature)
        *,
        observed: Iterable[ObservedUse] = (),
    ) -> HostRecord:
        """Add a host and what is seen to run there; without `confirmed` its config is a proposal, nothing is claimable.

        Raises Conflict for a name or a machine (host UUID) that is there already, InvalidInput for sets that can't be.
        """
        config = config or HostConfig()
        if confirmed:
            check_config(facts, config)
        seen, key = tuple(observed), uuid.uuid4().hex
        return self._add_host(name, facts, config, confirmed=confirmed, observed=seen, key=key)

    @writes
    def _add_host(
        self,
        connection: Connection,
        name: str,
        facts: HostFacts,
        config: HostConfig,
        *,
        confirmed: bool,
        observed: tuple[ObservedUse, ...],
        key: str,
    ) -> HostRecord:
        """Add a host; once per key."""
        if written(connection, key):
            return load_host(connection, name)
        table = schema.host.c
        same = or_(table.name == name, (table.uuid == facts.uuid) & (table.uuid != ""))
        if (other := connection.execute(select(schema.host).where(same)).first()) is not None:
            what = "is in the ledger already" if other.name == name else f"is the machine known as {other.name}"
            raise Conflict(f"host {name} {what}", hint=f"numaferry host show {other.name}")
        connection.execute(
            insert(schema.host).values(
                name=name,
                uuid=facts.uuid,
                facts_json=dumps(facts),
                config_json=dumps(config),
                confirmed=confirmed,
                state=REACHABLE,
            )
        )
        record = load_host(connection, name)
        sync_capacity(connection, record)
        replace_observed(connection, record.id, observed)
        word = "confirmed" if confirmed else "not confirmed yet: nothing is claimable"
        write_event(connection, "host-added", f"host {name} added ({facts.uri}), {word}", host=name, key=key)
        return record

    @writes
    def update_host(
        self, connection: Connection, name: str, facts: HostFacts, looked_at: float | None = None
    ) -> HostRecord:
        """Store what discovery found now; another machine, other cells or CPU numbers quarantine a confirmed host.

        The host UUID that was accepted stays until `confirm_host`, so that recovery still tells the machines apart.
        Limits that reality lowered never fail: rows are over-full and closed (`overfull`). A host that was unreachable,
        or that was booted since the last look, stays closed until `set_observed` says what runs there now. A look that
        began (`looked_at`) before the one that is known says nothing.
        """
        old = load_locked_host(connection, name)
        if old.is_newer_than(looked_at):
            return old
        twin = "" if facts.uuid == old.uuid else _twin(connection, old.id, facts.uuid)
        differs = _machine_change(old.uuid, old.facts, facts) if old.confirmed else ""
        if twin:
            differs = f"what answers is the machine known as {twin}"
        state, reason = old.state, old.state_reason
        if facts.booted_since(old.facts):
            if state == REACHABLE:
                state, reason = UNREACHABLE, f"booted {facts.uptime_s} s ago, and not looked at since"
            sentence = f"host {name} was booted {facts.uptime_s} s ago: it is discovered again before any claim"
            write_event(connection, "host-booted", sentence, host=name)
        if differs:
            state, reason = QUARANTINED, differs
        if (state, reason) != (old.state, old.state_reason) and state == QUARANTINED:
            sentence = f"host {name} is quarantined: {differs}; numaferry host confirm {name} accepts it"
            write_event(connection, "host-quarantined", sentence, host=name)
        accepted = old.uuid if old.confirmed or twin else facts.uuid
        values = {"facts_json": dumps(facts), "uuid": accepted, "state": state, "state_reason": reason}
        return _change(connection, old, values)

    def confirm_host(self, name: str, config: HostConfig) -> HostRecord:
        """Store what the operator says of a host, and open it for claims; ends a quarantine, accepting what was found.

        That other ledgers' guests run there is accepted where the quarantine said so. A host that was not reachable
        and itself stays closed until it was looked at. Raises InvalidInput for sets that can't be, Conflict for a
        machine that another name has already, or for another ledger's guests that nobody was told of. Sets that are
        smaller than what is promised already are accepted: what is promised stays, and nothing new is promised beyond
        them.
        """
        return self._confirm_host(name, config, uuid.uuid4().hex)

    @writes
    def _confirm_host(self, connection: Connection, name: str, config: HostConfig, key: str) -> HostRecord:
        """Confirm a host; once per key."""
        old = load_locked_host(connection, name)
        if written(connection, key):
            return old
        check_config(old.facts, config)
        _refuse_twin(connection, old)
        strange = sorted(set(old.ledgers_seen) - set(old.ledgers_accepted))
        if untold := [one for one in strange if one not in old.state_reason]:
            raise Conflict(
                f"guests of another ledger, {untold[0]}, run on host {name}",
                hint=f"if that ledger is gone for good: numaferry host remove {name}, and add it with --take-over",
                code="foreign-ledger",
            )
        looked_at = old.state == REACHABLE
        values = {
            "config_json": dumps(config),
            "confirmed": True,
            "uuid": old.facts.uuid,
            "state": REACHABLE if looked_at else UNREACHABLE,
            "state_reason": "" if looked_at else "confirmed, and not looked at since",
            "ledgers_accepted_json": dumps(sorted({*old.ledgers_accepted, *old.ledgers_seen})),
        }
        new = _change(connection, old, values)
        sentence = (
            f"host {name} confirmed: dedicated CPUs {config.cpu_dedicated_set or 'none'},"
            f" shared CPUs {config.cpu_shared_set or 'none'},"
            + (f" migration CPUs {config.migration_cpu_set}," if config.migration_cpu_set else "")
            + f" {config.reserved_host_memory_mb} MiB reserved"
            + (f"; guests of ledger {', '.join(strange)} are accepted there" if strange else "")
        )
        write_event(connection, "host-confirmed", sentence, host=name, key=key)
        return new

    @writes
    def note_ledgers(self, connection: Connection, name: str, seen: Collection[str], *, accept: bool = False) -> None:
        """Note which other ledgers' guests a look at a host found; one that nobody accepted quarantines the host.

        Two ledgers on one host would each promise what the other has promised: neither sees the other's move claims.
        `accept` is an operator's word that they are gone (`--take-over`), as `confirm_host` is.
        """
        old = load_locked_host(connection, name)
        accepted = {*old.ledgers_accepted, *(seen if accept else ())}
        values: dict[str, Any] = {
            "ledgers_seen_json": dumps(sorted(seen)),
            "ledgers_accepted_json": dumps(sorted(accepted)),
        }
        strange = [one for one in sorted(set(seen) - accepted) if one not in old.state_reason]
        if seen and accept:
            words = f"guests of ledger {', '.join(sorted(seen))} on host {name} are accepted: taken over"
            write_event(connection, "host-taken-over", words, host=name)
        if strange and old.confirmed:
            reason = f"guests of another ledger, {', '.join(strange)}, run there"
            before = f"{old.state_reason}; " if old.state == QUARANTINED else ""
            values |= {"state": QUARANTINED, "state_reason": before + reason}
            sentence = f"host {name} is quarantined: {reason}; numaferry host confirm {name} accepts it"
            write_event(connection, "host-quarantined", sentence, host=name)
        _change(connection, old, values)

    @writes
    def set_host_state(self, connection: Connection, name: str, state: str, reason: str = "") -> HostRecord:
        """Note that a host is reachable, unreachable or quarantined; a quarantine is ended by `confirm_host` alone."""
        if state == UNREACHABLE:
            _forget_missing(connection, name)
        old = load_locked_host(connection, name)
        if old.state in {state, QUARANTINED}:
            return old
        because = f": {reason}" if reason else ""
        write_event(connection, "host-state", f"host {name} is {state}{because}", host=name)
        return _change(connection, old, {"state": state, "state_reason": reason})

    def remove_host(self, name: str) -> None:
        """Remove a host; raises NotFound, Conflict while claims or migrations in progress name it."""
        self._remove_host(name, uuid.uuid4().hex)

    @writes
    def _remove_host(self, connection: Connection, name: str, key: str) -> None:
        """Remove a host; once per key."""
        try:
            record = load_locked_host(connection, name)
        except NotFound:
            if written(connection, key):
                return
            raise
        claims = connection.execute(
            select(func.count()).select_from(schema.claim).where(schema.claim.c.host_id == record.id)
        ).scalar_one()
        table = schema.migration.c
        moves = connection.execute(
            select(func.count())
            .select_from(schema.migration)
            .where(or_(table.source == name, table.dest == name), table.status.in_(list(IN_PROGRESS)))
        ).scalar_one()
        if claims or moves:
            raise Conflict(
                f"host {name} has {claims} claims and {moves} migrations in progress",
                hint=f"move its guests away or forget them first: numaferry ledger explain {name}",
            )
        connection.execute(delete(schema.host).where(schema.host.c.id == record.id))
        write_event(connection, "host-removed", f"host {name} removed", host=name, key=key)


def _refuse_twin(connection: Connection, record: HostRecord) -> None:
    """Raise Conflict where the machine that answers as this host is in the ledger under another name."""
    if other := _twin(connection, record.id, record.facts.uuid):
        raise Conflict(
            f"what answers as host {record.name} is the machine known as {other}",
            hint=f"one of their URIs leads to the wrong machine: numaferry host show {other}",
        )


def _forget_missing(connection: Connection, name: str) -> None:
    """Note that guests which were missing from a host before it fell silent have to be missed again after that."""
    instance = schema.instance.c
    here = select(schema.claim.c.id).join(schema.host).where(schema.host.c.name == name)
    missing = instance.gone_since.is_not(None) & instance.current_claim.in_(here)
    lock(connection, schema.instance, missing)
    connection.execute(update(schema.instance).where(missing).values(gone_since=None))


def _twin(connection: Connection, host_id: int, machine: str) -> str:
    """Return under which other name a machine (host UUID) is in the ledger, or ""."""
    table = schema.host.c
    same = (table.uuid == machine) & (table.uuid != "") & (table.id != host_id)
    return connection.execute(select(table.name).where(same)).scalar_one_or_none() or ""


def _change(connection: Connection, old: HostRecord, values: dict[str, Any]) -> HostRecord:
    """Write new values of a host; where what may be claimed differs, raise its generation and bring capacity in line.

    Free page counts differ at every look and are no reason to disturb a claim that is being made.
    """
    this = schema.host.c.id == old.id
    connection.execute(update(schema.host).where(this).values(values))
    record = load_host(connection, old.name)
    if _promises(record) == _promises(old):
        return record
    connection.execute(update(schema.host).where(this).values(generation=schema.host.c.generation + 1))
    sync_capacity(connection, record)
    return load_host(connection, old.name)


def _promises(record: HostRecord) -> tuple[object, ...]:
    """Return all of a host that decides what may be claimed."""
    cells = tuple((cell.id, cell.cpus, cell.siblings) for cell in record.facts.topology.cells)
    return cells, capacities(record.facts.topology, record.config), record.config, record.confirmed, record.state
