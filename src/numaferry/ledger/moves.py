"""The move claim: choosing a destination and claiming there, with the fit run inside, are one transaction.

There is no window in which two guests are promised the same CPU: what a claim commits against is what it looked at.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import Float, bindparam, insert, literal, select

from numaferry.errors import Conflict, LedgerError, LedgerUnusable, NumaferryError
from numaferry.fit import numa_fit_instance_to_host
from numaferry.ledger import schema
from numaferry.ledger.amounts import amounts, move_request, owned_cpus
from numaferry.ledger.choice import Fit, Found, Question, glance, look, no_fit, refuse_all_closed
from numaferry.ledger.claim_rows import ClaimRows, claim_batches
from numaferry.ledger.devices import chosen_devices
from numaferry.ledger.events import migration_event
from numaferry.ledger.hosts import HostRecord, load_host
from numaferry.ledger.insertion import NUMBER, Batch, Head, Numbered, insert_with
from numaferry.ledger.instances import instance_from, load_instance
from numaferry.ledger.migrations import being_moved, load_migration
from numaferry.ledger.names import device_name
from numaferry.ledger.store import Store, writes
from numaferry.ledger.to_move import load_to_move
from numaferry.ledger.trouble import Interrupted
from numaferry.model import (
    CpuSet,
    Instance,
    Migration,
    MigrationContext,
    MigrationPolicy,
    MigrationStatus,
    MigrationType,
    Misfit,
    NumaRequest,
    Placement,
    Promise,
    Vif,
)
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.sql.dml import ReturningInsert

    from numaferry.ledger.snapshot import HostSnapshot

#: The guest's links as they are on a host: the macvtap parent or bridge that carries the same physical network there.
Links = Callable[[HostRecord], tuple[Vif, ...]]


@attrs.frozen(slots=True)
class MoveClaim:
    """What a moving instance holds on the destination, committed before anything there is touched."""

    id: str
    migration: Migration
    #: With its migration context set: `mutated_migration_context()` shows it as it will be on the destination.
    instance: Instance
    placement: Placement


@attrs.frozen(slots=True)
class _Wish:
    """What is asked of every candidate, and what the migration is created with."""

    uuid: str
    kind: MigrationType
    request: NumaRequest | None
    vifs: Links | None
    fit: Fit
    controller: str
    lease_s: float
    policy: MigrationPolicy = attrs.field(factory=MigrationPolicy)
    memo: tuple[tuple[str, str], ...] = ()
    priority: int = 0


@attrs.frozen(slots=True)
class _Choice:
    """What is about to be claimed on one host."""

    record: HostRecord
    placement: Placement
    request: NumaRequest
    context: MigrationContext


class MoveStore(Store):
    """Claiming for a move."""

    def live_migration_claim(
        self,
        instance_uuid: str,
        candidates: Sequence[str],
        *,
        request: NumaRequest | None = None,
        vifs: Links | None = None,
        policy: MigrationPolicy | None = None,
        memo: tuple[tuple[str, str], ...] = (),
        controller: str = "",
        lease_s: float = 0.0,
        priority: int = 0,
        fit: Fit = numa_fit_instance_to_host,
        migration_uuid: str | None = None,
    ) -> MoveClaim:
        """Choose the first candidate that fits and claim there, in one transaction (nova: live_migration_claim).

        For each candidate in order the host's state is read and the fit run on it; the first placement is claimed with
        its exact CPUs, pages, memory and devices, and the migration is created as `accepted` with its context, under a
        lease of `lease_s` for `controller`. Without `request` it is the instance's own with the source's page sizes
        (`move_request`); without `vifs` the links keep their names. A `vifs` that raises makes its host a misfit.

        A claim whose answer was lost is found again by its migration's UUID, not made twice. Raises NoFit with
        `.misfits` (one per candidate), NotConfirmed where that is all there is to say, Conflict for a migration in
        progress, NotFound.
        """
        wish = _Wish(
            migration_uuid or str(uuid.uuid4()),
            MigrationType.LIVE_MIGRATION,
            request,
            vifs,
            fit,
            controller,
            lease_s,
            policy or MigrationPolicy(),
            memo,
            priority,
        )
        try:
            return self._claim_move(instance_uuid, tuple(candidates), wish)
        except Interrupted as error:
            unknown = LedgerUnusable(
                f"{error.message}; whether migration {wish.uuid} was accepted is not known",
                hint="when the ledger answers again: numaferry migration list --in-progress; to give it up: numaferry"
                f" migration abort {wish.uuid}",
            )
            # a second claim beside one that was accepted is refused, so that trying again is safe
            unknown.retryable = error.retryable
            raise unknown from error

    def repin_claim(
        self,
        instance_uuid: str,
        *,
        request: NumaRequest | None = None,
        controller: str = "",
        lease_s: float = 0.0,
        fit: Fit = numa_fit_instance_to_host,
        migration_uuid: str | None = None,
    ) -> MoveClaim:
        """Claim another placement on the host where the guest runs: a migration of type `repin`, old and new held.

        The fit sees the host as if the guest were not there. What both claims have in common is charged once, so only
        what is new is added; `confirm_migration` drops the rest, `drop_move_claim` what was added. Raises as
        `live_migration_claim` does.
        """
        wish = _Wish(migration_uuid or str(uuid.uuid4()), MigrationType.REPIN, request, None, fit, controller, lease_s)
        return self._claim_move(instance_uuid, (), wish)

    @writes
    def _claim_move(
        self, connection: Connection, instance_uuid: str, candidates: tuple[str, ...], wish: _Wish
    ) -> MoveClaim:
        """Claim for a move or a re-pin; once per migration UUID."""
        asked = load_to_move(connection, instance_uuid, wish.uuid, candidates[0] if candidates else "")
        row = asked.row
        if row.made is not None:
            return _made(connection, load_migration(connection, row.made))
        if row.moving is not None and (moving := load_migration(connection, row.moving)).in_progress:
            # its number may be from before the lock was waited for
            raise being_moved(moving, row.name)
        instance = instance_from(row)
        if wish.kind is MigrationType.REPIN:
            candidates = (instance.host,)
        misfits: list[Misfit] = []
        for number, name in enumerate(candidates):
            glanced = asked.first if number == 0 else None
            outcome = _claim_on(connection, name, instance, wish, slot=1 - row.slot, glanced=glanced)
            if not isinstance(outcome, Misfit):
                return outcome
            misfits.append(outcome)
        refuse_all_closed(connection, candidates)
        raise no_fit(instance.name, tuple(misfits))


def _made(connection: Connection, migration: Migration) -> MoveClaim:
    """Return a claim that was committed before, though its answer was lost; raises Conflict if it was given up."""
    claim = schema.claim.c
    claim_id = connection.execute(select(claim.id).where(claim.migration_id == migration.id)).scalar_one_or_none()
    if claim_id is None:
        raise Conflict(
            f"migration {migration.id} is {migration.status} and holds no claim on {migration.dest} any more",
            hint=f"numaferry migration show {migration.id}",
        )
    context = migration.context
    devices = context.new_pci_devices if context and migration.migration_type is not MigrationType.REPIN else ()
    placement = Placement(
        migration.dest,
        load_host(connection, migration.dest).generation,
        context.new_numa_topology if context else None,
        tuple(device.address for device in devices),
    )
    return MoveClaim(claim_id, migration, load_instance(connection, migration.instance_uuid), placement)


def _claim_on(
    connection: Connection, name: str, instance: Instance, wish: _Wish, *, slot: int, glanced: HostSnapshot | None
) -> MoveClaim | Misfit:
    """Claim on one host, or answer why not.

    The claim is made only where the host still is what was looked at, and locks it; where it is not, the host is locked
    first and looked at again. So what does not fit is in nobody's way, and what fits is claimed in one go.
    """
    for find in (partial(glance, snapshot=glanced), look):
        choice = _consider(connection, name, instance, wish, find)
        if isinstance(choice, Misfit):
            if find is not look and glanced is not None:
                # it was read together with the instance, whose lock may have been waited for: others may have left
                continue
            return choice
        made = _claim(connection, instance, choice, wish, slot=slot)
        if made is not None:
            return made
    raise AssertionError("nobody changes a host that is locked")


def _claim(connection: Connection, instance: Instance, choice: _Choice, wish: _Wish, *, slot: int) -> MoveClaim | None:
    """Insert the migration as accepted, with the first lease where somebody drives it, and its claim.

    None: the host has changed, and nothing was inserted.
    """
    migration = _migration(instance, choice, wish)
    rows = _move_rows(choice, migration, slot=slot)
    batches = [*claim_batches(connection, rows), _event(instance, migration, rows)]
    made = insert_with(connection, _head(migration, choice.record, wish.lease_s), batches)
    if made is None:
        return None
    known = attrs.evolve(
        migration,
        id=made.id,
        created_at=made.created_at,
        updated_at=made.updated_at,
        lease_until=made.lease_until,
    )
    return MoveClaim(rows.id, known, attrs.evolve(instance, migration_context=choice.context), choice.placement)


def _consider(
    connection: Connection, name: str, instance: Instance, wish: _Wish, find: Callable[..., Found | Misfit]
) -> _Choice | Misfit:
    """Answer whether a candidate takes the instance now, with its links there; nothing is written."""
    repin = wish.kind is MigrationType.REPIN
    if name == instance.host and not repin:
        return Misfit(name, f"{instance.name} runs on {name} already")
    request = wish.request if wish.request is not None else move_request(instance)
    if repin:
        # a device stays where it is plugged, whatever CPUs the guest runs on
        request = attrs.evolve(request, pci_requests=())
    found = find(connection, name, Question(request, wish.fit, instance.uuid if repin else None))
    if isinstance(found, Misfit):
        return found
    record, placement = found.record, found.placement
    try:
        links = wish.vifs(record) if wish.vifs is not None else instance.vifs
    except LedgerError:
        raise
    except NumaferryError as error:
        return Misfit(name, str(error), suggestions=(error.hint,) if error.hint else ())
    context = MigrationContext(
        old_numa_topology=instance.numa_topology,
        new_numa_topology=placement.numa_topology,
        old_pci_devices=instance.pci_devices,
        new_pci_devices=instance.pci_devices if repin else chosen_devices(found.state, placement),
        old_vifs=instance.vifs,
        new_vifs=links,
        new_cpu_shared_set=str(record.config.cpu_shared_set),
    )
    return _Choice(record, placement, request, context)


def _migration(instance: Instance, choice: _Choice, wish: _Wish) -> Migration:
    """Return the migration before it is inserted: its id, times and lease are the database's to give."""
    return Migration(
        id=0,
        uuid=wish.uuid,
        instance_uuid=instance.uuid,
        source=instance.host,
        dest=choice.record.name,
        status=MigrationStatus.ACCEPTED,
        context=choice.context,
        controller=wish.controller,
        policy=wish.policy,
        source_memo=wish.memo,
        migration_type=wish.kind,
        token=int(bool(wish.controller)),
        priority=wish.priority,
    )


def _head(migration: Migration, record: HostRecord, lease_s: float) -> Head:
    """Return the migration as the row that its claim goes with."""
    row = {
        "uuid": migration.uuid,
        "instance_uuid": migration.instance_uuid,
        "source": migration.source,
        "dest": migration.dest,
        "status": str(migration.status),
        "step": migration.step,
        "reason": migration.reason,
        "context_json": dumps(migration.context),
        "controller": migration.controller,
        "abort_requested": migration.abort_requested,
        "policy_json": dumps(migration.policy),
        "source_memo_json": dumps(migration.source_memo),
        "migration_type": str(migration.migration_type),
        "token": migration.token,
        "priority": migration.priority,
    }
    driven = bool(migration.controller)
    this = {"host_id": record.id, "generation": record.generation, **({"lease_s": lease_s} if driven else {})}
    values = {f"new_{name}": value for name, value in row.items()}
    return Head(_accept(tuple(row), driven=driven), values | this)


@lru_cache
def _accept(names: tuple[str, ...], *, driven: bool) -> ReturningInsert[Any]:
    """Return the statement that inserts a migration with these columns if the host is still of this generation.

    A server locks the host with it.
    """
    table = schema.migration.c
    columns: dict[str, ColumnElement[Any]] = {name: bindparam(f"new_{name}", type_=table[name].type) for name in names}
    now = schema.epoch_now()
    lease_until = now + bindparam("lease_s", type_=Float) if driven else literal(0.0)
    columns |= {"created_at": now, "updated_at": now, "lease_until": lease_until}
    host = schema.host.c
    same = (host.id == bindparam("host_id")) & (host.generation == bindparam("generation"))
    source = select(*columns.values()).select_from(schema.host).where(same).with_for_update()
    made = insert(schema.migration).from_select([*columns], source)
    return made.returning(table.id, table.created_at, table.updated_at, table.lease_until)


def _event(instance: Instance, migration: Migration, rows: ClaimRows) -> Batch:
    """Return the event of a claim."""
    cpus = CpuSet.of(rows.cpus) or "none"
    where = (
        f"re-pinned on {instance.host}, CPUs {cpus} claimed beside the old ones"
        if migration.migration_type is MigrationType.REPIN
        else f"{instance.host} to {migration.dest}, CPUs {cpus} claimed there"
    )
    sentence = Numbered("migration ", f" of {instance.name} accepted: {where}")
    event = migration_event(migration, "move-claimed", "") | {"sentence": sentence, "migration_id": NUMBER}
    return Batch(schema.event, event)


def _move_rows(choice: _Choice, migration: Migration, *, slot: int) -> ClaimRows:
    """Return the destination's claim: exactly what the fit chose."""
    context = choice.context
    topology = context.new_numa_topology
    whence = "within" if migration.migration_type is MigrationType.REPIN else "from"
    return ClaimRows(
        instance_uuid=migration.instance_uuid,
        host_id=choice.record.id,
        slot=slot,
        numa_topology=topology,
        promise=Promise.FLOATING if topology is None else Promise.KEPT,
        cause=Numbered("migration ", f" {whence} {migration.source}"),
        cpus=owned_cpus(topology),
        amounts=amounts(choice.request, topology),
        pci_devices=context.new_pci_devices,
        devices=tuple(map(device_name, context.new_pci_devices)),
        vifs=context.new_vifs,
        migration_id=NUMBER,
        beside=migration.migration_type is MigrationType.REPIN,
    )
