"""Claims: an instance's exact CPUs, pages and memory on one host.

`InstanceClaim` is what an adopted guest holds where it runs; `MoveClaim` what it holds on the destination while it
moves. Choosing a destination and claiming there are one transaction (`live_migration_claim`), with the fit run inside
it: there is no window in which two guests are promised the same CPU. The flip (`confirm_migration`) and the release
(`drop_move_claim`) are one transaction each and may be run twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import delete, insert, select, update

from numaferry.errors import ClaimLost, Conflict, LedgerError, NoFit, NumaferryError
from numaferry.fit import numa_fit_instance_to_host
from numaferry.ledger import schema
from numaferry.ledger.adoption import Adoptable, adoptable
from numaferry.ledger.amounts import amounts, move_request, owned_cpus
from numaferry.ledger.claim_rows import ClaimRows, insert_claim, refuse_unconfirmed, release_claim
from numaferry.ledger.engine import Store
from numaferry.ledger.events import write_event
from numaferry.ledger.holdings import load_holdings
from numaferry.ledger.hosts import REACHABLE, HostRecord, forget_observed, load_host, load_observed
from numaferry.ledger.instances import find_row, load_instance, load_row
from numaferry.ledger.migrations import find_migration, load_migration, refuse_in_progress
from numaferry.ledger.states import host_state_of
from numaferry.model import (
    EMPTY,
    CpuSet,
    HostState,
    Instance,
    Migration,
    MigrationContext,
    MigrationStatus,
    Misfit,
    NumaRequest,
    Placement,
    Promise,
    Vif,
)
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from numaferry.ledger.rows import AnyRow
    from numaferry.model import InstanceNumaTopology

#: `numaferry.fit.numa_fit_instance_to_host`, or what a test puts in its place.
Fit = Callable[[HostState, NumaRequest], Placement | Misfit]
#: The guest's links as they are on a host: the macvtap parent or bridge that carries the same physical network there.
Links = Callable[[HostRecord], tuple[Vif, ...]]

#: Statuses of a migration that ended without a flip.
GIVEN_UP = frozenset({MigrationStatus.FAILED, MigrationStatus.CANCELLED})


@attrs.frozen(slots=True)
class InstanceClaim:
    """What an instance holds on the host where it runs."""

    id: str
    #: As stored: its promise is `conflicted` where something that it has could not be claimed.
    instance: Instance
    #: CPUs it runs on that could not be claimed: claimed or seen in use elsewhere, or not in the dedicated set.
    contested_cpus: CpuSet = EMPTY
    #: One sentence for each thing that could not be claimed.
    conflicts: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class _Question:
    """What is asked of every candidate."""

    instance: Instance
    request: NumaRequest
    vifs: Links | None
    fit: Fit


@attrs.frozen(slots=True)
class MoveClaim:
    """What a moving instance holds on the destination, committed before anything there is touched."""

    id: str
    migration: Migration
    #: With its migration context set: `mutated_migration_context()` shows it as it will be on the destination.
    instance: Instance
    placement: Placement


class ClaimStore(Store):
    """Claiming and releasing."""

    def claim_instance(self, instance: Instance) -> InstanceClaim:
        """Adopt a guest: store it and claim what its topology says it has, on the host where it runs.

        What others hold or are seen on stays out, and the instance is stored as `conflicted`; a floating guest is
        charged to the host as far as there is room. Raises Conflict for one that is in the ledger already,
        NotConfirmed, NotFound for its host.
        """
        with self._write() as connection:
            record = load_host(connection, instance.host)
            refuse_unconfirmed(record)
            if (known := find_row(connection, instance.uuid)) is not None:
                raise Conflict(
                    f"instance {known.name} ({instance.uuid}) is in the ledger already, on {known.host_name}",
                    hint=f"numaferry instance show {known.name}",
                )
            rows, got = _own_rows(connection, record, instance, f"adopted on {record.name}")
            _insert_instance(connection, instance, rows)
            return _told(connection, "adopted", record, rows, got)

    def reclaim_instance(self, instance_uuid: str, numa_topology: InstanceNumaTopology | None) -> InstanceClaim:
        """Claim anew what a guest really has on its host: the way out of `conflicted`, and how a promise is repaired.

        One transaction: the old claim is released and the new one made, under the rules of `claim_instance`. Raises
        NotFound, NotConfirmed, Conflict while the instance is being moved.
        """
        with self._write() as connection:
            row = load_row(connection, instance_uuid)
            refuse_in_progress(connection, instance_uuid, row.name)
            record = load_host(connection, row.host_name)
            refuse_unconfirmed(record)
            instance = attrs.evolve(load_instance(connection, instance_uuid), numa_topology=numa_topology)
            release_claim(connection, row.current_claim)
            rows, got = _own_rows(connection, record, instance, f"claimed anew on {record.name}")
            insert_claim(connection, rows)
            connection.execute(
                update(schema.instance).where(schema.instance.c.uuid == instance_uuid).values(current_claim=rows.id)
            )
            return _told(connection, "reclaimed", record, rows, got)

    def forget_instance(self, instance_uuid: str) -> None:
        """Release everything an instance holds and forget it; raises NotFound, Conflict while it is being moved."""
        with self._write() as connection:
            row = load_row(connection, instance_uuid)
            refuse_in_progress(connection, instance_uuid, row.name)
            connection.execute(delete(schema.instance).where(schema.instance.c.uuid == instance_uuid))
            sentence = f"{row.name} forgotten: everything it held on {row.host_name} is free"
            write_event(connection, "forgotten", sentence, host=row.host_name, instance_uuid=instance_uuid)

    def host_state(self, name: str, *, ignore_instance: str | None = None) -> HostState:
        """Return what the fit sees of a host: capacity less claims less what others are seen to use.

        `ignore_instance` (a UUID) is left out of both. Raises NotFound.
        """
        with self._read() as connection:
            return load_state(connection, load_host(connection, name), ignore_instance=ignore_instance)

    def live_migration_claim(
        self,
        instance_uuid: str,
        candidates: Sequence[str],
        *,
        request: NumaRequest | None = None,
        vifs: Links | None = None,
        bandwidth_mib_s: int = 0,
        controller: str = "",
        fit: Fit = numa_fit_instance_to_host,
        migration_uuid: str | None = None,
    ) -> MoveClaim:
        """Choose the first candidate that fits and claim there, in one transaction (nova: live_migration_claim).

        For each candidate in order the host's state is read and the fit run on it; the first placement is claimed with
        its exact CPUs, pages and memory, and the migration is created as `accepted` with its context. Without
        `request` it is the instance's own with the source's page sizes (`move_request`); without `vifs` the links keep
        their names. A `vifs` that raises makes its host a misfit.

        Raises NoFit with `.misfits` (one per candidate), NotConfirmed where that is all there is to say, Conflict for a
        migration in progress, NotFound, ClaimLost (retryable) where the host changed under the choice.
        """
        with self._write() as connection:
            row = load_row(connection, instance_uuid)
            refuse_in_progress(connection, instance_uuid, row.name)
            instance = load_instance(connection, instance_uuid)
            question = _Question(instance, request if request is not None else move_request(instance), vifs, fit)
            misfits: list[Misfit] = []
            for name in candidates:
                record = load_host(connection, name)
                outcome = _consider(connection, record, question)
                if isinstance(outcome, Misfit):
                    misfits.append(outcome)
                    continue
                placement, links = outcome
                context = _context(instance, record, placement, links)
                move = {
                    "uuid": migration_uuid or str(uuid.uuid4()),
                    "bandwidth_mib_s": bandwidth_mib_s,
                    "controller": controller,
                }
                migration = _insert_migration(connection, instance, record, context, move)
                rows = _move_rows(question, migration, record.id, slot=1 - row.slot)
                insert_claim(connection, rows)
                sentence = (
                    f"migration {migration.id} of {instance.name} accepted: {instance.host} to {name},"
                    f" CPUs {CpuSet.of(rows.cpus) or 'none'} claimed there"
                )
                _tell(connection, migration, "move-claimed", sentence)
                return MoveClaim(rows.id, migration, load_instance(connection, instance_uuid), placement)
            for record in _all_closed(connection, candidates):
                refuse_unconfirmed(record)
            raise _no_fit(instance, tuple(misfits))

    def confirm_migration(self, migration_id: int | str, *, status: MigrationStatus | None = None) -> Migration:
        """Flip: the move claim becomes current and the source's claim is released, in one transaction.

        Host, topology, devices and links of the instance are then those of the destination; the context stays in the
        migration's row. The status is left alone unless `status` is given. May be run twice. Raises NotFound, Conflict
        where the move claim was dropped already.
        """
        with self._write() as connection:
            migration = load_migration(connection, migration_id)
            moved, current = _claims_of(connection, migration)
            if moved is None or current is None:
                if migration.status == MigrationStatus.COMPLETED:
                    return migration
                raise Conflict(
                    f"migration {migration.id} is {migration.status} and holds no claim on {migration.dest}",
                    hint=f"numaferry migration show {migration.id}",
                )
            if moved.id != current.id:
                release_claim(connection, current.id)
                connection.execute(
                    update(schema.instance)
                    .where(schema.instance.c.uuid == migration.instance_uuid)
                    .values(current_claim=moved.id)
                )
                forget_observed(connection, current.host_id, migration.instance_uuid)
                sentence = f"{current.name} runs on {migration.dest}: its claim on {migration.source} is released"
                _tell(connection, migration, "confirmed", sentence)
            if status is not None and status != migration.status:
                _end(connection, migration, status, "")
            return load_migration(connection, migration.id)

    def drop_move_claim(self, migration_id: int | str, status: MigrationStatus, reason: str) -> Migration | None:
        """Release the destination's claim of a move that is given up, and end it as `failed` or `cancelled`.

        May be run twice, and for a migration that never came to be (then the answer is None). Raises Conflict once the
        move was confirmed: the guest runs on the destination, and its claim there is the one that counts.
        """
        if status not in GIVEN_UP:
            raise Conflict(
                f"a move claim is dropped for a migration that ends as failed or cancelled, not as {status}",
                hint="an error keeps both claims until a person has decided",
            )
        with self._write() as connection:
            migration = find_migration(connection, migration_id)
            if migration is None or migration.status in GIVEN_UP:
                return migration
            moved, current = _claims_of(connection, migration)
            if migration.status == MigrationStatus.COMPLETED or (moved and current and moved.id == current.id):
                raise Conflict(
                    f"migration {migration.id} was confirmed: the guest runs on {migration.dest}",
                    hint="to have it back on the source, migrate it there",
                )
            if moved is not None:
                release_claim(connection, moved.id)
                sentence = f"the claim on {migration.dest} is released: {reason}"
                _tell(connection, migration, "move-claim-dropped", sentence)
            _end(connection, migration, status, reason)
            return load_migration(connection, migration.id)


def load_state(connection: Connection, record: HostRecord, *, ignore_instance: str | None = None) -> HostState:
    """Return the state of a host within the running transaction."""
    return host_state_of(
        record,
        load_holdings(connection, record.id),
        load_observed(connection, record.id),
        ignore_instance=ignore_instance,
    )


def _all_closed(connection: Connection, candidates: Sequence[str]) -> list[HostRecord]:
    """Return the candidates if nothing could be claimed on any of them, else nothing."""
    records = [load_host(connection, name) for name in candidates]
    return [] if any(record.claimable for record in records) else records


def _own_rows(
    connection: Connection, record: HostRecord, instance: Instance, cause: str
) -> tuple[ClaimRows, Adoptable]:
    """Return the claim of a guest on the host where it runs: what of its own it may claim."""
    got = adoptable(record, load_holdings(connection, record.id), load_observed(connection, record.id), instance)
    promise = Promise.CONFLICTED if got.conflicts else Promise.KEPT
    rows = ClaimRows(
        instance_uuid=instance.uuid,
        host_id=record.id,
        slot=0,
        numa_topology=instance.numa_topology,
        promise=Promise.FLOATING if instance.numa_topology is None else promise,
        cause=cause,
        cpus=got.cpus,
        amounts=got.amounts,
        pci_devices=instance.pci_devices,
        vifs=instance.vifs,
    )
    return rows, got


def _told(connection: Connection, kind: str, record: HostRecord, rows: ClaimRows, got: Adoptable) -> InstanceClaim:
    """Write the event of a claim that an instance has where it runs, and return the claim."""
    stored = load_instance(connection, rows.instance_uuid)
    but = f", but {'; '.join(got.conflicts)}" if got.conflicts else ""
    sentence = f"{stored.name} {rows.cause} with CPUs {CpuSet.of(got.cpus) or 'none'}{but}"
    write_event(connection, kind, sentence, host=record.name, instance_uuid=stored.uuid)
    return InstanceClaim(rows.id, stored, got.contested_cpus, got.conflicts)


def _insert_instance(connection: Connection, instance: Instance, rows: ClaimRows) -> None:
    """Insert an instance with its first claim; their references to each other are checked at the commit."""
    connection.execute(
        insert(schema.instance).values(
            uuid=instance.uuid,
            name=instance.name,
            flavor_json=dumps(instance.flavor),
            request_json=dumps(instance.request),
            persistent=instance.persistent,
            current_claim=rows.id,
        )
    )
    insert_claim(connection, rows)


def _consider(
    connection: Connection, record: HostRecord, question: _Question
) -> tuple[Placement, tuple[Vif, ...]] | Misfit:
    """Answer whether a candidate takes the instance now, with its links there; nothing is written."""
    instance = question.instance
    if record.name == instance.host:
        return Misfit(record.name, f"{instance.name} runs on {record.name} already")
    if record.state != REACHABLE:
        return Misfit(record.name, f"host {record.name} is {record.state}: {record.state_reason or 'no reason noted'}")
    if not record.confirmed:
        return Misfit(record.name, f"host {record.name} is not confirmed: nothing is claimable there")
    state = load_state(connection, record)
    placement = question.fit(state, question.request)
    if isinstance(placement, Misfit):
        return placement
    try:
        links = question.vifs(record) if question.vifs is not None else instance.vifs
    except LedgerError:
        raise
    except NumaferryError as error:
        return Misfit(record.name, str(error), suggestions=(error.hint,) if error.hint else ())
    # What is committed is what was looked at: a database that let another claim in between refuses here.
    this = (schema.host.c.id == record.id) & (schema.host.c.generation == state.generation)
    guard = update(schema.host).where(this).values(generation=schema.host.c.generation)
    if connection.execute(guard).rowcount != 1:
        raise ClaimLost(f"host {record.name} changed while a place was chosen", hint="try again")
    return placement, links


def _context(instance: Instance, record: HostRecord, placement: Placement, links: tuple[Vif, ...]) -> MigrationContext:
    """Return both sides of the move."""
    return MigrationContext(
        old_numa_topology=instance.numa_topology,
        new_numa_topology=placement.numa_topology,
        old_pci_devices=instance.pci_devices,
        old_vifs=instance.vifs,
        new_vifs=links,
        new_cpu_shared_set=str(record.config.cpu_shared_set),
    )


def _insert_migration(
    connection: Connection, instance: Instance, record: HostRecord, context: MigrationContext, move: dict[str, Any]
) -> Migration:
    """Insert the migration as accepted."""
    inserted = connection.execute(
        insert(schema.migration)
        .values(
            **move,
            instance_uuid=instance.uuid,
            source=instance.host,
            dest=record.name,
            status=str(MigrationStatus.ACCEPTED),
            context_json=dumps(context),
            created_at=schema.epoch_now(),
            updated_at=schema.epoch_now(),
        )
        .returning(schema.migration.c.id)
    )
    return load_migration(connection, inserted.scalar_one())


def _move_rows(question: _Question, migration: Migration, host_id: int, *, slot: int) -> ClaimRows:
    """Return the destination's claim: exactly what the fit chose."""
    context = migration.context
    topology = context.new_numa_topology if context else None
    return ClaimRows(
        instance_uuid=migration.instance_uuid,
        host_id=host_id,
        slot=slot,
        numa_topology=topology,
        promise=Promise.FLOATING if topology is None else Promise.KEPT,
        cause=f"migration {migration.id} from {migration.source}",
        cpus=owned_cpus(topology),
        amounts=amounts(question.request, topology),
        pci_devices=context.new_pci_devices if context else (),
        vifs=context.new_vifs if context else (),
        migration_id=migration.id,
    )


def _no_fit(instance: Instance, misfits: tuple[Misfit, ...]) -> NoFit:
    """Return the error for a guest that none of the candidates takes."""
    if not misfits:
        return NoFit(f"there is no host that {instance.name} could go to", hint="numaferry host list", misfits=misfits)
    said = "; ".join(f"{misfit.host}: {misfit.reason}" for misfit in misfits)
    suggestions = [text for misfit in misfits for text in misfit.suggestions]
    hint = suggestions[0] if suggestions else f"numaferry explain {instance.name}"
    return NoFit(
        f"{instance.name} does not fit on any of {len(misfits)} candidates ({said})", hint=hint, misfits=misfits
    )


def _claims_of(connection: Connection, migration: Migration) -> tuple[AnyRow | None, AnyRow | None]:
    """Return the claim made for this migration, None if it is gone, and the instance's current claim, None likewise."""
    claim = schema.claim.c
    query = select(claim.id, claim.host_id, schema.instance.c.name).join(
        schema.instance, schema.instance.c.uuid == claim.instance_uuid
    )
    moved = connection.execute(query.where(claim.migration_id == migration.id)).one_or_none()
    current = connection.execute(
        query.where(schema.instance.c.uuid == migration.instance_uuid, schema.instance.c.current_claim == claim.id)
    ).one_or_none()
    return moved, current


def _end(connection: Connection, migration: Migration, status: MigrationStatus, reason: str) -> None:
    """Write a migration's last status and its event."""
    values: dict[str, Any] = {"status": str(status), "updated_at": schema.epoch_now()}
    if reason:
        values["reason"] = reason
    connection.execute(update(schema.migration).where(schema.migration.c.id == migration.id).values(values))
    because = f": {reason}" if reason else ""
    sentence = f"migration {migration.id} is {status}{because}"
    _tell(connection, migration, "migration", sentence)


def _tell(connection: Connection, migration: Migration, kind: str, sentence: str) -> None:
    """Write an event of the destination; it is found by migration, instance and host alike."""
    write_event(
        connection,
        kind,
        sentence,
        host=migration.dest,
        instance_uuid=migration.instance_uuid,
        migration_id=migration.id,
    )
