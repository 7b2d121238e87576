"""Claims where a guest runs; `MoveClaim`, on the destination of a move, is in `moves` and `flip`, and named here too.

A claim is an instance's exact CPUs, pages and memory on one host.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import attrs
from sqlalchemy import delete, insert, update

from numaferry.errors import Conflict, NotFound
from numaferry.fit import numa_fit_instance_to_host
from numaferry.ledger import schema
from numaferry.ledger.adoption import Adoptable, adoptable
from numaferry.ledger.amounts import amounts, owned_cpus
from numaferry.ledger.choice import Found, Question, look, no_fit, refuse_all_closed
from numaferry.ledger.claim_rows import ClaimRows, insert_claim, release_claim
from numaferry.ledger.devices import chosen_devices
from numaferry.ledger.events import write_event, written
from numaferry.ledger.hosts import HostRecord, load_locked_host, refuse_unconfirmed
from numaferry.ledger.instances import find_row, load_instance, load_locked_row
from numaferry.ledger.migrations import refuse_in_progress
from numaferry.ledger.moves import MoveClaim
from numaferry.ledger.names import device_name
from numaferry.ledger.snapshot import load_snapshot
from numaferry.ledger.store import Store, writes
from numaferry.model import EMPTY, CpuSet, Instance, Misfit, Promise
from numaferry.model.codec import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from numaferry.ledger.choice import Fit
    from numaferry.model import InstanceNumaTopology

__all__ = ["ClaimStore", "InstanceClaim", "MoveClaim"]


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


class ClaimStore(Store):
    """Claiming and releasing what a guest has where it runs."""

    def claim_instance(self, instance: Instance) -> InstanceClaim:
        """Adopt a guest: store it and claim what its topology says it has, on the host where it runs.

        What others hold or are seen on stays out, and the instance is stored as `conflicted`; a floating guest is
        charged to the host as far as there is room. Raises Conflict for one that is in the ledger already,
        NotConfirmed, NotFound for its host.
        """
        return self._claim_instance(instance, str(uuid.uuid4()))

    @writes
    def _claim_instance(self, connection: Connection, instance: Instance, claim_id: str) -> InstanceClaim:
        """Adopt; once per claim id."""
        record = load_locked_host(connection, instance.host)
        if (made := _known(connection, instance.uuid, claim_id)) is not None:
            return made
        refuse_unconfirmed(record)
        rows, got = _own_rows(connection, record, instance, f"adopted on {record.name}", claim_id)
        _insert_instance(connection, instance, rows)
        return _told(connection, "adopted", record, rows, got)

    def place_instance(
        self, instance: Instance, candidates: Sequence[str], *, fit: Fit = numa_fit_instance_to_host
    ) -> InstanceClaim:
        """Choose the first candidate that fits for a guest that does not run yet, and claim there; one transaction.

        `instance` says what is asked for; host, topology and devices are the fit's, and are in the answer. Raises NoFit
        with `.misfits`, NotConfirmed, Conflict for a guest that is in the ledger, NotFound.
        """
        return self._place_instance(instance, tuple(candidates), fit, str(uuid.uuid4()))

    @writes
    def _place_instance(
        self, connection: Connection, instance: Instance, candidates: tuple[str, ...], fit: Fit, claim_id: str
    ) -> InstanceClaim:
        """Place; once per claim id."""
        if (made := _known(connection, instance.uuid, claim_id)) is not None:
            return made
        misfits: list[Misfit] = []
        for name in candidates:
            found = look(connection, name, Question(instance.request, fit))
            if isinstance(found, Misfit):
                misfits.append(found)
                continue
            rows = _placed_rows(instance, found, claim_id)
            _insert_instance(connection, instance, rows)
            return _told(connection, "placed", found.record, rows, Adoptable(dict(rows.cpus), tuple(rows.amounts)))
        refuse_all_closed(connection, candidates)
        raise no_fit(instance.name, tuple(misfits))

    def reclaim_instance(self, instance_uuid: str, numa_topology: InstanceNumaTopology | None) -> InstanceClaim:
        """Claim anew what a guest really has on its host: the way out of `conflicted`, and how a promise is repaired.

        One transaction: the old claim is released and the new one made, under the rules of `claim_instance`. Raises
        NotFound, NotConfirmed, Conflict while the instance is being moved.
        """
        return self._reclaim_instance(instance_uuid, numa_topology, str(uuid.uuid4()))

    @writes
    def _reclaim_instance(
        self,
        connection: Connection,
        instance_uuid: str,
        numa_topology: InstanceNumaTopology | None,
        claim_id: str,
    ) -> InstanceClaim:
        """Claim anew; once per claim id."""
        row = load_locked_row(connection, instance_uuid)
        if row.current_claim == claim_id:
            return InstanceClaim(claim_id, load_instance(connection, instance_uuid))
        refuse_in_progress(connection, instance_uuid, row.name)
        record = load_locked_host(connection, row.host_name)
        refuse_unconfirmed(record)
        instance = attrs.evolve(load_instance(connection, instance_uuid), numa_topology=numa_topology)
        release_claim(connection, row.current_claim)
        rows, got = _own_rows(connection, record, instance, f"claimed anew on {record.name}", claim_id)
        insert_claim(connection, rows)
        connection.execute(
            update(schema.instance).where(schema.instance.c.uuid == instance_uuid).values(current_claim=rows.id)
        )
        return _told(connection, "reclaimed", record, rows, got)

    def forget_instance(self, instance_uuid: str, reason: str = "forgotten") -> None:
        """Release everything an instance holds and forget it; raises NotFound, Conflict while it is being moved."""
        self._forget_instance(instance_uuid, reason, uuid.uuid4().hex)

    @writes
    def _forget_instance(self, connection: Connection, instance_uuid: str, reason: str, key: str) -> None:
        """Forget; once per key."""
        try:
            row = load_locked_row(connection, instance_uuid)
        except NotFound:
            if written(connection, key):
                return
            raise
        refuse_in_progress(connection, instance_uuid, row.name)
        connection.execute(delete(schema.instance).where(schema.instance.c.uuid == instance_uuid))
        sentence = f"{row.name} {reason}: everything it held on {row.host_name} is free"
        write_event(connection, "forgotten", sentence, host=row.host_name, instance_uuid=instance_uuid, key=key)


def _known(connection: Connection, instance_uuid: str, claim_id: str) -> InstanceClaim | None:
    """Return the claim if it was committed before, though its answer was lost; raises Conflict for any other."""
    known = find_row(connection, instance_uuid)
    if known is None:
        return None
    if known.current_claim == claim_id:
        return InstanceClaim(claim_id, load_instance(connection, instance_uuid))
    raise Conflict(
        f"instance {known.name} ({instance_uuid}) is in the ledger already, on {known.host_name}",
        hint=f"numaferry instance show {known.name}",
    )


def _placed_rows(instance: Instance, found: Found, claim_id: str) -> ClaimRows:
    """Return the claim of a guest that is to be started: exactly what the fit chose."""
    topology, devices = found.placement.numa_topology, chosen_devices(found.state, found.placement)
    return ClaimRows(
        instance_uuid=instance.uuid,
        host_id=found.record.id,
        slot=0,
        numa_topology=topology,
        promise=Promise.FLOATING if topology is None else Promise.KEPT,
        cause=f"placed on {found.record.name}",
        cpus=owned_cpus(topology),
        amounts=amounts(instance.request, topology),
        pci_devices=devices,
        devices=tuple(map(device_name, devices)),
        vifs=instance.vifs,
        id=claim_id,
    )


def _own_rows(
    connection: Connection, record: HostRecord, instance: Instance, cause: str, claim_id: str
) -> tuple[ClaimRows, Adoptable]:
    """Return the claim of a guest on the host where it runs: what of its own it may claim."""
    there = load_snapshot(connection, record.name)
    free = {device_name(device) for device in there.devices if not device.used}
    got = adoptable(record, there.holdings, there.observed, instance, free_devices=free)
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
        devices=got.devices,
        vifs=instance.vifs,
        id=claim_id,
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
