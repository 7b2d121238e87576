"""The move claim: choosing a destination and claiming there, with the fit run inside, are one transaction.

There is no window in which two guests are promised the same CPU: what a claim commits against is what it looked at.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import insert, update

from numaferry.errors import ClaimLost, LedgerError, NoFit, NumaferryError
from numaferry.fit import numa_fit_instance_to_host
from numaferry.ledger import schema
from numaferry.ledger.amounts import amounts, move_request, owned_cpus
from numaferry.ledger.claim_rows import ClaimRows, insert_claim
from numaferry.ledger.engine import Store
from numaferry.ledger.events import write_migration_event
from numaferry.ledger.hosts import REACHABLE, HostRecord, load_host, refuse_unconfirmed
from numaferry.ledger.instances import load_instance, load_row
from numaferry.ledger.migrations import load_migration, refuse_in_progress
from numaferry.ledger.views import load_state
from numaferry.model import (
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

#: `numaferry.fit.numa_fit_instance_to_host`, or what a test puts in its place.
Fit = Callable[[HostState, NumaRequest], Placement | Misfit]
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
class _Question:
    """What is asked of every candidate."""

    instance: Instance
    request: NumaRequest
    vifs: Links | None
    fit: Fit


class MoveStore(Store):
    """Claiming for a move."""

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
                write_migration_event(connection, migration, "move-claimed", sentence)
                return MoveClaim(rows.id, migration, load_instance(connection, instance_uuid), placement)
            for record in _all_closed(connection, candidates):
                refuse_unconfirmed(record)
            raise _no_fit(instance, tuple(misfits))


def _all_closed(connection: Connection, candidates: Sequence[str]) -> list[HostRecord]:
    """Return the candidates if nothing could be claimed on any of them, else nothing."""
    records = [load_host(connection, name) for name in candidates]
    return [] if any(record.claimable for record in records) else records


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
